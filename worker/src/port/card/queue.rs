//! One direction of a card's queue pair.

use std::sync::Arc;

use sv3::card::CardModel;
use sv3::ids::{Direction, QueueId};
use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;
use sv3::virtio::{
    NET_HDR_LEN, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_HDR_F_DATA_VALID,
};

use super::output::Output;
use super::source::Input;
use crate::nic::card::Card;
use crate::nic::device::Device;
use crate::nic::fault::Fault;
use crate::nic::interrupts::Interrupts;
use crate::nic::queue_registers::QueueRegisters;
use crate::nic::transmit_queue::Progress;
use crate::port::cost::RING;
use crate::port::counting::Counting;
use crate::port::kind::{Kind, WhenEmpty};
use crate::process::crash_points::{CrashPoint, pass};

/// What frames of both directions may ask for.
const FEATURES: u64 = VIRTIO_NET_F_CSUM.mask()
    | VIRTIO_NET_F_HOST_TSO4.mask()
    | VIRTIO_NET_F_HOST_TSO6.mask()
    | VIRTIO_NET_F_GUEST_CSUM.mask()
    | VIRTIO_NET_F_GUEST_TSO4.mask()
    | VIRTIO_NET_F_GUEST_TSO6.mask();

/// The same of a card, and whether it makes right segments of TCP with ECN: it does if sv3 sets its masks of flags. Those
/// of a virtual function are its physical function's. No card joins segments with CWR, so no frame from one has ECN.
fn features(model: CardModel) -> u64 {
    match model {
        CardModel::Ixgbe => FEATURES | VIRTIO_NET_F_GUEST_ECN.mask(),
        CardModel::IxgbeVf | CardModel::IgbVf => FEATURES,
    }
}

/// The registers of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Those of its ring.
    pub ring: QueueRegisters,
    /// Those of all vectors.
    pub interrupts: Interrupts,
}

impl Registers {
    /// Those of a queue of a port.
    pub fn of(device: &Device, queue: QueueId) -> Registers {
        let ring = match queue.direction() {
            Direction::Transmit => device.receive_registers(queue.pair()),
            Direction::Receive => device.transmit_registers(queue.pair()),
        };
        Registers { ring, interrupts: device.interrupts() }
    }
}

/// A queue of a card.
pub struct CardQueue {
    pub(super) card: Arc<Card>,
    pub(super) interrupts: Interrupts,
    pub(super) vector: u16,
    fault: Option<RingFault>,
    features: u64,
    pub(super) way: Way,
}

/// Which way frames go.
#[allow(clippy::large_enum_variant, reason = "few, and never moved")]
pub(super) enum Way {
    /// From the wire.
    In(Input),
    /// To the wire.
    Out(Output),
}

impl CardQueue {
    /// A queue of an open card, off. `goes_on`: an earlier worker of the same run had the card.
    pub fn new(card: Arc<Card>, queue: QueueId, registers: Registers, goes_on: bool) -> CardQueue {
        let (pair, memory, Registers { ring, interrupts }) = (queue.pair(), &card.memory, registers);
        let way = match queue.direction() {
            Direction::Transmit => Way::In(Input::open(memory, pair, ring, goes_on)),
            Direction::Receive => Way::Out(Output::open(memory, queue, ring, goes_on)),
        };
        let features = features(memory.settings().model);
        CardQueue { card, interrupts, vector: pair, fault: None, features, way }
    }

    /// The card reaches its memory: the queue is turned on. One that frames come in from is turned on when nothing is
    /// left in it.
    pub fn start(&mut self) -> Result<(), Fault> {
        match &mut self.way {
            Way::In(input) => {
                input.may_start = true;
                Ok(())
            }
            Way::Out(output) => output.queue.turn_on(&self.card),
        }
    }

    /// The card was reset: the queue is off, and goes on where it was when it is started.
    pub fn was_reset(&mut self) {
        match &mut self.way {
            Way::In(input) => input.was_reset(),
            Way::Out(output) => output.queue.prepare(&self.card.memory, true),
        }
    }

    /// How far the card is with frames that their senders' rings keep ([`crate::port::sink::Mark::number`]).
    pub fn progress(&mut self) -> Result<Progress, Fault> {
        match &mut self.way {
            Way::Out(output) => {
                output.queue.clean(&self.card.memory)?;
                Ok(output.queue.progress())
            }
            Way::In(_) => Ok(Progress { done: u64::MAX, void: 0 }),
        }
    }

    /// The card reads no guest's memory from now on. Frames that it has not sent from there are to be sent again.
    pub fn recall(&mut self) -> Result<(), Fault> {
        match &mut self.way {
            Way::Out(output) => output.queue.recall(&self.card),
            Way::In(_) => Ok(()),
        }
    }

    /// The link is there, or not. Frames to the wire are dropped without it.
    pub fn set_link(&mut self, is_up: bool) {
        if let Way::Out(output) = &mut self.way {
            output.is_up = is_up;
        }
    }
}

impl Kind for CardQueue {
    #[inline]
    fn runs(&self) -> bool {
        self.fault.is_none()
            && match &self.way {
                Way::In(_) => true,
                Way::Out(output) => output.is_up,
            }
    }

    #[inline]
    fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn break_with(&mut self, fault: RingFault) {
        self.fault = Some(fault);
    }

    #[inline]
    fn features(&self) -> u64 {
        self.features
    }

    #[inline]
    fn header_len(&self) -> usize {
        NET_HDR_LEN
    }

    #[inline]
    fn verified(&self) -> u16 {
        VIRTIO_NET_HDR_F_DATA_VALID.into()
    }

    fn arm(&mut self) -> bool {
        let Way::In(input) = &mut self.way else { return false };
        if !input.queue.is_on() {
            return input.may_start;
        }
        if let Some(rate) = input.slept() {
            self.interrupts.set_rate(&self.card.bar, self.vector, rate);
        }
        // What arrived before is seen by the look below, and raises no needless interrupt.
        self.interrupts.acknowledge(&self.card.bar, self.vector);
        self.interrupts.unmask(&self.card.bar, self.vector);
        input.queue.has_some(&self.card.memory)
    }

    fn disarm(&mut self) {
        self.interrupts.mask(&self.card.bar, self.vector);
    }

    #[inline]
    fn when_empty(&self) -> WhenEmpty {
        match &self.way {
            Way::In(input) if !input.may_start => WhenEmpty::Rests(None),
            _ => WhenEmpty::Lingers,
        }
    }

    #[inline]
    fn publish(&mut self, _: &PortCounters, _: u16, _: Counting) {
        match &mut self.way {
            Way::In(input) => input.queue.publish(&self.card),
            Way::Out(output) => output.queue.publish(&self.card),
        }
        pass(CrashPoint::Noted);
    }

    #[inline]
    fn publish_cost(&self) -> u64 {
        RING
    }
}
