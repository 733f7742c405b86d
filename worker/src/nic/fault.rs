//! Why a card cannot be used.

use sv3::ipc::RingFault;

/// A failure of a card. It ends the port, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The card does not answer: its registers read as all ones.
    Gone,
    /// The card does not do in time what its data sheet promises, or says what it never says. The register's name, or
    /// that of the mailbox message.
    Bad(&'static str),
}

impl Fault {
    /// The first eight octets of the register's name, first octet lowest, for a report; 0: none.
    pub fn name(self) -> u64 {
        let Fault::Bad(name) = self else { return 0 };
        let mut octets = [0; 8];
        octets.iter_mut().zip(name.bytes()).for_each(|(place, octet)| *place = octet);
        u64::from_le_bytes(octets)
    }
}

impl From<Fault> for RingFault {
    fn from(fault: Fault) -> RingFault {
        match fault {
            Fault::Gone => RingFault::CardGone,
            Fault::Bad(_) => RingFault::BadCard,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Gone => write!(f, "the card does not answer"),
            Fault::Bad(name) => write!(f, "the card does not do what its data sheet says: {name}"),
        }
    }
}
