//! How long the loop spins over empty rings before it blocks.
//!
//! Like KVM's halt polling, it learns from experience. A gap between two finds that is longer than the window but
//! within the bound could have been spun over: the window doubles. A gap beyond the bound was not worth the spinning:
//! the window halves, unless half of it would be too short for a gap since the previous one beyond the bound. The
//! reason: there may be long gaps between requests, while each answer follows its request at once.
//!
//! So on average the loop blocks at most twice in a time as long as the bound. Each gap within the bound in which it
//! blocks doubles the window, and the window can double [`STEPS`] times before a gap beyond the bound halves it. And
//! it spins needlessly for at most one window in each gap beyond the bound.

/// How often the window can double, from an eighth of the bound on.
const STEPS: u8 = 4;

/// What the loop has learnt. All times are in nanoseconds.
pub struct Spin {
    bound: u64,
    /// The window is the bound, halved once for each step below [`STEPS`]. 0: no window.
    step: u8,
    /// When something was last found.
    found: u64,
    /// Nothing has been found since.
    empty: bool,
    /// The longest gap within the bound since the last gap beyond it.
    longest: u64,
}

impl Spin {
    /// Never spins for longer than `bound`, and begins with that window.
    pub fn new(bound: u64) -> Spin {
        Spin { bound, step: STEPS, found: 0, empty: true, longest: 0 }
    }

    /// Notes that something was found.
    #[inline]
    pub fn found(&mut self, now: u64) {
        if std::mem::take(&mut self.empty) {
            self.learn(now.saturating_sub(self.found));
        }
        self.found = now;
    }

    /// Notes that nothing was found. True: the loop should block.
    #[inline]
    pub fn is_over(&mut self, now: u64) -> bool {
        self.empty = true;
        now.saturating_sub(self.found) >= self.window()
    }

    /// The present window.
    #[inline]
    pub fn window(&self) -> u64 {
        self.at(self.step)
    }

    fn at(&self, step: u8) -> u64 {
        if step == 0 { 0 } else { self.bound >> STEPS.saturating_sub(step) }
    }

    fn learn(&mut self, gap: u64) {
        if gap > self.bound {
            let less = self.step.saturating_sub(1);
            if self.longest <= self.at(less) {
                self.step = less;
            }
            self.longest = 0;
        } else {
            if gap > self.window() {
                self.step = (self.step + 1).min(STEPS);
            }
            self.longest = self.longest.max(gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: u64 = 50_000;

    /// The outcome of a series of gaps.
    #[derive(Debug, Default)]
    struct Outcome {
        blocked: u64,
        spun_in_vain: u64,
        time: u64,
    }

    fn after(spin: &mut Spin, gaps: impl IntoIterator<Item = u64>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut now = spin.found;
        for gap in gaps {
            if spin.window() < gap {
                outcome.blocked += 1;
                outcome.spun_in_vain += spin.window();
            }
            now += gap;
            assert_eq!(spin.is_over(now), gap >= spin.window());
            outcome.time += gap;
            spin.found(now);
        }
        outcome
    }

    #[test]
    fn request_and_response_are_spun_for() {
        let mut spin = Spin::new(BOUND);
        after(&mut spin, [1_000_000; 10]);
        assert_eq!(spin.window(), 0, "a trickle is not");
        let outcome = after(&mut spin, [20_000; 1000]);
        assert!(outcome.blocked <= u64::from(STEPS), "{outcome:?}");
    }

    #[test]
    fn a_trickle_costs_nothing_but_its_wake_ups() {
        let mut spin = Spin::new(BOUND);
        let outcome = after(&mut spin, [100_000; 1000]);
        assert_eq!(outcome.blocked, 1000);
        assert!(outcome.spun_in_vain < 3 * BOUND, "{outcome:?}");
    }

    #[test]
    fn an_answer_is_spun_for_though_requests_are_rare() {
        // Independent of how much it spun before.
        for before in [1, 1_000_000] {
            let mut spin = Spin::new(BOUND);
            after(&mut spin, [before; 10]);
            after(&mut spin, [1_000_000, 3_000].repeat(8));
            let outcome = after(&mut spin, [1_000_000, 3_000].repeat(1000));
            assert_eq!(outcome.blocked, 1000, "requests, not answers");
            assert!(outcome.spun_in_vain <= 1000 * BOUND / 8, "{outcome:?}");
        }
    }

    #[test]
    fn what_comes_in_turns_without_a_pause_is_not_spun_for() {
        let mut spin = Spin::new(BOUND);
        for n in 1..20 {
            assert!(spin.is_over(n * 1_000_000 - 1));
            spin.found(n * 1_000_000);
            spin.found(n * 1_000_000 + 300);
        }
        assert_eq!(spin.window(), 0);
    }

    #[test]
    fn without_a_bound_it_blocks_at_once() {
        let mut spin = Spin::new(0);
        after(&mut spin, [1, 1, 1000]);
        let now = spin.found;
        assert!(spin.is_over(now));
    }

    #[test]
    fn the_largest_bound_is_endless() {
        let mut spin = Spin::new(u64::from(u32::MAX) * 1000);
        let outcome = after(&mut spin, [60_000_000_000; 10]);
        assert_eq!(outcome.blocked, 0);
    }

    proptest! {
        #[test]
        fn it_blocks_at_most_twice_a_bound(gaps in proptest::collection::vec(0..4 * BOUND, 0..2000)) {
            let outcome = after(&mut Spin::new(BOUND), gaps);
            prop_assert!(outcome.blocked <= 2 * (outcome.time / BOUND) + u64::from(STEPS), "{:?}", outcome);
        }
    }
}
