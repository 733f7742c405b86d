//! The VLAN of a frame (802.1Q-2022, 6.9.1), and its tag on the way out (6.9.2).
//!
//! A frame keeps its tag in memory while it is forwarded. The switch knows of it what [`InVlan`] says, and each receiver's
//! rules say what becomes of the tag ([`Edit`]): so a flood can leave with a tag here and without one there. Priority
//! and drop eligibility are kept as long as there is a tag.
//!
//! **VLAN hopping.** A frame with two tags, of which a trunk takes off the first one, would arrive with the second one,
//! and the next switch would take that for its VLAN. So a frame that leaves without a tag and begins with one is
//! dropped, whatever the type of that tag. Only a tunnel port gets it: what tags are behind a tunnel port's VLAN is its
//! customer's business.

use sv3::drop_reason::DropReason;
use sv3::frame::ETHERNET_LEN;
use sv3::rules::{TagType, Vid, Vlan};

/// Octets of a tag.
pub const TAG_LEN: usize = 4;
/// What begins like a VLAN tag: 802.1Q, 802.1ad, and what was used before 802.1ad.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// The bits of a tag's last two octets that are the VLAN's number; the others are priority and drop eligibility.
const VID_BITS: u32 = 0xfff;

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// It knows none.
    Unaware,
    /// Frames of one, without tags.
    Access(Vid),
    /// Frames of one, whose tags are the customer's.
    Tunnel(Vid),
    /// Frames of several, with tags.
    Trunk(Box<Trunk>),
}

/// The VLANs of a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// The VLAN of frames without a tag; 0: none.
    native: Vid,
    /// The VLANs that pass, one bit for each.
    allowed: [u64; 64],
    /// What its tags begin with.
    tag_type: u16,
}

/// What is known of a frame's VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InVlan {
    /// The VLAN; 0: the network of ports that know none.
    pub vid: Vid,
    /// The tag that the frame has in memory and that says so, as it stands there, first octet highest; 0: none.
    tag: u32,
    /// What is behind that tag, or where it would be, is another tag.
    hides_tag: bool,
}

/// What is to be done to a frame's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The tag in memory is taken off.
    pub cut: bool,
    /// This tag is put in, first octet highest; 0: none.
    pub put: u32,
}

impl Edit {
    /// Nothing.
    pub const NONE: Edit = Edit { cut: false, put: 0 };

    /// Octets that the frame has in addition afterwards.
    pub fn growth(self) -> i16 {
        let octets = |is: bool| if is { TAG_LEN as i16 } else { 0 };
        octets(self.put != 0) - octets(self.cut)
    }
}

impl InVlan {
    /// A frame of a port that knows no VLANs.
    pub const UNAWARE: InVlan = InVlan { vid: 0, tag: 0, hides_tag: false };

    /// A frame without a tag.
    pub fn untagged(vid: Vid) -> InVlan {
        InVlan { vid, ..InVlan::UNAWARE }
    }

    /// A frame with a tag.
    #[cfg(test)]
    pub fn of_tag(vid: Vid, tag: u32) -> InVlan {
        InVlan { tag, ..InVlan::untagged(vid) }
    }

    /// Whether the frame has no tag. Then each frame of the same port and of the same type is in the same VLAN.
    #[inline]
    pub fn is_bare(&self) -> bool {
        self.tag == 0 && !self.hides_tag
    }

    /// Octets of its tag in memory.
    #[inline]
    pub fn tag_len(&self) -> usize {
        if self.tag == 0 { 0 } else { TAG_LEN }
    }
}

impl Domain {
    /// VLANs as the supervisor told them.
    pub fn of(vlan: &Vlan) -> Domain {
        match vlan {
            Vlan::Unaware => Domain::Unaware,
            Vlan::Access { vid } => Domain::Access(*vid),
            Vlan::Tunnel { vid } => Domain::Tunnel(*vid),
            Vlan::Trunk { native, allowed, tag } => {
                let mut bits = [0; 64];
                for vid in allowed.0.iter().flat_map(|range| range.first..=range.last) {
                    if let Some(word) = bits.get_mut(usize::from(vid / 64)) {
                        *word |= 1 << (vid % 64);
                    }
                }
                let (native, tag_type) = (native.unwrap_or(0), TagType::ethertype(*tag));
                Domain::Trunk(Box::new(Trunk { native, allowed: bits, tag_type }))
            }
        }
    }

    /// Whether frames of this VLAN pass. 0: the network of ports that know none.
    pub fn contains(&self, vid: Vid) -> bool {
        match self {
            Domain::Unaware => vid == 0,
            Domain::Access(own) | Domain::Tunnel(own) => *own == vid,
            Domain::Trunk(trunk) => trunk.contains(vid),
        }
    }

    /// The VLAN in which the switch itself speaks out of this port: the one of frames without a tag, or else the first.
    pub fn own(&self) -> Vid {
        match self {
            Domain::Unaware => 0,
            Domain::Access(vid) | Domain::Tunnel(vid) => *vid,
            Domain::Trunk(trunk) if trunk.native != 0 => trunk.native,
            Domain::Trunk(trunk) => (1..).take_while(|vid| *vid < 4096).find(|vid| trunk.contains(*vid)).unwrap_or(0),
        }
    }

    /// The VLAN of a frame of this port. `octets`: those of the frame behind its addresses, zeroes behind its end;
    /// `len`: octets of the frame.
    #[inline]
    pub fn classify(&self, octets: [u8; 6], len: usize) -> Result<InVlan, DropReason> {
        let [a, b, c, d, e, f] = octets;
        let (kind, tag) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([a, b, c, d]));
        let is_tag = TAGS.contains(&kind);
        match self {
            Domain::Unaware => return Ok(InVlan::UNAWARE),
            Domain::Tunnel(vid) => return Ok(InVlan { hides_tag: is_tag, ..InVlan::untagged(*vid) }),
            Domain::Access(vid) if !is_tag => return Ok(InVlan::untagged(*vid)),
            Domain::Trunk(trunk) if !is_tag && trunk.native != 0 => return Ok(InVlan::untagged(trunk.native)),
            _ => {}
        }
        let said = (tag & VID_BITS) as Vid;
        let vid = match self {
            Domain::Access(vid) if kind == TagType::Customer.ethertype() && said == 0 => *vid,
            Domain::Trunk(trunk) if kind == trunk.tag_type => match said {
                0 => trunk.native,
                said if trunk.contains(said) => said,
                _ => 0,
            },
            _ => 0,
        };
        if vid == 0 {
            return Err(DropReason::VlanTag);
        }
        if len < ETHERNET_LEN + TAG_LEN {
            return Err(DropReason::ShortFrame);
        }
        Ok(InVlan { vid, tag, hides_tag: TAGS.contains(&u16::from_be_bytes([e, f])) })
    }

    /// What is to be done to the tag of a frame that leaves by this port, if it may.
    pub fn way_out(&self, frame: &InVlan) -> Result<Edit, DropReason> {
        if !self.contains(frame.vid) {
            return Err(DropReason::NoDestination);
        }
        let cut = frame.tag != 0;
        match self {
            Domain::Unaware => Ok(Edit::NONE),
            Domain::Trunk(trunk) if trunk.native != frame.vid => {
                let put = trunk.tag(frame);
                Ok(if put == frame.tag { Edit::NONE } else { Edit { cut, put } })
            }
            Domain::Access(_) | Domain::Trunk(_) if frame.hides_tag => Err(DropReason::VlanHop),
            _ => Ok(Edit { cut, put: 0 }),
        }
    }
}

impl Trunk {
    fn contains(&self, vid: Vid) -> bool {
        self.allowed.get(usize::from(vid / 64)).is_some_and(|word| word >> (vid % 64) & 1 != 0)
    }

    /// The tag of a frame that leaves.
    fn tag(&self, frame: &InVlan) -> u32 {
        let kept = frame.tag & 0xffff & !VID_BITS;
        u32::from(self.tag_type) << 16 | kept | u32::from(frame.vid)
    }
}
