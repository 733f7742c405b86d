//! Announcements of guests' addresses to the network behind the uplinks, so that its switches send frames for them here.
//!
//! Threads mark entries of the forwarding table ([`super::fdb`]). The control thread goes through the table in *passes*
//! and sends a RARP for each marked address out of all uplinks. A guest that floods source addresses must neither flood
//! the network nor keep others from being announced. So:
//!
//! - a pass begins at the earliest [`PASS_NS`] after the last one, and announces one address of each port;
//! - all ports together have one announcement in [`EACH_NS`], and may save up [`BURST_NS`];
//! - at most [`SLICE`] are sent between two turns of the loop.
//!
//! An address that is announced too late costs little: the guest's own frames teach the network as well.
//!
//! One announcement may be lost: the kernel tells a bridge up to a second later that its port has a carrier again
//! (net/core/link_watch.c), and a fabric that still moves an address elsewhere forgets the newer news. So the addresses of a port that had one are
//! announced [`REPEATS`] times more, [`REPEAT_NS`] apart. QEMU sends five after a migration.

use sv3::MAX_PORTS;

use super::fdb::marks::Marked;
use super::forwarder::Forwarder;
use super::rarp::{self, Announced};

/// Shortest time between the beginnings of two passes, in nanoseconds.
pub const PASS_NS: u64 = 5_000_000;
/// Shortest time between two announcements on average, in nanoseconds.
pub const EACH_NS: u64 = 1_000_000;
/// How much of that time may be saved up, in nanoseconds.
const BURST_NS: u64 = 100_000_000;
/// Most announcements between two turns of the loop.
pub const SLICE: usize = 16;

/// How often an announcement is repeated.
pub const REPEATS: u8 = 5;
/// Time between two of them, in nanoseconds.
pub const REPEAT_NS: u64 = 350_000_000;

/// When the announcer wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// In the next turn.
    Now,
    /// At this time, in nanoseconds.
    At(u64),
    /// When an entry is marked.
    WhenMarked,
}

/// The state between two turns.
pub struct Announcer {
    /// There may be marked entries, for another pass.
    is_due: bool,
    /// Where the pass under way goes on.
    at: Option<usize>,
    /// When the last pass began, in nanoseconds.
    began_ns: u64,
    /// Until when the time of announcements is spent, in nanoseconds.
    spent_until_ns: u64,
    /// By slot: the pass has announced an address of the port.
    served: Box<[bool]>,
    /// By slot: how many more times, plus one, its addresses are looked at for repeats.
    repeats: Box<[u8]>,
    /// When they are looked at next, in nanoseconds.
    repeat_ns: Option<u64>,
}

impl Announcer {
    /// Looks for marks that an earlier worker left.
    pub fn new() -> Announcer {
        let served = vec![false; MAX_PORTS].into_boxed_slice();
        let repeats = vec![0; MAX_PORTS].into_boxed_slice();
        Announcer { is_due: true, at: None, began_ns: 0, spent_until_ns: 0, served, repeats, repeat_ns: None }
    }

    /// An entry was marked.
    pub fn wake(&mut self) {
        self.is_due = true;
    }

    /// Announces some addresses, if it is time for that.
    pub fn go_on(&mut self, forwarder: &mut Forwarder) -> Next {
        self.repeat(forwarder);
        match (self.announce(forwarder), self.repeat_ns) {
            (Next::WhenMarked, Some(at)) => Next::At(at),
            (Next::At(next), Some(at)) => Next::At(next.min(at)),
            (next, _) => next,
        }
    }

    /// Marks the addresses whose announcements are to be repeated now.
    fn repeat(&mut self, forwarder: &mut Forwarder) {
        if self.repeat_ns.is_none_or(|at| forwarder.now_ns < at) {
            return;
        }
        let repeats = &mut self.repeats;
        repeats.iter_mut().for_each(|left| *left = left.saturating_sub(1));
        let is_repeated = |port: u16| repeats.get(usize::from(port)).is_some_and(|left| *left > 0);
        self.is_due |= forwarder.mark_all(is_repeated);
        let more = self.repeats.iter().any(|left| *left > 0);
        self.repeat_ns = more.then(|| forwarder.now_ns.saturating_add(REPEAT_NS));
    }

    fn announce(&mut self, forwarder: &mut Forwarder) -> Next {
        let now_ns = forwarder.now_ns;
        let mut at = match self.at.take() {
            Some(at) => at,
            None if !self.is_due => return Next::WhenMarked,
            None if now_ns < self.began_ns.saturating_add(PASS_NS) => return self.after_pass(),
            None => {
                (self.is_due, self.began_ns) = (false, now_ns);
                self.served.fill(false);
                0
            }
        };
        let mut sent = 0;
        while let Some(Marked { place, address, port }) = forwarder.fdb.next_marked(at) {
            if self.served.get(usize::from(port)).is_some_and(|served| *served) {
                self.is_due = true;
                at = place + 1;
                continue;
            }
            self.at = Some(place);
            if sent == SLICE {
                return Next::Now;
            }
            let from = self.spent_until_ns.max(now_ns.saturating_sub(BURST_NS)).saturating_add(EACH_NS);
            if from > now_ns {
                return Next::At(from);
            }
            match rarp::announce_to_uplinks(forwarder, port, address) {
                Announced::Busy => return Next::Now,
                Announced::Pointless => {}
                Announced::Sent => {
                    sent += 1;
                    self.spent_until_ns = from;
                    if let Some(served) = self.served.get_mut(usize::from(port)) {
                        *served = true;
                    }
                    if let Some(left) = self.repeats.get_mut(usize::from(port)).filter(|left| **left == 0) {
                        *left = REPEATS + 1;
                        self.repeat_ns.get_or_insert(now_ns.saturating_add(REPEAT_NS));
                    }
                }
            }
            forwarder.fdb.unmark(place);
            at = place + 1;
        }
        self.at = None;
        self.after_pass()
    }

    fn after_pass(&self) -> Next {
        if self.is_due { Next::At(self.began_ns.saturating_add(PASS_NS)) } else { Next::WhenMarked }
    }
}
