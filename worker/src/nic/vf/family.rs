//! What a family of virtual functions has of its own.

use sv3::card::{CardSettings, Statistic};

use super::mailbox::Mailbox;
use super::registers::Registers;
use crate::nic::address::Mac;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::interrupts::Unit;

/// What the physical function has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Queue pairs.
    pub pairs: u16,
    /// Frames to any station's address arrive.
    pub all_unicast: bool,
    /// Frames to any group's address arrive.
    pub all_multicast: bool,
    /// The administrator of the physical function lets the link be up.
    pub link: bool,
}

/// A counter of the card that wraps, and is not cleared by reading.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// The register; of two, the low word.
    pub at: u32,
    /// The high word, of which 4 bits count, if there is one.
    pub high: Option<u32>,
    /// What it counts.
    pub statistic: Statistic,
}

/// A family of virtual functions.
pub trait Family {
    /// Its registers.
    const REGISTERS: Registers;
    /// How its throttle counts.
    const UNIT: Unit;
    /// Its counters, at most 16.
    const COUNTERS: &'static [Counter];
    /// Where the physical function looks in a group's address (MCSTCTRL.MO), by its answer to RESET.
    fn hash(answer: &[u32; 4]) -> u32;

    /// Speed in Mbit/s by the link's register; 0: no link.
    fn speed(link: u32) -> u32;

    /// Tells the physical function how the function is to be used, and asks for what it grants. It may be said again at
    /// any time.
    fn agree(bar: &impl Bar, mailbox: &mut Mailbox, settings: &CardSettings) -> Result<Terms, Fault>;

    /// The message that adds a filter for frames to `mac`, the one of this index from 0. The first one removes all
    /// others, if [`Family::clear`] has no message.
    fn add(index: usize, mac: Mac) -> [u32; 3];

    /// The message that removes all filters, to be sent before one for `mac` is added as the first.
    fn clear(mac: Mac) -> Option<[u32; 3]>;
}
