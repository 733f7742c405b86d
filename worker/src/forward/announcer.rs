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
}

impl Announcer {
    /// Looks for marks that an earlier worker left.
    pub fn new() -> Announcer {
        let served = vec![false; MAX_PORTS].into_boxed_slice();
        Announcer { is_due: true, at: None, began_ns: 0, spent_until_ns: 0, served }
    }

    /// An entry was marked.
    pub fn wake(&mut self) {
        self.is_due = true;
    }

    /// Announces some addresses, if it is time for that.
    pub fn go_on(&mut self, forwarder: &mut Forwarder) -> Next {
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
        while let Some(Marked { place, mac, port }) = forwarder.fdb.next_marked(at) {
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
            match rarp::announce_to_uplinks(forwarder, port, mac) {
                Announced::Busy => return Next::Now,
                Announced::Pointless => {}
                Announced::Sent => {
                    sent += 1;
                    self.spent_until_ns = from;
                    if let Some(served) = self.served.get_mut(usize::from(port)) {
                        *served = true;
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
