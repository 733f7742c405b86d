//! Everything that a client has said, in the form that brings up a worker.
//!
//! A worker that knows nothing of the client is told all of it by [`Record::replay`]; a change is told by the same
//! methods, one by one. So there is no second way for a ring to come to life after a crash.

use std::rc::Rc;

use nix::fcntl::SealFlag;
use sv3::MAX_RINGS;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, RingAddr, RingFault};
use sv3::virtio::VHOST_USER_F_PROTOCOL_FEATURES;

use crate::clients::admission::Memory;
use crate::clients::budget::Holdings;
use crate::clients::crowd::Kind;
use crate::clients::lingering::{Lingering, Taken};

/// A command for the worker with the fd that follows it.
#[derive(Clone, Debug)]
pub struct Order {
    /// The command.
    pub command: Command,
    /// Its fd, exactly if [`Command::fds`] is 1.
    pub fd: Option<Rc<ForeignFd>>,
    /// Memory that it takes away from the worker.
    pub takes: Option<Rc<Taken>>,
}

impl Order {
    /// A command that an fd goes with.
    pub fn with_fd(command: Command, fd: Rc<ForeignFd>) -> Order {
        Order { command, fd: Some(fd), takes: None }
    }
}

impl From<Command> for Order {
    fn from(command: Command) -> Order {
        Order { command, fd: None, takes: None }
    }
}

/// One client's state.
#[derive(Debug)]
pub struct Record {
    /// Slot of the port.
    pub slot: u16,
    /// Acknowledged virtio features.
    pub features: u64,
    /// Acknowledged vhost-user protocol features.
    pub protocol_features: u64,
    /// MTU that the front-end told.
    pub mtu: Option<u64>,
    /// Device status that the front-end told.
    pub status: u64,
    /// Memory in force.
    pub memory: Vec<Memory>,
    /// A ring has been started since the client connected.
    pub ever_started: bool,
    /// Counts what was taken away from the workers and is mapped still.
    pub lingering: Lingering,
    rings: Vec<Ring>,
}

/// One ring's state.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Number of descriptors.
    pub size: Option<u16>,
    /// Where it lies.
    pub addr: Option<RingAddr>,
    /// Index of the next available entry while the ring is stopped; of a packed ring with the wrap counter in bit 15.
    pub base: u16,
    /// How often the client let it run.
    pub run: u32,
    /// The driver's notifications. Present: the ring shall run.
    pub kick: Option<Rc<ForeignFd>>,
    /// The device's notifications; absent: the driver polls.
    pub call: Option<Rc<ForeignFd>>,
    /// Held and never written: its owner can make a write block, and front-ends do no more than log it.
    pub err: Option<Rc<ForeignFd>>,
    /// What `SET_VRING_ENABLE` said last.
    pub enable: Option<bool>,
    /// The worker was told to start it.
    pub started: bool,
    /// The worker was told to stop it and has not reported yet.
    pub stopping: bool,
    /// Why the worker stopped it.
    pub fault: Option<RingFault>,
}

impl Record {
    /// A client that has said nothing.
    pub fn new(slot: u16) -> Record {
        Record {
            slot,
            features: 0,
            protocol_features: 0,
            mtu: None,
            status: 0,
            memory: Vec::new(),
            ever_started: false,
            lingering: Lingering::default(),
            rings: Vec::new(),
        }
    }

    /// All commands that bring a worker that knows nothing of this client to where it stands.
    pub fn replay(&self) -> Vec<Order> {
        let mut orders = vec![Command::PortAdd { port: self.slot }.into(), self.port_features()];
        if !self.memory.is_empty() {
            orders.extend(self.memory_table());
        }
        for (index, ring) in self.rings() {
            if ring.call.is_some() {
                orders.push(self.ring_call(index));
            }
            orders.extend(self.ring_start(index));
            if ring.stopping {
                orders.push(self.ring_stop(index));
            }
        }
        orders
    }

    /// The ring at `index`, which the decoder has checked to be below [`MAX_RINGS`].
    pub fn ring(&mut self, index: u16) -> &mut Ring {
        let index = usize::from(index).min(MAX_RINGS - 1);
        if self.rings.len() <= index {
            self.rings.resize_with(index + 1, Ring::default);
        }
        &mut self.rings[index]
    }

    /// The ring at `index`, if the client has spoken of it (or of a later one).
    pub fn known_ring(&self, index: u16) -> Option<&Ring> {
        self.rings.get(usize::from(index))
    }

    /// The rings that the client has spoken of, with their indices.
    pub fn rings(&self) -> impl Iterator<Item = (u16, &Ring)> {
        (0..).zip(&self.rings)
    }

    /// What it keeps open, with its connection.
    pub fn holdings(&self) -> Holdings {
        let of = |ring: &Ring| [&ring.kick, &ring.call, &ring.err].into_iter().flatten().count();
        let rings: usize = self.rings.iter().map(of).sum();
        Holdings { fds: 1 + rings + self.memory.len(), regions: self.memory.len() }
    }

    /// Whether the client let a ring run without ever having told of memory for one: a monitor that shares none.
    pub fn lacks_memory(&self) -> bool {
        self.memory.is_empty() && !self.ever_started && self.rings.iter().any(|ring| ring.kick.is_some())
    }

    /// What memory it has.
    pub fn kind(&self) -> Kind {
        match self.memory.iter().all(|memory| memory.seals.contains(SealFlag::F_SEAL_SHRINK)) {
            _ if self.memory.is_empty() => Kind::Any,
            true => Kind::Sealed,
            false => Kind::Unsealed,
        }
    }

    /// Whether any ring is started.
    pub fn is_running(&self) -> bool {
        self.rings.iter().any(|ring| ring.started)
    }

    /// Whether frames may pass: "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in
    /// the enabled state."
    pub fn is_enabled(&self, ring: &Ring) -> bool {
        ring.enable.unwrap_or(!VHOST_USER_F_PROTOCOL_FEATURES.of(self.features))
    }

    /// The worker says at which entry a ring stopped. What must be told anew before it can run again is forgotten.
    pub fn ring_stopped(&mut self, index: u16, base: u16) {
        let ring = self.ring(index);
        let Ring { size, call, err, enable, run, .. } = std::mem::take(ring);
        *ring = Ring { size, call, err, enable, base, run, ..Ring::default() };
    }

    /// The features.
    pub fn port_features(&self) -> Order {
        Command::PortFeatures { port: self.slot, features: self.features }.into()
    }

    /// The memory table.
    pub fn memory_table(&self) -> Vec<Order> {
        let port = self.slot;
        let stage =
            |memory: &Memory| Order::with_fd(Command::RegionStage { port, region: memory.region }, memory.fd.clone());
        let commit = Command::MemoryCommit { port }.into();
        self.memory.iter().map(stage).chain([commit]).collect()
    }

    /// The end of the port, for a worker.
    pub fn port_remove(&self) -> Order {
        let takes = self.lingering.take(self.memory.iter().map(|memory| memory.fd.clone()).collect());
        Order { takes, ..Command::PortRemove { port: self.slot }.into() }
    }

    /// How a ring signals.
    pub fn ring_call(&self, ring: u16) -> Order {
        let fd = self.known_ring(ring).and_then(|ring| ring.call.clone());
        Order { command: Command::RingCall { port: self.slot, ring, call: fd.is_some() }, fd, takes: None }
    }

    /// Whether frames may pass.
    pub fn ring_enable(&self, ring: u16) -> Order {
        let enable = self.known_ring(ring).is_some_and(|ring| self.is_enabled(ring));
        Command::RingEnable { port: self.slot, ring, enable }.into()
    }

    /// The start of a ring that is `started`; nothing for another.
    pub fn ring_start(&self, index: u16) -> Vec<Order> {
        match self.known_ring(index) {
            Some(Ring { started: true, size: Some(size), addr: Some(addr), kick: Some(kick), base, run, .. }) => {
                let (size, addr, base, run) = (*size, *addr, *base, *run);
                let command = Command::RingStart { port: self.slot, ring: index, size, addr, base, run };
                vec![self.ring_enable(index), Order::with_fd(command, kick.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// The stop of a ring.
    pub fn ring_stop(&self, ring: u16) -> Order {
        Command::RingStop { port: self.slot, ring }.into()
    }
}
