//! Marks: which addresses are to be announced. Any thread marks an entry; the control thread finds marks and clears them.

use std::sync::atomic::{Ordering::*, fence};

use super::{Address, Fdb, MARK, fresh, port_of};

/// A marked entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its place in the table.
    pub place: usize,
    /// Its address.
    pub address: Address,
    /// The port of the address.
    pub port: u16,
}

impl Fdb<'_> {
    /// Marks the addresses of these ports that have not aged. True: there are some.
    pub fn mark_all(&self, now_s: u64, of: impl Fn(u16) -> bool) -> bool {
        // What is learnt from now on is marked by the thread that learns it.
        fence(SeqCst);
        let mut some = false;
        for entry in self.entries {
            let key = entry.key.load(Acquire);
            if key != 0 && fresh(entry, now_s) && of(port_of(key)) {
                entry.seen.fetch_or(MARK, Relaxed);
                some = true;
            }
        }
        some
    }

    /// The first marked entry from a place on.
    pub fn next_marked(&self, from: usize) -> Option<Marked> {
        let rest = self.entries.get(from..).unwrap_or(&[]);
        (from..).zip(rest).filter(|(_, entry)| entry.seen.load(Relaxed) & MARK != 0).find_map(|(place, entry)| {
            let line = entry.line()?;
            Some(Marked { place, address: Address::new(line.mac, line.vid), port: line.port })
        })
    }

    /// Clears a mark.
    pub fn unmark(&self, place: usize) {
        if let Some(entry) = self.entries.get(place) {
            entry.seen.fetch_and(!MARK, Relaxed);
        }
    }
}
