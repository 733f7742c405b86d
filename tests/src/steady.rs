//! Two guests in software that exchange numbered frames all the time, in a thread of their own: each must come, as it
//! was sent. They are the neighbours of whatever happens beside them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::flow::Flow;
use crate::frames::mac;
use crate::guest::Guest;
use crate::patience::PATIENCE;

const STATIONS: [u8; 2] = [221, 222];
/// Octets of frames, from one round to the next.
const SIZES: [usize; 4] = [60, 1514, 300, 900];
/// Between two rounds, so that real guests have the processors.
const PACE: Duration = Duration::from_millis(5);

/// The neighbours.
pub struct Steady {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Steady {
    /// Connects both, which begin.
    pub fn start(socket: &Path) -> Steady {
        let over = Arc::new(AtomicBool::new(false));
        let (theirs, socket) = (over.clone(), socket.to_path_buf());
        Steady { over, thread: std::thread::spawn(move || talk(&theirs, &socket)) }
    }

    /// Ends; how many frames were sent, all of which came, once and unchanged.
    pub fn stop(self) -> Result<u32> {
        self.over.store(true, Relaxed);
        self.thread.join().map_err(|_| Failure::new("neighbours have lost frames"))
    }
}

fn talk(over: &AtomicBool, socket: &Path) -> u32 {
    let mut guests = STATIONS.map(|_| Guest::connect(socket));
    let [one, other] = STATIONS;
    let mut flows = SIZES.map(|octets| [Flow::new(one, other, octets), Flow::new(other, one, octets)]);
    let mut sent = 0;
    while !over.load(Relaxed) {
        for [there, back] in &mut flows {
            let [first, second] = &mut guests;
            exchange(there, first, second, one);
            exchange(back, second, first, other);
            sent += 4;
        }
        std::thread::sleep(PACE);
    }
    assert!(flows.iter().flatten().all(|flow| flow.duplicates() == 0), "a frame came twice");
    sent
}

/// Two frames, which must come. Others send broadcasts meanwhile.
#[track_caller]
fn exchange(flow: &mut Flow, from: &mut Guest, to: &mut Guest, station: u8) {
    flow.send(from, 2);
    let deadline = Instant::now() + PATIENCE;
    while !flow.is_complete() {
        let received = to.receive_within(deadline.saturating_duration_since(Instant::now()));
        let received = received.unwrap_or_else(|| panic!("a frame from station {station} did not come"));
        if received.frame.get(6..12) == Some(&mac(station)) {
            flow.note(&received);
        }
    }
}
