//! The state of one ring of a port.

use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::{RingAddr, RingFault};

/// One ring's state.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Number of descriptors.
    pub size: Option<u16>,
    /// Addresses of its three parts.
    pub addr: Option<RingAddr>,
    /// Guest address of its device area, if the client wants that marked in the log of dirty pages.
    pub log: Option<u64>,
    /// Index of the next available entry while the ring is stopped. For a packed ring, bit 15 is the wrap counter.
    pub base: u16,
    /// How often the client has started it.
    pub run: u32,
    /// The eventfd of the driver's notifications. If present, the ring is to run.
    pub kick: Option<Rc<ForeignFd>>,
    /// The eventfd of the device's notifications; absent: the driver polls.
    pub call: Option<Rc<ForeignFd>>,
    /// The eventfd for errors. It is never written: its owner can make a write block, and front-ends do no more than
    /// log it.
    pub err: Option<Rc<ForeignFd>>,
    /// Whether the ring is enabled, if the client has said so.
    pub enable: Option<bool>,
    /// The worker was told to start it.
    pub started: bool,
    /// The worker was told to stop it and has not reported yet.
    pub stopping: bool,
    /// Why the worker stopped it by itself.
    pub fault: Option<RingFault>,
    /// The worker that stopped it died while it gave chains back. If the ring starts again at this base and these addresses,
    /// the next worker finishes that.
    pub unfinished: Option<(u16, RingAddr)>,
}

impl Ring {
    /// Whether the ring can start: it has all that it needs, and it was not started, or it stopped by itself (its
    /// memory may have come back since).
    pub fn can_start(&self) -> bool {
        let complete = self.size.is_some() && self.addr.is_some() && self.kick.is_some();
        complete && (!self.started || self.fault.is_some())
    }

    /// Marks the ring as started. A new start is a new run, unless the last one has something left to be finished.
    pub fn start(&mut self) {
        let goes_on = self.unfinished.take().is_some_and(|(base, addr)| (base, Some(addr)) == (self.base, self.addr));
        self.run += u32::from(!self.started && !goes_on);
        self.started = true;
        self.fault = None;
    }

    /// Marks the ring as stopped at `base`, and forgets what the client must send again before the next start.
    pub fn stop(&mut self, base: u16) {
        let Ring { size, log, call, err, enable, run, unfinished, .. } = std::mem::take(self);
        *self = Ring { size, log, call, err, enable, base, run, unfinished, ..Ring::default() };
    }

    /// The same, at the position that a worker which died has left ([`sv3::ledger::RingPosition::used`]).
    pub fn stop_at_word(&mut self, word: u64) {
        let (base, addr) = ((word & 0xffff) as u16, self.addr);
        self.stop(base);
        self.unfinished = addr.filter(|_| word >> 32 != 0).map(|addr| (base, addr));
    }

    /// The files that the client sent for it.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        [&self.kick, &self.call, &self.err].into_iter().flatten()
    }
}
