//! Which frames the physical function passes to this one.
//!
//! A physical function has filters for some dozens of addresses, for all its functions together, and refuses what goes
//! beyond, or all if its administrator has set the function's address and does not trust it. Without a filter for all
//! groups, those are named that guests cannot do without: all hosts, all nodes, and each guest's own groups for the
//! discovery of neighbours, as its address makes them (RFC 4291, 2.7.1).

use super::family::Family;
use super::mailbox::{MSG_INFO, Mailbox, WORDS};
use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;

/// Most filters that are asked for.
const MOST: usize = 64;
/// SET_MULTICAST, of all families: as many hashes of 12 bits as the number says, two in a word.
const SET_MULTICAST: u32 = 3;
/// Most of them.
const GROUPS: usize = 2 * (WORDS - 1);
/// 224.0.0.1 and ff02::1.
const ALL: [Mac; 2] = [[1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]];

/// The filters that the physical function has for this one.
#[derive(Debug)]
pub struct Filters {
    macs: [Mac; MOST],
    count: usize,
    /// It has refused to have more.
    full: bool,
    /// Where the hash is in an address, as the answer to RESET says it.
    hash: u32,
}

impl Filters {
    /// None. `hash` is 0 to 3 (MCSTCTRL.MO).
    pub fn new(hash: u32) -> Filters {
        Filters { macs: [[0; 6]; MOST], count: 0, full: false, hash: hash & 3 }
    }

    fn known(&self) -> &[Mac] {
        self.macs.get(..self.count).unwrap_or_default()
    }

    /// Asks for frames to `macs`. Returns for how many of them the physical function has filters. Those that it has stay
    /// while addresses are added; it cannot remove one, so all are set anew when one goes.
    pub fn set<F: Family>(&mut self, bar: &impl Bar, mailbox: &mut Mailbox, macs: &[Mac]) -> Result<usize, Fault> {
        if !self.known().iter().all(|mac| macs.contains(mac)) {
            self.count = 0;
            self.full = false;
        }
        if self.count == 0
            && let Some(message) = macs.first().and_then(|mac| F::clear(*mac))
        {
            mailbox.request(bar, &message)?;
        }
        for mac in macs {
            if self.known().contains(mac) {
                continue;
            }
            if self.full || mailbox.is_lost() || self.count == MOST {
                break;
            }
            self.full = !mailbox.request(bar, &F::add(self.count, *mac))?.done;
            if let (false, Some(place)) = (self.full, self.macs.get_mut(self.count)) {
                *place = *mac;
                self.count += 1;
            }
        }
        Ok(self.count)
    }

    /// Asks for frames to the groups that stations with these addresses cannot do without.
    pub fn set_groups(&self, bar: &impl Bar, mailbox: &mut Mailbox, macs: &[Mac]) -> Result<(), Fault> {
        let nodes = macs.iter().map(|[_, _, _, d, e, f]| [0x33, 0x33, 0xff, *d, *e, *f]);
        let mut message = [0; WORDS];
        let mut count = 0;
        for (at, group) in ALL.into_iter().chain(nodes).take(GROUPS).enumerate() {
            if let Some(word) = message.get_mut(1 + at / 2) {
                *word |= self.hash(group) << (16 * (at as u32 & 1));
            }
            count = at as u32 + 1;
        }
        message[0] = SET_MULTICAST | count << MSG_INFO;
        mailbox.request(bar, &message).map(drop)
    }

    /// 12 bits of an address (82599, 8.2.3.7.3: bits 47 to 36, 46 to 35, 45 to 34 or 43 to 32).
    fn hash(&self, group: Mac) -> u32 {
        let (_, high) = address::to_words(group);
        let shift = [4, 3, 2, 0][self.hash as usize & 3];
        high >> shift & 0xfff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_s_hash_is_where_the_physical_function_looks() {
        let hash = |kind| Filters::new(kind).hash([0x33, 0x33, 0xff, 1, 0x23, 0x45]);
        assert_eq!([hash(0), hash(1), hash(2), hash(3)], [0x452, 0x8a4, 0x148, 0x523]);
    }
}
