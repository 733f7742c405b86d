//! What a neighbour costs a pair that asks and answers: round trips beside each kind of neighbour, and beside none.
//!
//! Needs two idle processors: one for the switch, the other for all guests.

use std::process::ExitCode;
use std::time::Duration;

use sv3_tests::failure::Result;
use sv3_tests::neighbour::Kind;
use sv3_tests::pingpong::{PingPong, Trips, pin};
use sv3_tests::switch::Switch;

const TIME: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_micros(20);

fn main() -> ExitCode {
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "neighbour", "trips", "p50 us", "p99 us", "p50 x", "p99 x", "Mpps"
    );
    let mut idle = None;
    for kind in Kind::ALL {
        let (trips, rate) = match measure(kind) {
            Ok(measured) => measured,
            Err(failure) => {
                println!("It could not go on: {failure}");
                return ExitCode::FAILURE;
            }
        };
        let (p50, p99) = (trips.quantile(0.5), trips.quantile(0.99));
        let (idle_p50, idle_p99) = *idle.get_or_insert((p50, p99));
        let (times50, times99) = (p50 / idle_p50, p99 / idle_p99);
        let name = format!("{kind:?}").to_lowercase();
        println!("{name:<12} {:8} {p50:8.1} {p99:8.1} {times50:8.2} {times99:8.2} {rate:8.2}", trips.count());
    }
    ExitCode::SUCCESS
}

/// Round trips, and millions of chains a second that the neighbour got rid of.
fn measure(kind: Kind) -> Result<(Trips, f64)> {
    let switch = Switch::start()?;
    pin(&switch)?;
    let mut pair = PingPong::connect(&switch);
    let mut neighbour = kind.connect(&switch);
    let mut refill = || neighbour.refill();
    pair.play(TIME / 10, PAUSE, &mut refill);
    let before = sent(&switch)?;
    let trips = pair.play(TIME, PAUSE, &mut refill);
    Ok((trips, (sent(&switch)? - before) as f64 / TIME.as_secs_f64() / 1e6))
}

/// Chains of the neighbour, which connected third, that were served.
fn sent(switch: &Switch) -> Result<u64> {
    let port = switch.port("p2")?;
    Ok(port.from_guest.frames + port.drops.values().sum::<u64>())
}
