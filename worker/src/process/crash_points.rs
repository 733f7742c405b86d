//! Crash points: with the feature `crash-points`, each worker picks one of the places at which its death could be seen
//! from outside, and dies there after some thousand passes or fewer. The panic message names the place, so that a test
//! can tell from the events when it has seen them all. Without the feature nothing of this is compiled.

/// The places, in the order of the publish sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CrashPoint {
    /// Chains were taken from the sender's ring; nothing is written.
    Taken,
    /// A frame is in the receiver's buffers, without a used entry.
    Copied,
    /// The receiver's used entry is written, not published.
    Entered,
    /// A packed ring's burst is in the ledger; guest memory is as it was.
    Logged,
    /// All used elements of a packed ring's burst but the first are written.
    TailUsed,
    /// The first used element is written; the ledger has not heard.
    HeadUsed,
    /// A split ring's `used.idx` is published, receiver's or sender's; the ledger has not heard.
    Published,
    /// The ledger has heard of a ring; the driver has not been signalled.
    Noted,
    /// The sender's used entries are written, and nothing of the burst is published.
    SenderEntered,
    /// All receivers are published and signalled; the sender is not.
    ReceiversDone,
    /// All is done.
    Done,
}

/// Dies here, if this is the place and the time.
#[inline(always)]
pub fn pass(point: CrashPoint) {
    #[cfg(feature = "crash-points")]
    chosen::pass(point);
    #[cfg(all(test, not(feature = "crash-points")))]
    armed::pass();
    #[cfg(not(feature = "crash-points"))]
    let _ = point;
}

/// In unit tests a point is a panic, which the test catches: the worker's memory is lost, guest and ledger are not.
#[cfg(test)]
pub mod armed {
    use std::cell::Cell;

    thread_local! {
        static PASSES_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// Dies at the pass after that many.
    pub fn arm(passes: u32) {
        PASSES_LEFT.set(passes);
    }

    pub(super) fn pass() {
        match PASSES_LEFT.get() {
            u32::MAX => {}
            0 => {
                PASSES_LEFT.set(u32::MAX);
                std::panic::resume_unwind(Box::new("crash point"));
            }
            left => PASSES_LEFT.set(left - 1),
        }
    }
}

#[cfg(feature = "crash-points")]
mod chosen {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::CrashPoint;

    const COUNT: u64 = CrashPoint::Done as u64 + 1;
    const MOST_PASSES: u64 = 2000;

    static CHOICE: AtomicU64 = AtomicU64::new(0);
    static PASSES: AtomicU64 = AtomicU64::new(0);

    #[expect(clippy::panic)] // to die is the purpose
    pub fn pass(point: CrashPoint) {
        // The clock's low digits are as good as dice here. Of several threads the last one to throw them decides.
        if CHOICE.load(Relaxed) == 0 {
            CHOICE.store(crate::process::clock::now_ns() / 100 + 1, Relaxed);
        }
        let dice = CHOICE.load(Relaxed);
        if point as u64 == dice % COUNT && PASSES.fetch_add(1, Relaxed) == dice / COUNT % MOST_PASSES {
            panic!("crash point {point:?}");
        }
    }
}
