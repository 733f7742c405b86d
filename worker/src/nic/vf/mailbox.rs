//! The mailbox between a virtual function and its physical function (82599, 4.2.2.2 and 8.3.5.1; 82576, 8.14.3).
//!
//! # Theory of operation
//!
//! There is one buffer of 16 words, and one control register with two bits to own it (VFU, PFU). A message's first word
//! has a code in its lower half, a number in bits 23 to 16, and on the way back ACK, NACK and CTS ("clear to send": the
//! physical function knows this one). Three bits of the control register are cleared by reading it. So what was read is
//! kept ([`Mailbox::seen`]) until somebody has used it.
//!
//! The driver of the physical function answers in its interrupt. If it does not, the mailbox is *silent* until the next
//! reset, and no further request waits for it. The requests of one call of the port share a limit ([`Mailbox::allow`]), so
//! that many slow answers are no hang either.

use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait::{self, MS};

/// A message is for the physical function.
const REQ: u32 = 1 << 0;
/// A message of the physical function was taken.
const ACK: u32 = 1 << 1;
/// The virtual function owns the buffer.
const VFU: u32 = 1 << 2;
/// The physical function has written a message.
const PFSTS: u32 = 1 << 4;
/// The physical function has taken the message.
const PFACK: u32 = 1 << 5;
/// The physical function is in a reset.
pub const RSTI: u32 = 1 << 6;
/// Its reset is done.
pub const RSTD: u32 = 1 << 7;
/// What reading clears.
const READ_TO_CLEAR: u32 = PFSTS | PFACK | RSTD;

/// First word: what was asked is done.
const MSG_ACK: u32 = 1 << 31;
/// First word: what was asked is refused.
const MSG_NACK: u32 = 1 << 30;
/// First word: the physical function knows this one.
const MSG_CTS: u32 = 1 << 29;
/// First word: the code.
const CODE: u32 = 0xffff;
/// Where the first word has its number.
pub const MSG_INFO: u32 = 16;

/// The code by which a function tells that it begins anew. All families have it.
pub const RESET: u32 = 1;

/// Words of the buffer.
pub const WORDS: usize = 16;
/// How long the buffer may be owned by the other side, and how long an answer may take, in nanoseconds.
const OWNED: u64 = 5 * MS;
const ANSWER: u64 = 40 * MS;
/// How long all requests of one call of the port may take, in nanoseconds.
const CALL: u64 = 150 * MS;

/// What the physical function answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// It has done what was asked. Else it has refused, or does not know the request.
    pub done: bool,
    /// The words behind the first.
    pub words: [u32; 4],
}

/// The mailbox.
#[derive(Debug)]
pub struct Mailbox {
    /// VFMAILBOX or V2PMAILBOX.
    control: u32,
    /// VFMBMEM or VMBMEM.
    buffer: u32,
    /// Bits that reading has cleared and nobody has used.
    seen: u32,
    silent: bool,
    /// When the call of the port began.
    began: u64,
    /// The physical function has said that it does not know this one.
    forgotten: bool,
}

impl Mailbox {
    /// A mailbox with these registers.
    pub fn new(control: u32, buffer: u32) -> Mailbox {
        Mailbox { control, buffer, seen: 0, silent: false, began: 0, forgotten: false }
    }

    /// The mailbox begins anew: the function has been reset.
    pub fn renew(&mut self) {
        *self = Mailbox { began: self.began, ..Mailbox::new(self.control, self.buffer) };
    }

    /// A call of the port begins.
    pub fn allow(&mut self, bar: &impl Bar) {
        self.began = bar.now_ns();
    }

    /// The control register with all that was not used.
    fn look(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        self.seen |= wait::read(bar, self.control)?;
        let value = self.seen;
        self.seen &= READ_TO_CLEAR;
        Ok(value)
    }

    fn take(&mut self, bar: &impl Bar, bits: u32) -> Result<bool, Fault> {
        let value = self.look(bar)?;
        self.seen &= !bits;
        Ok(value & bits != 0)
    }

    /// The physical function is in a reset ([`RSTI`]) or has made one ([`RSTD`]). It is told until [`Mailbox::renew`].
    pub fn reset_bits(&mut self, bar: &impl Bar) -> Result<u32, Fault> {
        Ok(self.look(bar)? & (RSTI | RSTD))
    }

    /// Waits until the physical function is in no reset, for `limit` nanoseconds.
    pub fn wait_for_reset(&mut self, bar: &impl Bar, limit: u64) -> Result<(), Fault> {
        self.wait(bar, "VFMAILBOX.RSTI", bar.now_ns(), limit, |mailbox, bar| Ok(mailbox.look(bar)? & RSTI == 0))
    }

    /// The physical function has to be asked anew: it has forgotten this one, or does not answer.
    pub fn is_lost(&self) -> bool {
        self.silent || self.forgotten
    }

    fn wait<B: Bar>(
        &mut self,
        bar: &B,
        name: &'static str,
        start: u64,
        limit: u64,
        done: impl Fn(&mut Mailbox, &B) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..wait::LOOKS {
            let now = bar.now_ns();
            let late = now.wrapping_sub(start) > limit || now.wrapping_sub(self.began) > CALL;
            if done(self, bar)? {
                return Ok(());
            }
            if late {
                break;
            }
            std::hint::spin_loop();
        }
        Err(Fault::Bad(name))
    }

    fn own(&mut self, bar: &impl Bar) -> Result<(), Fault> {
        let control = self.control;
        self.wait(bar, "VFMAILBOX.VFU", bar.now_ns(), OWNED, |mailbox, bar| {
            bar.write(control, VFU);
            Ok(mailbox.look(bar)? & VFU != 0)
        })
    }

    /// Asks the physical function, and waits for its answer.
    pub fn request(&mut self, bar: &impl Bar, message: &[u32]) -> Result<Reply, Fault> {
        if self.silent {
            return Err(Fault::Bad("VFMAILBOX"));
        }
        let reply = self.exchange(bar, message);
        self.silent |= matches!(reply, Err(Fault::Bad(_)));
        reply
    }

    fn exchange(&mut self, bar: &impl Bar, message: &[u32]) -> Result<Reply, Fault> {
        self.own(bar)?;
        // What is in the buffer is overwritten.
        self.take(bar, PFSTS | PFACK)?;
        for (at, word) in (self.buffer..).step_by(4).zip(message.iter().take(WORDS)) {
            bar.write(at, *word);
        }
        let start = bar.now_ns();
        bar.write(self.control, REQ);
        self.wait(bar, "VFMAILBOX.PFACK", start, ANSWER, |mailbox, bar| mailbox.take(bar, PFACK))?;
        let asked = message.first().map_or(0, |word| word & CODE);
        // A message that is no answer may come between: the physical function tells of its link.
        loop {
            self.wait(bar, "VFMAILBOX.PFSTS", start, ANSWER, |mailbox, bar| mailbox.take(bar, PFSTS))?;
            let [first, words @ ..] = self.receive(bar)?;
            if first & CODE == asked {
                self.forgotten |= first & (MSG_NACK | MSG_CTS) == MSG_NACK && asked != RESET;
                return Ok(Reply { done: first & MSG_ACK != 0 && first & MSG_NACK == 0, words });
            }
            let now = bar.now_ns();
            if now.wrapping_sub(start) > ANSWER || now.wrapping_sub(self.began) > CALL {
                return Err(Fault::Bad("VFMBMEM"));
            }
        }
    }

    /// Takes the message that is in the buffer.
    fn receive(&mut self, bar: &impl Bar) -> Result<[u32; 5], Fault> {
        self.own(bar)?;
        let mut words = [0; 5];
        for (at, word) in (self.buffer..).step_by(4).zip(&mut words) {
            *word = bar.read(at);
        }
        bar.write(self.control, ACK);
        Ok(words)
    }

    /// Takes a message that is no answer, if there is one. True: there was.
    pub fn listen(&mut self, bar: &impl Bar) -> Result<bool, Fault> {
        if !self.take(bar, PFSTS)? {
            return Ok(false);
        }
        match self.receive(bar) {
            Ok([first, ..]) => {
                self.forgotten |= first & MSG_CTS == 0;
                Ok(true)
            }
            Err(Fault::Gone) => Err(Fault::Gone),
            // The other side owns the buffer for too long: another message will come.
            Err(Fault::Bad(_)) => Ok(false),
        }
    }
}
