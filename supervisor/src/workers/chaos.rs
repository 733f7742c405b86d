//! Chaos mode (`sv3 run --chaos SECONDS`): kills the worker at random times, to show that guests do not notice.

use std::time::{Duration, Instant};

/// The schedule of kills.
pub struct Chaos {
    mean: Duration,
    state: u64,
    /// Time of the next kill.
    pub next: Instant,
}

impl Chaos {
    /// Kills every `mean` on average. The clock is the seed.
    pub fn new(mean: Duration) -> Chaos {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut chaos = Chaos { mean, state: seed as u64 | 1, next: Instant::now() };
        chaos.plan();
        chaos
    }

    /// Chooses the next time: uniform between zero and twice the mean.
    pub fn plan(&mut self) {
        // xorshift64 (Marsaglia 2003)
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let part = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        self.next = Instant::now() + self.mean.mul_f64(2.0 * part);
    }
}
