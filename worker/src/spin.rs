//! How long the loop spins over empty rings before it blocks.
//!
//! As KVM's halt polling does, it goes by experience. A gap between two finds that is longer than the window, but within
//! the bound, is one that spinning longer would have met: the window doubles. A gap beyond the bound was spun for in
//! vain: the second one in a row halves the window. One alone does not, since between a request and the next there may
//! be long gaps, and yet the answer follows the request at once.
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
    /// The last gap was longer than the bound.
    vain: bool,
}

impl Spin {
    /// Never spins for longer than `bound`; begins with that.
    pub fn new(bound: u64) -> Spin {
        Spin { bound, step: STEPS, found: 0, vain: false }
    }

    /// Something was found.
    #[inline]
    pub fn found(&mut self, now: u64) {
        let gap = now.saturating_sub(self.found);
        self.found = now;
        if gap > self.window() {
            self.learn(gap);
        } else {
            self.vain = false;
        }
    }

    /// Nothing was found; true: it is time to block.
    #[inline]
    pub fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.found) >= self.window()
    }

    /// How long it spins now.
    #[inline]
    pub fn window(&self) -> u64 {
        if self.step == 0 { 0 } else { self.bound >> (STEPS - self.step) }
    }

    #[cold]
    fn learn(&mut self, gap: u64) {
        let vain = gap > self.bound;
        match (vain, self.vain) {
            (false, _) => self.step = (self.step + 1).min(STEPS),
            (true, true) => self.step = self.step.saturating_sub(1),
            (true, false) => {}
        }
        self.vain = vain;
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
            assert_eq!(spin.is_over(now + gap), gap >= spin.window());
            now += gap;
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
        let mut spin = Spin::new(BOUND);
        after(&mut spin, [1_000_000; 10]);
        after(&mut spin, [1_000_000, 3_000].repeat(4));
        let outcome = after(&mut spin, [1_000_000, 3_000].repeat(1000));
        assert_eq!(outcome.blocked, 1000, "requests, not answers");
        assert!(outcome.spun_in_vain <= 1000 * BOUND / 8, "{outcome:?}");
    }

    #[test]
    fn without_a_bound_it_blocks_at_once() {
        let mut spin = Spin::new(0);
        after(&mut spin, [1, 1, 1000]);
        assert!(spin.is_over(spin.found));
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
