//! What a function does while it runs: filters, messages, resets of the physical function, statistics.

use sv3::card::{CardState, Statistic};

use super::{AGAIN, Function};
use crate::nic::address::Mac;
use crate::nic::bar::Bar;
use crate::nic::event::Event;
use crate::nic::fault::Fault;
use crate::nic::statistics::count;
use crate::nic::vf::family::Family;
use crate::nic::vf::mailbox::RSTI;
use crate::nic::vf::statistics;

/// Longest time between two attempts to begin anew, in nanoseconds.
const AGAIN_MOST: u64 = 16 * AGAIN;

impl<F: Family> Function<F> {
    /// Frames to these addresses are to arrive. Returns for how many they do.
    pub fn filter(&mut self, bar: &impl Bar, macs: &[Mac]) -> Result<usize, Fault> {
        if self.terms.all_unicast && self.terms.all_multicast {
            return Ok(macs.len());
        }
        if self.lost {
            return Ok(0);
        }
        self.mailbox.allow(bar);
        let set = self.filters.set::<F>(bar, &mut self.mailbox, macs);
        let groups = match self.terms.all_multicast {
            false if set.is_ok() => self.filters.set_groups(bar, &mut self.mailbox, macs),
            _ => Ok(()),
        };
        match (set, groups) {
            (Err(Fault::Gone), _) | (_, Err(Fault::Gone)) => Err(Fault::Gone),
            // The mailbox is silent from now on, and the next service begins anew.
            (Err(Fault::Bad(_)), _) | (_, Err(Fault::Bad(_))) => Ok(0),
            (Ok(count), Ok(())) => Ok(if self.terms.all_unicast { macs.len() } else { count }),
        }
    }

    /// Looks for messages, for resets of the physical function, and for a changed link.
    pub fn service(&mut self, bar: &impl Bar, state: &CardState) -> Result<Event, Fault> {
        self.mailbox.allow(bar);
        bar.write(F::REGISTERS.eicr, 1 << self.settings.pairs);
        bar.write(F::REGISTERS.eims, 1 << self.settings.pairs);
        self.mailbox.listen(bar)?;
        let reset = self.mailbox.reset_bits(bar)?;
        let found = reset != 0 || self.mailbox.is_lost() || !self.is_done(bar)?;
        if found && !self.lost {
            self.lose(bar);
        }
        if self.lost && reset & RSTI == 0 && bar.now_ns() >= self.again.0 && self.again(bar, state)? {
            return Ok(Event::Reset);
        }
        let before = self.link;
        let link = self.link(bar)?;
        if link == before {
            return Ok(Event::Nothing);
        }
        count(state, Statistic::LinkChanges, 1);
        Ok(Event::Link(link))
    }

    /// The physical function does not know this one any more, and the next worker must not believe that it does.
    pub(super) fn lose(&mut self, bar: &impl Bar) {
        bar.write(F::REGISTERS.ivar_misc, 0);
        self.lost = true;
        self.again = (bar.now_ns(), AGAIN);
    }

    /// Begins anew, if the physical function is there again.
    fn again(&mut self, bar: &impl Bar, state: &CardState) -> Result<bool, Fault> {
        match self.begin(bar, state) {
            Err(Fault::Gone) => Err(Fault::Gone),
            Err(Fault::Bad(_)) => {
                self.again = (bar.now_ns().wrapping_add(self.again.1), (2 * self.again.1).min(AGAIN_MOST));
                Ok(false)
            }
            Ok(()) => {
                self.lost = false;
                count(state, Statistic::Resets, 1);
                Ok(true)
            }
        }
    }

    /// Adds what the card has counted since the last call.
    pub fn statistics(&self, bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
        statistics::read(bar, F::COUNTERS, state)
    }
}
