//! A virtual function of any family.
//!
//! # Theory of operation
//!
//! A function *begins anew* by a reset of its own, a RESET message, and what it asks of the physical function after
//! that ([`Family::agree`]). A worker that gets a function which another has left asks again and resets nothing.
//!
//! The physical function may make a reset at any time: its driver is loaded again, or its card hung. The mailbox tells
//! when that begins and ends (RSTI, RSTD), or the next answer says that this function is unknown (no CTS). The function
//! is *lost* then: there is no link, and [`Function::service`] begins anew as soon as the physical function answers.
//! Then all queues are off and know no ring.
//!
//! VTIVAR_MISC is written last and cleared first. So a worker that dies in between leaves a function that the next one
//! begins anew.

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardSettings, CardState, Statistic};

use super::family::{Family, Terms};
use super::filters::Filters;
use super::mailbox::{Mailbox, RESET, RSTI};
use super::registers::{CTRL_RST, IVAR_VALID};
use super::statistics;
use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::event::Event;
use crate::nic::fault::Fault;
use crate::nic::interrupts::Interrupts;
use crate::nic::queue_registers::{QueueRegisters, split_value};
use crate::nic::statistics::count;
use crate::nic::wait::{self, MS};
use crate::process::clock::now_ns;

/// Vectors of a function: two pairs and the mailbox.
const VECTORS: u16 = 3;
/// How long a physical function may be in a reset that was just asked for, in nanoseconds.
const RESET_LIMIT: u64 = 20 * MS;
/// First and longest time between two attempts to begin anew, in nanoseconds.
const AGAIN: u64 = 500 * MS;
const AGAIN_MOST: u64 = 16 * AGAIN;
/// SET_MAC_ADDR, of all families.
const SET_MAC_ADDR: u32 = 2;
/// DCA_RXCTRL and DCA_TXCTRL (both families): descriptors are read with relaxed ordering, and all else with or without.
const DESC_RRO: u32 = 1 << 9;
const WRITES_RO: u32 = 1 << 11 | 1 << 12 | 1 << 13 | 1 << 15;
const DATA_RRO: u32 = 1 << 13;
/// PSRTYPE.RQPL: frames are spread over two queues, if the physical function spreads at all.
const PSRTYPE_RQPL: u32 = 1 << 29;
/// Interrupts a second of a vector, until the port says how many.
const RATE: u32 = 8_000;

/// A virtual function.
#[derive(Debug)]
pub struct Function<F: Family> {
    settings: CardSettings,
    mailbox: Mailbox,
    filters: Filters,
    terms: Terms,
    mac: Mac,
    reset: bool,
    /// The physical function does not know this one.
    lost: bool,
    /// When to begin anew, if the last attempt failed, and how long to wait behind the next.
    again: (u64, u64),
    link: u32,
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Function<F> {
    /// Stops the function's queues. It begins anew, if no worker has left it for this one.
    pub fn open(bar: &impl Bar, settings: &CardSettings, state: &CardState) -> Result<Function<F>, Fault> {
        wait::read(bar, F::REGISTERS.link)?;
        if settings.pairs >= VECTORS {
            return Err(Fault::Bad("VTIVAR"));
        }
        let left = state.run.load(Relaxed) == settings.run;
        let mac = if left { address::of_state(state.mac.load(Relaxed)) } else { None };
        let mut function = Function {
            settings: *settings,
            mailbox: Mailbox::new(F::REGISTERS.mailbox, F::REGISTERS.buffer),
            filters: Filters::new(0),
            terms: Terms { pairs: settings.pairs, all_unicast: false, all_multicast: false, link: true },
            mac: mac.unwrap_or_default(),
            reset: false,
            lost: false,
            again: (0, AGAIN),
            link: 0,
            family: std::marker::PhantomData,
        };
        function.link = if mac.is_some() { state.link.load(Relaxed) } else { 0 };
        if mac.is_some() && function.take_over(bar)? {
            return Ok(function);
        }
        function.reset = true;
        match function.begin(bar, state) {
            // A port that was there before stays, whatever the physical function is doing.
            Err(Fault::Bad(_)) if mac.is_some() => function.lose(bar),
            begun => begun?,
        }
        Ok(function)
    }

    /// Goes on with a function that another worker has left. False: it cannot.
    fn take_over(&mut self, bar: &impl Bar) -> Result<bool, Fault> {
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
    fn begin(&mut self, bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
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
        let wanted = self.settings.mac.or(theirs).or(had).unwrap_or_else(made_up);
        if theirs == Some(wanted) {
            return Ok(wanted);
        }
        let (low, high) = address::to_words(wanted);
        match self.mailbox.request(bar, &[SET_MAC_ADDR, low, high])?.done {
            true => Ok(wanted),
            false => theirs.ok_or(Fault::Bad("SET_MAC_ADDR")),
        }
    }

    fn is_done(&self, bar: &impl Bar) -> Result<bool, Fault> {
        Ok(wait::read(bar, F::REGISTERS.ivar_misc)? & 0xff == self.mailbox_vector())
    }

    fn mailbox_vector(&self) -> u32 {
        IVAR_VALID | u32::from(self.settings.pairs)
    }

    /// All settings that are no queue's ring, with the queues off.
    fn configure(&self, bar: &impl Bar) -> Result<(), Fault> {
        let registers = &F::REGISTERS;
        bar.write(registers.psrtype, if self.pairs() > 1 { PSRTYPE_RQPL } else { 0 });
        for pair in 0..self.pairs() {
            let (receive, transmit) = (registers.receive_queue(pair), registers.transmit_queue(pair));
            bar.write(receive + registers.srrctl, split_value(&self.settings, registers.drop_en));
            // A descriptor must not reach memory before the frame that it tells of.
            let dca = wait::read(bar, receive + registers.dca)? & !WRITES_RO;
            bar.write(receive + registers.dca, dca | DESC_RRO);
            let dca = wait::read(bar, transmit + registers.dca)? & !WRITES_RO;
            bar.write(transmit + registers.dca, dca | DESC_RRO | DATA_RRO);
        }
        let interrupts = self.interrupts();
        let vector = |pair: u16| if pair < self.pairs() { (IVAR_VALID | u32::from(pair)) * 0x0101 } else { 0 };
        bar.write(registers.ivar, vector(0) | vector(1) << 16);
        let vectors = (1 << self.settings.pairs) - 1;
        bar.write(registers.eiac, vectors);
        bar.write(registers.eiam, vectors);
        (0..=self.settings.pairs).for_each(|vector| interrupts.set_rate(bar, vector, RATE));
        bar.write(registers.ivar_misc, self.mailbox_vector());
        Ok(())
    }

    /// Queue pairs that the physical function grants.
    pub fn pairs(&self) -> u16 {
        self.terms.pairs.min(self.settings.pairs)
    }

    /// The function's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The function began anew when it was opened.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    /// Registers of a pair's receive queue.
    pub fn receive_registers(&self, pair: u16) -> QueueRegisters {
        QueueRegisters::at(F::REGISTERS.receive_queue(pair), F::REGISTERS.rxdctl)
    }

    /// Registers of a pair's transmit queue.
    pub fn transmit_registers(&self, pair: u16) -> QueueRegisters {
        QueueRegisters::at(F::REGISTERS.transmit_queue(pair), F::REGISTERS.txdctl)
    }

    /// The vectors.
    pub fn interrupts(&self) -> Interrupts {
        Interrupts {
            pairs: self.settings.pairs,
            set: F::REGISTERS.eims,
            clear: F::REGISTERS.eimc,
            cause: F::REGISTERS.eicr,
            throttle: F::REGISTERS.eitr,
            unit: F::UNIT,
            other: (F::REGISTERS.eims, 1 << self.settings.pairs),
            always: false,
        }
    }

    /// Turns the mailbox's interrupt on. False: the function is lost, and its queues cannot be turned on.
    pub fn start(&self, bar: &impl Bar) -> Result<bool, Fault> {
        bar.write(F::REGISTERS.eims, 1 << self.settings.pairs);
        Ok(!self.lost)
    }

    /// Masks all interrupts and turns the queues off.
    pub fn stop(&self, bar: &impl Bar) -> Result<(), Fault> {
        bar.write(F::REGISTERS.eimc, (1 << VECTORS) - 1);
        for pair in 0..self.settings.pairs {
            self.receive_registers(pair).disable(bar, "VFRXDCTL", 0)?;
            self.transmit_registers(pair).disable(bar, "VFTXDCTL", F::REGISTERS.flush)?;
        }
        Ok(())
    }

    /// Speed of the link in Mbit/s; 0: no link.
    pub fn link(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        let link = F::speed(wait::read(bar, F::REGISTERS.link)?);
        self.link = if self.lost || !self.terms.link { 0 } else { link };
        Ok(self.link)
    }

    /// Frames to these addresses are to arrive. Returns for how many they do.
    pub fn filter(&mut self, bar: &impl Bar, macs: &[Mac]) -> Result<usize, Fault> {
        if self.terms.all_unicast && self.terms.all_multicast {
            return Ok(macs.len());
        }
        if self.lost {
            return Ok(0);
        }
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
        bar.write(F::REGISTERS.eicr, 1 << self.settings.pairs);
        self.mailbox.listen(bar)?;
        let reset = self.mailbox.reset_bits(bar)?;
        let found = reset != 0 || self.mailbox.is_lost() || !self.is_done(bar)?;
        if found && !self.lost {
            self.lose(bar);
        }
        if self.lost && reset & RSTI == 0 && now_ns() >= self.again.0 && self.again(bar, state)? {
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
    fn lose(&mut self, bar: &impl Bar) {
        bar.write(F::REGISTERS.ivar_misc, 0);
        self.lost = true;
        self.again = (now_ns(), AGAIN);
    }

    /// Begins anew, if the physical function is there again.
    fn again(&mut self, bar: &impl Bar, state: &CardState) -> Result<bool, Fault> {
        match self.begin(bar, state) {
            Err(Fault::Gone) => Err(Fault::Gone),
            Err(Fault::Bad(_)) => {
                self.again = (now_ns().wrapping_add(self.again.1), (2 * self.again.1).min(AGAIN_MOST));
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

/// An address of local use (IEEE 802, 8.2) that no other function has by chance.
fn made_up() -> Mac {
    let [a, b, c, d, e, ..] = now_ns().to_le_bytes();
    [0x02, e, d, c, b, a]
}
