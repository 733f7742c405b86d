//! Slots of ports of other kinds than clients.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;

use sv3::attachment::Learning;
use sv3::ipc::{Command, Envelope, FRAME_PREFIX, PortKind};

use super::*;
use crate::ports::memory::MemoryPort;
use crate::workers::link::Link;
use crate::workers::spawner::Program;
use crate::workers::worker::{Waiter, Worker};

/// The next command, which has no fd.
fn receive(socket: &mut UnixStream) -> Command {
    let mut prefix = [0; FRAME_PREFIX];
    socket.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
    socket.read_exact(&mut body).unwrap();
    Envelope::decode(&body).unwrap().command
}

#[test]
fn a_port_without_a_client_has_a_slot_and_is_told_to_each_new_worker() {
    let mut slots = Slots::default();
    slots.insert_own(MemoryPort::new(0));
    slots.insert_own(MemoryPort::new(2));
    assert_eq!((slots.free_slot(), slots.free()), (Some(1), MAX_PORTS - 2));
    assert!(slots.client(0).is_none() && slots.remove(0).is_none() && slots.holder(0).is_none());
    slots.release_all();
    for _ in 0..2 {
        let (link, theirs) = Link::pair().unwrap();
        let mut worker = Worker::new(Program::default(), 0, link, File::open("/dev/null").unwrap());
        for port in slots.told() {
            worker.send(port.replay(), Waiter::Nobody);
        }
        worker.link.flush().unwrap();
        let mut socket = UnixStream::from(theirs);
        let heard = [receive(&mut socket), receive(&mut socket)];
        assert_eq!(
            heard,
            [0, 2].map(|port| Command::PortAdd { port, kind: PortKind::Memory, learning: Learning::Free })
        );
        assert!(worker.is_about(2, 2) && !worker.is_about(1, 2));
    }
}
