//! The physical function 8086:10fb: which part answers for a register, and how parts act on each other.

use crate::frame::Headers;
use crate::receive::{Put, ReceiveQueue, plain};
use crate::registers::{self as reg, BAR_SIZE, Kind, QUEUE, Registers};
use crate::transmit::TransmitQueue;
use crate::wire::Frames;
use crate::{Card, Complaints, Memory};

/// Queues of each direction.
const QUEUES: usize = 128;
/// CTRL: the card masters no more, the link is reset, all is reset.
const GIO_DIS: u32 = 1 << 2;
const RESETS: u32 = 1 << 3 | 1 << 26;
/// Octets of the receive packet buffer (data sheet, 7.1.2.6).
const PACKET_BUFFER: usize = 512 * 1024;

/// How the card is built and wired.
#[derive(Clone, Copy, Debug)]
pub struct PfSettings {
    /// Its address in the EEPROM.
    pub mac: [u8; 6],
    /// The wire is plugged in.
    pub link: bool,
}

impl Default for PfSettings {
    fn default() -> PfSettings {
        PfSettings { mac: [0x02, 0x82, 0x59, 0x90, 0x10, 0xFB], link: true }
    }
}

/// The physical function.
pub struct Pf {
    settings: PfSettings,
    registers: Registers,
    receive: Vec<ReceiveQueue>,
    transmit: Vec<TransmitQueue>,
    /// Frames that wait for descriptors.
    waiting: Frames,
    sent: Frames,
    complaints: Complaints,
    link: bool,
    paused: bool,
    bus_master: bool,
    /// CTRL shows a reset that is under way at the next read.
    resetting: bool,
}

impl Pf {
    /// A card that has just got power.
    pub fn new(settings: PfSettings) -> Pf {
        let mut it = Pf {
            settings,
            registers: Registers::default(),
            receive: vec![ReceiveQueue::default(); QUEUES],
            transmit: vec![TransmitQueue::default(); QUEUES],
            waiting: Frames::default(),
            sent: Frames::default(),
            complaints: Complaints::default(),
            link: settings.link,
            paused: false,
            bus_master: true,
            resetting: false,
        };
        it.reset();
        it
    }

    /// The queue of one direction and the offset in it.
    fn receive_at(at: u32) -> Option<(usize, u32)> {
        let (queue, offset) = match at {
            0x1000..0x2000 => ((at - reg::RECEIVE) / QUEUE, at % QUEUE),
            0xD000..0xE000 => ((at - reg::RECEIVE_HIGH) / QUEUE + 64, at % QUEUE),
            0x2100..0x2140 => ((at - reg::SRRCTL) / 4, 0x14),
            0x2200..0x2240 => ((at - reg::DCA_RXCTRL) / 4, 0x0C),
            _ => return None,
        };
        Some((queue as usize, offset))
    }

    fn transmit_at(at: u32) -> Option<(usize, u32)> {
        (0x6000..0x8000).contains(&at).then(|| (((at - reg::TRANSMIT) / QUEUE) as usize, at % QUEUE))
    }

    fn read_register(&mut self, at: u32) -> Option<u32> {
        if let Some((queue, offset)) = Self::receive_at(at) {
            // QPRDC of queue n is where QPRC of queue 16 + n would be (8.2.3.23.72).
            if offset == 0x30 && (16..32).contains(&queue) {
                return self.receive.get_mut(queue - 16).map(|queue| std::mem::take(&mut queue.dropped));
            }
            return self.receive.get_mut(queue)?.read(offset);
        }
        if let Some((queue, offset)) = Self::transmit_at(at) {
            return self.transmit.get_mut(queue)?.read(offset);
        }
        match at {
            reg::CTRL if std::mem::take(&mut self.resetting) => Some(self.registers.get(at) | RESETS),
            reg::STATUS => Some(self.status()),
            0x5400..0x5480 => Some(self.registers.get(at - reg::RAL_LOW + reg::RAL)),
            _ => match self.registers.kind(at) {
                Kind::Unknown => None,
                Kind::Counts => {
                    let value = self.registers.get(at);
                    self.registers.set(at, 0);
                    Some(value)
                }
                Kind::Stored | Kind::Fixed | Kind::Own => Some(self.registers.get(at)),
            },
        }
    }

    fn status(&self) -> u32 {
        let master = self.registers.get(reg::CTRL) & GIO_DIS == 0;
        u32::from(self.link) << 7 | u32::from(master) << 19
    }

    fn write_register(&mut self, at: u32, value: u32, memory: &mut dyn Memory) -> bool {
        if let Some((queue, offset)) = Self::receive_at(at) {
            let Some(it) = self.receive.get_mut(queue) else { return false };
            let known = it.write(offset, value, &mut self.complaints);
            if offset == 0x18 && !self.waiting.is_empty() {
                self.receive_waiting(memory);
            }
            return known;
        }
        if let Some((queue, offset)) = Self::transmit_at(at) {
            let Some(it) = self.transmit.get_mut(queue) else { return false };
            let known = it.write(offset, value, &mut self.complaints);
            if matches!(offset, 0x18 | 0x28) {
                self.send(queue, memory);
            }
            return known;
        }
        match at {
            reg::CTRL => self.control(value),
            reg::QDE => self.queue_drop(value),
            0x5400..0x5480 => self.registers.set(at - reg::RAL_LOW + reg::RAL, value),
            reg::RDRXCTL => self.registers.set(at, value | 1 << 3),
            _ => match self.registers.kind(at) {
                Kind::Unknown => return false,
                Kind::Counts | Kind::Fixed => {}
                Kind::Stored | Kind::Own => self.registers.set(at, value),
            },
        }
        true
    }

    fn control(&mut self, value: u32) {
        if value & RESETS != 0 {
            self.reset_port();
            self.resetting = true;
        }
        self.registers.set(reg::CTRL, value & !RESETS);
    }

    /// QDE: ENABLE 0, IDX 8 to 14, WE 16.
    fn queue_drop(&mut self, value: u32) {
        if value & 1 << 16 != 0
            && let Some(queue) = self.receive.get_mut((value >> 8 & 0x7F) as usize)
        {
            queue.drops = value & 1 != 0;
        }
    }

    /// What a software reset does (data sheet, 4.2.1.6).
    fn reset_port(&mut self) {
        self.registers.reset();
        self.receive.fill(ReceiveQueue::default());
        self.transmit.fill(TransmitQueue::default());
        self.waiting.clear();
        let mac = self.settings.mac;
        self.registers.set(reg::RAL, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        self.registers.set(reg::RAL + 4, u32::from(u16::from_le_bytes([mac[4], mac[5]])) | 1 << 31);
    }

    fn send(&mut self, queue: usize, memory: &mut dyn Memory) {
        let on = self.registers.get(reg::DMATXCTL) & 1 != 0;
        if !on || !self.link || self.paused || !self.bus_master {
            return;
        }
        if let Some(it) = self.transmit.get_mut(queue) {
            it.send(&mut self.sent, memory, &mut self.complaints);
        }
    }

    fn send_all(&mut self, memory: &mut dyn Memory) {
        for queue in 0..QUEUES {
            self.send(queue, memory);
        }
    }

    fn store(&mut self, frame: &[u8], memory: &mut dyn Memory) -> Put {
        let headers = Headers::of(frame);
        let Some(queue) = self.receive.first_mut() else { return Put::Lost };
        if !self.bus_master {
            return Put::Waits;
        }
        queue.put(frame, &plain(&headers), memory, &mut self.complaints)
    }

    fn receive_waiting(&mut self, memory: &mut dyn Memory) {
        while let Some(frame) = self.waiting.pop() {
            match self.store(&frame, memory) {
                Put::Waits => return self.waiting.put_back(frame),
                Put::Stored | Put::Lost => self.waiting.recycle(frame),
            }
        }
    }
}

impl Card for Pf {
    fn read(&mut self, at: u32, size: u8) -> u64 {
        if size == 8 {
            return self.read(at, 4) | self.read(at.wrapping_add(4), 4) << 32;
        }
        let known = if size == 4 && at.is_multiple_of(4) && at < BAR_SIZE { self.read_register(at) } else { None };
        u64::from(known.unwrap_or_else(|| {
            self.complaints.add(format!("a read of {size} octets of {}", reg::name(at)));
            0
        }))
    }

    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory) {
        if size == 8 {
            self.write(at, 4, value & 0xFFFF_FFFF, memory);
            return self.write(at.wrapping_add(4), 4, value >> 32, memory);
        }
        let valid = size == 4 && at.is_multiple_of(4) && at < BAR_SIZE;
        if !valid || !self.write_register(at, value as u32, memory) {
            self.complaints.add(format!("a write of {size} octets, {value:#x}, to {}", reg::name(at)));
        }
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        if !self.link || self.registers.get(reg::RXCTRL) & 1 == 0 {
            return false;
        }
        let put = if self.waiting.is_empty() { self.store(frame, memory) } else { Put::Waits };
        match put {
            Put::Stored => true,
            Put::Lost => false,
            Put::Waits if self.waiting.octets() + frame.len() > PACKET_BUFFER => {
                self.registers.count(reg::MPC, 1);
                false
            }
            Put::Waits => {
                self.registers.count(reg::RNBC, 1);
                let mut buffer = self.waiting.buffer();
                buffer.extend_from_slice(frame);
                self.waiting.push(buffer);
                true
            }
        }
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.sent.pop()
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        self.sent.take(to);
    }

    fn interrupts(&mut self) -> u32 {
        0
    }

    fn set_link(&mut self, up: bool, memory: &mut dyn Memory) {
        self.link = up;
        self.send_all(memory);
    }

    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory) {
        self.paused = paused;
        self.send_all(memory);
    }

    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory) {
        self.bus_master = on;
        self.send_all(memory);
        self.receive_waiting(memory);
    }

    fn reset(&mut self) {
        self.reset_port();
        self.resetting = false;
    }

    fn pass_time(&mut self, _microseconds: u32, _memory: &mut dyn Memory) {}

    fn complaints(&self) -> &[String] {
        self.complaints.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{COUNT, Driver, frame};

    #[test]
    fn frames_go_both_ways() {
        let mut driver = Driver::running();
        for len in [60, 61, 1514, 4 * 1024, 9000] {
            assert!(driver.arrives(&frame(len)));
            let received = driver.received().unwrap();
            assert_eq!(received.frame, frame(len));
            assert_eq!(received.descriptors, len.div_ceil(2048));
            assert_eq!(driver.sends(&frame(len)).unwrap(), frame(len));
        }
        assert_eq!(driver.received(), None);
        driver.content();
    }

    #[test]
    fn a_short_frame_is_padded() {
        let mut driver = Driver::running();
        let mut expected = frame(20);
        expected.resize(60, 0);
        assert_eq!(driver.sends(&frame(20)).unwrap(), expected);
    }

    #[test]
    fn frames_wait_for_descriptors_and_are_dropped_if_the_queue_says_so() {
        let mut driver = Driver::running();
        for at in 0..COUNT + 3 {
            assert!(driver.arrives(&frame(60 + at as usize)));
        }
        assert_eq!(driver.get(reg::RNBC), 4);
        for at in 0..COUNT + 3 {
            assert_eq!(driver.received().unwrap().frame, frame(60 + at as usize));
        }
        driver.write(0x2100, 1 << 28 | 1 << 25 | 2);
        assert_eq!((0..COUNT).filter(|_| driver.arrives(&frame(60))).count(), COUNT as usize - 1);
        assert_eq!((driver.get(0x1430), driver.get(0x1430)), (1, 0));
        driver.content();
    }

    #[test]
    fn a_reset_shows_itself_once_and_leaves_nothing() {
        let mut driver = Driver::running();
        let control = driver.get(reg::CTRL);
        driver.write(reg::CTRL, control | RESETS);
        assert_eq!(driver.get(reg::CTRL) & RESETS, RESETS);
        assert_eq!(driver.get(reg::CTRL) & RESETS, 0);
        assert_eq!((driver.get(0x1028), driver.get(reg::RXCTRL), driver.get(reg::RAL)), (0, 0, 0x9059_8202));
        assert!(!driver.arrives(&frame(60)));
        driver.content();
    }

    #[test]
    fn registers_that_do_not_exist_are_told() {
        let mut driver = Driver::pf();
        driver.get(0x0004);
        driver.card.read(0x1000, 2);
        driver.write(0x1_FFFC, 1);
        driver.get(0x1000 + 0x3C);
        assert_eq!(driver.card.complaints().len(), 4, "{:?}", driver.card.complaints());
    }

    #[test]
    fn a_descriptor_is_written_back_if_the_driver_asks_or_the_head_is() {
        let mut driver = Driver::running();
        driver.sends(&frame(60)).unwrap();
        assert_eq!(driver.sent_descriptor(0)[1] >> 32 & 1, 1);
        driver.write(0x6028, 0);
        driver.write(0x6038, crate::testing::HEAD as u32 | 1);
        driver.write(0x603C, (crate::testing::HEAD >> 32) as u32);
        driver.write(0x6028, 1 << 25);
        let (first, second) = (frame(100), frame(200));
        driver.queue_frame(&[&first, &second], 300, 0);
        driver.doorbell();
        assert_eq!(driver.card.sent().unwrap(), [first, second].concat());
        assert_eq!(driver.descriptor(crate::testing::HEAD)[0], 3);
        assert_eq!(driver.sent_descriptor(2)[1] >> 32 & 1, 0);
        driver.content();
    }

    #[test]
    fn nothing_is_read_or_written_while_the_bus_master_is_off() {
        let mut driver = Driver::running();
        driver.card.set_bus_master(false, &mut driver.ram);
        assert!(driver.arrives(&frame(60)));
        assert_eq!(driver.sends(&frame(61)), None);
        assert_eq!(driver.received(), None);
        driver.card.set_bus_master(true, &mut driver.ram);
        assert_eq!(driver.received().unwrap().frame, frame(60));
        assert_eq!(driver.card.sent().unwrap(), frame(61));
        driver.content();
    }

    #[test]
    fn dma_outside_of_the_memory_is_told() {
        let mut driver = Driver::running();
        driver.queue([0x1234, 60 | 3 << 20 | 3 << 24 | 1 << 29 | 60 << 46]);
        driver.doorbell();
        assert!(driver.card.complaints()[0].contains("DMA: 60 octets"), "{:?}", driver.card.complaints());
    }
}
