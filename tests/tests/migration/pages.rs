//! Many migrations, each compared page by page: what the worker wrote and did not mark would be missing at the other end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::switch::Switch;

use super::journey::Journey;
use super::upgrades::{tell, upgrade};

/// What befalls the switch while a guest moves.
#[derive(Clone, Copy, PartialEq)]
enum Blow {
    Nothing,
    Death,
    Upgrade,
}

impl Blow {
    fn fall(self, round: u32, switch: &mut Switch) -> Result<()> {
        match self {
            Blow::Nothing => Ok(()),
            Blow::Death => switch.kill_worker("KILL"),
            Blow::Upgrade => match round % 3 {
                0 => switch.hand_over(&["--blame", "0"]),
                1 => tell(switch, &["restart"]),
                // It is refused while the last one is on trial.
                _ => upgrade(switch)
                    .or_else(|_| tell(switch, &["restart"]))
                    .or_else(|_| switch.hand_over(&["--blame", "0"])),
            },
        }
    }
}

/// `SV3_MIGRATIONS`: how many, 20 by default. `SV3_MIGRATION_DEATHS`: a worker dies at a random moment of each.
/// `SV3_MIGRATION_UPGRADES`: sv3 is upgraded instead. `SV3_DEVICE`: properties of the guest's device.
#[test]
#[ignore = "it takes long"]
fn a_guest_moves_to_and_fro() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok()).unwrap_or(0);
    let count = number("SV3_MIGRATIONS");
    let count = if count > 0 { count } else { 20 };
    let blow = match (number("SV3_MIGRATION_DEATHS"), number("SV3_MIGRATION_UPGRADES")) {
        (0, 0) => Blow::Nothing,
        (0, _) => Blow::Upgrade,
        _ => Blow::Death,
    };
    let mut switch = Switch::with(&["--blame", "0"])?;
    let socket = switch.socket().to_path_buf();
    let mut journey = Journey::begin(&switch, &switch, &std::env::var("SV3_DEVICE").unwrap_or_default())?;
    let jobs = journey.talk()?;
    let (mut downtimes, mut fallen, mut length) = (Vec::new(), 0, Duration::from_millis(500));
    for round in 0..count {
        let to = journey.config.clone().await_guest(&socket)?;
        let (began, when) = (Instant::now(), length.mul_f64(random() * 0.8));
        let mut due = blow != Blow::Nothing;
        let (arrived, moved, different) = journey.depart()?.migrate_and_compare(to, || {
            if due && began.elapsed() > when {
                due = false;
                fallen += 1;
                blow.fall(round, &mut switch)?;
            }
            Ok(())
        })?;
        length = began.elapsed();
        journey.traveller = Some(arrived);
        println!("{round}: {moved:?} in {length:?}, a blow at {when:?}: {}", !due);
        assert_eq!(different, 0, "pages differ in round {round}");
        downtimes.push(moved.downtime);
    }
    downtimes.sort();
    println!("{count} migrations, {fallen} blows, downtime {:?} in the median", downtimes[downtimes.len() / 2]);
    journey.assert_whole(jobs)
}

/// From 0 to 1.
fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
