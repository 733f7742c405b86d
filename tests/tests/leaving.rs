//! Guests with much memory leave, or take memory away: the kernel's work for that takes no time from threads that move
//! frames.

use std::time::Duration;

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, mac};
use sv3_tests::guest::Guest;
use sv3_tests::guest::split::{Descriptor, NEXT};
use sv3_tests::patience::until;
use sv3_tests::silence::Pair;
use sv3_tests::switch::{Switch, rss};

const TX: u16 = 1;
const GIB: u64 = 1 << 30;
/// The worker maps pages by so many octets at a touch.
const STRIDE: u64 = 64 << 10;
/// Longer than the pair's longest silence on a busy machine in the best of some rounds, and shorter than the kernel
/// takes to free what leaves.
const SILENCE: Duration = Duration::from_millis(25);
const TIMES: usize = 4;

/// How a guest gives up its region of that number; returns the guest if it goes on.
type Way = fn(Guest, usize) -> Option<Guest>;

/// How much memory leaves, in GiB; an environment variable sets more.
fn gib() -> u64 {
    std::env::var("SV3_TEST_GIB").ok().and_then(|gib| gib.parse().ok()).unwrap_or(1)
}

/// A guest with a region whose pages all exist, and that the worker has touched as well.
fn large(switch: &Switch, gib: u64) -> Result<(Guest, usize)> {
    let mut guest = Guest::connect(switch.socket());
    let region = guest.add_region(gib * GIB);
    let start = guest.memory().regions()[region].guest_addr;
    for at in (start..start + gib * GIB).step_by(4096) {
        guest.memory().store16(at, 1);
    }
    let frame = guest.memory().allocate(64, 64);
    guest.memory().write(frame + 12, &[&BROADCAST[..], &mac(33)[..], &[0x88, 0xb5], &[0; 38]].concat());
    let pieces: Vec<u64> = (start..start + gib * GIB).step_by(STRIDE as usize).collect();
    let all = guest.take_descriptors(TX, 201);
    for some in pieces.chunks(200) {
        let chain = all.get(..=some.len()).unwrap_or_default();
        let parts = std::iter::once((frame, 64)).chain(some.iter().map(|at| (*at, 1)));
        for (n, (addr, len)) in parts.enumerate() {
            let (flags, next) = chain.get(n + 1).map_or((0, 0), |next| (NEXT, *next));
            guest.describe(TX, chain[n], Descriptor { addr, len, flags, next });
        }
        guest.offer(TX, chain[0]);
        guest.take_used(TX);
    }
    let worker = switch.worker_pid()?;
    let resident = rss(worker)?;
    assert!(resident > gib * GIB, "the worker has touched {resident} octets");
    Ok((guest, region))
}

/// What each way to leave costs the pair. The best round counts, since work of the switch's own shows in each.
fn leaves(options: &[&str]) -> Result<()> {
    let gib = gib();
    let switch = Switch::with(options)?;
    let pair = Pair::start(switch.socket());
    if !options.contains(&"--no-standby") {
        switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    }
    let worker = switch.worker_pid()?;
    let before = rss(worker)?;
    let ways: [(&str, Way); 3] = [
        ("a region goes", |mut guest, region| {
            guest.unplug(region);
            Some(guest)
        }),
        ("a table is replaced", |mut guest, _| {
            guest.set_mem_table();
            Some(guest)
        }),
        ("a guest ends", |guest, _| {
            guest.exit();
            None
        }),
    ];
    for (what, goes) in ways {
        let mut silences = Vec::new();
        while silences.iter().all(|silence| *silence > SILENCE) {
            assert!(silences.len() < TIMES, "{what}: the pair heard nothing for {silences:?}");
            let (guest, region) = large(&switch, gib)?;
            pair.longest();
            let left = goes(guest, region);
            until("its memory to be unmapped", || Ok((rss(worker)? < before + GIB / 2).then_some(())))?;
            silences.push(pair.longest());
            drop(left);
            until("the last of it to go", || Ok((switch.status()?.ports.len() == 2).then_some(())))?;
        }
        println!("{what}, {gib} GiB, {options:?}: silent for {silences:?}");
    }
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn a_large_guest_leaves() -> Result<()> {
    leaves(&[])
}

#[test]
fn a_large_guest_leaves_without_a_standby() -> Result<()> {
    leaves(&["--no-standby"])
}

#[test]
fn a_large_guest_leaves_two_threads() -> Result<()> {
    leaves(&["--threads", "2"])
}

/// As the kernel's OOM killer does. No client is blamed.
#[test]
fn a_kill_from_outside_tells_whose_memory_grew() -> Result<()> {
    let switch = Switch::start()?;
    let _small = Guest::connect(switch.socket());
    let mut large = Guest::connect(switch.socket());
    let region = large.add_region(GIB);
    let start = large.memory().regions()[region].guest_addr;
    for at in (start..start + (64 << 20)).step_by(4096) {
        large.memory().store16(at, 1);
    }
    let port = switch.port("p1")?;
    assert!(port.memory_use.mapped > GIB && port.memory_use.present >= 64 << 20, "{:?}", port.memory_use);
    assert!(port.memory_use.present < GIB / 2 && port.memory_use.present_before < 16 << 20, "{:?}", port.memory_use);
    switch.kill_worker("KILL")?;
    let event = switch.await_event(&["\"crash\"", "did not send"])?;
    assert_eq!(event["grown"][0]["port"], "p1", "{event}");
    let grown = event["grown"][0]["bytes"].as_u64().unwrap_or(0);
    assert!((64 << 20..GIB / 2).contains(&grown), "{event}");
    assert!(event["message"].as_str().is_some_and(|words| words.contains("p1 by ")), "{event}");
    assert!(!switch.events()?.iter().any(|event| event["event"] == "blame"));
    Ok(())
}

/// All threads but the first must do without the allocator: its blocks grow by syscalls that the policy does not have.
#[test]
fn more_regions_than_an_allocator_has_room_for_come_and_go() -> Result<()> {
    for threads in ["1", "2"] {
        let switch = Switch::with(&["--threads", threads])?;
        for _ in 0..2 {
            let mut guests: Vec<Guest> = Vec::new();
            for _ in 0..5 {
                let mut guest = Guest::connect(switch.socket());
                for _ in 0..500 {
                    guest.add_region(4096);
                }
                guests.push(guest);
            }
        }
        switch.await_ports(0)?;
        let status = switch.status()?;
        assert_eq!(status.worker.restarts, 0, "{:?}", status.worker.last_death);
        assert!(!switch.events()?.iter().any(|event| event["event"] == "standby_lost"));
    }
    Ok(())
}
