//! Fair shares by cost: deficit round robin (Shreedhar and Varghese, 1995) over the rings that are polled.
//!
//! In each turn of the loop a ring may spend its [`share`], whatever it spends it on: many small frames, a few long ones,
//! long chains, frames to many ports. What its last frame cost beyond that it pays by the turns to come. So a turn, and
//! with it what a frame waits for behind other ports' frames, is bounded, and a ring's share is the same whatever its
//! guest sends. A turn in which nobody else has work costs next to nothing, so who is alone does not wait.
//!
//! Costs are counted in octets that could be copied instead, about an eighth of a nanosecond each; they need be right
//! only so far as no way to spend a turn is much cheaper than it costs.

/// What a ring may spend for which nobody waits, so that what a turn itself costs is shared by a few frames of 64 KiB.
const ALONE: u64 = 4 * TURN;
/// What several rings together may spend in a turn: a batch of 64 small frames, or a little less than a frame of 64 KiB.
pub const TURN: u64 = 48 * 1024;
/// What a ring may spend however many there are: some 20 small frames, since bursts of a few cost more for each frame.
const LEAST: u64 = TURN / 3;
/// What each ring may spend in a turn when so many want to.
#[inline]
pub fn share(rings: usize) -> u64 {
    match rings {
        0 | 1 => ALONE,
        _ => (TURN / rings as u64).max(LEAST),
    }
}

/// A ring's account: below 0, what it still has to pay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit(i64);

impl Credit {
    /// A turn begins, in which the ring has this share: what it may spend. `None`: it has spent that already.
    #[inline]
    pub fn draw(&mut self, share: u64) -> Option<u64> {
        // What was left over is not kept: a ring that was empty has no claim to more than the others.
        self.0 = self.0.min(0).saturating_add_unsigned(share);
        u64::try_from(self.0).ok().filter(|credit| *credit > 0)
    }

    /// That was spent.
    #[inline]
    pub fn spend(&mut self, cost: u64) {
        self.0 = self.0.saturating_sub_unsigned(cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What rings spend in so many turns, each with frames of one cost and never empty.
    fn spent(turns: u64, costs: &[u64]) -> Vec<u64> {
        let mut rings = vec![(Credit::default(), 0); costs.len()];
        for _ in 0..turns {
            for ((credit, sum), cost) in rings.iter_mut().zip(costs) {
                let Some(budget) = credit.draw(TURN) else { continue };
                let frames = budget.div_ceil(*cost);
                credit.spend(frames * cost);
                *sum += frames * cost;
            }
        }
        rings.into_iter().map(|(_, sum)| sum).collect()
    }

    proptest! {
        #[test]
        fn shares_are_the_same_whatever_frames_cost(costs in proptest::collection::vec(1u64..20 * TURN, 1..8)) {
            let turns = 200;
            for (sum, cost) in spent(turns, &costs).into_iter().zip(&costs) {
                prop_assert!(sum.abs_diff(turns * TURN) <= cost + TURN, "{} with frames of {}", sum, cost);
            }
        }
    }

    #[test]
    fn a_turn_is_bounded_when_somebody_waits() {
        for rings in 2..2000 {
            let turn = share(rings) * rings as u64;
            assert!(turn <= TURN || share(rings) == LEAST, "{rings}");
        }
        // Three frames of 64 KiB, each in 17 buffers.
        assert!(share(1) > 2 * 70 * 1024 && share(1) <= 3 * 70 * 1024);
    }

    #[test]
    fn nothing_is_saved_up() {
        let mut credit = Credit::default();
        for _ in 0..10 {
            assert_eq!(credit.draw(TURN), Some(TURN));
        }
        credit.spend(TURN + 1);
        assert_eq!(credit.draw(TURN), Some(TURN - 1));
        credit.spend(4 * TURN - 1);
        assert_eq!([(); 4].map(|()| credit.draw(TURN)), [None, None, None, Some(TURN)]);
        credit.spend(u64::MAX);
        assert_eq!(credit.draw(TURN), None);
    }
}
