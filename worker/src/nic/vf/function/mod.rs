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

mod begin;
mod service;

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardSettings, CardState};

use super::family::{Family, Terms};
use super::filters::Filters;
use super::mailbox::{Mailbox, RSTI};
use super::registers::IVAR_VALID;
use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::interrupts::Interrupts;
use crate::nic::queue_registers::{QueueRegisters, SETTLE, split_value};
use crate::nic::wait::{self, MS};

/// Vectors of a function: two pairs and the mailbox.
const VECTORS: u16 = 3;
/// First time between two attempts to begin anew, in nanoseconds.
const AGAIN: u64 = 500 * MS;
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
        function.mailbox.allow(bar);
        function.link = if mac.is_some() { state.link.load(Relaxed) } else { 0 };
        if mac.is_some() && function.take_over(bar)? {
            return Ok(function);
        }
        function.reset = true;
        // A port that was there before stays, whatever the physical function is doing.
        let stays = mac.is_some();
        if stays && function.mailbox.reset_bits(bar)? & RSTI != 0 {
            function.lose(bar);
            return Ok(function);
        }
        match function.begin(bar, state) {
            Err(Fault::Bad(_)) if stays => function.lose(bar),
            begun => begun?,
        }
        Ok(function)
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
        let began = bar.now_ns();
        for pair in 0..self.settings.pairs {
            self.receive_registers(pair).disable(bar, "VFRXDCTL", 0, began)?;
            self.transmit_registers(pair).disable(bar, "VFTXDCTL", F::REGISTERS.flush, began)?;
        }
        wait::pause(bar, SETTLE);
        Ok(())
    }

    /// Speed of the link in Mbit/s; 0: no link.
    pub fn link(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        let link = F::speed(wait::read(bar, F::REGISTERS.link)?);
        self.link = if self.lost || !self.terms.link { 0 } else { link };
        Ok(self.link)
    }
}
