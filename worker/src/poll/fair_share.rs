//! Fair shares by cost: deficit round robin (Shreedhar and Varghese, 1995) over the polled rings.
//!
//! In each turn of the loop a ring may spend its [`share`], on many small frames, on a few long ones, on long chains
//! or on frames to many ports. If its last frame costs more, the ring pays the rest in later turns. So a turn is
//! bounded, and with it the time that a frame waits behind other ports' frames; and a ring's share does not depend on
//! what its guest sends. A turn in which no other ring has work costs almost nothing, so a single busy ring does not
//! wait.
//!
//! The unit of cost is one copied octet, about an eighth of a nanosecond. Costs need only be accurate enough that no
//! way to spend a turn takes much longer than its cost says.

/// What a single busy ring may spend, so that the cost of the turn itself is shared by a few frames of 64 KiB.
const ALONE: u64 = 4 * TURN;
/// What several rings together may spend in one turn: a batch of 64 small frames, or slightly less than one frame of
/// 64 KiB.
pub const TURN: u64 = 48 * 1024;
/// What each ring may spend at least: some 20 small frames. Smaller bursts cost more for each frame.
const LEAST: u64 = TURN / 3;
/// What each of `rings` busy rings may spend in one turn.
#[inline]
pub fn share(rings: usize) -> u64 {
    match rings {
        0 | 1 => ALONE,
        _ => (TURN / rings as u64).max(LEAST),
    }
}

/// The credit of a ring. Below 0: what it still has to pay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit(i64);

impl Credit {
    /// Begins a turn and returns what the ring may spend of its `share`. `None`: the ring has already spent it.
    #[inline]
    pub fn draw(&mut self, share: u64) -> Option<u64> {
        // Credit that was not used is lost: a ring that was empty may not spend more than the others.
        self.0 = self.0.min(0).saturating_add_unsigned(share);
        u64::try_from(self.0).ok().filter(|credit| *credit > 0)
    }

    /// Takes `cost` off the credit.
    #[inline]
    pub fn spend(&mut self, cost: u64) {
        self.0 = self.0.saturating_sub_unsigned(cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What rings spend in this number of turns. Each ring is never empty and has frames of one cost.
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
