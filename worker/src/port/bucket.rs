//! Bounds on how much passes in a time, shared by the queue pairs of a port without a lock.
//!
//! A token bucket, kept as the time at which it will be full again (the virtual scheduling algorithm of ITU-T I.371, A.1).
//! That time is one number, so one exchange changes it. What passes moves it into the future; it may lie as far ahead as
//! the whole bucket takes to fill. Nothing needs to happen while nothing passes.
//!
//! Times are of CLOCK_MONOTONIC in units of 1/1024 ns, modulo 2^64: 208 days. A bucket that nobody used for so long may
//! look as if it were not full, for as long as it takes to fill after the largest frame.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::rules::{self, Unit};

/// Units of time in a nanosecond, as a power of 2.
const FINE: u32 = 10;
/// The fraction of a nanosecond that is kept of what one token takes, as a power of 2.
const FRACTION: u32 = 32;
/// Longest time that a bucket takes to fill, in units of time: some 50 days.
const LONGEST: u64 = 1 << 62;
/// More octets than any frame has.
const FRAME: u64 = 1 << 17;

/// A token bucket. A new one is full.
#[derive(Debug)]
pub struct Bucket {
    /// What one token takes, in 2^-[`FRACTION`] ns.
    each: u64,
    /// What the whole bucket takes.
    whole: u64,
    unit: Unit,
    /// Longest time that it may take to fill after a frame for which it was too small.
    longest: u64,
    /// When it is full, if that lies at most `longest` ahead; otherwise it is full.
    full_at: AtomicU64,
}

/// A bucket has too few tokens. It has enough after so many nanoseconds, if nobody takes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short(pub u64);

impl Bucket {
    /// The bucket of a rule, which was checked.
    pub fn of(rule: &rules::Bucket) -> Bucket {
        let each = (1_000_000_000 << FRACTION) / rule.rate.max(1);
        let whole = time(each, rule.burst).max(1);
        let largest = match rule.unit {
            Unit::Frames => 1,
            Unit::Octets => FRAME,
        };
        Bucket { each, whole, unit: rule.unit, longest: whole + time(each, largest), full_at: AtomicU64::new(0) }
    }

    /// At most `rate` frames a second, and a tenth of that at once.
    pub fn of_frames(rate: u64) -> Bucket {
        Bucket::of(&rules::Bucket { rate, burst: (rate / 10).max(1), unit: Unit::Frames })
    }

    /// The tokens that frames of so many octets together take.
    #[inline]
    pub fn tokens(&self, frames: u64, octets: u64) -> u64 {
        match self.unit {
            Unit::Frames => frames,
            Unit::Octets => octets,
        }
    }

    /// Takes tokens at `now_ns`, all of them or none. More than the bucket holds are there when it is full.
    #[inline]
    pub fn take(&self, tokens: u64, now_ns: u64) -> Result<(), Short> {
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let next = self.full_after(full_at, tokens, now_ns)?;
            match self.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether so many tokens are there at `now_ns`.
    pub fn has(&self, tokens: u64, now_ns: u64) -> bool {
        self.full_after(self.full_at.load(Relaxed), tokens, now_ns).is_ok()
    }

    /// When a bucket that is full at `full_at` is full if tokens are taken now.
    #[inline]
    fn full_after(&self, full_at: u64, tokens: u64, now_ns: u64) -> Result<u64, Short> {
        let (now, cost) = (now_ns << FINE, time(self.each, tokens));
        // How far ahead; the past and what is too far are a full bucket.
        let ahead = full_at.wrapping_sub(now);
        let ahead = if ahead > self.longest { 0 } else { ahead };
        let most = self.whole.saturating_sub(cost);
        match ahead > most {
            true => Err(Short((ahead - most).div_ceil(1 << FINE))),
            false => Ok(now.wrapping_add(ahead).wrapping_add(cost)),
        }
    }

    /// Gives back tokens that were taken and not used.
    #[inline]
    pub fn give_back(&self, tokens: u64) {
        if tokens > 0 {
            self.full_at.fetch_sub(time(self.each, tokens), Relaxed);
        }
    }
}

/// What tokens take.
#[inline]
fn time(each: u64, tokens: u64) -> u64 {
    let fine = (u128::from(each) * u128::from(tokens)) >> (FRACTION - FINE);
    u64::try_from(fine).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests;
