//! One connected client: its connection, its session, and its counts.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::clients::class::{ClientClass, MemoryClass};
use crate::clients::holder::Holder;
use crate::clients::number::is_pending;
use crate::clients::protocol::{Connection, Session};
use crate::doors::listener::Peer;
use crate::ports::device::Device;
use crate::ports::holdings::Holdings;
use crate::ports::port::{Port, Replay};
use crate::telemetry::event::ClientId;
use crate::workers::command::WorkerCommand;

/// A client.
pub struct Client {
    /// Names the client in events.
    pub id: ClientId,
    /// User of the client.
    pub uid: u32,
    /// Its socket.
    pub connection: Connection,
    /// The state of its vhost-user protocol.
    pub session: Session,
    /// The events that epoll waits for.
    pub interest: EpollFlags,
    /// What it holds, as the budget counted it last.
    pub held: Holdings,
    /// The event `no_memory` was written.
    pub told_of_memory: bool,
    /// The last event `migration` said that its guest migrates.
    pub told_of_migration: bool,
    /// The end of its quarantine: workers are not told of it until then.
    pub quarantine: Option<Instant>,
    /// It is in quarantine because of this class.
    pub suspect: Option<ClientClass>,
    /// Its class, and the time since when it has had memory of this class.
    pub since: Option<(ClientClass, Instant)>,
    /// The slot of the declared port at whose door it connected; it takes no other.
    pub home: Option<u16>,
    /// A number that no other connection has.
    pub serial: u64,
    /// The round of the closers in which it last dropped a file.
    pub left_files: Option<u64>,
}

impl Client {
    /// A client that has just connected: pending, with this number and this serial number.
    pub fn new(number: u16, serial: u64, peer: Peer) -> Client {
        Client {
            id: ClientId { slot: number, pid: peer.pid },
            uid: peer.uid,
            connection: Connection::new(peer),
            session: Session::new(number),
            interest: EpollFlags::EPOLLIN,
            held: Holdings::NONE,
            told_of_memory: false,
            told_of_migration: false,
            quarantine: None,
            suspect: None,
            since: None,
            home: None,
            serial,
            left_files: None,
        }
    }

    /// The device behind its port.
    pub fn device(&self) -> &Device {
        self.session.device()
    }

    /// Its process and class.
    pub fn holder(&self) -> Holder {
        let memory = match self.device().is_sealed() {
            None => MemoryClass::Any,
            Some(true) => MemoryClass::Sealed,
            Some(false) => MemoryClass::Unsealed,
        };
        Holder { pid: self.id.pid, class: ClientClass { uid: self.uid, memory } }
    }

    /// Its name in events: the name of its port, if it has one.
    pub fn name(&self) -> String {
        match is_pending(self.id.slot) {
            true => format!("process {}, which has no port,", self.id.pid),
            false => format!("{}:", self.device().port),
        }
    }

    /// The events to wait for. While the worker must answer first, requests are not among them.
    pub fn wanted(&self) -> EpollFlags {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, !self.session.is_waiting());
        wanted.set(EpollFlags::EPOLLOUT, self.connection.has_replies());
        wanted
    }
}

impl Replay for Client {
    fn port(&self) -> Port {
        self.device().port.clone()
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        self.session.replay()
    }

    fn is_waiting(&self) -> bool {
        self.session.is_waiting()
    }

    fn remove(&self) -> WorkerCommand {
        self.device().port_remove()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
