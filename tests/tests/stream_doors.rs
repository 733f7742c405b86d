//! Streams at the doors: the front door takes them beside vhost-user clients, and a door of their own takes peers that
//! say nothing.

use std::time::Duration;

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::network::{Form, StreamPeer};
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};

#[test]
fn the_front_door_takes_streams_and_vhost_user() -> Result<()> {
    let switch = Switch::start()?;
    let mut guest = Guest::connect(switch.socket());
    let mut peer = StreamPeer::connect(switch.socket(), Form::Plain)?;
    let call = noise(BROADCAST, mac(1), 64, 0);
    peer.send(&call)?;
    assert_eq!(guest.receive_frame(), call);
    let answer = noise(mac(1), mac(9), 1000, 0);
    guest.send(&answer);
    assert_eq!(peer.receive()?.1, answer);
    drop(peer);
    switch.await_ports(1)
}

#[test]
fn a_door_for_streams_serves_a_peer_that_only_listens() -> Result<()> {
    let home = Home::new()?;
    let door = home.path("stream.sock");
    let switch = home.start(&["--stream", &door.display().to_string()])?;
    let mut guest = Guest::connect(switch.socket());
    let mut peer = StreamPeer::connect(&door, Form::Plain)?;
    switch.await_ports(2)?;
    let call = noise(BROADCAST, mac(1), 64, 0);
    let heard = until("the listener to hear", || {
        guest.send(&call);
        peer.receive_within(Duration::from_millis(50))
    })?;
    assert_eq!(heard.1, call);
    Ok(())
}
