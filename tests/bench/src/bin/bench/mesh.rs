//! Frames among several guests, in one of several patterns.
//!
//! Either all at once, by a thread on each processor, which lets the switch run when it has nothing to do; or in turns:
//! the guests make frames available, the switch moves them while the guests sleep, and the guests take them. So the
//! time of the switch's turns is its own, with all processors for itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{scope, sleep, yield_now};
use std::time::Duration;

use sv3_tests::failure::{Failure, Result};

use crate::clock::{cycles, cycles_of};
use crate::frame::{Shape, Station};
use crate::guest::{BATCH, Guest};
use crate::place::{self, pin};
use crate::ring::Ring;
use crate::stream::drain;
use crate::switch::run_times;

/// Guests that take part.
pub const GUESTS: usize = 4;
/// Every receiver but the sender gets as many of so many frames.
const OTHERS: u32 = GUESTS as u32 - 1;
/// Between two checks whether the switch is done.
const LOOK: Duration = Duration::from_millis(1);
/// Longest that the switch may take for what fits into its rings.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which guests send to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Guests 0 and 2 to each other, and 1 and 3: with two threads each pair is one thread's.
    Pairs,
    /// Each to all others in turn, another one with each frame.
    Spread,
    /// All to guest 0.
    Merge,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Frames that came.
    pub frames: u64,
    /// Frames that did not.
    pub lost: u64,
    /// Cycles that this took.
    pub cycles: u64,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Pattern; 3] = [Pattern::Pairs, Pattern::Spread, Pattern::Merge];

    /// For a table.
    pub fn words(self) -> &'static str {
        match self {
            Pattern::Pairs => "two pairs",
            Pattern::Spread => "each to three others in turn",
            Pattern::Merge => "three to one",
        }
    }

    /// Whether a guest sends.
    fn sends(self, guest: usize) -> bool {
        self != Pattern::Merge || guest != 0
    }

    /// The receiver of a guest's frame of that number.
    #[inline(always)]
    fn receiver(self, from: usize, number: u32) -> usize {
        match self {
            Pattern::Pairs => from ^ 2,
            Pattern::Spread => (from + 1 + (number % OTHERS) as usize) % GUESTS,
            Pattern::Merge => 0,
        }
    }

    /// Frames that each sender may have under way: all of them fit into any one receiver's ring.
    fn window(self, entries: u16) -> u32 {
        let fit = if self == Pattern::Pairs { u32::from(entries) } else { u32::from(entries) / OTHERS };
        fit / (BATCH * OTHERS) * (BATCH * OTHERS)
    }

    /// Frames that a receiver gets when each sender sends so many, a multiple of [`OTHERS`].
    fn share(self, receiver: usize, sent: u32) -> u32 {
        match (self, receiver) {
            (Pattern::Pairs | Pattern::Spread, _) => sent,
            (Pattern::Merge, 0) => sent * OTHERS,
            (Pattern::Merge, _) => 0,
        }
    }
}

/// Lets the switch learn all addresses: each guest broadcasts.
pub fn introduce<R: Ring>(guests: &mut [Guest<R>]) -> Result<()> {
    drain(guests);
    for (at, guest) in guests.iter_mut().enumerate() {
        guest.send(1, |_| (Station::ALL, Station::new(at, 0)));
    }
    let mut heard = [0; GUESTS];
    let start = cycles();
    while heard.iter().any(|heard| *heard < OTHERS) {
        for (guest, heard) in guests.iter_mut().zip(&mut heard) {
            *heard += guest.receive(|_, _, _| {});
        }
        if cycles().wrapping_sub(start) > cycles_of(PATIENCE) {
            return Err(Failure::new(format!("the guests do not hear each other: {heard:?}")));
        }
    }
    Ok(())
}

/// In turns, for about so long, by a switch that consists of these processes. The time of a turn is what the busiest of
/// its threads has run: measured from outside, checks whether it is done would cost one thread more than the others.
pub fn in_turns<R: Ring>(guests: &mut [Guest<R>], pattern: Pattern, time: Duration, switch: &[u32]) -> Result<Moved> {
    let window = pattern.window(guests.first().map_or(0, |guest| guest.rx.place().size));
    let mut moved = Moved::default();
    let begin = cycles();
    while cycles().wrapping_sub(begin) < cycles_of(time) {
        for core in place::ALL {
            pin(core)?;
            for (at, guest) in guests.iter_mut().enumerate().filter(|(at, _)| of_core(*at, core) && pattern.sends(*at))
            {
                let to = |number| (Station::new(pattern.receiver(at, number), 0), Station::new(at, 0));
                let staged: u32 = (0..window / BATCH).map(|_| guest.stage(BATCH, to)).sum();
                if staged < window {
                    return Err(Failure::new(format!("guest {at} could send {staged} of {window} frames")));
                }
            }
        }
        let (start, before) = (cycles(), run_times(switch)?);
        // A thread that wakes up here may keep this one from kicking others, so it is the last to be kicked.
        for core in place::ALL {
            for (at, guest) in guests.iter_mut().enumerate() {
                if of_core(at, core) && pattern.sends(at) {
                    guest.show();
                }
            }
        }
        let all_came = |guests: &[Guest<R>]| {
            let mut receivers = guests.iter().enumerate();
            receivers.all(|(at, guest)| guest.rx.has_come(&guest.memory, pattern.share(at, window)))
        };
        while !all_came(guests) && cycles().wrapping_sub(start) < cycles_of(PATIENCE) {
            sleep(LOOK);
        }
        // Until all sleep.
        sleep(LOOK);
        let after = run_times(switch)?;
        let spent =
            after.iter().map(|(thread, after)| after.saturating_sub(before.get(thread).copied().unwrap_or_default()));
        moved.cycles += cycles_of(spent.max().unwrap_or_default());
        for core in place::ALL {
            pin(core)?;
            for (at, guest) in guests.iter_mut().enumerate().filter(|(at, _)| of_core(*at, core)) {
                let mut came = 0;
                while let more @ 1.. = guest.receive(|_, _, _| {}) {
                    came += more;
                }
                moved.frames += u64::from(came);
                moved.lost += u64::from(pattern.share(at, window).saturating_sub(came));
            }
        }
    }
    Ok(moved)
}

/// All at once, for so long; what is under way at the end is not counted.
pub fn at_once<R: Ring + Send>(guests: &mut [Guest<R>], pattern: Pattern, time: Duration) -> Result<Moved> {
    let came: &[AtomicU64; GUESTS] = &Default::default();
    let mut hands: [Vec<Hand<'_, R>>; place::ALL.len()] = Default::default();
    for (at, guest) in guests.iter_mut().enumerate() {
        let window = u64::from(pattern.window(guest.rx.place().size));
        hands[at % place::ALL.len()].push(Hand { at, guest, window, sent: 0 });
    }
    let spent = scope(|scope| {
        let threads = hands.iter_mut().zip(place::ALL).map(|(hands, core)| {
            scope.spawn(move || {
                pin(core)?;
                Ok::<u64, Failure>(drive(hands, pattern, came, cycles_of(time)))
            })
        });
        let threads: Vec<_> = threads.collect();
        let ends = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("a generator panicked"))));
        ends.collect::<Result<Vec<u64>>>()
    })?;
    let count = |came: &[AtomicU64]| came.iter().map(|came| came.load(Relaxed)).sum::<u64>();
    let frames = count(came);
    let sent: u64 = hands.iter().flatten().map(|hand| hand.sent).sum();
    drop(hands);
    let late = settle(guests);
    Ok(Moved { frames, lost: sent.saturating_sub(frames + late), cycles: spent.into_iter().max().unwrap_or(1) })
}

/// The processor whose thread drives a guest.
fn of_core(guest: usize, core: usize) -> bool {
    place::ALL.get(guest % place::ALL.len()) == Some(&core)
}

/// A guest that its thread drives.
struct Hand<'a, R> {
    at: usize,
    guest: &'a mut Guest<R>,
    window: u64,
    sent: u64,
}

fn drive<R: Ring>(hands: &mut [Hand<'_, R>], pattern: Pattern, came: &[AtomicU64; GUESTS], time: u64) -> u64 {
    let begin = cycles();
    loop {
        let mut worked = false;
        for Hand { at, guest, window, sent } in hands.iter_mut() {
            let arrived = came.get(*at).map_or(0, |came| came.load(Relaxed));
            if pattern.sends(*at) && *sent - arrived + u64::from(BATCH) <= *window {
                let from = Station::new(*at, 0);
                let more = guest.send(BATCH, |number| (Station::new(pattern.receiver(*at, number), 0), from));
                *sent += u64::from(more);
                worked |= more > 0;
            }
            let mut by_sender = [0u64; GUESTS];
            let frames = guest.receive(|memory, place, arrival| {
                // The fourth octet of the sender's address is its number.
                let from = memory.word64(place.buffer(arrival.first) + 16).load(Relaxed) >> 40;
                by_sender[from as usize % GUESTS] += 1;
            });
            if frames > 0 {
                worked = true;
                for (came, more) in came.iter().zip(by_sender).filter(|(_, more)| *more > 0) {
                    came.fetch_add(more, Relaxed);
                }
            }
        }
        let spent = cycles().wrapping_sub(begin);
        if spent >= time {
            return spent;
        }
        if !worked {
            yield_now();
        }
    }
}

/// Takes the frames that are still in flight; returns how many.
fn settle<R: Ring>(guests: &mut [Guest<R>]) -> u64 {
    let (mut late, mut last) = (0, cycles());
    while cycles().wrapping_sub(last) < cycles_of(Duration::from_millis(10)) {
        for guest in guests.iter_mut() {
            let more = guest.receive(|_, _, _| {});
            if more > 0 {
                (late, last) = (late + u64::from(more), cycles());
            }
        }
    }
    late
}

/// What the frames are.
pub const SHAPE: Shape = Shape { octets: 64, tso: false, udp: None };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_under_way_fits_and_each_receiver_gets_its_share() {
        for (pattern, entries) in Pattern::ALL.into_iter().flat_map(|pattern| [512, 1024, 4096].map(|n| (pattern, n))) {
            let window = pattern.window(entries);
            let mut came = [0; GUESTS];
            for from in (0..GUESTS).filter(|from| pattern.sends(*from)) {
                // Numbers go on from turn to turn.
                (window..2 * window).for_each(|number| came[pattern.receiver(from, number)] += 1);
            }
            let shares: Vec<u32> = (0..GUESTS).map(|receiver| pattern.share(receiver, window)).collect();
            assert_eq!(came.to_vec(), shares, "{pattern:?}");
            assert!(window > 0 && shares.iter().all(|share| *share <= entries.into()), "{pattern:?} {shares:?}");
        }
    }
}
