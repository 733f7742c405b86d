//! Streams at the doors: the front door takes them beside vhost-user clients, and a door of their own takes peers that
//! say nothing.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sv3::status::Link;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::honest::Honest;
use sv3_tests::lingering::lingering;
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

/// A stream client whose first frames, the last of `frames`, carry a file whose last close waits. The sender has closed
/// its own fd of the file.
fn with_a_file(door: &Path, frames: usize) -> Result<(UnixStream, std::net::TcpStream)> {
    let (file, peer) = lingering()?;
    let client = UnixStream::connect(door)?;
    let call = [&60u32.to_be_bytes()[..], &noise(BROADCAST, mac(1), 60, 0)].concat();
    for at in 0..frames {
        let fds = [file.as_raw_fd()];
        let files = [ControlMessage::ScmRights(&fds)];
        let files = if at + 1 == frames { &files[..] } else { &[] };
        let sent = sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(&call)], files, MsgFlags::MSG_NOSIGNAL, None);
        // Later frames find a door that takes no files, or a connection that is closed.
        if sent.is_err() {
            break;
        }
    }
    std::thread::spawn(move || drop(file));
    Ok((client, peer))
}

#[test]
fn files_that_come_with_a_stream_are_closed_by_no_worker() -> Result<()> {
    let home = Home::new()?;
    let door = home.path("stream.sock");
    let mut honest = Honest::with(&["--stream", &door.display().to_string()])?;
    // From here on the worker serves files.
    let _plain = StreamPeer::connect(&door, Form::Plain)?;
    honest.await_ports(3)?;
    until("a worker for files", || Ok((honest.port("p2")?.link == Link::Up).then_some(())))?;
    for door in [honest.socket().to_path_buf(), door] {
        for frames in [1, 2, 20] {
            let (client, peer) = with_a_file(&door, frames)?;
            let begun = Instant::now();
            for _ in 0..20 {
                honest.talk();
            }
            assert!(begun.elapsed() < Duration::from_secs(1), "{frames} frames: {:?}", begun.elapsed());
            drop((client, peer));
        }
    }
    assert_eq!(honest.status()?.worker.restarts, 0, "a worker died");
    Ok(())
}
