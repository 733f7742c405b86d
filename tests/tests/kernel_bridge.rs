//! The same frames through sv3 and through the kernel's bridge (`sv3_tests::bridge`): VLANs, isolation, guards by address,
//! floods, static addresses; and groups with snooping.
//!
//! The bridge is that of a machine: a kernel that one happens to test on may have one without VLANs. Ignored by a plain
//! `cargo test`, as a machine wants a processor: `scripts/check` runs it.

use std::net::Ipv4Addr;

use sv3::snooping::Snooping;
use sv3_tests::bridge::{Play, Row, groups, kernel, ours, verdict};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::machine::Machine;
use sv3_tests::switch::{Home, Switch};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kernel_bridge");
/// Another one may be given, to look for what this one does not show.
const SEED: u64 = 1;

/// The switch asks once, and gives way to the querier of the hosts.
const SNOOPING: Snooping = Snooping {
    querier: true,
    address: Ipv4Addr::UNSPECIFIED,
    interval_ms: 600_000,
    response_ms: 100,
    last_member_ms: 100,
};

/// A machine with a bridge, and with a file.
fn boot(file: &std::path::Path) -> Result<Machine> {
    let config = Machine::config().module("tun").module("bridge").program(PROGRAM).file(file, "/ours");
    ["/usr/bin/nsenter", "/sbin/ip", "/sbin/bridge"].iter().fold(config, |it, tool| it.program(tool)).boot()
}

/// One machine has all of it, since its boot takes long.
#[test]
#[ignore = "scripts/check runs it"]
fn who_gets_a_frame_is_what_the_kernel_s_bridge_says_but_for_what_is_told() -> Result<()> {
    let seed = std::env::var("SV3_TEST_SEED").map_or(Ok(SEED), |seed| seed.parse())?;
    let play = Play::of(seed);
    let home = Home::new()?;
    let (switch, mut guests) = ours::start(&home)?;
    play_groups(&switch, &mut guests)?;
    let ours = ours::play(&play, &switch, &mut guests)?;
    let file = home.path("ours");
    std::fs::write(&file, ours::encode(&ours))?;
    let mut machine = boot(&file)?;
    machine.sh("PATH=/bin:$PATH kernel_bridge groups")?;
    let said = machine.sh(&format!("PATH=/bin:$PATH kernel_bridge play {seed} /ours"))?;
    let mut theirs = ours.clone();
    let (lines, end) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    assert_eq!(end, format!("{} frames", ours.len()));
    for line in lines.lines() {
        let (number, fate) = kernel::parse(line)?;
        *theirs.get_mut(number).ok_or_else(|| Failure::new(line))? = fate;
    }
    let seen = verdict::compare(&play, &ours, &theirs)?;
    eprintln!("{} frames, of which {} differ: {seen:?}", ours.len(), lines.lines().count());
    use Row::*;
    for row in [OwnTag, OtherTag, ServiceTag, LinkLocal, StaticElsewhere, Long, Hop] {
        assert!(seen.get(&row).is_some_and(|count| *count >= 5), "{row:?} was hardly tried: {seen:?}");
    }
    Ok(())
}

/// sv3's half of the groups. Leaves the switch as it was.
fn play_groups(switch: &Switch, guests: &mut [Guest]) -> Result<()> {
    switch.snoop(Some(SNOOPING))?;
    switch.await_groups("all ports to be asked", |groups| {
        groups.open.is_empty() && groups.queriers.iter().filter(|one| one.vid == 0 && one.filters).count() == 2
    })?;
    groups::play(groups::Which::Ours, |from, frame| {
        let mut fate = ours::send(guests, from, frame);
        // The switch's own queries.
        fate.retain(|(_, came)| came[6..9] != [0x72, 0x76, 0x33]);
        Ok(fate)
    })?;
    switch.snoop(None)
}
