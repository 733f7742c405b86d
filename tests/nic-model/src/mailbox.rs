//! The mailbox between a virtual function and the physical one (data sheet, 8.3.5.1): VFMAILBOX and VFMBMEM.
//!
//! # Theory of operation
//!
//! The virtual function takes the buffer (VFU), writes a message and sets REQ. The physical function's driver reads it, at
//! once or after some reads of VFMAILBOX, and acknowledges (PFACK). Its answer comes (PFSTS) as soon as the virtual function
//! has given the buffer back. Messages that the driver sends by itself wait for an acknowledgment of the one before.

use std::collections::VecDeque;

use crate::Complaints;
use crate::pool::{CONTROL, CTS, Message, Pool, WORDS};

/// VFMAILBOX.
const REQ: u32 = 1;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const PFACK: u32 = 1 << 5;
const RSTI: u32 = 1 << 6;
const RSTD: u32 = 1 << 7;
/// Bits that reading clears.
const READ_TO_CLEAR: u32 = PFSTS | PFACK | RSTD;
/// Where the buffer and the register are.
const VFMBMEM: u32 = 0x0200;
const VFMAILBOX: u32 = 0x02FC;

/// The mailbox.
pub struct Mailbox {
    buffer: Message,
    status: u32,
    /// What the physical function's driver has to say.
    out: VecDeque<Message>,
    /// A message of the driver's lies in the buffer and was not acknowledged.
    unread: bool,
    /// Reads until the driver reads the message that lies in the buffer.
    countdown: Option<u32>,
    slow: u32,
}

impl Mailbox {
    /// The driver of the physical function needs `slow` reads of VFMAILBOX to notice a message.
    pub fn new(slow: u32) -> Mailbox {
        let status = RSTD;
        Mailbox { buffer: [0; WORDS], status, out: VecDeque::new(), unread: false, countdown: None, slow }
    }

    /// The register, if it is one of the mailbox.
    pub fn read(&mut self, at: u32, pool: &mut Pool, link: bool) -> Option<u32> {
        if at != VFMAILBOX {
            return (VFMBMEM..VFMBMEM + 4 * WORDS as u32)
                .contains(&at)
                .then(|| self.buffer[(at - VFMBMEM) as usize / 4]);
        }
        if let Some(reads) = &mut self.countdown {
            *reads = reads.saturating_sub(1);
            if *reads == 0 {
                self.attend(pool, link);
            }
        }
        let status = self.status;
        self.status &= !READ_TO_CLEAR;
        Some(status)
    }

    /// The driver of the virtual function writes the register. False: it is none of the mailbox.
    pub fn write(&mut self, at: u32, value: u32, pool: &mut Pool, link: bool, complaints: &mut Complaints) -> bool {
        if (VFMBMEM..VFMBMEM + 4 * WORDS as u32).contains(&at) {
            if self.status & VFU == 0 {
                complaints.add("VFMBMEM is written by who has not set VFU".into());
            }
            self.buffer[(at - VFMBMEM) as usize / 4] = value;
            return true;
        }
        if at != VFMAILBOX {
            return false;
        }
        self.status = self.status & !VFU | value & VFU;
        if value & ACK != 0 {
            self.unread = false;
        }
        if value & REQ != 0 {
            self.unread = false;
            self.countdown = Some(self.slow);
            if self.slow == 0 {
                self.attend(pool, link);
            }
        }
        self.speak();
        true
    }

    /// The physical function's driver reads the message.
    pub fn attend(&mut self, pool: &mut Pool, link: bool) {
        if self.status & RSTI == 0 && self.countdown.take().is_some() {
            self.status |= PFACK;
            self.out.push_back(pool.answer(&self.buffer, link));
            self.speak();
        }
    }

    /// The next message goes into the buffer, if that is free. True: it did.
    fn speak(&mut self) -> bool {
        if self.status & VFU != 0 || self.unread {
            return false;
        }
        let Some(message) = self.out.pop_front() else { return false };
        (self.buffer, self.unread) = (message, true);
        self.status |= PFSTS;
        true
    }

    /// The driver says by itself that something has changed.
    pub fn ping(&mut self, pool: &Pool) {
        let mut message = [0; WORDS];
        message[0] = CONTROL | if pool.clear_to_send { CTS } else { 0 };
        self.out.push_back(message);
        self.speak();
    }

    /// The physical function begins to reset, or is back.
    pub fn pf_resets(&mut self, begins: bool) {
        self.status = self.status & !(RSTI | RSTD) | if begins { RSTI } else { RSTD };
        // What was asked in between is lost.
        self.countdown = None;
    }

    /// Something waits that the virtual function has not seen.
    pub fn speaks(&self) -> bool {
        self.status & (READ_TO_CLEAR | RSTI) != 0
    }
}
