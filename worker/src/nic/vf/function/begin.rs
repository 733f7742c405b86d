//! How a function is taken over from another worker, and how it begins anew.

use sv3::card::CardState;

use super::{Function, VECTORS};
use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::vf::family::Family;
use crate::nic::vf::filters::Filters;
use crate::nic::vf::mailbox::RESET;
use crate::nic::vf::registers::CTRL_RST;
use crate::nic::vf::statistics;
use crate::nic::wait::MS;

/// How long a physical function may be in a reset that was just asked for, in nanoseconds.
const RESET_LIMIT: u64 = 20 * MS;
/// SET_MAC_ADDR, of all families.
const SET_MAC_ADDR: u32 = 2;

impl<F: Family> Function<F> {
    /// Goes on with a function that another worker has left. False: it cannot.
    pub(super) fn take_over(&mut self, bar: &impl Bar) -> Result<bool, Fault> {
        if !self.is_done(bar)? {
            return Ok(false);
        }
        match self.stop(bar) {
            Err(Fault::Gone) => return Err(Fault::Gone),
            Err(Fault::Bad(_)) => return Ok(false),
            Ok(()) => {}
        }
        if self.mailbox.reset_bits(bar)? == 0 {
            match F::agree(bar, &mut self.mailbox, &self.settings) {
                Err(Fault::Gone) => return Err(Fault::Gone),
                Err(Fault::Bad(_)) => {}
                Ok(terms) => self.terms = terms,
            }
        }
        self.configure(bar)?;
        if self.mailbox.is_lost() || self.mailbox.reset_bits(bar)? != 0 {
            self.lose(bar);
        }
        Ok(true)
    }

    /// The function's reset, and all that follows it.
    pub(super) fn begin(&mut self, bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
        let registers = &F::REGISTERS;
        bar.write(registers.ivar_misc, 0);
        bar.write(registers.eimc, (1 << VECTORS) - 1);
        bar.write(registers.ctrl, CTRL_RST);
        self.mailbox.wait_for_reset(bar, RESET_LIMIT)?;
        self.mailbox.renew();
        let reply = self.mailbox.request(bar, &[RESET])?;
        let [low, high, ..] = reply.words;
        self.filters = Filters::new(F::hash(&reply.words));
        let theirs = if reply.done { address::of_words(low, high) } else { None };
        self.terms = F::agree(bar, &mut self.mailbox, &self.settings)?;
        self.mac = self.address(bar, theirs)?;
        if !self.terms.all_multicast {
            self.filters.set_groups(bar, &mut self.mailbox, &[self.mac])?;
        }
        self.stop(bar)?;
        self.configure(bar)?;
        statistics::begin(bar, F::COUNTERS, state)
    }

    /// The function's address: the person's, else the administrator's, else the one it has, else one made up. The
    /// physical function may refuse what its administrator has not chosen.
    fn address(&mut self, bar: &impl Bar, theirs: Option<Mac>) -> Result<Mac, Fault> {
        let had = (self.mac != [0; 6]).then_some(self.mac);
        let wanted = self.settings.mac.or(theirs).or(had).unwrap_or_else(|| made_up(bar.now_ns()));
        if theirs == Some(wanted) {
            return Ok(wanted);
        }
        let (low, high) = address::to_words(wanted);
        match self.mailbox.request(bar, &[SET_MAC_ADDR, low, high])?.done {
            true => Ok(wanted),
            false => theirs.ok_or(Fault::Bad("SET_MAC_ADDR")),
        }
    }
}

/// An address of local use (IEEE 802, 8.2) that no other function has by chance.
fn made_up(now_ns: u64) -> Mac {
    let [a, b, c, d, e, ..] = now_ns.to_le_bytes();
    [0x02, e, d, c, b, a]
}
