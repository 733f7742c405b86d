//! Real guests whose machine changes while they talk: memory that comes and goes, a cable that is pulled, a card that
//! is taken out, sleep, another QEMU. Neighbours on the switch lose no frame.
//!
//! Ignored by a plain `cargo test`: `scripts/check` runs the short ones. docs/operate/guests.md has the command for the
//! others.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::hugepages::Pool;
use sv3_tests::steady::Steady;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Config, Job, Vm};

/// A guest that changes, a guest that it talks to, and two neighbours in software.
struct Scene {
    switch: Switch,
    steady: Steady,
    peer: Vm,
    guest: Vm,
    streams: [Job; 2],
}

impl Scene {
    /// All talk: the guests send each other streams without an end.
    fn begin(config: Config) -> Result<Scene> {
        let switch = Switch::start()?;
        let (peer, guest) = (Vm::number(1).memory_mib(256).start(switch.socket())?, config.start(switch.socket())?);
        let steady = Steady::start(switch.socket());
        let (mut peer, mut guest) = (peer.booted()?, guest.booted()?);
        for vm in [&mut peer, &mut guest] {
            vm.serve_checksums()?;
        }
        let streams = [peer.start_noise(&guest.address())?, guest.start_noise(&peer.address())?];
        Ok(Scene { switch, steady, peer, guest, streams })
    }

    /// The guest answers: each of the next streams comes whole.
    fn assert_answers(&mut self) -> Result<()> {
        let ping = self.peer.ping(&self.guest.address(), 5)?;
        if ping.answered == 0 { Err(Failure::new(format!("the guest does not answer: {ping:?}"))) } else { Ok(()) }
    }

    /// Regions of the guest's memory, as the switch has them.
    fn regions(&self) -> Result<usize> {
        Ok(self.switch.status()?.ports.iter().map(|port| port.memory.len()).max().unwrap_or_default())
    }

    /// No stream had a wrong octet, no neighbour lost a frame, no worker died.
    fn end(self) -> Result<()> {
        let Scene { switch, steady, mut peer, mut guest, streams: [there, back] } = self;
        let streams = (peer.finish_noise(there)?, guest.finish_noise(back)?);
        finish(&switch, steady, streams)
    }

    /// The same, if the guest has begun anew or has no line any more: its own streams are not looked at.
    fn end_without_guest(self) -> Result<()> {
        let Scene { switch, steady, mut peer, guest: _guest, streams: [there, _] } = self;
        let streams = (peer.finish_noise(there)?, 0);
        finish(&switch, steady, streams)
    }
}

fn finish(switch: &Switch, steady: Steady, streams: (usize, usize)) -> Result<()> {
    println!("{} frames of neighbours, {streams:?} streams", steady.stop()?);
    assert_eq!(switch.status()?.worker.restarts, 0);
    let wrong: Vec<_> = switch.events()?.into_iter().filter(|event| event["event"] == "refuse").collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

/// Memory that the guest's kernel adds from now on can be taken away again: nothing stays there that cannot move.
fn add_memory_as_movable(guest: &mut Vm) -> Result<()> {
    guest.sh("echo online_movable >/sys/devices/system/memory/auto_online_blocks").map(drop)
}

#[test]
#[ignore = "scripts/check runs it"]
fn short_memory_comes_and_goes() -> Result<()> {
    let config = Vm::number(2).memory_mib(384).memory_slots(2).virtio_mem("extra", 512, "memfd").balloon();
    let mut scene = Scene::begin(config)?;
    let (before, total) = (scene.regions()?, scene.guest.total_memory()?);

    // Linux takes new buffers from the highest zone, and only this memory is in it.
    scene.guest.plug_memory("more", 512)?;
    scene.guest.sh(&format!(
        "until [ $(awk '/^MemTotal/ {{ print $2 }}' /proc/meminfo) -gt {} ]; do usleep 50000; done",
        total + (400 << 10)
    ))?;
    assert!(scene.regions()? > before, "the switch has the new region");

    add_memory_as_movable(&mut scene.guest)?;
    scene.guest.resize_memory("extra", 256)?;
    scene.guest.plug_memory("passing", 128)?;
    scene.guest.resize_memory("extra", 128)?;
    scene.guest.unplug_memory("passing")?;
    let full = scene.guest.inflate_balloon(32)?;
    scene.guest.set_balloon(full)?;
    scene.assert_answers()?;
    scene.end()
}

#[test]
#[ignore = "scripts/check runs it"]
fn short_card_cable_and_qemu_are_changed() -> Result<()> {
    let config = Vm::number(2).memory_mib(256).machine_with("aux-ram-share=on").removable_card();
    let mut scene = Scene::begin(config.clone())?;
    for up in [false, true] {
        scene.guest.set_link(up)?;
    }
    scene.assert_answers()?;
    scene.guest.take_card_out()?;
    scene.guest.put_card_in()?;
    scene.assert_answers()?;
    scene.guest.replace_in_place()?;
    scene.assert_answers()?;
    let socket = scene.switch.socket().to_path_buf();
    scene.guest = scene.guest.replace_by(config, &socket)?;
    scene.assert_answers()?;
    scene.end()
}

/// As an operator who reboots the host, with the memory in a file that stays.
#[test]
#[ignore = "it takes long"]
fn a_guest_goes_on_after_a_reboot_of_its_host() -> Result<()> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let memory = format!("file,mem-path={}", folder.path().join("memory").display());
    let config = Vm::number(2).memory_mib(256).machine_with("aux-ram-share=on").memory_backend(&memory);
    let mut scene = Scene::begin(config.clone())?;
    let socket = scene.switch.socket().to_path_buf();
    for _ in 0..3 {
        scene.guest = scene.guest.replace_after(config.clone(), &socket)?;
        scene.assert_answers()?;
    }
    scene.end()
}

/// QEMU is replaced ten times each way, while workers die.
#[test]
#[ignore = "it takes long"]
fn qemu_is_replaced_while_workers_die() -> Result<()> {
    let config = Vm::number(2).memory_mib(256).machine_with("aux-ram-share=on");
    let switch = Switch::with(&["--blame", "0"])?;
    let socket = switch.socket().to_path_buf();
    let (peer, guest) = (Vm::number(1).memory_mib(256).start(&socket)?, config.clone().start(&socket)?);
    let (mut peer, mut guest) = (peer.booted()?, guest.booted()?);
    guest.serve_checksums()?;
    let job = peer.start_noise(&guest.address())?;
    for round in 0..10 {
        let shot = switch.shoot_worker("KILL")?;
        guest.replace_in_place()?;
        switch.await_restart(shot)?;
        let shot = switch.shoot_worker("KILL")?;
        guest = guest.replace_by(config.clone(), &socket)?;
        switch.await_restart(shot)?;
        let ping = peer.ping(&guest.address(), 5)?;
        assert!(ping.answered > 0, "round {round}: {ping:?}");
    }
    println!("{} streams", peer.finish_noise(job)?);
    Ok(())
}

#[test]
#[ignore = "it takes long"]
fn a_hundred_dimms_are_plugged_and_taken_out() -> Result<()> {
    let mut scene = Scene::begin(Vm::number(2).memory_mib(384).memory_slots(110).maximal_memory_gib(64))?;
    add_memory_as_movable(&mut scene.guest)?;
    let blocks = "$(ls -d /sys/devices/system/memory/memory* | wc -l)";
    let had: u32 = scene.guest.sh(&format!("echo {blocks}"))?.trim().parse()?;
    let (before, began) = (scene.regions()?, Instant::now());
    for number in 0..100 {
        scene.guest.plug_memory(&format!("m{number}"), 128)?;
        // An emulated guest that is told of many at once gives up half-way: its ACPI has 30 s for all of them.
        scene.guest.sh(&format!("until [ {blocks} -gt {} ]; do usleep 20000; done", had + number))?;
    }
    let plugged = began.elapsed();
    assert_eq!(scene.regions()?, before + 100);
    scene.assert_answers()?;
    let began = Instant::now();
    for number in 0..100 {
        scene.guest.unplug_memory(&format!("m{number}"))?;
    }
    println!("100 DIMMs: plugged in {plugged:?}, taken out in {:?}", began.elapsed());
    assert_eq!(scene.regions()?, before);
    scene.assert_answers()?;
    scene.end()
}

/// virtio-mem whose memory comes as regions of its own, one for each part that is plugged.
#[test]
#[ignore = "it takes long"]
fn memory_comes_and_goes_in_many_slots() -> Result<()> {
    let extra = [
        "-object",
        "memory-backend-memfd,id=extra-memory,size=4G,share=on",
        "-device",
        "virtio-mem-pci,id=extra,memdev=extra-memory,requested-size=0,block-size=2M,dynamic-memslots=on,\
         unplugged-inaccessible=on",
    ];
    let config = Vm::number(2).memory_mib(384).memory_slots(1).maximal_memory_gib(16).arguments(&extra);
    let mut scene = Scene::begin(config.module("virtio_mem"))?;
    add_memory_as_movable(&mut scene.guest)?;
    let mut seen = vec![scene.regions()?];
    for mebibytes in [512, 4096, 1024, 3072, 256, 2048, 0] {
        scene.guest.resize_memory("extra", mebibytes)?;
        seen.push(scene.regions()?);
        scene.assert_answers()?;
    }
    println!("regions: {seen:?}");
    assert!(seen.iter().max() > seen.first(), "{seen:?}");
    scene.end()
}

/// All memory is of huge pages, of which the machine has fewer than the guest may get.
#[test]
#[ignore = "it takes long"]
fn memory_of_huge_pages_comes_and_goes() -> Result<()> {
    let Some(pool) = Pool::enlarge(384)? else { return Ok(()) };
    let reserved = pool.reserved()?;
    // 192 pages are the guest's from the start. Of the 2048 of virtio-mem, none is.
    let config = Vm::number(2).memory_mib(384).memory_backend("memfd,hugetlb=on,hugetlbsize=2M,prealloc=on");
    let config = config.memory_slots(1).maximal_memory_gib(16).balloon();
    let mut scene = Scene::begin(config.virtio_mem("extra", 4096, "memfd,hugetlb=on,hugetlbsize=2M,reserve=off"))?;
    assert_eq!(pool.reserved()?, reserved, "sv3 reserves no huge page");
    add_memory_as_movable(&mut scene.guest)?;
    for mebibytes in [256, 64, 128, 0] {
        scene.guest.resize_memory("extra", mebibytes)?;
        scene.assert_answers()?;
    }
    scene.end()
}

#[test]
#[ignore = "it takes long"]
fn a_guest_is_reset() -> Result<()> {
    let mut scene = Scene::begin(Vm::number(2).memory_mib(256))?;
    for _ in 0..3 {
        scene.guest.reset()?;
        scene.guest.serve_checksums()?;
        scene.assert_answers()?;
    }
    scene.end_without_guest()
}

#[test]
#[ignore = "it takes long"]
fn a_guest_sleeps_and_wakes_up() -> Result<()> {
    let mut scene = Scene::begin(Vm::number(2).memory_mib(256).compressed_kernel())?;
    scene.guest.fall_asleep()?;
    let ports = scene.switch.status()?.ports;
    let running = ports.iter().filter(|port| port.rings.iter().any(|ring| ring.started)).count();
    assert_eq!(running, 3, "the peer's and the neighbours'");
    scene.guest.wake_up()?;
    scene.assert_answers()?;
    scene.end_without_guest()
}

#[test]
#[ignore = "it takes long"]
fn a_guest_hibernates_and_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::File::create(&disk)?.set_len(600 << 20)?;
    let config = with_disk(Vm::number(2).memory_mib(256).compressed_kernel(), &disk);
    let mut scene = Scene::begin(config.clone())?;
    scene.guest.sh("mkswap /dev/vda && swapon /dev/vda && echo shutdown >/sys/power/disk")?;
    scene.guest.hibernate()?;
    scene.guest = config.boot(scene.switch.socket())?;
    scene.guest.resume_from("vda")?;
    // The guest that answers is the one that slept: it serves checksums, which the one that was booted does not.
    let deadline = Instant::now() + Duration::from_secs(60);
    while scene.peer.ping(&scene.guest.address(), 3)?.answered == 0 {
        assert!(Instant::now() < deadline, "the guest does not come back");
    }
    scene.end_without_guest()
}

fn with_disk(config: Config, disk: &Path) -> Config {
    let drive = format!("file={},format=raw,if=none,id=disk", disk.display());
    config.arguments(&["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]).module("virtio_blk")
}
