//! How much a port may send and get.

use serde::{Deserialize, Serialize};

/// A token bucket: `burst` may pass at once, and `rate` a second for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// So much a second, at least 1.
    pub rate: u64,
    /// So much at once, at least 1. Of octets: a frame that is longer waits until the bucket is full.
    pub burst: u64,
    /// Of what.
    pub unit: Unit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Frames, as they come from the port: a segment that the network card is to cut counts once.
    #[default]
    Frames,
    /// Octets of frames.
    Octets,
}

/// Bounds on all frames of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// What it sends. It is held back, and loses nothing, where its kind lets that be.
    pub from_port: Option<Bucket>,
    /// What it gets. More is dropped.
    pub to_port: Option<Bucket>,
}

/// Bounds on frames that many ports get, in frames a second; `None`: any number. More is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storm {
    /// Frames to all.
    pub broadcast: Option<u64>,
    /// Frames to other groups.
    pub multicast: Option<u64>,
    /// Frames to an address that nobody has shown.
    pub unknown: Option<u64>,
}

/// Most of a rate: 10^13 octets a second is 80 Tbit/s.
const MOST: u64 = 10_000_000_000_000;

impl Limits {
    /// Why these bounds cannot be.
    pub fn check(&self) -> Result<(), String> {
        for bucket in [self.from_port, self.to_port].into_iter().flatten() {
            if !(1..=MOST).contains(&bucket.rate) || !(1..=MOST).contains(&bucket.burst) {
                return Err(format!("a rate and its burst are 1 to {MOST}"));
            }
        }
        Ok(())
    }
}

impl Storm {
    /// Why these bounds cannot be.
    pub fn check(&self) -> Result<(), String> {
        let all = [self.broadcast, self.multicast, self.unknown];
        let good = all.into_iter().flatten().all(|rate| (1..=MOST).contains(&rate));
        good.then_some(()).ok_or(format!("frames a second are 1 to {MOST}"))
    }
}
