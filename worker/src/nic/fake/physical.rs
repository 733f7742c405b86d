//! The driver of a physical function, as good or bad as a test wants it. It answers for both families.

use super::{Fake, MAC};
use crate::nic::address::{self, Mac};
use crate::nic::vf::Registers;

const REQ: u32 = 1;
const VFU: u32 = 1 << 2;
pub const PFSTS: u32 = 1 << 4;
const PFACK: u32 = 1 << 5;
/// RSTD, PFACK and PFSTS.
pub const READ_TO_CLEAR: u32 = 0xb0;
const ACK: u32 = 1 << 31;
const NACK: u32 = 1 << 30;
const CTS: u32 = 1 << 29;

/// What it does.
pub struct Physical {
    /// The function's address, if the administrator has set one.
    pub mac: Option<Mac>,
    /// The best version of the 82599's interface, as its number.
    pub version: u32,
    /// The most that UPDATE_XCAST_MODE grants; what is above is refused.
    pub mode: u32,
    /// What is above is granted as this instead of refused.
    pub downgrades: bool,
    /// Codes that it refuses.
    pub refuses: Vec<u32>,
    /// Filters that it has, and at most.
    pub filters: Vec<Mac>,
    pub most: usize,
    /// It knows the function.
    pub knows: bool,
    /// It takes messages and answers none; it takes none.
    pub mute: bool,
    pub deaf: bool,
    /// A message that is no answer comes before each answer.
    pub chatty: bool,
    /// Each answer is this.
    pub lies: Option<u32>,
    /// Codes of all messages.
    pub heard: Vec<u32>,
    /// Hashes of groups.
    pub groups: Vec<u16>,
    /// The longest frame that was asked for.
    pub longest: u32,
}

impl Default for Physical {
    fn default() -> Physical {
        Physical {
            mac: Some(MAC),
            version: 6,
            mode: 2,
            downgrades: false,
            refuses: vec![],
            filters: vec![],
            most: 8,
            knows: false,
            mute: false,
            deaf: false,
            chatty: false,
            lies: None,
            heard: vec![],
            groups: vec![],
            longest: 0,
        }
    }
}

impl Physical {
    /// The function writes the mailbox's control register.
    pub fn mailbox(&mut self, fake: &Fake, registers: &Registers, value: u32) {
        let at = registers.mailbox;
        match value {
            VFU => fake.set(at, fake.get(at) | VFU),
            REQ if self.deaf => {}
            REQ => {
                let message: [u32; 16] = std::array::from_fn(|word| fake.get(registers.buffer + 4 * word as u32));
                self.heard.push(message[0] & 0xffff);
                let answer = self.answer(&message);
                fake.set(at, fake.get(at) & !VFU | PFACK | if self.mute { 0 } else { PFSTS });
                if self.chatty {
                    self.chatty = false;
                    self.mailbox_twice(fake, registers, answer);
                    return;
                }
                (0..).step_by(4).zip(answer).for_each(|(word, value)| fake.set(registers.buffer + word, value));
            }
            _ => {
                fake.set(at, fake.get(at) & !VFU);
                if let Some(answer) = fake.pending.borrow_mut().take() {
                    (0..).step_by(4).zip(answer).for_each(|(word, value)| fake.set(registers.buffer + word, value));
                    fake.set(at, fake.get(at) | PFSTS);
                }
            }
        }
    }

    /// A message about the link is in the buffer first, and the answer when that was taken.
    fn mailbox_twice(&mut self, fake: &Fake, registers: &Registers, answer: [u32; 5]) {
        fake.set(registers.buffer, 0x100 | CTS);
        *fake.pending.borrow_mut() = Some(answer);
    }

    fn answer(&mut self, message: &[u32; 16]) -> [u32; 5] {
        let [first, one, two, ..] = *message;
        let (code, info) = (first & 0xffff, first >> 16 & 0xff);
        if let Some(lie) = self.lies {
            return [lie; 5];
        }
        if code == 1 {
            self.knows = true;
            self.filters.clear();
            let (low, high) = address::to_words(self.mac.unwrap_or_default());
            return [code | if self.mac.is_some() { ACK } else { NACK }, low, high, 0, 0];
        }
        if !self.knows {
            return [first | NACK, 0, 0, 0, 0];
        }
        let mut words = [0, one, two, 0, 0];
        let done = !self.refuses.contains(&code) && self.carry_out(code, info, message, &mut words);
        words[0] = first | CTS | if done { ACK } else { NACK };
        words
    }

    fn carry_out(&mut self, code: u32, info: u32, message: &[u32; 16], words: &mut [u32; 5]) -> bool {
        let [_, one, two, ..] = *message;
        let mac = address::of_words(one, two).unwrap_or_default();
        match (code, info) {
            // SET_MAC_ADDR, and filters of the 82576.
            (2, 1) if mac == Mac::default() => return false,
            (2, 1) => self.filters.clear(),
            (2, 2) if self.filters.len() == self.most => return false,
            (2, 2) => self.filters.push(mac),
            (2, _) => self.mac = Some(mac),
            (3, count) => {
                let halves = message.iter().skip(1).flat_map(|word| [*word as u16, (*word >> 16) as u16]);
                self.groups = halves.take(count as usize).collect();
            }
            (5, _) => self.longest = one,
            // SET_MACVLAN of the 82599; SET_PROMISC of the 82576.
            (6, 2) if one == 0 => {}
            (6, number) => {
                if number <= 1 {
                    self.filters.clear();
                }
                if self.filters.len() == self.most {
                    return false;
                }
                self.filters.push(mac);
            }
            (8, _) => return one <= self.version,
            (9, _) => words[1..].copy_from_slice(&[1, 1, 0, 0]),
            (0xc, _) if one > self.mode => {
                words[1] = self.mode;
                return self.downgrades;
            }
            (0xc | 0x10, _) => words[1] = one.max(1),
            _ => return false,
        }
        true
    }
}
