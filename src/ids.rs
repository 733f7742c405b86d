//! What things are called by, in both processes.

use serde::{Deserialize, Serialize};

/// Which way the frames of a queue go, seen from the guest (virtio 1.3, 5.1.2).
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
    /// Slot of the port, below [`crate::MAX_PORTS`] unless a peer says otherwise.
    pub slot: u16,
    /// Index as vhost-user counts vrings, below [`crate::MAX_RINGS`] unless a peer says otherwise.
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

    /// Which of its port's queue pairs it belongs to.
    pub const fn pair(self) -> u16 {
        self.index / 2
    }

    /// Which way its frames go.
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
