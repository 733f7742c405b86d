//! A thread that only exchanges frames between two guests, and notes when none came for a while.
//!
//! Guest A sends numbered frames to guest B, the next one for each that has come, so that some are always in flight.
//! Frames of one sender to one receiver stay in order: a number that was seen before is a duplicate, a number that is
//! left out is lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::Guest;

use crate::Manner;

/// Frames in flight.
const WINDOW: u64 = 16;
const OCTETS: usize = 200;
/// A shorter time is no gap.
const NOTABLE: Duration = Duration::from_micros(20);
/// Frames that have not come by then count as lost, and others are sent.
const PATIENCE: Duration = Duration::from_secs(2);
const RX: u16 = 0;

/// Traffic that runs.
pub struct Traffic {
    thread: JoinHandle<Counts>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    received: AtomicU64,
    /// When each gap ended, and how long it was.
    gaps: Mutex<Vec<(Instant, Duration)>>,
}

/// What became of the frames.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Frames that guest A sent.
    pub sent: u64,
    /// Of these, those that never came.
    pub lost: u64,
    /// Those that came once more.
    pub duplicates: u64,
    /// Those that came changed.
    pub damaged: u64,
    /// Descriptors that the switch did not give back, of both guests.
    pub stuck: usize,
}

impl Counts {
    /// Nothing is missing, nothing is wrong.
    pub fn are_exact(&self) -> bool {
        (self.lost, self.damaged, self.stuck) == (0, 0, 0)
    }
}

impl Traffic {
    /// Connects two guests and lets them exchange frames.
    pub fn start(socket: &Path, manner: Manner) -> Traffic {
        let shared = Arc::new(Shared::default());
        let (theirs, path) = (shared.clone(), socket.to_path_buf());
        let thread = std::thread::spawn(move || Flow::new(&path).run(&theirs, manner));
        Traffic { thread, shared }
    }

    /// Frames received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Waits until frames are received, a few at least.
    pub fn await_flow(&self) -> Result<()> {
        let (before, deadline) = (self.received(), Instant::now() + Duration::from_secs(20));
        while self.received() < before + 4 * WINDOW {
            if Instant::now() > deadline || self.thread.is_finished() {
                return Err(Failure::new("no frames come any more"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The longest gap any part of which lies between two moments.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.shared.gaps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let touching = gaps.iter().filter(|(end, length)| *end > from && *end - *length < to);
        touching.map(|(_, length)| *length).max().unwrap_or_default()
    }

    /// Sends no more, waits for all that is in flight, and checks that all descriptors are there.
    pub fn finish(self) -> Result<Counts> {
        self.shared.over.store(true, Relaxed);
        self.thread.join().map_err(|_| Failure::new("the guests found something wrong, see above"))
    }
}

struct Flow {
    a: Guest,
    b: Guest,
    /// What each frame is, but for its number.
    text: Vec<u8>,
    counts: Counts,
    /// The number that comes next.
    next: u64,
    last: Instant,
    octets: Vec<u8>,
}

impl Flow {
    fn new(socket: &Path) -> Flow {
        let (mut a, mut b) = (Guest::connect(socket), Guest::connect(socket));
        b.send(&frame(BROADCAST, mac(2), b"hello"));
        a.receive();
        b.await_sent();
        let text = noise(mac(2), mac(1), OCTETS, 0);
        Flow { a, b, text, counts: Counts::default(), next: 0, last: Instant::now(), octets: Vec::new() }
    }

    fn run(mut self, shared: &Shared, manner: Manner) -> Counts {
        // Without this the kernel adds 50 µs to each rest.
        let _ = nix::sys::prctl::set_timerslack(1);
        if manner.pinned {
            let mut cpus = nix::sched::CpuSet::new();
            let pinned = cpus.set(1).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus));
            assert_eq!(pinned, Ok(()), "this wants two processors");
        }
        self.last = Instant::now();
        while !shared.over.load(Relaxed) {
            while self.counts.sent < self.next + WINDOW {
                self.send();
            }
            self.receive(shared);
            if let Some(pace) = manner.pace {
                std::thread::sleep(pace);
            }
            if self.last.elapsed() > PATIENCE {
                self.give_up();
            }
        }
        while self.next < self.counts.sent && self.last.elapsed() < PATIENCE {
            self.receive(shared);
        }
        self.give_up();
        self.counts.stuck = self.stuck();
        self.counts
    }

    fn send(&mut self) {
        if let Some(place) = self.text.get_mut(14..22) {
            place.copy_from_slice(&self.counts.sent.to_ne_bytes());
        }
        self.a.send(&self.text);
        self.counts.sent += 1;
    }

    fn receive(&mut self, shared: &Shared) {
        while let Some((header, _)) = self.b.receive_into(0, &mut self.octets) {
            let now = Instant::now();
            let gap = now - self.last;
            self.last = now;
            if gap >= NOTABLE {
                let mut gaps = shared.gaps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                gaps.push((now, gap));
            }
            self.note(header.flags == 0);
            shared.received.fetch_add(1, Relaxed);
        }
    }

    /// Takes note of the frame in `octets`, behind its header of 12 octets.
    fn note(&mut self, plain: bool) {
        let frame = self.octets.get(12..).unwrap_or_default();
        let number = frame.get(14..22).and_then(|octets| octets.try_into().ok()).map_or(u64::MAX, u64::from_ne_bytes);
        let same = frame.len() == OCTETS && frame.get(..14) == self.text.get(..14);
        if !plain || !same || frame.get(22..) != self.text.get(22..) || number >= self.counts.sent {
            self.counts.damaged += 1;
        } else if number < self.next {
            self.counts.duplicates += 1;
        } else {
            self.counts.lost += number - self.next;
            self.next = number + 1;
        }
    }

    fn give_up(&mut self) {
        self.counts.lost += self.counts.sent - self.next;
        self.next = self.counts.sent;
        self.last = Instant::now();
    }

    /// Descriptors that are missing: chains of A that do not come back, and buffers of B that its ring full of frames
    /// does not fill.
    fn stuck(&mut self) -> usize {
        while self.b.receive_into(0, &mut self.octets).is_some() {
            self.note(true);
        }
        let size = usize::from(self.b.queue(RX).ring.size());
        for _ in 0..size {
            self.a.send(&self.text);
        }
        let left = self.a.await_sent_within(PATIENCE);
        let mut filled = 0;
        while self.b.receive_into(0, &mut self.octets).is_some() {
            filled += 1;
        }
        size.abs_diff(filled) + left
    }
}
