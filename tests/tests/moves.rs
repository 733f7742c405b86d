//! Addresses that move between ports: counted, and told of if they do so again and again.

use serde_json::Value;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::Switch;

/// One of the guests speaks as address 9. When this returns, the switch has learnt it there.
fn speak(guests: &mut [Guest; 3], from: usize) {
    guests[from].send(&frame(BROADCAST, mac(9), b"here I am"));
    for (at, guest) in guests.iter_mut().enumerate() {
        if at != from {
            guest.receive();
        }
    }
}

#[test]
fn an_address_that_moves_again_and_again_is_told_of_with_both_ports() -> Result<()> {
    let switch = Switch::with(&["--threads", "2"])?;
    let mut guests = [(), (), ()].map(|()| Guest::connect(switch.socket()));
    // A machine that moves for good, and one that has said something twice.
    [0, 1, 1].into_iter().for_each(|from| speak(&mut guests, from));
    let moves =
        |switch: &Switch| -> Result<Vec<u64>> { Ok(switch.status()?.ports.iter().map(|port| port.moves).collect()) };
    assert_eq!(moves(&switch)?, [0, 1, 0]);
    assert!(switch.status()?.flaps.is_empty());
    // A loop behind the two: the worker finds it, and the next one goes on with the counts.
    (0..12).for_each(|at| speak(&mut guests, at % 2));
    switch.kill_worker("KILL")?;
    (0..12).for_each(|at| speak(&mut guests, at % 2));
    assert_eq!(moves(&switch)?, [12, 13, 0]);
    let metrics = switch.home().sv3_output(&["metrics", "--control", &switch.control().display().to_string()])?;
    assert!(String::from_utf8_lossy(&metrics.stdout).contains("sv3_port_moves_total{port=\"p1\"} 13"));
    // On a slow machine these were too far apart.
    let is_told = |event: &Value| event["event"] == "address_flaps" && event["address"] == "52:54:00:00:01:09";
    let told = until("an event", || {
        (0..2).for_each(|from| speak(&mut guests, from));
        Ok(switch.events()?.into_iter().find(is_told))
    })?;
    assert!([("p0", "p1"), ("p1", "p0")].iter().any(|(port, other)| told["port"] == *port && told["other"] == *other));
    let flaps = switch.status()?.flaps;
    let [flap] = flaps.as_slice() else { panic!("one address: {flaps:?}") };
    let mut ports = flap.ports.clone();
    ports.sort_unstable();
    assert_eq!((ports, flap.vlan, flap.address.as_str()), (["p0", "p1"].map(str::to_string), 0, "52:54:00:00:01:09"));
    assert!(flap.moves >= 10);
    // Once, although the loop goes on: an event a minute.
    let told = switch.events()?.iter().filter(|event| event["event"] == "address_flaps").count();
    assert_eq!(told, 1);
    Ok(())
}
