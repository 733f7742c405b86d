//! How long a transmit queue may be paused.

/// Longest time that one frame is waited for, in nanoseconds: a guest whose processor was taken away has it again by then.
pub const LONGEST_NS: u64 = 20_000_000;
/// The share of a queue's time that its pauses may take is one part in this.
pub(crate) const SHARE: u64 = 2;
/// Most budget that is saved up, in nanoseconds.
pub(crate) const SAVED_NS: u64 = 50_000_000;
/// The least that a pause is worth, in nanoseconds: the kernel's timeouts count milliseconds.
pub(crate) const LEAST_NS: u64 = 1_000_000;

/// How long a transmit queue may still be paused: saved up while time goes by, spent by pauses.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitBudget {
    /// Nanoseconds; below 0: a pause took longer than it might.
    saved: i64,
    /// When it was looked at last, in nanoseconds.
    seen: u64,
}

impl WaitBudget {
    /// How long a pause that begins now may last, in nanoseconds; 0: none may.
    #[inline]
    pub fn left(&mut self, now: u64) -> u64 {
        let passed = now.saturating_sub(std::mem::replace(&mut self.seen, now));
        self.saved = self.saved.saturating_add_unsigned(passed / SHARE).min(SAVED_NS as i64);
        u64::try_from(self.saved).ok().filter(|saved| *saved >= LEAST_NS).map_or(0, |saved| saved.min(LONGEST_NS))
    }

    /// A pause took that many nanoseconds.
    pub fn spend(&mut self, paused: u64) {
        self.saved = self.saved.saturating_sub_unsigned(paused);
    }
}
