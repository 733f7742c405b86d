//! How long a transmit queue may be paused.

/// Longest time that one frame waits, in nanoseconds. A guest whose processor was taken away usually has it back by
/// then.
pub const LONGEST_NS: u64 = 20_000_000;
/// The pauses of a queue may take one part in `SHARE` of its time.
pub(crate) const SHARE: u64 = 2;
/// Most budget that a queue can save, in nanoseconds.
pub(crate) const SAVED_NS: u64 = 50_000_000;
/// The shortest pause, in nanoseconds: the kernel's timeouts count milliseconds.
pub(crate) const LEAST_NS: u64 = 1_000_000;

/// How long a transmit queue may still be paused. The budget grows with time, and pauses spend it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitBudget {
    /// Nanoseconds. Below 0: a pause took longer than allowed.
    saved: i64,
    /// When the budget was last updated, in nanoseconds.
    seen: u64,
}

impl WaitBudget {
    /// How long a pause that begins now may last, in nanoseconds. 0: the queue may not pause.
    #[inline]
    pub fn left(&mut self, now: u64) -> u64 {
        let passed = now.saturating_sub(std::mem::replace(&mut self.seen, now));
        self.saved = self.saved.saturating_add_unsigned(passed / SHARE).min(SAVED_NS as i64);
        u64::try_from(self.saved).ok().filter(|saved| *saved >= LEAST_NS).map_or(0, |saved| saved.min(LONGEST_NS))
    }

    /// Takes a pause of `paused` nanoseconds off the budget.
    pub fn spend(&mut self, paused: u64) {
        self.saved = self.saved.saturating_sub_unsigned(paused);
    }
}
