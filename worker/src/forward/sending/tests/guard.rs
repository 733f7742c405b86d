//! Guard, storm control and limits where frames meet them: wherever a frame stands in its burst.

use sv3::rules::{Bucket, Limits, Storm, Unit};

use super::*;
use crate::forward::burst::{End, Served};
use crate::fuzz::guard::rules;

const STRICT: u8 = 0b111_1101;
const OWN4: [u8; 4] = [10, 0, 0, 7];
/// An address that the other guest has.
const THEIRS: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 7]);

/// TCP of this source.
fn tcp((dst, src): (MacAddr, MacAddr), source: [u8; 4], n: u8) -> Vec<u8> {
    let ip = [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 6, 0, 0];
    [&[0; NET_HDR_LEN][..], &dst.octets(), &src.octets(), &[8, 0], &ip, &source, &[10, 0, 0, 8], &[n; 26]].concat()
}

fn switch(of_guest: PortRules, of_other: PortRules) -> Switch {
    let mut switch = Switch::new();
    switch.send(OTHER, &[(BROADCAST, THEIRS)]);
    switch.receivers();
    switch.rule(GUEST, of_guest);
    switch.rule(OTHER, of_other);
    switch
}

/// Serves one burst of the guest's frames.
fn serve(switch: &mut Switch, frames: Vec<Vec<u8>>) -> Served {
    let (port, id) = (switch.ports.get(GUEST).unwrap(), QueueId::transmit(GUEST, 0));
    switch.with(id, |queue| queue.to_send.extend(frames));
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    switch.burst.serve(&mut switch.forwarder, (port, id), &mut queue, 64 * TURN, false).unwrap()
}

#[test]
fn each_frame_of_a_burst_is_held_to_the_guard() {
    let mut switch = switch(PortRules { guard: rules(STRICT), ..PortRules::default() }, PortRules::default());
    let (own, forged, theirs) = ((THEIRS, mac(1)), (THEIRS, mac(66)), [10, 0, 1, 7]);
    let arp = |sender: [u8; 4], n: u8| {
        let kind = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        let begin = [&[0; NET_HDR_LEN][..], &own.0.octets(), &own.1.octets(), &kind, &own.1.octets(), &sender];
        [&begin.concat()[..], &[n; 28]].concat()
    };
    let frames = vec![
        tcp(own, OWN4, 0),
        tcp(own, theirs, 1),
        tcp(own, OWN4, 2),
        tcp(own, OWN4, 3),
        tcp(forged, OWN4, 4),
        tcp(own, OWN4, 5),
        arp(OWN4, 6),
        arp(theirs, 7),
        tcp((THEIRS, mac(2)), OWN4, 8),
        tcp(own, OWN4, 9),
    ];
    switch.send_octets(GUEST, frames);
    assert_eq!(switch.got(OTHER), [0, 2, 3, 5, 6, 8, 9]);
    let dropped = [DropReason::GuardIp, DropReason::GuardMac].map(|reason| switch.dropped(GUEST, reason));
    assert_eq!(dropped, [2, 1]);
    // What is dropped teaches the switch nothing.
    switch.send(OTHER, &[(mac(66), THEIRS)]);
    assert_eq!(switch.receivers(), [GUEST, STREAM, UPLINK, SECOND_UPLINK]);
}

#[test]
fn floods_are_counted_once_each_and_bounded() {
    let storm = Storm { broadcast: Some(20), multicast: None, unknown: Some(10) };
    let mut switch = switch(PortRules { storm, ..PortRules::default() }, PortRules::default());
    let group = MacAddr::new([1, 0, 0x5e, 1, 2, 3]);
    for (dst, count, pass) in [(BROADCAST, 5, 2), (UNKNOWN, 4, 1), (group, 9, 9), (THEIRS, 9, 9)] {
        let before = switch.dropped(GUEST, DropReason::Storm);
        switch.send(GUEST, &vec![(dst, mac(1)); count]);
        assert_eq!(switch.got(OTHER).len(), pass);
        assert_eq!(switch.got(UPLINK).len(), if dst == THEIRS { 0 } else { pass });
        assert_eq!(switch.dropped(GUEST, DropReason::Storm) - before, (count - pass) as u64);
    }
    switch.forwarder.now_ns += 50_000_000;
    switch.send(GUEST, &[(BROADCAST, mac(1)); 3]);
    assert_eq!(switch.got(OTHER).len(), 1);
}

#[test]
fn a_receiver_gets_no_more_than_it_may() {
    for (unit, burst) in [(Unit::Frames, 3), (Unit::Octets, 200)] {
        let limits = Limits { to_port: Some(Bucket { rate: 1000, burst, unit }), ..Limits::default() };
        let mut switch = switch(PortRules::default(), PortRules { limits, ..PortRules::default() });
        let frames = (0..5).map(|n| tcp((THEIRS, mac(1)), OWN4, n)).collect();
        switch.send_octets(GUEST, frames);
        assert_eq!((switch.got(OTHER), switch.dropped(OTHER, DropReason::RxLimit)), (vec![0, 1, 2], 2));
        switch.send(GUEST, &[(BROADCAST, mac(1))]);
        assert_eq!((switch.receivers(), switch.dropped(OTHER, DropReason::RxLimit)), (vec![2, 3, 4], 3));
    }
}

#[test]
fn a_sender_is_held_back_and_loses_nothing() {
    for (unit, burst, guard) in [(Unit::Frames, 3, 0), (Unit::Octets, 3 * 60 + 59, 0), (Unit::Frames, 3, STRICT)] {
        let rate = if unit == Unit::Frames { 1000 } else { 60_000 };
        let limits = Limits { from_port: Some(Bucket { rate, burst, unit }), ..Limits::default() };
        let mut switch =
            switch(PortRules { limits, guard: rules(guard), ..PortRules::default() }, PortRules::default());
        let served = serve(&mut switch, (0..10).map(|n| tcp((THEIRS, mac(1)), OWN4, n)).collect());
        let End::Held(until) = served.end else { panic!("{served:?}") };
        let wait = until - switch.forwarder.now_ns;
        assert!((served.frames, switch.got(OTHER)) == (3, vec![0, 1, 2]) && (1..=1_000_000).contains(&wait), "{wait}");
        switch.forwarder.now_ns = until;
        let served = serve(&mut switch, vec![]);
        assert!(served.frames == 1 && matches!(served.end, End::Held(_)), "{served:?}");
        switch.forwarder.now_ns += 10_000_000;
        assert_eq!(serve(&mut switch, vec![]).frames, 3);
        assert_eq!((switch.got(OTHER), switch.dropped(GUEST, DropReason::RxLimit)), (vec![3, 4, 5, 6], 0));
    }
}
