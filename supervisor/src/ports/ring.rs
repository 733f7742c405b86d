//! What is known of one ring of a port.

use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::{RingAddr, RingFault};

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
    /// Whether frames may pass, if the client has said so.
    pub enable: Option<bool>,
    /// The worker was told to start it.
    pub started: bool,
    /// The worker was told to stop it and has not reported yet.
    pub stopping: bool,
    /// Why the worker stopped it.
    pub fault: Option<RingFault>,
}

impl Ring {
    /// Whether it has all that it needs to run, and either was not started or stopped by itself: the memory that it
    /// lies in may have come back.
    pub fn can_start(&self) -> bool {
        let complete = self.size.is_some() && self.addr.is_some() && self.kick.is_some();
        complete && (!self.started || self.fault.is_some())
    }

    /// It is started from now on. A new start is a new run.
    pub fn start(&mut self) {
        self.run += u32::from(!self.started);
        self.started = true;
        self.fault = None;
    }

    /// It stands at `base`. What must be told anew before it can run again is forgotten.
    pub fn stop(&mut self, base: u16) {
        let Ring { size, call, err, enable, run, .. } = std::mem::take(self);
        *self = Ring { size, call, err, enable, base, run, ..Ring::default() };
    }

    /// The files that the client gave for it.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        [&self.kick, &self.call, &self.err].into_iter().flatten()
    }
}
