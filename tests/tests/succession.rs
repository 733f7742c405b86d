//! `sv3 run --take-over`: the whole switch is replaced, and no guest loses its connection, its link or a frame.

#![allow(clippy::panic, reason = "a scenario that cannot go on has failed")]

use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::switch::Switch;

use crate::upgrade::Traffic;

/// Lets a successor take over while frames flow.
fn take_over(switch: &mut Switch, traffic: &mut Traffic, options: &[&str]) -> Result<()> {
    let successor = switch.start_successor(options)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut ended = None;
    traffic.flow_while(|| {
        ended = switch.has_ended()?;
        Ok(ended.is_none() && Instant::now() < deadline)
    })?;
    if !ended.is_some_and(|status| status.success()) {
        for event in switch.events()? {
            eprintln!("{event}");
        }
        panic!("the old supervisor: {ended:?}");
    }
    switch.adopt(successor);
    Ok(())
}

#[test]
fn the_whole_switch_is_replaced_under_traffic() -> Result<()> {
    let mut switch = Switch::start()?;
    let mut traffic = Traffic::on(&switch);
    let names = |switch: &Switch| -> Result<Vec<_>> {
        Ok(switch.status()?.ports.into_iter().map(|port| (port.name, port.client_pid, port.features)).collect())
    };
    let ports = names(&switch)?;
    for options in [&[][..], &["--threads", "2"], &["--no-standby"]] {
        let (old, sent) = (switch.supervisor_pid()?, switch.port("p0")?.from_guest.frames);
        take_over(&mut switch, &mut traffic, options)?;
        let new = switch.supervisor_pid()?;
        assert_ne!(new, old);
        switch.await_event(&["handed_over", &new.to_string()])?;
        switch.await_event(&["took_over_switch", &old.to_string()])?;
        assert_eq!(names(&switch)?, ports);
        assert!(switch.port("p0")?.from_guest.frames >= sent, "counters go on");
        traffic.flow_while({
            let start = Instant::now();
            move || Ok(start.elapsed() < Duration::from_millis(100))
        })?;
    }
    traffic.assert_complete();
    assert!(traffic.gap < Duration::from_secs(1), "{:?} without a frame", traffic.gap);
    let events = switch.events()?;
    for never in ["crash", "detach", "stop"] {
        assert!(events.iter().all(|event| event["event"] != never), "{never}");
    }
    assert_eq!(events.iter().filter(|event| event["event"] == "attach").count(), 2);
    switch.kill_worker("KILL")?;
    traffic.flow_while({
        let start = Instant::now();
        move || Ok(start.elapsed() < Duration::from_millis(100))
    })?;
    traffic.assert_complete();
    Ok(())
}
