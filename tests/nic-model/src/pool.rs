//! What the physical function's driver knows and allows of a virtual function: its pool. It answers the messages of the
//! mailbox as Linux's ixgbe and igb do.

use crate::filter::hash;
use crate::vf::{VfModel, VfSettings};

/// Octets of the longest frame of the card, with its check sequence.
const LONGEST: u32 = 9728;
/// A message: done, refused, and the virtual function may go on sending messages.
pub const SUCCESS: u32 = 1 << 31;
pub const FAILURE: u32 = 1 << 30;
pub const CTS: u32 = 1 << 29;
/// The physical function's driver speaks by itself.
pub const CONTROL: u32 = 0x0100;
/// Words of a mailbox.
pub const WORDS: usize = 16;
/// A message.
pub type Message = [u32; WORDS];

/// Messages of a virtual function.
mod request {
    pub const RESET: u32 = 0x01;
    pub const SET_MAC: u32 = 0x02;
    pub const SET_MULTICAST: u32 = 0x03;
    pub const SET_VLAN: u32 = 0x04;
    pub const SET_LPE: u32 = 0x05;
    pub const SET_MACVLAN: u32 = 0x06;
    /// The same number, of an 82576's.
    pub const SET_PROMISC: u32 = 0x06;
    pub const API_NEGOTIATE: u32 = 0x08;
    pub const GET_QUEUES: u32 = 0x09;
    pub const UPDATE_XCAST: u32 = 0x0C;
    pub const GET_LINK_STATE: u32 = 0x10;
}

/// Versions of the messages by their number: 1.0, (2.0), 1.1, 1.2, 1.3, 1.4, 1.5.
const API_1_1: u32 = 2;
const API_1_2: u32 = 3;

/// Which groups the virtual function gets: 0 those that hash (if any), 1 the same, 2 all of them, 3 promiscuous.
const XCAST_MULTI: u32 = 1;
const XCAST_ALL: u32 = 2;

/// The pool.
#[derive(Clone, Debug)]
pub struct Pool {
    settings: VfSettings,
    model: VfModel,
    /// The function's address; zeroes if nobody has set one.
    pub mac: [u8; 6],
    /// Further addresses (SET_MACVLAN).
    pub filters: Vec<[u8; 6]>,
    /// Hashes of groups (SET_MULTICAST).
    pub groups: Vec<u16>,
    /// VLANs whose frames it gets.
    pub vlans: Vec<u16>,
    /// UPDATE_XCAST.
    pub xcast: u32,
    /// Octets of the longest frame, with its check sequence (SET_LPE).
    pub longest: u32,
    /// The version that was agreed on.
    pub api: u32,
    /// It may send messages other than RESET.
    pub clear_to_send: bool,
    /// Its queues run: VFRE and VFTE.
    pub enabled: bool,
}

impl Pool {
    /// Before the first message.
    pub fn new(settings: VfSettings, model: VfModel) -> Pool {
        Pool {
            settings,
            model,
            mac: settings.mac.unwrap_or_default(),
            filters: Vec::new(),
            groups: Vec::new(),
            vlans: Vec::new(),
            xcast: 0,
            longest: 1518,
            api: 0,
            clear_to_send: false,
            enabled: false,
        }
    }

    /// The virtual function has reset itself: it has no filters, and its queues do not run until it says RESET.
    pub fn forget(&mut self) {
        *self = Pool { mac: self.mac, clear_to_send: self.clear_to_send, ..Pool::new(self.settings, self.model) };
    }

    /// The answer to a message. `link`: the wire is plugged in.
    pub fn answer(&mut self, message: &Message, link: bool) -> Message {
        let mut answer = *message;
        if message[0] & 0xFFFF == request::RESET {
            return self.reset(answer);
        }
        if !self.clear_to_send {
            answer[0] |= FAILURE;
            return answer;
        }
        let done = match message[0] & 0xFFFF {
            request::SET_MAC if self.model == VfModel::Igb && message[0] >> 16 & 3 != 0 => {
                self.set_filter_of_82576(message)
            }
            request::SET_PROMISC if self.model == VfModel::Igb => self.set_promiscuous(message[0] >> 16 & 0xFF),
            request::API_NEGOTIATE.. if self.model == VfModel::Igb => false,
            request::SET_MAC => self.set_mac(address(message)),
            request::SET_MULTICAST => self.set_groups(message),
            request::SET_VLAN => self.set_vlan(message),
            request::SET_LPE => self.set_longest(message[1]),
            request::SET_MACVLAN => self.set_filter(message[0] >> 16 & 0xFF, address(message)),
            request::API_NEGOTIATE => self.negotiate(message[1]),
            request::GET_QUEUES if self.api >= API_1_1 => {
                answer[1..5].copy_from_slice(&[self.settings.queues, self.settings.queues, 0, 0]);
                true
            }
            request::UPDATE_XCAST if self.api >= API_1_2 => self.set_xcast(&mut answer[1]),
            request::GET_LINK_STATE if self.api >= API_1_2 => {
                answer[1] = link.into();
                true
            }
            _ => false,
        };
        answer[0] |= CTS | if done { SUCCESS } else { FAILURE };
        answer
    }

    fn reset(&mut self, mut answer: Message) -> Message {
        self.forget();
        (self.clear_to_send, self.enabled) = (true, true);
        let [a, b, c, d, e, f] = self.mac;
        answer[0] |= if self.mac == [0; 6] { FAILURE } else { SUCCESS };
        answer[1..4].copy_from_slice(&[u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]).into(), 0]);
        answer
    }

    /// The administrator's address stays, unless the function is trusted.
    fn set_mac(&mut self, mac: [u8; 6]) -> bool {
        let settled = self.settings.mac.is_some_and(|own| own != mac) && !self.settings.trusted;
        let done = !settled && valid(mac);
        if done {
            self.mac = mac;
        }
        done
    }

    fn set_groups(&mut self, message: &Message) -> bool {
        let count = (message[0] >> 16 & 0xFF).min(30);
        self.groups = (0..count as usize).map(|at| (message[1 + at / 2] >> (at % 2 * 16)) as u16 & 0xFFF).collect();
        true
    }

    fn set_vlan(&mut self, message: &Message) -> bool {
        let vlan = (message[1] & 0xFFF) as u16;
        self.vlans.retain(|other| *other != vlan);
        if message[0] >> 16 & 0xFF != 0 {
            self.vlans.push(vlan);
        }
        true
    }

    fn set_longest(&mut self, longest: u32) -> bool {
        let done = (64..=LONGEST).contains(&longest);
        if done {
            self.longest = longest;
        }
        done
    }

    /// Index 0 forgets all filters, 1 does that and sets the first one, more adds one.
    fn set_filter(&mut self, index: u32, mac: [u8; 6]) -> bool {
        if index <= 1 {
            self.filters.clear();
        }
        if index == 0 {
            return true;
        }
        let settled = self.settings.mac.is_some() && !self.settings.trusted;
        let done = !settled && valid(mac) && self.filters.len() < self.settings.filters;
        if done {
            self.filters.push(mac);
        }
        done
    }

    /// Bit 16 forgets all filters, bit 17 adds one.
    fn set_filter_of_82576(&mut self, message: &Message) -> bool {
        let index = if message[0] >> 16 & 1 != 0 { 0 } else { 2 };
        self.set_filter(index, address(message))
    }

    /// All groups (2) is allowed, all addresses (1) is not.
    fn set_promiscuous(&mut self, mode: u32) -> bool {
        self.xcast = if mode & 2 != 0 { XCAST_ALL } else { 0 };
        mode & 1 == 0
    }

    fn negotiate(&mut self, api: u32) -> bool {
        // 2.0 is of another system.
        let done = api <= self.settings.api && api != 1;
        if done {
            self.api = api;
        }
        done
    }

    /// More than groups by hash needs trust; promiscuous the 82599 cannot do for a pool.
    fn set_xcast(&mut self, mode: &mut u32) -> bool {
        if *mode > XCAST_ALL {
            return false;
        }
        if *mode > XCAST_MULTI && !self.settings.trusted {
            *mode = XCAST_MULTI;
        }
        self.xcast = *mode;
        true
    }

    /// The pool gets this frame.
    pub fn takes(&self, frame: &[u8], vlan: Option<u16>) -> bool {
        let Some(destination) = frame.get(..6).and_then(|octets| <[u8; 6]>::try_from(octets).ok()) else {
            return false;
        };
        let tag = if vlan.is_some() { 4 } else { 0 };
        let fits = frame.len() + 4 <= self.longest as usize + tag;
        let tagged = vlan.is_none_or(|tag| tag & 0xFFF == 0 || self.vlans.contains(&(tag & 0xFFF)));
        let addressed = match destination {
            [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF] => true,
            group if group[0] & 1 != 0 => self.xcast >= XCAST_ALL || self.groups.contains(&hash(group, 0)),
            own => self.is_own(own),
        };
        self.enabled && fits && tagged && addressed
    }

    /// The address is one that the function may use.
    fn is_own(&self, mac: [u8; 6]) -> bool {
        mac == self.mac || self.filters.contains(&mac)
    }

    /// The function may send this frame: its source is its own, if anybody looks.
    pub fn sends(&self, frame: &[u8]) -> bool {
        let source = frame.get(6..12).and_then(|octets| <[u8; 6]>::try_from(octets).ok());
        !self.settings.spoof_check || source.is_some_and(|source| self.is_own(source))
    }
}

/// The address in words 1 and 2.
fn address(message: &Message) -> [u8; 6] {
    let ([a, b, c, d], [e, f, ..]) = (message[1].to_le_bytes(), message[2].to_le_bytes());
    [a, b, c, d, e, f]
}

fn valid(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests;
