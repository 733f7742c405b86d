//! The entries of the forwarding table in the ledger ([`crate::ledger::FdbEntry`]): how a worker writes them, and how
//! the supervisor reads them.
//!
//! | bits | of `key` are |
//! |---|---|
//! | 0 to 47 | the address, first octet highest |
//! | 48 to 57 | the slot of its port |
//! | 62 | [`BUSY`] |
//!
//! | bits | of `seen` are |
//! |---|---|
//! | 0 to 31 | when the address was seen last, in seconds of CLOCK_MONOTONIC |
//! | 32 to 43 | the VLAN; 0: the network of ports that know none |
//! | 62 | [`STATIC`] |
//! | 63 | [`MARK`] |
//!
//! All other bits are 0. A key of 0 is a free entry.

use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use serde::{Deserialize, Serialize};

use crate::frame::MacAddr;
use crate::ledger::FdbEntry;
use crate::rules::{VID_MAX, Vid};

/// In `key`: a thread changes the entry.
pub const BUSY: u64 = 1 << 62;
/// In `seen`: the address was added ([`crate::ipc::Command::AddressAdd`]). It does not age.
pub const STATIC: u64 = 1 << 62;
/// In `seen`: the address is to be announced to the network.
pub const MARK: u64 = 1 << 63;
/// Seconds after which an address that was not seen is forgotten (802.1Q, 8.8.3: ageing time).
pub const AGE_S: u64 = 300;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbLine {
    /// The slot of the port.
    pub port: u16,
    /// The VLAN.
    pub vid: Vid,
    /// The address.
    pub mac: MacAddr,
    /// It was added, and does not age.
    pub is_static: bool,
    /// When it was seen last, in seconds of CLOCK_MONOTONIC.
    pub seen_s: u64,
}

impl FdbLine {
    /// Whether it is known at this time, in seconds of CLOCK_MONOTONIC.
    pub fn is_known(&self, now_s: u64) -> bool {
        self.is_static || now_s.saturating_sub(self.seen_s) < AGE_S
    }
}

impl FdbEntry {
    /// What it says; `None`: it is free. A thread that changes it at the same time may give the reader parts of both
    /// lines.
    pub fn line(&self) -> Option<FdbLine> {
        let (key, seen) = (self.key.load(Acquire), self.seen.load(Relaxed));
        let mac = MacAddr::from_bits(key);
        let line = FdbLine {
            port: (key >> 48 & 0x3ff) as u16,
            vid: (seen >> 32 & 0xfff) as Vid,
            mac,
            is_static: seen & STATIC != 0,
            seen_s: seen & u64::from(u32::MAX),
        };
        (!mac.is_zero()).then_some(line)
    }
}

/// The answer to [`crate::control::ControlRequest::Fdb`], in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FdbAnswer {
    /// All addresses that are known, by port, VLAN and address.
    pub addresses: Vec<KnownAddress>,
}

/// An address that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownAddress {
    /// The port's name.
    pub port: String,
    /// The VLAN; 0: the network of ports that know none.
    pub vlan: Vid,
    /// The address.
    pub address: String,
    /// Whole seconds since it was seen last, or added.
    pub age_s: u64,
    /// It was added, and does not age.
    #[serde(rename = "static")]
    pub is_static: bool,
}

/// The answer to [`crate::control::ControlRequest::FdbFlush`], in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlushAnswer {
    /// How many addresses are forgotten.
    pub flushed: usize,
}

/// Some of the addresses that were learnt: those of a port, in a VLAN, or one address. All that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// At the port of this name.
    pub port: Option<String>,
    /// In this VLAN.
    pub vlan: Option<Vid>,
    /// This address.
    pub mac: Option<MacAddr>,
}

impl Which {
    /// Reads words such as `port=p1 vlan=10 address=02:00:00:00:00:01`.
    pub fn parse(words: &str) -> Option<Which> {
        let mut which = Which::default();
        for word in words.split_ascii_whitespace() {
            match word.split_once('=')? {
                ("port", name) => which.port = Some(name.to_string()),
                ("vlan", number) => which.vlan = Some(number.parse().ok().filter(|vid| *vid <= VID_MAX)?),
                ("address", mac) => which.mac = Some(parse_mac(mac)?),
                _ => return None,
            }
        }
        Some(which)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.port.as_ref().map(|name| format!("port={name}")),
            self.vlan.map(|vid| format!("vlan={vid}")),
            self.mac.map(|mac| format!("address={mac}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// Reads an address as people write it: six numbers of two hexadecimal digits, with colons or hyphens.
pub fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut octets = [0; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then(|| MacAddr::new(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for words in ["", "port=web", "vlan=0", "port=p1 vlan=4094 address=02:00:00:00:00:0a"] {
            assert_eq!(Which::parse(words).unwrap().to_string(), words);
        }
        for words in ["web", "vlan=4095", "vlan=-1", "address=02:00:00:00:00", "address=02:00:00:00:00:01:02", "age=3"]
        {
            assert_eq!(Which::parse(words), None, "{words}");
        }
        assert_eq!(parse_mac("52-54-00-AB-cd-01"), Some(MacAddr::new([0x52, 0x54, 0, 0xab, 0xcd, 1])));
        assert!([parse_mac("+2:00:00:00:00:01"), parse_mac("2:0:0:0:0:1")].iter().all(Option::is_none));
    }
}
