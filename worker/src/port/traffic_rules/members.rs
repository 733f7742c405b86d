//! Which ports are in which VLAN, so that a flood looks at these only. It is a hint: a burst may see it before or after a
//! commit. Who gets a frame is decided by the rules of the leased queues.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::MAX_PORTS;
use sv3::rules::{VID_MAX, Vid};

use super::Domain;

/// Ports, one bit for each slot.
type Slots = [AtomicU64; MAX_PORTS / 64];

/// The members of all VLANs.
pub struct VlanMembers {
    /// Ports that are in some VLAN, and not in the network of those that know none.
    aware: Slots,
    /// Ports that may be in any VLAN.
    trunks: Slots,
    /// By VLAN: ports of that one. Made when a VLAN gets its first one.
    ports: Box<[OnceLock<Box<Slots>>]>,
}

fn none() -> Slots {
    [const { AtomicU64::new(0) }; MAX_PORTS / 64]
}

fn set(slots: &Slots, slot: u16, is_in: bool) {
    let Some(word) = slots.get(usize::from(slot / 64)) else { return };
    let bit = 1 << (slot % 64);
    if is_in {
        word.fetch_or(bit, Relaxed);
    } else {
        word.fetch_and(!bit, Relaxed);
    }
}

impl VlanMembers {
    /// Nobody is in a VLAN.
    pub fn new() -> VlanMembers {
        let ports = std::iter::repeat_with(OnceLock::new).take(usize::from(VID_MAX) + 1).collect();
        VlanMembers { aware: none(), trunks: none(), ports }
    }

    /// The VLANs of a port are now `domain`, and were `before`. Only the control thread calls this.
    pub fn change(&self, slot: u16, before: &Domain, domain: &Domain) {
        self.note(slot, before, false);
        self.note(slot, domain, true);
        set(&self.aware, slot, *domain != Domain::Unaware);
    }

    fn note(&self, slot: u16, domain: &Domain, is_in: bool) {
        match domain {
            Domain::Unaware => {}
            Domain::Trunk(_) => set(&self.trunks, slot, is_in),
            Domain::Access(vid) | Domain::Tunnel(vid) => {
                if let Some(place) = self.ports.get(usize::from(*vid)) {
                    set(place.get_or_init(|| Box::new(none())), slot, is_in);
                }
            }
        }
    }

    /// Those of 64 ports, of which slot `64 * word` is the first, that may be in a VLAN; 0: that know none. One bit for
    /// each.
    #[inline]
    pub fn word(&self, vid: Vid, word: usize) -> u64 {
        let of = |slots: &Slots| slots.get(word).map_or(0, |word| word.load(Relaxed));
        match vid {
            0 => !of(&self.aware),
            vid => of(&self.trunks) | self.ports.get(usize::from(vid)).and_then(OnceLock::get).map_or(0, |it| of(it)),
        }
    }
}
