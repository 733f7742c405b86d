//! VLANs (802.1Q-2022, 6.9 and 8.6).

use serde::{Deserialize, Serialize};

/// The number of a VLAN, 1 to [`VID_MAX`]. 0 is the network of the ports that know no VLANs.
pub type Vid = u16;
/// The last number of a VLAN.
pub const VID_MAX: Vid = 4094;
/// Most ranges of a trunk.
pub const RANGES_MAX: usize = 128;

/// The VLANs of a port's frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Vlan {
    /// The port knows no VLANs: tags are octets like any other. It speaks to other such ports only.
    #[default]
    Unaware,
    /// All frames are of one VLAN and have no tag. A priority tag (VLAN 0) is taken off; a frame with another tag is
    /// dropped.
    Access {
        /// The VLAN.
        vid: Vid,
    },
    /// All frames are of one VLAN, whatever tags they have: these belong to the customer behind the port, and trunks put
    /// the tag of this VLAN in front of them (802.1ad, "QinQ").
    Tunnel {
        /// The VLAN.
        vid: Vid,
    },
    /// Frames have tags of several VLANs.
    Trunk {
        /// The VLAN of frames without a tag, one of `allowed`. `None`: they are dropped.
        native: Option<Vid>,
        /// The VLANs that pass.
        allowed: Vids,
        /// What its tags begin with.
        tag: TagType,
    },
}

/// The first two octets of a tag (802.1Q, table 9-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagType {
    /// 81-00, a C-VLAN tag.
    #[default]
    Customer,
    /// 88-a8, an S-VLAN tag (802.1ad).
    Service,
}

impl TagType {
    /// The Ethertype.
    pub const fn ethertype(self) -> u16 {
        match self {
            TagType::Customer => 0x8100,
            TagType::Service => 0x88a8,
        }
    }
}

/// VLANs from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VidRange {
    /// The first one.
    pub first: Vid,
    /// The last one.
    pub last: Vid,
}

/// A set of VLANs, as ranges that ascend and do not touch one another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vids(pub Vec<VidRange>);

impl Vids {
    /// All VLANs.
    pub fn all() -> Vids {
        Vids(vec![VidRange { first: 1, last: VID_MAX }])
    }

    /// Whether a VLAN is in the set.
    pub fn contains(&self, vid: Vid) -> bool {
        self.0.iter().any(|range| (range.first..=range.last).contains(&vid))
    }

    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("a trunk that lets no VLAN pass".to_string());
        }
        if self.0.len() > RANGES_MAX {
            return Err(format!("{} ranges of VLANs, of {RANGES_MAX} at most", self.0.len()));
        }
        let mut before = None;
        for VidRange { first, last } in &self.0 {
            check(*first)?;
            check(*last)?;
            if first > last || before.is_some_and(|before: Vid| *first <= before.saturating_add(1)) {
                return Err(format!("the VLANs {first} to {last} do not ascend"));
            }
            before = Some(*last);
        }
        Ok(())
    }
}

impl Vlan {
    /// Why these VLANs cannot be.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Vlan::Unaware => Ok(()),
            Vlan::Access { vid } | Vlan::Tunnel { vid } => check(*vid),
            Vlan::Trunk { native, allowed, .. } => {
                allowed.check()?;
                match native {
                    Some(vid) if !allowed.contains(*vid) => {
                        Err(format!("the native VLAN {vid} is none of those that pass"))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn check(vid: Vid) -> Result<(), String> {
    let good = (1..=VID_MAX).contains(&vid);
    good.then_some(()).ok_or(format!("VLAN {vid}: VLANs have the numbers 1 to {VID_MAX}"))
}
