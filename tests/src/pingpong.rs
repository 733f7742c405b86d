//! Two guests that ask and answer, both driven by one processor that never sleeps: the measured time is the switch's.

use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::Result;
use crate::frames::{mac, noise};
use crate::guest::Guest;
use crate::switch::{Switch, activity};

/// Stations of the two, beyond those that neighbours use.
const STATIONS: [u8; 2] = [201, 202];
const OCTETS: usize = 64;
/// A frame that takes longer is lost: its receiver had no buffer.
pub const LOST: Duration = Duration::from_millis(100);
/// Processors of the switch and of its guests.
const CORES: [usize; 2] = [0, 1];

/// Two guests.
pub struct PingPong {
    guests: [Guest; 2],
    frames: [Vec<u8>; 2],
    octets: Vec<u8>,
}

/// Round trips, shortest first.
pub struct Trips(Vec<Duration>);

impl PingPong {
    /// Connects the two.
    #[track_caller]
    pub fn connect(switch: &Switch) -> PingPong {
        let [a, b] = STATIONS;
        let frames = [noise(mac(b), mac(a), OCTETS, 1), noise(mac(a), mac(b), OCTETS, 2)];
        PingPong { guests: [(), ()].map(|()| Guest::connect(switch.socket())), frames, octets: Vec::new() }
    }

    /// Asks and answers for a while, with a pause between an answer and the next question, in which and while waiting
    /// `meanwhile` is done again and again.
    pub fn play(&mut self, time: Duration, pause: Duration, meanwhile: &mut dyn FnMut()) -> Trips {
        self.play_parts(time, pause, meanwhile, true)
    }

    /// The same, but nothing is done while it waits: what `between` takes is no part of a trip.
    pub fn play_apart(&mut self, time: Duration, pause: Duration, between: &mut dyn FnMut()) -> Trips {
        self.play_parts(time, pause, between, false)
    }

    fn play_parts(&mut self, time: Duration, pause: Duration, work: &mut dyn FnMut(), always: bool) -> Trips {
        let mut meanwhile = |waits: bool| {
            if always || !waits {
                work();
            }
        };
        let start = Instant::now();
        let mut trips = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            // A lost frame makes a trip of that length.
            let _ = self.pass(0, &mut meanwhile) && self.pass(1, &mut meanwhile);
            let back = Instant::now();
            trips.push(back - sent);
            while back.elapsed() < pause {
                self.guests.iter_mut().for_each(|guest| drain(guest, &mut self.octets));
                meanwhile(false);
            }
        }
        trips.sort();
        Trips(trips)
    }

    /// One frame, from one to the other; false: it is lost.
    #[inline]
    fn pass(&mut self, from: usize, meanwhile: &mut dyn FnMut(bool)) -> bool {
        let PingPong { guests, frames, octets } = self;
        let (sender, receiver) = match guests {
            [a, b] if from == 0 => (a, b),
            [a, b] => (b, a),
        };
        let frame = &frames[from];
        let header = receiver.header_len();
        let sent = Instant::now();
        sender.send(frame);
        loop {
            while receiver.receive_into(0, octets).is_some() {
                if octets.get(header..) == Some(frame) {
                    return true;
                }
            }
            // Takes neighbours' broadcasts, which would take all buffers.
            drain(sender, octets);
            meanwhile(true);
            if sent.elapsed() > LOST {
                return false;
            }
        }
    }
}

#[inline]
fn drain(guest: &mut Guest, octets: &mut Vec<u8>) {
    while guest.receive_into(0, octets).is_some() {}
}

impl Trips {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The trip that this share of all is not longer than, in microseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share) as usize;
        self.0.get(at.min(self.0.len().saturating_sub(1))).map_or(0.0, |trip| trip.as_secs_f64() * 1e6)
    }
}

/// Gives the switch's worker a processor and this thread another.
pub fn pin(switch: &Switch) -> Result<()> {
    let worker = Pid::from_raw(i32::try_from(switch.worker_pid()?)?);
    for (process, core) in [worker, Pid::from_raw(0)].into_iter().zip(CORES) {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(process, &cores)?;
    }
    Ok(())
}

/// What a process did in a second.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Share of a processor, in per cent.
    pub percent: f64,
    /// Times that it went to sleep.
    pub sleeps: f64,
}

impl Effort {
    /// Of the process while `f` runs.
    pub fn during<T>(pid: u32, f: impl FnOnce() -> Result<T>) -> Result<(Effort, T)> {
        let ([slept, _, ran], start) = (activity(pid)?, Instant::now());
        let value = f()?;
        let ([sleeps, _, ticks], seconds) = (activity(pid)?, start.elapsed().as_secs_f64());
        // A tick is a hundredth of a second.
        Ok((Effort { percent: (ticks - ran) as f64 / seconds, sleeps: (sleeps - slept) as f64 / seconds }, value))
    }
}

/// Waits until earlier work has ended.
pub fn settle() {
    thread::sleep(Duration::from_millis(300));
}
