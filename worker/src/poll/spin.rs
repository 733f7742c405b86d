//! How long the loop spins over empty rings before it blocks.
//!
//! As KVM's halt polling does, it goes by experience. A gap between two finds that is longer than the window, but within
//! the bound, is one that spinning longer would have met: the window doubles. A gap beyond the bound was spun for in
//! vain: the window halves, unless half of it would not have met all that it met since the last such gap. For between a
//! request and the next there may be long gaps, and yet the answer follows the request at once.
//!
//! So the loop blocks at most twice a bound on the average, whatever comes: each gap within the bound that it blocked in
//! has doubled the window, which it can do [`STEPS`] times before a gap beyond the bound has halved it. And it spins in
//! vain for at most one window in each gap beyond the bound.

/// How often the window can double, from an eighth of the bound on.
const STEPS: u8 = 4;

/// The loop's experience. All times in nanoseconds.
pub struct Spin {
    bound: u64,
    /// The window is the bound, halved as often as this is below [`STEPS`]; 0: none.
    step: u8,
    /// When something was found last.
    found: u64,
    /// Nothing was found since.
    empty: bool,
    /// The longest gap within the bound since the last one beyond it.
    longest: u64,
}

impl Spin {
    /// Never spins for longer than `bound`; begins with that.
    pub fn new(bound: u64) -> Spin {
        Spin { bound, step: STEPS, found: 0, empty: true, longest: 0 }
    }

    /// Something was found.
    #[inline]
    pub fn found(&mut self, now: u64) {
        if std::mem::take(&mut self.empty) {
            self.learn(now.saturating_sub(self.found));
        }
        self.found = now;
    }

    /// Nothing was found; true: it is time to block.
    #[inline]
    pub fn is_over(&mut self, now: u64) -> bool {
        self.empty = true;
        now.saturating_sub(self.found) >= self.window()
    }

    /// How long it spins now.
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

    /// What became of a series of gaps.
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
        // However much it spun before.
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
