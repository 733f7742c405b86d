//! A card of any family: what a port uses of it beside its rings.
//!
//! The order is: [`Device::open`]; the port writes where its rings are ([`QueueRegisters`]) and reports that it is ready;
//! the supervisor lets the card reach its memory; [`Device::start`]; the port turns its queues on
//! ([`QueueRegisters::enable`]) and moves their doorbells. When [`Event::Reset`] comes, all but the first step is done
//! again.

use sv3::card::{CardModel, CardSettings, CardState};

use super::address::{self, Mac};
use super::bar::Bar;
use super::event::Event;
use super::fault::Fault;
use super::igb_vf::IgbVf;
use super::interrupts::Interrupts;
use super::ixgbe::Ixgbe;
use super::ixgbe_vf::IxgbeVf;
use super::memory::CardMemory;
use super::queue_registers::QueueRegisters;
use super::vf::function::Function;

/// An open card. It does not have its registers: each call gets them.
#[derive(Debug)]
pub enum Device {
    /// An Intel 82599 or X540.
    Ixgbe(Ixgbe),
    /// A virtual function of them.
    IxgbeVf(Function<IxgbeVf>),
    /// A virtual function of the Intel 82576.
    IgbVf(Function<IgbVf>),
}

/// Calls the family's function.
macro_rules! each {
    ($device:expr, $it:ident => $call:expr) => {
        match $device {
            Device::Ixgbe($it) => $call,
            Device::IxgbeVf($it) => $call,
            Device::IgbVf($it) => $call,
        }
    };
}

impl Device {
    /// Stops all queues of the card, and writes all its settings but the rings. It resets the card, unless the memory
    /// says that a worker of the same run ([`sv3::card::CardSettings::run`]) had it. So the port writes
    /// [`CardState::run`] afterwards. It takes at most 300 ms, and less than 1 ms if there is no reset.
    pub fn open(bar: &impl Bar, memory: &CardMemory) -> Result<Device, Fault> {
        Device::of(bar, memory.settings(), memory.state())
    }

    /// The same, with the settings and the state by themselves.
    pub fn of(bar: &impl Bar, settings: &CardSettings, state: &CardState) -> Result<Device, Fault> {
        let device = match settings.model {
            CardModel::Ixgbe => Device::Ixgbe(Ixgbe::open(bar, settings, state)?),
            CardModel::IxgbeVf => Device::IxgbeVf(Function::open(bar, settings, state)?),
            CardModel::IgbVf => Device::IgbVf(Function::open(bar, settings, state)?),
        };
        state.mac.store(address::to_state(device.mac()), std::sync::atomic::Ordering::Relaxed);
        Ok(device)
    }

    /// Queue pairs that the card has, at most as many as in the settings. Others stay off. A reset may change it.
    pub fn pairs(&self) -> u16 {
        each!(self, it => it.pairs())
    }

    /// The card's address.
    pub fn mac(&self) -> Mac {
        each!(self, it => it.mac())
    }

    /// [`Device::open`] has reset the card: nothing of what it was doing is left.
    pub fn was_reset(&self) -> bool {
        each!(self, it => it.was_reset())
    }

    /// Registers of a pair's receive queue.
    pub fn receive_registers(&self, pair: u16) -> QueueRegisters {
        each!(self, it => it.receive_registers(pair))
    }

    /// Registers of a pair's transmit queue.
    pub fn transmit_registers(&self, pair: u16) -> QueueRegisters {
        each!(self, it => it.transmit_registers(pair))
    }

    /// The vectors, for each thread to have.
    pub fn interrupts(&self) -> Interrupts {
        each!(self, it => it.interrupts())
    }

    /// Turns on what is no queue's. The rings are known to the card, and it reaches its memory. False: the card's physical
    /// function is away, and no queue can be turned on; [`Event::Reset`] comes when it is back.
    pub fn start(&mut self, bar: &impl Bar) -> Result<bool, Fault> {
        each!(self, it => it.start(bar))
    }

    /// Masks all interrupts and turns all queues off. It ends with the first that does not stop.
    pub fn stop(&mut self, bar: &impl Bar) -> Result<(), Fault> {
        each!(self, it => it.stop(bar))
    }

    /// Speed of the link in Mbit/s; 0: no link.
    pub fn link(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        each!(self, it => it.link(bar))
    }

    /// Frames to these addresses are to arrive. Returns for how many of them they do. A physical function passes all
    /// frames. To be called again after [`Event::Reset`].
    pub fn filter(&mut self, bar: &impl Bar, macs: &[Mac]) -> Result<usize, Fault> {
        each!(self, it => it.filter(bar, macs))
    }

    /// To be called when the vector that is no pair's comes, and about once a second.
    pub fn service(&mut self, bar: &impl Bar, state: &CardState) -> Result<Event, Fault> {
        each!(self, it => it.service(bar, state))
    }

    /// Adds what the card has counted to the state's statistics. To be called about once a second.
    pub fn statistics(&mut self, bar: &impl Bar, state: &CardState) -> Result<(), Fault> {
        each!(self, it => it.statistics(bar, state))
    }
}
