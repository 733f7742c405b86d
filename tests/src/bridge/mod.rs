//! The same frames through sv3 and through the kernel's bridge, which is a second reading of the standards.
//!
//! A [`Play`] is made of a seed: rounds, each of which has settings that both switches can have ([`Setup`]) and frames
//! ([`Step`]). sv3 plays it first ([`ours`]). Then the kernel of a machine does ([`kernel`]), one frame after the other, and
//! tells the frames that went elsewhere, or as other octets. [`verdict`] wants all of these to be explained by a [`Row`] of the
//! table in docs/understand/vlans.md, exactly.
//!
//! Where the two differ, the frame has a twin: a frame that both forward alike, sent behind it from the same port. The row
//! says which switch forwards the frame as it forwards the twin, and which one drops it. So what was learnt of the frame is
//! the same in both switches as soon as the twin is through.

mod dice;
mod draw;
pub mod groups;
pub mod kernel;
pub mod ours;
mod packets;
mod setup;
pub mod verdict;

pub use dice::Dice;
pub use setup::{Kind, Member, PORTS, Port, Setup, VIDS};

use crate::frames::Mac;

/// What leaves a switch because of one frame: ports and octets, in the order of ports.
pub type Fate = Vec<(u8, Vec<u8>)>;

/// Rounds and the frames of each.
pub struct Play(pub Vec<(Setup, Vec<Step>)>);

impl Play {
    /// The rounds of a seed.
    pub fn of(seed: u64) -> Play {
        use Kind::{Customer, Service, Unaware};
        Play::draw(
            seed,
            &[Customer, Service, Customer, Unaware, Customer, Service, Customer, Customer, Service, Customer],
            350,
        )
    }
}

/// A frame on its way into both switches.
pub struct Step {
    /// The port.
    pub from: usize,
    /// The frame.
    pub frame: Vec<u8>,
    /// How the switches differ, if they do. The next step is the twin.
    pub row: Option<Row>,
}

/// Why the switches treat a frame differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// An access port's frame has a tag of the port's VLAN. The kernel takes it, sv3 does not.
    OwnTag,
    /// A tag of another type than the switch's, at a port with a VLAN for frames without a tag. To the kernel these are
    /// octets, sv3 drops the frame.
    OtherTag,
    /// A customer's frame at a tunnel port begins with a service tag. To sv3 it is the customer's tag, to the kernel it
    /// is one of its own.
    ServiceTag,
    /// A group that bridges keep for themselves, which the kernel forwards in certain cases.
    LinkLocal,
    /// The source is a static address of another port.
    StaticElsewhere,
    /// The frame is longer than the kernel's port.
    Long,
    /// The frame would leave without a tag and begin with one. The kernel lets it. It has no twin.
    Hop,
}

/// How a frame is forwarded, if it is, compared with its twin.
#[derive(Clone, Copy)]
pub enum Like {
    /// But for the addresses.
    Addresses,
    /// But for what is behind these octets of the twin, and of the frame.
    Tail(usize, usize),
}

impl Like {
    /// Where the frame goes if its twin went there.
    pub fn apply(self, frame: &[u8], twin: &[u8], fate: &Fate) -> Fate {
        let of = |came: &[u8]| match self {
            Like::Addresses => [&frame[..12], &came[12..]].concat(),
            Like::Tail(behind, at) => [&came[..came.len() - (twin.len() - behind)], &frame[at..]].concat(),
        };
        fate.iter().map(|(port, came)| (*port, of(came))).collect()
    }
}

/// The Ethertype of a frame.
pub fn kind_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

/// The VLAN that its first tag says, if it begins with one.
pub fn said(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[14], frame[15]]) & 0xfff
}

/// Whether a frame begins with what may be a tag.
pub fn is_tagged(frame: &[u8]) -> bool {
    [0x8100, 0x88a8, 0x9100].contains(&kind_of(frame))
}

/// A number for these octets. Two frames with the same number are the same, as far as chance is concerned (FNV-1a, 64 bits).
pub fn digest(octets: &[u8]) -> u64 {
    octets.iter().fold(0xcbf2_9ce4_8422_2325, |sum, octet| (sum ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// A static address of a port.
fn static_of(port: usize, which: u8) -> Mac {
    crate::frames::mac(100 + 10 * which + port as u8)
}
