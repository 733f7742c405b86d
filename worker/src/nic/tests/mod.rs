//! Devices with the model of the 82599, physical and virtual: what a port does with them, one frame at a time.

mod lying;
mod pace;
mod physical;
mod posted;
mod virtual_function;

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardSettings, CardState, Statistic};
use sv3_nic_model::{Card, Ram};

use super::bar::Bar;
use super::device::Device;
use super::event::Event;
use super::fake;
use super::fault::Fault;
use super::model::Model;

const BASE: u64 = 0x1000_0000;
const TRANSMIT_RING: u64 = BASE + 0x1000;
const FRAME_OUT: u64 = BASE + 0x2000;
const BUFFERS: u64 = BASE + 0x10000;
const COUNT: u32 = 128;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A card and a port that has opened it.
struct Port<C: Card> {
    model: Model<C>,
    settings: CardSettings,
    state: Box<CardState>,
    device: Device,
}

impl<C: Card> Port<C> {
    /// The card is opened as the supervisor has it done: it reaches no memory meanwhile.
    fn open(card: C, settings: CardSettings) -> Result<Port<C>, Fault> {
        let (model, state) = (Model::new(card, Ram::new(BASE, 1 << 20)), fake::state());
        model.set_bus_master(false);
        let device = Device::of(&model, &settings, &state)?;
        let mut port = Port { model, settings, state, device };
        port.opened();
        Ok(port)
    }

    /// A card that runs.
    fn running(card: C, settings: CardSettings) -> Port<C> {
        let mut port = Port::open(card, settings).unwrap();
        assert!(port.start());
        port
    }

    /// The worker dies, and the next one takes the card.
    fn next_worker(&mut self) {
        self.model.set_bus_master(false);
        self.device = Device::of(&self.model, &self.settings, &self.state).unwrap();
        self.opened();
    }

    fn opened(&mut self) {
        self.state.run.store(self.settings.run, Relaxed);
        self.state.mac.store(super::address::to_state(self.device.mac()), Relaxed);
    }

    /// Writes the rings, and starts the card and its queues. False: it is away.
    fn start(&mut self) -> bool {
        let queues = [self.device.receive_registers(0), self.device.transmit_registers(0)];
        for (queue, base) in queues.iter().zip([BASE, TRANSMIT_RING]) {
            self.model.write(queue.base_low, base as u32);
            self.model.write(queue.base_high, (base >> 32) as u32);
            self.model.write(queue.length, 16 * COUNT);
            self.model.write(queue.head, 0);
            self.model.write(queue.tail, 0);
        }
        for at in 0..u64::from(COUNT) {
            self.put(BASE + 16 * at, BUFFERS + 2048 * at);
            self.put(BASE + 16 * at + 8, 0);
        }
        self.model.set_bus_master(true);
        if !self.device.start(&self.model).unwrap() {
            return false;
        }
        queues[0].enable(&self.model, "RXDCTL").unwrap();
        queues[1].enable(&self.model, "TXDCTL").unwrap();
        self.model.write(queues[0].tail, COUNT - 1);
        let link = self.device.link(&self.model).unwrap();
        self.state.link.store(link, Relaxed);
        true
    }

    fn put(&self, iova: u64, word: u64) {
        self.model.memory.borrow_mut().at(iova, 8).unwrap().copy_from_slice(&word.to_le_bytes());
    }

    /// Octets of the frame that the first descriptor of the receive ring tells of.
    fn received(&self) -> Option<usize> {
        let mut memory = self.model.memory.borrow_mut();
        let word = u64::from_le_bytes(memory.at(BASE + 8, 8)?.try_into().unwrap());
        (word & 1 != 0).then_some((word >> 32) as usize & 0xffff)
    }

    /// Sends a frame of 60 octets as the first of the ring, from the card's address.
    fn sends(&self) -> Option<Vec<u8>> {
        let mut octets = frame(STATION);
        octets[6..12].copy_from_slice(&self.device.mac());
        self.model.memory.borrow_mut().at(FRAME_OUT, 60).unwrap().copy_from_slice(&octets);
        self.put(TRANSMIT_RING, FRAME_OUT);
        // Data, with EOP, IFCS, RS and DEXT.
        self.put(TRANSMIT_RING + 8, 60 << 46 | 0x2b30_0000 | 60);
        self.model.write(self.device.transmit_registers(0).tail, 1);
        self.model.card.borrow_mut().sent()
    }

    fn service(&mut self) -> Event {
        self.device.service(&self.model, &self.state).unwrap()
    }

    fn counted(&mut self, statistic: Statistic) -> u64 {
        self.device.statistics(&self.model, &self.state).unwrap();
        self.state.statistics[statistic as usize].load(Relaxed)
    }

    /// Frames go both ways, in front of the rings.
    fn works(&mut self) {
        assert!(self.model.receive(&frame(self.device.mac())));
        self.model.pass_time(1_000);
        assert_eq!(self.received(), Some(60));
        assert!(self.sends().is_some());
    }
}

fn frame(to: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&STATION);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}
