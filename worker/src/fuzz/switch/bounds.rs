//! The model's guards, storm control and limits, beside [`super::bridge`].

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use sv3::drop_reason::DropReason;
use sv3::rules::{self, Bucket, LIST_MAX, PortRules, Storm, Unit};

use super::bridge::{Mac, Sent};
use crate::forward::offload;
use crate::fuzz::guard::{self, reader};
use crate::port::guard::Guard;

const SECOND: u64 = 1_000_000_000;

/// What ports have used up.
#[derive(Default)]
pub struct Bounds {
    /// Nanoseconds.
    pub now: u64,
    /// By port: the addresses that it has used first.
    used: HashMap<u16, Vec<Mac>>,
    /// By port and kind of flood: what is left, in frames times [`SECOND`], and since when.
    floods: HashMap<(u16, u8), (u64, u64)>,
}

/// Some bounds, by two bits. The rates divide a second, so that the model's sums are exact.
pub fn bound(rules: PortRules, which: u8) -> PortRules {
    let storm = Storm { broadcast: Some(20), multicast: Some(25), unknown: Some(10) };
    let to_port = Some(Bucket { rate: 100, burst: 4, unit: Unit::Frames });
    match which & 3 {
        0 => rules,
        1 => PortRules { guard: guard::rules(0b111_0010), ..rules },
        2 => PortRules { storm, ..rules },
        _ => PortRules {
            guard: guard::rules(0b000_1110),
            limits: rules::Limits { to_port, from_port: None },
            storm,
            ..rules
        },
    }
}

impl Bounds {
    /// A port has other rules: what it used up is forgotten, but not its addresses.
    pub fn forget(&mut self, port: u16) {
        self.floods.retain(|(other, _), _| *other != port);
    }

    /// Whether the guard lets a frame pass. If so, its source is one of the port's first addresses, as far as these go.
    pub fn admit(&mut self, sent: &Sent, rules: &PortRules) -> Result<(), DropReason> {
        if rules.guard.is_open() {
            return Ok(());
        }
        let used = self.used.entry(sent.from).or_default();
        let before = used.len();
        if let Some(reason) = reader::broken(&rules.guard, &sent.frame, used).first() {
            return Err(*reason);
        }
        // Target `guard` checks that.
        let head = &sent.frame[..sent.frame.len().min(offload::HEAD)];
        let bits = |mac: &Mac| mac.iter().fold(0, |bits, octet| bits << 8 | u64::from(*octet));
        let claimed: [AtomicU64; LIST_MAX] = std::array::from_fn(|at| AtomicU64::new(used.get(at).map_or(0, bits)));
        let decided = Guard::of(&rules.guard).unwrap().check(head, sent.frame.len(), &claimed).unwrap();
        let word = |at: usize| usize::from(u16::from_le_bytes([sent.hdr[at], sent.hdr[at + 1]]));
        let overwrites = sent.hdr[0] & 1 != 0 && !decided.spares(word(6) + word(8));
        used.truncate(if overwrites { before } else { used.len() });
        if overwrites { Err(DropReason::BadOffload) } else { Ok(()) }
    }

    /// Whether storm control lets a frame to many pass.
    pub fn flood(&mut self, sent: &Sent, rules: &PortRules) -> Result<(), DropReason> {
        let (kind, rate) = match sent.frame[..6] {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => (0, rules.storm.broadcast),
            [first, ..] if first & 1 != 0 => (1, rules.storm.multicast),
            _ => (2, rules.storm.unknown),
        };
        let Some(rate) = rate else { return Ok(()) };
        let most = (rate / 10).max(1) * SECOND;
        let (left, since) = self.floods.entry((sent.from, kind)).or_insert((most, self.now));
        *left = (*left + (self.now - *since) * rate).min(most);
        *since = self.now;
        *left = left.checked_sub(SECOND).ok_or(DropReason::Storm)?;
        Ok(())
    }
}
