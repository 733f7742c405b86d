//! Two real guests on one switch: the newest QEMU and the oldest, Debian's kernel, ping and TCP.
//!
//! Ignored by a plain `cargo test`, since guests need a minute each and both processors: `scripts/check` runs it.

use std::time::{Duration, Instant};

use sv3::virtio::VIRTIO_F_ACCESS_PLATFORM;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::image::Suite;
use sv3_tests::switch::{Switch, activity, rss};
use sv3_tests::vm::{Config, Job, Vm};

/// A switch and two guests that have booted, side by side.
fn network(first: Config, second: Config) -> Result<(Switch, Vm, Vm)> {
    let switch = Switch::start()?;
    let (first, second) = (first.start(switch.socket())?, second.start(switch.socket())?);
    Ok((switch, first.booted()?, second.booted()?))
}

/// Seconds that a TCP stream takes. Longer streams show no more, see `scripts/demo`.
const STREAM: u32 = 4;

const PINGS: u32 = 20;

fn assert_pings(from: &mut Vm, to: &str) -> Result<()> {
    let job = from.start_ping(to, PINGS)?;
    assert_pinged(from, to, job)
}

fn assert_pinged(from: &mut Vm, to: &str, job: Job) -> Result<()> {
    assert_pinged_over(0, from, to, job)
}

/// Pings went on while so many workers were killed. What one has delivered and not given back is delivered again.
fn assert_pinged_over(deaths: u32, from: &mut Vm, to: &str, job: Job) -> Result<()> {
    let ping = from.finish_ping(job, PINGS)?;
    assert!(ping.lost() == 0 && ping.duplicates <= deaths, "ping {to}: {ping:?}");
    Ok(())
}

fn assert_streams(from: &mut Vm, to: &str, options: &str) -> Result<()> {
    let stream = from.iperf3(to, STREAM, options)?;
    assert!(stream.bits_per_second > 10e6, "iperf3 {to} {options}: {stream:?}");
    assert_eq!(stream.stalled_seconds(), 0, "iperf3 {to} {options}: {stream:?}");
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn the_newest_and_the_oldest_qemu_talk() -> Result<()> {
    let (_switch, mut new, mut old) = network(Vm::number(1), Vm::number(2).qemu(Suite::Bookworm))?;
    let before = (new.carrier_changes()?, old.carrier_changes()?);

    // Side by side, since each takes two seconds, most of it waiting.
    let there = new.start_ping(&old.address(), PINGS)?;
    let back = [new.address(), new.address6()].map(|address| (old.start_ping(&address, PINGS), address));
    assert_pinged(&mut new, &old.address(), there)?;
    for (job, address) in back {
        assert_pinged(&mut old, &address, job?)?;
    }
    old.serve_iperf3()?;
    assert_streams(&mut new, &old.address(), "")?;
    assert_streams(&mut new, &old.address(), "-R")?;
    assert_streams(&mut new, &old.address6(), "-6")?;

    assert_eq!((new.carrier_changes()?, old.carrier_changes()?), before);
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_do_not_notice_that_the_worker_dies() -> Result<()> {
    let (switch, mut first, mut second) = network(Vm::number(1), Vm::number(2))?;
    let before = (first.carrier_changes()?, second.carrier_changes()?);
    let (seconds, pings) = (10, 100);

    second.serve_iperf3()?;
    let stream = first.start_iperf3(&second.address(), seconds, "")?;
    let ping = second.start_ping(&first.address(), pings)?;
    for signal in ["KILL", "SEGV", "BUS", "ABRT", "KILL"] {
        std::thread::sleep(Duration::from_millis(1500));
        switch.kill_worker(signal)?;
    }
    let stream = first.finish_iperf3(stream, seconds)?;
    let ping = second.finish_ping(ping, pings)?;

    assert_eq!(switch.status()?.worker.restarts, 5);
    assert_eq!((first.carrier_changes()?, second.carrier_changes()?), before);
    assert!(stream.stalled_seconds() <= 1, "TCP goes on: {stream:?}");
    assert!(ping.longest_gap <= 3, "at most 0.3 s without an answer: {ping:?}");
    // No ring stalls.
    let (to, from) = (second.address(), first.address());
    let (there, back) = (first.start_ping(&to, PINGS)?, second.start_ping(&from, PINGS)?);
    assert_pinged(&mut first, &to, there)?;
    assert_pinged(&mut second, &from, back)?;
    assert_streams(&mut first, &second.address(), "-R")
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_do_not_notice_that_the_whole_switch_is_replaced() -> Result<()> {
    let (mut switch, mut first, mut second) = network(Vm::number(1), Vm::number(2).qemu(Suite::Bookworm))?;
    let before = (first.carrier_changes()?, second.carrier_changes()?);
    let (seconds, pings) = (10, 100);

    second.serve_iperf3()?;
    let stream = first.start_iperf3(&second.address(), seconds, "")?;
    let ping = second.start_ping(&first.address(), pings)?;
    for options in [&[][..], &["--threads", "2"], &[]] {
        std::thread::sleep(Duration::from_millis(2000));
        switch.hand_over(options)?;
    }
    let stream = first.finish_iperf3(stream, seconds)?;
    let ping = second.finish_ping(ping, pings)?;

    assert_eq!((first.carrier_changes()?, second.carrier_changes()?), before);
    assert!(ping.lost() == 0 && ping.duplicates <= 3, "{ping:?}");
    assert!(stream.stalled_seconds() <= 1, "TCP goes on: {stream:?}");
    assert!(switch.events()?.iter().all(|event| event["event"] != "detach"));
    // The guests can be told things by the new supervisor as well.
    first.reboot()?;
    assert_pings(&mut first, &second.address())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_reboots_and_rebinds_its_driver() -> Result<()> {
    let (switch, mut first, mut second) = network(Vm::number(1), Vm::number(2).qemu(Suite::Bookworm))?;
    let (address1, address2) = (first.address(), second.address());

    for guest in [&mut first, &mut second] {
        guest.reboot()?;
    }
    assert_pings(&mut first, &address2)?;
    for guest in [&mut first, &mut second] {
        guest.rebind_driver()?;
    }
    assert_pings(&mut second, &address1)?;
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

/// A guest that negotiated fewer features is served correctly by one that negotiated all, and the other way.
fn transfers_are_whole(device: &str) -> Result<()> {
    let (_switch, mut full, mut less) = network(Vm::number(1), Vm::number(2).device(device))?;
    assert_ne!(full.features()?, less.features()?, "the device {device} is a different one");

    assert_transfer(&mut full, &mut less)?;
    assert_transfer(&mut less, &mut full)
}

/// Sends 16 MiB of noise by TCP; the receiver answers with the checksum of what it has got.
fn assert_transfer(from: &mut Vm, to: &mut Vm) -> Result<()> {
    to.start("nc -l -p 7000 -e sha256sum")?;
    to.sh("until netstat -ltn | grep -q :7000; do usleep 20000; done")?;
    let sent = from.sh("dd if=/dev/urandom of=/tmp/noise bs=1M count=16 2>/dev/null; sha256sum </tmp/noise")?;
    let received = from.sh(&format!("nc {} 7000 </tmp/noise", to.address()))?;
    assert_eq!(received, sent);
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_without_offloads() -> Result<()> {
    transfers_are_whole("csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,host_tso4=off,host_tso6=off")
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_without_mergeable_buffers() -> Result<()> {
    transfers_are_whole("mrg_rxbuf=off")
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_with_the_oldest_rings() -> Result<()> {
    transfers_are_whole("event_idx=off,indirect_desc=off,mrg_rxbuf=off")
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_with_packed_rings_survives_deaths_and_a_reboot() -> Result<()> {
    let (switch, mut split, mut packed) = network(Vm::number(1), Vm::number(2).device("packed=on"))?;
    assert_eq!(switch.status()?.ports.iter().filter(|port| port.rings.iter().all(|r| r.kind == "packed")).count(), 1);
    let before = packed.carrier_changes()?;
    for _ in 0..3 {
        let job = packed.start_ping(&split.address(), 20)?;
        assert_transfer(&mut split, &mut packed)?;
        let shot = switch.shoot_worker("KILL")?;
        assert_transfer(&mut packed, &mut split)?;
        switch.await_restart(shot)?;
        assert_eq!(packed.finish_ping(job, 20)?.lost(), 0);
    }
    assert_eq!(packed.carrier_changes()?, before);
    packed.reboot()?;
    assert_transfer(&mut split, &mut packed)?;
    packed.rebind_driver()?;
    assert_transfer(&mut packed, &mut split)
}

#[test]
#[ignore = "scripts/check runs it"]
fn several_queue_pairs() -> Result<()> {
    let (switch, mut first, mut second) = network(Vm::number(1).queue_pairs(2), Vm::number(2).queue_pairs(2))?;
    assert_eq!(first.sh("ls -d /sys/class/net/eth0/queues/tx-* | wc -l")?.trim(), "2");

    second.serve_iperf3()?;
    assert_streams(&mut first, &second.address(), "-P 4")?;
    assert_streams(&mut first, &second.address(), "-P 4 -R")?;
    for port in switch.status()?.ports {
        assert_eq!(port.rings.iter().filter(|ring| ring.started && ring.enabled).count(), 4, "{port:?}");
    }
    Ok(())
}

/// For how long nothing may happen.
const QUIET: Duration = Duration::from_secs(10);

#[test]
#[ignore = "scripts/check runs it"]
fn idle_guests_cost_nothing() -> Result<()> {
    let (switch, mut first, second) = network(Vm::number(1), Vm::number(2))?;
    assert_pings(&mut first, &second.address())?;
    let status = switch.status()?;
    let processes = [status.supervisor.pid, status.worker.pid.unwrap_or_default()];

    let look = || Ok::<_, Failure>([activity(processes[0])?, activity(processes[1])?]);

    // ARP and neighbour discovery may still be settling.
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut before, mut since) = (look()?, Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(100));
        let after = look()?;
        if before != after {
            assert!(Instant::now() < deadline, "supervisor and worker wake up when idle: {before:?} then {after:?}");
            (before, since) = (after, Instant::now());
        }
    }
    for process in processes {
        let bytes = rss(process)?;
        assert!(bytes < 8 << 20, "process {process} occupies {bytes} bytes");
    }
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_with_an_iommu_does_not_notice_that_the_worker_dies() -> Result<()> {
    let (switch, mut with, mut without) = network(Vm::number(1).iommu(), Vm::number(2))?;
    let groups = with.sh("ls /sys/kernel/iommu_groups | wc -l")?;
    assert_ne!(groups.trim(), "0", "the kernel uses the IOMMU");
    assert!(!VIRTIO_F_ACCESS_PLATFORM.of(with.features()?), "the network device is not behind it");
    let before = with.carrier_changes()?;

    let there = with.start_ping(&without.address(), PINGS)?;
    let back = without.start_ping(&with.address(), PINGS)?;
    switch.kill_worker("KILL")?;
    assert_pinged_over(1, &mut with, &without.address(), there)?;
    assert_pinged_over(1, &mut without, &with.address(), back)?;

    assert_eq!(with.carrier_changes()?, before);
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_whose_network_device_is_to_be_behind_an_iommu_is_refused_by_qemu() -> Result<()> {
    let switch = Switch::start()?;
    let device = "disable-legacy=on,iommu_platform=on,ats=on";
    let Err(refusal) = Vm::number(1).iommu().device(device).boot(switch.socket()) else {
        return Err(Failure::new("it runs, although sv3 does not offer VIRTIO_F_ACCESS_PLATFORM"));
    };
    // docs/understand/vhost-user.md says so.
    assert!(refusal.to_string().contains("iommu_platform=true is not supported by the device"), "{refusal}");
    Ok(())
}
