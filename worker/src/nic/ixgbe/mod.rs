//! The Intel 82599 and X540, physical function.
//!
//! # Theory of operation
//!
//! A card is *opened* with its queues off: [`Ixgbe::open`] stops them, and resets the card only if it is not one that
//! another worker has left for this one. What is no queue's is then written anew, whatever the registers hold: a
//! worker that died in the middle of it is no special case. The link is left as it is, if there is one: a take-over
//! shows no change of the carrier to the other side of the wire.
//!
//! The port writes where the rings are, and *starts* the card. A card that has lost its settings since has been reset by
//! somebody ([`Ixgbe::service`]): the same is done again.
//!
//! What it does not do: modules of 1 Gbit/s in a cage of SFP+, and AUTOC where the firmware wants to be asked first (LESM).

mod configure;
mod i2c;
mod link;
pub mod registers;
mod reset;
mod semaphore;
mod sfp;
mod statistics;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardSettings, CardState, Statistic};

use super::address::{self, Mac};
use super::bar::Bar;
use super::event::Event;
use super::fault::Fault;
use super::interrupts::{Interrupts, Unit};
use super::queue_registers::QueueRegisters;
use super::statistics::count;
use super::wait;
use registers::*;

/// TXDCTL: descriptors are fetched 36 at a time, when 8 are there; written back when the card is done with them.
const TXDCTL: u32 = 36 | 8 << 8;
/// How long a link may take to come back by itself after a reset, in nanoseconds.
const LINK_PATIENCE: u64 = 2_000 * wait::MS;
/// Causes that are no queue's.
const OTHER: u32 = EICR_LSC | EICR_ECC;

/// An 82599 or X540.
#[derive(Debug)]
pub struct Ixgbe {
    settings: CardSettings,
    mac: Mac,
    reset: bool,
    link: u32,
    /// When to have the card look for its link, if that does not come back by itself after a reset.
    look_for_link: Option<u64>,
}

impl Ixgbe {
    /// Stops the card's queues, resets it if no worker has left it for this one, and writes all that is no queue's.
    pub fn open(bar: &impl Bar, settings: &CardSettings, state: &CardState) -> Result<Ixgbe, Fault> {
        wait::read(bar, STATUS)?;
        let left = state.run.load(Relaxed) == settings.run && configure::is_done(bar)?;
        let stopped = reset::stop(bar, settings.pairs);
        let reset = match stopped {
            Err(Fault::Gone) => return Err(Fault::Gone),
            Ok(()) if left => false,
            _ => true,
        };
        let mut device = Ixgbe { settings: *settings, mac: [0; 6], reset, link: 0, look_for_link: None };
        device.link = if state.run.load(Relaxed) == settings.run { state.link.load(Relaxed) } else { 0 };
        device.prepare(bar, reset)?;
        Ok(device)
    }

    fn prepare(&mut self, bar: &impl Bar, reset: bool) -> Result<(), Fault> {
        let was_up = self.link != 0;
        if reset {
            reset::reset(bar)?;
            self.link = 0;
        }
        self.mac = match self.settings.mac {
            Some(mac) => mac,
            None => address::of_words(wait::read(bar, ral(0))?, bar.read(ral(0) + 4)).ok_or(Fault::Bad("RAL"))?,
        };
        configure::configure(bar, &self.settings, self.mac, reset)?;
        link::laser_on(bar)?;
        // The link survives the reset, but may not be seen at once. To look for it now would take it away.
        self.look_for_link = (reset && was_up).then(|| bar.now_ns().wrapping_add(LINK_PATIENCE));
        if self.look_for_link.is_none() {
            link::set_up(bar, reset)?;
        }
        configure::vectors(bar, &self.interrupts());
        Ok(())
    }

    /// Queue pairs that can be used.
    pub fn pairs(&self) -> u16 {
        self.settings.pairs
    }

    /// The card's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The card was reset when it was opened: nothing of what it was doing is left.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    /// Registers of a pair's receive queue.
    pub fn receive_registers(&self, pair: u16) -> QueueRegisters {
        QueueRegisters::at(receive_queue(u32::from(pair)), 0)
    }

    /// Registers of a pair's transmit queue.
    pub fn transmit_registers(&self, pair: u16) -> QueueRegisters {
        QueueRegisters::at(transmit_queue(u32::from(pair)), TXDCTL)
    }

    /// The vectors.
    pub fn interrupts(&self) -> Interrupts {
        Interrupts {
            pairs: self.settings.pairs,
            set: EIMS_EX,
            clear: EIMC_EX,
            cause: EICR,
            throttle: eitr(0),
            unit: Unit::TwoMicroseconds,
            other: (EIMS, OTHER),
            always: self.settings.lro,
        }
    }

    /// Turns the card's receiver and transmitter on, and the interrupts that are no queue's.
    pub fn start(&self, bar: &impl Bar) -> Result<bool, Fault> {
        // The transmitter before its queues (82599, 4.6.8); the receiver takes frames for queues that are on (4.6.7).
        wait::set(bar, DMATXCTL, DMATXCTL_TE)?;
        reset::set_receiver(bar, true)?;
        bar.write(EIMS, OTHER);
        Ok(true)
    }

    /// Turns all of it off.
    pub fn stop(&self, bar: &impl Bar) -> Result<(), Fault> {
        reset::stop(bar, self.settings.pairs)
    }

    /// Speed of the link in Mbit/s; 0: no link.
    pub fn link(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        self.link = link::speed(bar)?;
        Ok(self.link)
    }

    /// All frames arrive anyway.
    pub fn filter(&self, _: &impl Bar, macs: &[Mac]) -> Result<usize, Fault> {
        Ok(macs.len())
    }

    /// Looks for causes that are no queue's, for a changed link and for a reset.
    pub fn service(&mut self, bar: &impl Bar, state: &CardState) -> Result<Event, Fault> {
        // Reading EICR would clear causes of queues too, so the causes are read in EICS and cleared one by one.
        let causes = wait::read(bar, EICS)? & !EICR_QUEUES;
        bar.write(EICR, causes);
        if causes & EICR_ECC != 0 || !configure::is_done(bar)? {
            count(state, Statistic::Resets, 1);
            match reset::stop(bar, self.settings.pairs) {
                Err(Fault::Gone) => return Err(Fault::Gone),
                _ => self.prepare(bar, true)?,
            }
            return Ok(Event::Reset);
        }
        let link = link::speed(bar)?;
        if link == 0 && self.look_for_link.is_some_and(|at| bar.now_ns() >= at) {
            self.look_for_link = None;
            link::set_up(bar, true)?;
        }
        if link == self.link {
            return Ok(Event::Nothing);
        }
        self.link = link;
        count(state, Statistic::LinkChanges, 1);
        Ok(Event::Link(link))
    }

    /// Adds what the card has counted since the last call. At least once in 54 s, the time in which the 36 bits of
    /// octets overflow at 10 Gbit/s.
    pub fn statistics(&self, bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
        statistics::read(bar, state)
    }
}
