//! Buckets beside a plain account, and in many threads.

use proptest::prelude::*;

use super::*;

fn bucket(rate: u64, burst: u64) -> Bucket {
    Bucket::of(&rules::Bucket { rate, burst, unit: Unit::Octets })
}

/// Times that a bucket has not seen for 208 days look like times to come, but only those of the last frame.
#[test]
fn a_bucket_of_frames_that_nobody_used_for_long_is_full_but_for_one_frame() {
    let before_wrap = |s: u64| (1u64 << (u64::BITS - FINE)) - s * 1_000_000_000;
    let said = [100 * 86_400, 86_400, 3, 1].map(|s| Bucket::of_frames(1).take(1, before_wrap(s)));
    assert_eq!(said, [Ok(()), Ok(()), Ok(()), Err(Short(1_000_000_000))]);
}

#[test]
fn a_burst_passes_at_once_and_the_rate_for_ever() {
    let bucket = bucket(1000, 10);
    for begin in [0, 1 << 40, u64::MAX >> FINE] {
        assert_eq!((0..20).filter(|_| bucket.take(1, begin).is_ok()).count(), 10);
        assert_eq!(bucket.take(1, begin), Err(Short(1_000_000)));
        assert_eq!(bucket.take(3, begin), Err(Short(3_000_000)));
        assert_eq!(bucket.take(1, begin + 999_999), Err(Short(1)));
        assert_eq!(bucket.take(1, begin + 1_000_000), Ok(()));
        bucket.give_back(1);
        assert_eq!((bucket.take(1, begin + 1_000_000), bucket.take(1, begin + 1_000_000).is_ok()), (Ok(()), false));
    }
}

#[test]
fn what_is_longer_than_the_bucket_waits_until_it_is_full() {
    let bucket = Bucket::of(&rules::Bucket { rate: 1_000_000_000, burst: 100, unit: Unit::Octets });
    assert_eq!(bucket.tokens(1, 1500), 1500);
    let now = 1_000_000;
    assert_eq!(bucket.take(1500, now), Ok(()));
    assert_eq!(bucket.take(1500, now), Err(Short(1500)));
    assert_eq!(bucket.take(1, now), Err(Short(1401)));
    assert_eq!(bucket.take(1500, now + 1500), Ok(()));
}

#[test]
fn extremes_neither_overflow_nor_stick() {
    const MOST: u64 = 10_000_000_000_000;
    for (rate, burst) in [(1, 1), (1, MOST), (MOST, 1), (MOST, MOST)] {
        let bucket = bucket(rate, burst);
        for now in [0, 1, u64::MAX >> FINE, u64::MAX] {
            let _ = bucket.take(MOST, now);
            let _ = bucket.take(1, now);
        }
        let later = 5_000_000_000;
        let Err(Short(ns)) = bucket.take(1, later) else { continue };
        assert_eq!(bucket.take(1, later + ns), Ok(()), "{rate} {burst}");
    }
}

#[test]
fn queue_pairs_share_one_bucket() {
    let bucket = bucket(1, 10_000);
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..10_000).filter(|_| bucket.take(1, 7).is_ok()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 10_000);
}

proptest! {
    /// The account has tokens in units of 1/rate of a nanosecond, exactly.
    #[test]
    fn it_is_as_good_as_a_plain_account(
        rate in prop_oneof![1u64..10, 1u64..10_000_000, 1u64..10_000_000_000_000],
        burst in prop_oneof![1u64..10, 1u64..100_000],
        steps in proptest::collection::vec((0u64..3_000_000, 1u64..70_000), 1..200),
    ) {
        const NS: u128 = 1_000_000_000;
        let bucket = bucket(rate, burst);
        let (mut now, full) = (1_000_000_000u64, u128::from(burst) * NS);
        let mut account = full as i128;
        for (ns, tokens) in steps {
            now += ns;
            account = (account + i128::from(ns) * i128::from(rate)).min(full as i128);
            let cost = u128::from(tokens) * NS;
            let needed = cost.min(full) as i128;
            // The bucket rounds each answer by less than a nanosecond, and each token by less than 2^-32 of one.
            let slack = i128::from(rate) * 2 + i128::from(tokens);
            match bucket.take(tokens, now) {
                Ok(()) => {
                    prop_assert!(account + slack >= needed, "{} of {}", account, needed);
                    account -= cost as i128;
                }
                Err(Short(wait)) => {
                    prop_assert!(account < needed + slack, "{} of {}", account, needed);
                    let then = account + i128::from(wait) * i128::from(rate);
                    prop_assert!(then + slack >= needed && then - slack <= needed + i128::from(rate));
                }
            }
        }
    }
}
