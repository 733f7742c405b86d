//! The virtual function 8086:10ed (data sheet, 8.3): its registers, its queues, and the mailbox to its physical function.

mod access;
#[cfg(test)]
mod tests;

use crate::frame::Headers;
use crate::function::{Function, padded};
use crate::mailbox::Mailbox;
use crate::pool::Pool;
use crate::receive::{Put, Report};
use crate::receiver::Arrival;
use crate::{Card, Memory, offload};

/// Octets of BAR 0.
pub const VF_BAR_SIZE: u32 = 0x4000;
/// Queues that have registers.
const QUEUES: usize = 8;
/// The status of a received frame: there is a tag.
const VP: u32 = 1 << 3;
/// GPIE of the physical function: MSI-X, vectors mask themselves.
const GPIE: (u32, u32) = (0x0898, 1 << 4 | 1 << 30);

/// Whose virtual function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfModel {
    /// The 82599's.
    Ixgbe,
    /// The 82576's.
    Igb,
}

/// What the administrator and the physical function's driver allow, and how it is wired.
#[derive(Clone, Copy, Debug)]
pub struct VfSettings {
    /// The address that the administrator has set.
    pub mac: Option<[u8; 6]>,
    /// The wire is plugged in.
    pub link: bool,
    /// The highest version of messages that the driver knows, by its number: 6 is 1.5.
    pub api: u32,
    /// Queues that it grants.
    pub queues: u32,
    /// Further addresses that it grants.
    pub filters: usize,
    /// The function is trusted.
    pub trusted: bool,
    /// Frames with a foreign source are not sent.
    pub spoof_check: bool,
    /// Reads of VFMAILBOX until the driver notices a message.
    pub slow: u32,
}

impl Default for VfSettings {
    fn default() -> VfSettings {
        let mac = Some([0x02, 0x82, 0x59, 0x90, 0x10, 0xED]);
        VfSettings { mac, link: true, api: 6, queues: 2, filters: 4, trusted: false, spoof_check: true, slow: 0 }
    }
}

/// The virtual function.
pub struct Vf {
    function: Function,
    model: VfModel,
    pool: Pool,
    mailbox: Mailbox,
    link: bool,
    losses: u32,
    /// VFPSRTYPE and VTIVAR_MISC, which nobody asks.
    stored: [u32; 2],
    /// VFGPRC, VFGORC, VFGPTC, VFGOTC, VFMPRC: they go round, and no reset clears them.
    counts: [u64; 5],
    spoofed: u32,
    timer: u32,
}

impl Vf {
    /// A function of a physical one whose driver runs.
    pub fn new(settings: VfSettings) -> Vf {
        Vf::of(settings, VfModel::Ixgbe)
    }

    /// The same, of either card.
    pub(crate) fn of(settings: VfSettings, model: VfModel) -> Vf {
        let mut it = Vf {
            function: Function::new(QUEUES),
            model,
            pool: Pool::new(settings, model),
            mailbox: Mailbox::new(settings.slow),
            link: settings.link,
            losses: 0,
            stored: [0; 2],
            counts: [0; 5],
            spoofed: 0,
            timer: 0,
        };
        it.reset();
        it
    }

    /// What the physical function's driver knows of it.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn link_is_up(&self) -> bool {
        self.link
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.function.gone
    }

    pub(crate) fn complain(&mut self, complaint: String) {
        self.function.complaints.add(complaint);
    }

    /// Frames that were not sent since their source was foreign.
    pub fn spoofed(&self) -> u32 {
        self.spoofed
    }

    /// The physical function begins to reset: RSTI, no queue runs, no message is answered.
    pub fn pf_resets(&mut self) {
        self.pool.forget();
        self.pool.clear_to_send = false;
        self.mailbox.ping(&self.pool);
        self.mailbox.pf_resets(true);
        self.function.receiver.reset();
        self.function.transmit.fill_with(Default::default);
        self.notify();
    }

    /// The physical function is back: RSTD, and the virtual function has to begin with RESET.
    pub fn pf_is_back(&mut self) {
        self.mailbox.pf_resets(false);
        self.notify();
    }

    /// The mailbox raises its interrupt, if there is something to be seen.
    fn notify(&mut self) {
        let vector = self.stored[1] & 0x83;
        if vector & 0x80 != 0 && self.mailbox.speaks() {
            self.function.interrupts.cause(vector & 3);
        }
    }

    fn send(&mut self, queue: usize, most: u32, memory: &mut dyn Memory) {
        if !self.link || !self.pool.enabled || self.function.paused && most == u32::MAX {
            return;
        }
        let before = self.function.sent.len();
        self.function.send(queue, most, memory);
        let pool = &self.pool;
        self.spoofed += self.function.sent.retain_from(before, |frame| pool.sends(frame));
    }

    fn send_all(&mut self, memory: &mut dyn Memory) {
        (0..QUEUES).for_each(|queue| self.send(queue, u32::MAX, memory));
    }

    fn store(&mut self, frame: &[u8], memory: &mut dyn Memory) -> Put {
        let headers = Headers::of(frame);
        if !self.pool.takes(frame, headers.vlan) {
            return Put::Lost;
        }
        let checks = match self.model {
            VfModel::Ixgbe => offload::check(frame, &headers),
            VfModel::Igb => offload::check_82576(frame, &headers),
        };
        let status = checks | if headers.vlan.is_some() { VP } else { 0 };
        let report = Report { info: headers.packet_type(), hash: 0, status, vlan: headers.vlan.unwrap_or(0) };
        self.function.store(&Arrival { frame, headers, queue: 0, report, joins: false }, memory)
    }

    /// A frame comes. False: it is dropped.
    fn intake(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        let waits = !self.function.receiver.waiting.is_empty() && self.pool.takes(frame, Headers::of(frame).vlan);
        match if waits { Put::Waits } else { self.store(frame, memory) } {
            Put::Stored => true,
            Put::Lost => false,
            Put::Waits => self.function.receiver.wait(frame),
        }
    }

    fn retry(&mut self, memory: &mut dyn Memory) {
        while let Some(frame) = self.function.receiver.waiting.pop() {
            match self.store(&frame, memory) {
                Put::Waits => return self.function.receiver.waiting.put_back(frame),
                Put::Stored | Put::Lost => self.function.receiver.waiting.recycle(frame),
            }
        }
    }
}

impl Card for Vf {
    fn read(&mut self, at: u32, size: u8) -> u64 {
        if self.function.gone {
            return u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        }
        if size == 8 {
            return self.read(at, 4) | self.read(at.wrapping_add(4), 4) << 32;
        }
        let known = if size == 4 && at.is_multiple_of(4) { self.read_register(at) } else { None };
        u64::from(known.unwrap_or_else(|| {
            self.function.complaints.add(format!("a read of {size} octets of {at:#06x} of a virtual function"));
            0
        }))
    }

    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory) {
        if self.function.gone {
            return;
        }
        if size == 8 {
            self.write(at, 4, value & 0xFFFF_FFFF, memory);
            return self.write(at.wrapping_add(4), 4, value >> 32, memory);
        }
        if size != 4 || !at.is_multiple_of(4) || !self.write_register(at, value as u32, memory) {
            self.function.complaints.add(format!("a write of {value:#x} to {at:#06x} of a virtual function"));
        }
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        if self.function.gone || !self.link {
            return false;
        }
        padded(frame, |frame| self.intake(frame, memory))
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.function.sent.pop()
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        self.function.sent.take(to);
    }

    fn interrupts(&mut self) -> u32 {
        self.function.interrupts.take()
    }

    fn set_link(&mut self, up: bool, memory: &mut dyn Memory) {
        if self.link != up {
            self.losses += u32::from(self.link);
            self.link = up;
            self.mailbox.ping(&self.pool);
            self.notify();
        }
        self.send_all(memory);
    }

    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory) {
        self.function.paused = paused;
        self.send_all(memory);
    }

    fn send_some(&mut self, frames: u32, memory: &mut dyn Memory) {
        self.send(0, frames, memory);
    }

    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory) {
        self.function.bus_master = on;
        self.send_all(memory);
        self.retry(memory);
    }

    fn reset(&mut self) {
        self.counters();
        self.function.reset();
        self.function.interrupts.write(GPIE.0, GPIE.1, &mut self.function.complaints);
        self.pool.forget();
        self.stored = [0; 2];
    }

    fn pull_out(&mut self) {
        self.function.gone = true;
    }

    fn link_losses(&self) -> u32 {
        self.losses
    }

    fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory) {
        self.mailbox.attend(&mut self.pool, self.link);
        self.notify();
        self.function.pass_time(microseconds, memory);
    }

    fn complaints(&self) -> &[String] {
        self.function.complaints.all()
    }
}
