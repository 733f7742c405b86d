//! Identifiers that both processes use.

use serde::{Deserialize, Serialize};

/// The direction of a queue's frames, as the guest sees it (virtio 1.3, 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest receives: `receiveq`, an even vring index.
    Receive,
    /// The guest transmits: `transmitq`, an odd vring index.
    Transmit,
}

/// A queue of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId {
    /// Slot of the port. Below [`crate::MAX_PORTS`], unless it comes from a peer and is not checked yet.
    pub slot: u16,
    /// Vring index. Below [`crate::MAX_RINGS`], unless it comes from a peer and is not checked yet.
    pub index: u16,
}

impl QueueId {
    /// The queue of port `slot` with vring index `index`.
    pub const fn new(slot: u16, index: u16) -> QueueId {
        QueueId { slot, index }
    }

    /// The receive queue of a pair.
    pub const fn receive(slot: u16, pair: u16) -> QueueId {
        QueueId { slot, index: pair.wrapping_mul(2) }
    }

    /// The transmit queue of a pair.
    pub const fn transmit(slot: u16, pair: u16) -> QueueId {
        QueueId { slot, index: pair.wrapping_mul(2).wrapping_add(1) }
    }

    /// The queue pair that it belongs to.
    pub const fn pair(self) -> u16 {
        self.index / 2
    }

    /// The direction of its frames.
    pub const fn direction(self) -> Direction {
        if self.transmits() { Direction::Transmit } else { Direction::Receive }
    }

    /// Whether the guest transmits on it.
    pub const fn transmits(self) -> bool {
        self.index % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_receive_queue_and_a_transmit_queue() {
        let both = [QueueId::receive(7, 3), QueueId::transmit(7, 3)];
        assert_eq!(both, [QueueId::new(7, 6), QueueId::new(7, 7)]);
        assert_eq!(both.map(QueueId::pair), [3, 3]);
        assert_eq!(both.map(QueueId::direction), [Direction::Receive, Direction::Transmit]);
    }
}
