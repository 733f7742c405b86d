//! `sv3 run --take-over` beside taps and uplinks: no carrier falls, no connection closes. Makes networks, so it needs
//! root.

use std::os::fd::AsFd;

use nix::sys::socket::SockType;
use sv3::attachment::Transport;
use sv3_tests::failure::Result;
use sv3_tests::network::exchange::Exchange;
use sv3_tests::network::ports::{attach_packets, attach_tap, attachment, uplink};
use sv3_tests::network::{Namespace, StreamPeer};
use sv3_tests::patience::until;
use sv3_tests::switch::Switch;

/// How often the switch is replaced.
const TIMES: usize = 10;

#[test]
#[ignore = "scripts/check runs it"]
fn taps_keep_their_carrier_and_tcp_goes_on() -> Result<()> {
    let mut switch = Switch::start()?;
    let networks = [Namespace::new()?, Namespace::new()?];
    for (number, network) in (1..).zip(&networks) {
        network.make_tap("tap0", &format!("02:00:00:00:00:0{number}"), &format!("10.9.0.{number}/24"), "")?;
        attach_tap(&switch, network, "tap0", &attachment(Transport::Tap, &format!("tap{number}")))?;
    }
    let [first, second] = &networks;
    let before = [first.carrier("tap0")?, second.carrier("tap0")?];
    let exchange = Exchange::start(first, second, "10.9.0.2")?;
    for _ in 0..TIMES {
        exchange.await_progress()?;
        switch.hand_over(&[])?;
    }
    exchange.await_progress()?;
    let came = exchange.finish()?;
    assert!(came.iter().all(|octets| *octets > 0), "{came:?}");
    assert_eq!([first.carrier("tap0")?, second.carrier("tap0")?], before);
    assert!(before.iter().all(|(has_carrier, _)| *has_carrier));
    let events = switch.events()?;
    assert!(events.iter().all(|event| event["event"] != "crash" && event["event"] != "file_fault"));
    // The last one to hold the tap ends: the worker, and the closers of all supervisors, soon after the switch.
    drop(switch);
    until("no carrier", || Ok((!first.carrier("tap0")?.0).then_some(())))
}

/// As gvproxy, which ends when its connection closes, and slirp4netns, which nobody would tell.
#[test]
#[ignore = "scripts/check runs it"]
fn uplinks_keep_their_connections() -> Result<()> {
    let mut switch = Switch::start()?;
    let (stream, theirs) = StreamPeer::pair(sv3_tests::network::Form::Plain)?;
    switch.attach(&uplink(Transport::Stream, "gvproxy"), &[theirs.as_fd()])?;
    drop(theirs);
    let packets = attach_packets(&switch, &attachment(Transport::Packets, "slirp"), SockType::SeqPacket)?;
    // Ports of open files need a worker of another role, to which the switch hands over by itself.
    switch.await_event(&["\"handover\""])?;
    for _ in 0..TIMES {
        switch.hand_over(&[])?;
        let status = switch.status()?;
        let runs = |port: &sv3::status::PortStatus| port.files.as_ref().is_some_and(|files| files.stopped.is_none());
        assert!(status.ports.len() == 2 && status.ports.iter().all(runs), "{:?}", status.ports);
    }
    drop(packets);
    switch.await_event(&["file_fault", "slirp"])?;
    drop(stream);
    switch.await_event(&["file_fault", "gvproxy"])?;
    Ok(())
}
