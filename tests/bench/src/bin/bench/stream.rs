//! Frames from one guest to another, as fast as possible but never more in flight than fit: a closed loop.
//!
//! One thread drives all guests. Frames have the numbers of the sender's ring, so a receiver sees what is missing and
//! what comes out of order. One of [`SAMPLE`] is compared octet by octet.

use crate::clock::cycles;
use crate::frame::{Shape, Station};
use crate::guest::{BATCH, Guest};
use crate::ring::Ring;

/// Of so many frames one is compared with what was sent; no divisor of a ring's size, so that it is not always the same
/// buffers.
const SAMPLE: u32 = 61;
/// Cycles without an arrival after which frames in flight count as lost: about 100 ms, longer than the kernel lets
/// another process have the switch's processor.
const GIVE_UP: u64 = 250_000_000;
/// Cycles without an arrival after which nothing is in flight any more.
const SILENCE: u64 = 25_000_000;

/// Addresses behind two ports: so many on either side, used in turn.
#[derive(Clone, Copy, Debug)]
pub struct Stations {
    /// The port of the sender, and of the receiver.
    pub ports: (usize, usize),
    /// How many on either side.
    pub count: usize,
}

impl Stations {
    /// Receiver and sender of the frame of that number.
    #[inline(always)]
    pub fn between(self, number: u32) -> (Station, Station) {
        let n = if self.count == 1 { 0 } else { number as usize % self.count };
        (Station::new(self.ports.1, n), Station::new(self.ports.0, n))
    }
}

/// The results of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that came.
    pub received: u64,
    /// Frames that did not.
    pub lost: u64,
    /// Frames that came after a later one, or twice.
    pub late: u64,
    /// Frames that were looked at.
    pub sampled: u64,
    /// Of these, those that were not as sent.
    pub damaged: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            received: self.received + other.received,
            lost: self.lost + other.lost,
            late: self.late + other.late,
            sampled: self.sampled + other.sampled,
            damaged: self.damaged + other.damaged,
        }
    }
}

/// One direction.
pub struct Stream {
    /// Which guests send to which.
    pub stations: Stations,
    /// What has happened so far.
    pub tally: Tally,
    /// Cycles without an arrival after which frames in flight count as lost.
    pub patience: u64,
    shape: Shape,
    /// Most frames under way, and sent at a time.
    window: u32,
    batch: u32,
    /// The number of the next frame to be sent, and to come.
    next: u32,
    expected: u32,
    /// When frames last came, and how many had by then.
    came: (u64, u64),
}

impl Stream {
    /// A stream that begins with the next frame that `from` sends.
    pub fn new<R: Ring>(from: &Guest<R>, stations: Stations, shape: Shape, window: u32) -> Stream {
        let next = from.tx.put_count();
        let batch = BATCH.min(window / 2).max(1);
        Stream {
            stations,
            tally: Tally::default(),
            patience: GIVE_UP,
            shape,
            window,
            batch,
            next,
            expected: next,
            came: (cycles(), 0),
        }
    }

    /// Whether another batch may be sent.
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.next.wrapping_sub(self.expected) + self.batch <= self.window
    }

    /// Notes frames that others have sent.
    #[inline(always)]
    pub fn sent(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
    }

    /// Sends a batch if fewer are under way than may be.
    #[inline(always)]
    pub fn send<R: Ring>(&mut self, guest: &mut Guest<R>) -> bool {
        let stations = self.stations;
        let sent = if self.has_room() { guest.send(self.batch, |number| stations.between(number)) } else { 0 };
        self.next = self.next.wrapping_add(sent);
        sent > 0
    }

    /// Receives what is there.
    #[inline(always)]
    pub fn receive<R: Ring>(&mut self, guest: &mut Guest<R>) -> u32 {
        let Stream { tally, shape, expected, .. } = self;
        let came = guest.receive(|memory, place, arrival| {
            let ahead = arrival.number.wrapping_sub(*expected);
            if ahead >= 1 << 31 {
                tally.late += 1;
                return;
            }
            tally.lost += u64::from(ahead);
            *expected = arrival.number.wrapping_add(1);
            if arrival.number % SAMPLE == 0 {
                tally.sampled += 1;
                tally.damaged += u64::from(!arrival.is_as_sent(memory, place, *shape));
            }
        });
        tally.received += u64::from(came);
        came
    }

    /// To be called now and then: frames that do not come for long count as lost.
    #[inline]
    pub fn check(&mut self, now: u64) {
        let (since, before) = self.came;
        if self.tally.received != before || self.next == self.expected {
            self.came = (now, self.tally.received);
        } else if now.wrapping_sub(since) > self.patience {
            self.tally.lost += u64::from(self.next.wrapping_sub(self.expected));
            self.expected = self.next;
        }
    }
}

/// A stream and the places of its sender and its receiver among the guests.
pub struct Flow {
    /// The sender.
    pub from: usize,
    /// The receiver.
    pub to: usize,
    /// The stream.
    pub stream: Stream,
}

/// The results of a period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Cycles that it took.
    pub cycles: u64,
    /// Those of them in which there was nothing to send and nothing to receive: the switch was the slower one.
    pub waited: u64,
}

/// Lets frames flow for so many cycles.
pub fn flow<R: Ring>(guests: &mut [Guest<R>], flows: &mut [Flow], time: u64) -> Pace {
    let start = cycles();
    let (mut now, mut waited) = (start, 0);
    while now.wrapping_sub(start) < time {
        let mut worked = false;
        for flow in flows.iter_mut() {
            if let Some(from) = guests.get_mut(flow.from) {
                worked |= flow.stream.send(from);
            }
            if let Some(to) = guests.get_mut(flow.to) {
                worked |= flow.stream.receive(to) > 0;
            }
            flow.stream.check(now);
        }
        let turned = cycles();
        if !worked {
            waited += turned.wrapping_sub(now);
        }
        now = turned;
    }
    Pace { cycles: now.wrapping_sub(start), waited }
}

/// Takes frames that are still in flight, until none has come for long.
pub fn drain<R: Ring>(guests: &mut [Guest<R>]) {
    let mut came = cycles();
    while cycles().wrapping_sub(came) < SILENCE {
        for guest in guests.iter_mut() {
            if guest.receive(|_, _, _| {}) > 0 {
                came = cycles();
            }
        }
    }
}
