//! Two honest guests that exchange frames without a pause, in a thread of their own, and how long one of them received
//! nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::frames::{mac, noise};
use crate::guest::Guest;
use crate::patience::PATIENCE;

const SENDER: u8 = 211;
const LISTENER: u8 = 212;

/// The time from one frame to the next.
const PACE: Duration = Duration::from_millis(1);

/// The pair. It ends when this is dropped.
pub struct Pair {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    heard: AtomicU64,
    /// Nanoseconds.
    longest: AtomicU64,
}

impl Pair {
    /// Connects the two and waits until they have exchanged frames.
    #[track_caller]
    pub fn start(socket: &Path) -> Pair {
        let shared = Arc::new(Shared::default());
        let (theirs, socket) = (shared.clone(), socket.to_path_buf());
        let pair = Pair { shared, thread: Some(std::thread::spawn(move || talk(&theirs, &socket))) };
        let deadline = Instant::now() + PATIENCE;
        while pair.shared.heard.load(SeqCst) < 100 {
            assert!(Instant::now() < deadline, "the pair exchanges no frames");
            std::thread::sleep(PACE);
        }
        pair.longest();
        pair
    }

    /// The longest time without a frame since the last call.
    #[track_caller]
    pub fn longest(&self) -> Duration {
        // A silence that still lasts counts.
        let (heard, deadline) = (self.shared.heard.load(SeqCst), Instant::now() + PATIENCE);
        while self.shared.heard.load(SeqCst) < heard + 2 {
            assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished), "the pair has failed");
            assert!(Instant::now() < deadline, "the pair hears nothing any more");
            std::thread::sleep(PACE);
        }
        Duration::from_nanos(self.shared.longest.swap(0, SeqCst))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let failed = thread.join().is_err();
            assert!(!failed || std::thread::panicking(), "the pair has failed");
        }
    }
}

fn talk(shared: &Shared, socket: &Path) {
    let [mut sender, mut listener] = [(), ()].map(|()| Guest::connect(socket));
    listener.send(&noise([0xff; 6], mac(LISTENER), 64, 0));
    listener.await_sent();
    let frame = noise(mac(LISTENER), mac(SENDER), 64, 0);
    let (mut last, mut sent) = (Instant::now(), Instant::now());
    while !shared.over.load(SeqCst) {
        if sent.elapsed() >= PACE {
            sender.send(&frame);
            sent = Instant::now();
        }
        // Skips broadcasts of others.
        while let Some(received) = listener.try_receive() {
            if received.frame == frame {
                let silence = u64::try_from(last.elapsed().as_nanos()).unwrap_or(u64::MAX);
                shared.longest.fetch_max(silence, SeqCst);
                shared.heard.fetch_add(1, SeqCst);
                last = Instant::now();
            }
        }
        while sender.try_receive().is_some() {}
        std::thread::sleep(PACE / 10);
    }
}
