//! One direction of a queue pair, whatever the kind of its port.
//!
//! A kind is a module beside this one. Its type implements [`Kind`] and [`Sink`], gives a [`super::source::Source`]
//! for each burst, and has a variant here. Nothing else in the data path knows about kinds. A burst selects the code
//! of its source once ([`each_source`]); the forwarder selects the code of a receiver once for each run of frames to
//! it.

use sv3::ipc::{PortKind, RingFault};

use super::batch::PlainFrame;
use super::card::CardQueue;
use super::counting::Counting;
use super::files::{self, FileQueue};
#[cfg(any(test, feature = "fuzzing"))]
use super::in_memory::InMemory;
use super::kind::{Kind, WhenEmpty};
use super::sink::{Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use super::vring::{self, Vring};
use sv3::ledger::PortCounters;

/// A queue of a port of some kind. An unused place has a vring that was never started.
#[allow(clippy::large_enum_variant, reason = "few, and never moved")]
pub enum Endpoint {
    /// A virtqueue of a guest.
    Vring(Vring),
    /// An open file.
    Files(Box<FileQueue>),
    /// A queue of a network card.
    Card(Box<CardQueue>),
    /// For tests.
    #[cfg(any(test, feature = "fuzzing"))]
    InMemory(InMemory),
}

/// What a thread needs to deliver to each kind. Made once.
pub struct Workspaces {
    vring: vring::Workspace,
    files: files::Workspace,
}

/// One expression for all kinds.
macro_rules! each {
    ($endpoint:expr, $it:ident => $do:expr) => {
        match $endpoint {
            Endpoint::Vring($it) => $do,
            Endpoint::Files($it) => $do,
            Endpoint::Card($it) => $do,
            #[cfg(any(test, feature = "fuzzing"))]
            Endpoint::InMemory($it) => $do,
        }
    };
}

/// One expression for the source of each kind, compiled for each. `$nothing`: the kind has no source.
macro_rules! each_source {
    ($endpoint:expr, $source:ident => $do:expr, $nothing:expr) => {
        match $endpoint {
            $crate::port::endpoint::Endpoint::Vring(vring) => {
                $crate::port::vring::each_source!(vring, $source => $do, $nothing)
            }
            $crate::port::endpoint::Endpoint::Files(queue) => {
                let $source = &mut queue.source();
                $do
            }
            $crate::port::endpoint::Endpoint::Card(queue) => {
                let $source = &mut queue.source();
                $do
            }
            #[cfg(any(test, feature = "fuzzing"))]
            $crate::port::endpoint::Endpoint::InMemory(queue) => {
                let $source = &mut queue.source();
                $do
            }
        }
    };
}
pub(crate) use each_source;

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::Vring(Vring::default())
    }
}

impl Endpoint {
    /// A queue for a port of this kind, from the moment that it is added. `None`: this worker does not know the kind, or
    /// commands make its queues later.
    pub fn of(kind: PortKind) -> Option<Endpoint> {
        match kind {
            PortKind::Vrings => Some(Endpoint::Vring(Vring::default())),
            #[cfg(any(test, feature = "fuzzing"))]
            PortKind::Memory => Some(Endpoint::InMemory(InMemory::new(0, 1024))),
            #[allow(unreachable_patterns, reason = "the contract may have been built with kinds for tests")]
            _ => None,
        }
    }

    /// The vring, if it is one.
    pub fn vring(&mut self) -> Option<&mut Vring> {
        match self {
            Endpoint::Vring(vring) => Some(vring),
            Endpoint::Files(_) | Endpoint::Card(_) => None,
            #[cfg(any(test, feature = "fuzzing"))]
            Endpoint::InMemory(_) => None,
        }
    }

    /// Whether a card may read its frames where they are.
    #[inline]
    pub fn holds(&self) -> bool {
        matches!(self, Endpoint::Vring(Vring { held: Some(_), .. }))
    }

    /// The queue of a file, if it is one.
    pub fn file(&mut self) -> Option<&mut FileQueue> {
        match self {
            Endpoint::Files(queue) => Some(queue),
            _ => None,
        }
    }

    /// The queue of a card, if it is one.
    pub fn card(&mut self) -> Option<&mut CardQueue> {
        match self {
            Endpoint::Card(queue) => Some(queue),
            _ => None,
        }
    }
}

impl Workspaces {
    /// Room for one thread.
    pub fn new() -> Workspaces {
        Workspaces { vring: vring::Workspace::new(), files: files::Workspace::new() }
    }
}

impl Kind for Endpoint {
    #[inline]
    fn runs(&self) -> bool {
        each!(self, it => it.runs())
    }

    #[inline]
    fn fault(&self) -> Option<RingFault> {
        each!(self, it => it.fault())
    }

    fn break_with(&mut self, fault: RingFault) {
        each!(self, it => it.break_with(fault));
    }

    #[inline]
    fn features(&self) -> u64 {
        each!(self, it => it.features())
    }

    #[inline]
    fn header_len(&self) -> usize {
        each!(self, it => it.header_len())
    }

    #[inline]
    fn verified(&self) -> u16 {
        each!(self, it => it.verified())
    }

    fn arm(&mut self) -> bool {
        each!(self, it => it.arm())
    }

    fn disarm(&mut self) {
        each!(self, it => it.disarm());
    }

    #[inline]
    fn when_empty(&self) -> WhenEmpty {
        each!(self, it => it.when_empty())
    }

    #[inline]
    fn publish(&mut self, counters: &PortCounters, index: u16, counting: Counting) {
        each!(self, it => it.publish(counters, index, counting));
    }

    #[inline]
    fn is_drained(&self) -> bool {
        each!(self, it => it.is_drained())
    }

    #[inline]
    fn most_of_burst(&self, others_wait: bool) -> u64 {
        each!(self, it => it.most_of_burst(others_wait))
    }

    #[inline]
    fn frame_cost(&self) -> u64 {
        each!(self, it => it.frame_cost())
    }

    #[inline]
    fn publish_cost(&self) -> u64 {
        each!(self, it => it.publish_cost())
    }
}

impl Sink for Endpoint {
    type Workspace = Workspaces;

    #[inline(always)]
    fn deliver<'t>(
        &mut self,
        workspaces: &mut Workspaces,
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        match self {
            Endpoint::Vring(vring) => vring.deliver(&mut workspaces.vring, state, frame),
            Endpoint::Files(queue) => queue.deliver(&mut workspaces.files, state, frame),
            Endpoint::Card(queue) => queue.deliver(&mut (), state, frame),
            #[cfg(any(test, feature = "fuzzing"))]
            Endpoint::InMemory(queue) => queue.deliver(&mut (), state, frame),
        }
    }

    #[inline(always)]
    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        each!(self, it => it.deliver_plain(state, frames, most, verified))
    }

    fn room(&mut self, most: usize) -> (usize, usize) {
        each!(self, it => it.room(most))
    }

    #[inline]
    fn position(&self) -> u16 {
        each!(self, it => it.position())
    }

    #[inline]
    fn is_ready(&self, cursor: u16) -> bool {
        each!(self, it => it.is_ready(cursor))
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        each!(self, it => it.arm_at(cursor))
    }
}
