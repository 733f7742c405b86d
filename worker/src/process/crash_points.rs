//! Crash points. With the feature `crash-points`, each worker picks one of the points at which its death is visible
//! from outside, and dies there after at most some thousand passes. The panic message names the point, so that a test
//! can tell from the events when it has seen them all. Without the feature none of this is compiled.

/// The points, in the order of the publish sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CrashPoint {
    /// Chains were taken from the sender's ring. Nothing is written.
    Taken,
    /// A frame is in the receiver's buffers, without a used entry.
    Copied,
    /// The receiver's used entry is written but not published.
    Entered,
    /// A packed ring's burst is in the journal. Guest memory is unchanged.
    Journaled,
    /// All used elements of a packed ring's burst are written, except the first.
    TailUsed,
    /// The first used element is written. The ledger does not know yet.
    HeadUsed,
    /// A split ring's `used.idx` is published, receiver's or sender's. The ledger does not know yet.
    Published,
    /// The ledger knows the new position. The driver has not been signalled.
    Noted,
    /// The sender's used entries are written. Nothing of the burst is published.
    SenderEntered,
    /// All receivers are published and signalled. The sender is not.
    ReceiversDone,
    /// All is done.
    Done,
    /// Octets were read from a file. The ledger does not know yet, except for what the kernel wrote there. This point
    /// and the next one are no choice, since only ports of files pass them. Unit tests die there.
    FileRead,
    /// A frame was written to a file. The sender's frames are not published.
    FileWritten,
    /// Some pages are marked in the client's log. This is no choice either, since only guests that migrate pass it.
    Marked,
}

/// Dies here if this point was picked and enough passes are over.
#[inline(always)]
pub fn pass(point: CrashPoint) {
    #[cfg(feature = "crash-points")]
    chosen::pass(point);
    #[cfg(all(test, not(feature = "crash-points")))]
    armed::pass();
    #[cfg(not(feature = "crash-points"))]
    let _ = point;
}

/// In unit tests a crash point is a panic, which the test catches. The worker's memory is lost; guest memory and
/// ledger remain.
#[cfg(test)]
pub mod armed {
    use std::cell::Cell;

    thread_local! {
        static PASSES_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// Dies after `passes` more passes.
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

    /// Up to the last one that any traffic passes.
    const COUNT: u64 = CrashPoint::Done as u64 + 1;
    const MOST_PASSES: u64 = 2000;

    static CHOICE: AtomicU64 = AtomicU64::new(0);
    static PASSES: AtomicU64 = AtomicU64::new(0);

    #[expect(clippy::panic)] // this death is intended
    pub fn pass(point: CrashPoint) {
        // The low digits of the clock serve as a random number. If several threads draw one, the last one counts.
        if CHOICE.load(Relaxed) == 0 {
            CHOICE.store(crate::process::clock::now_ns() / 100 + 1, Relaxed);
        }
        let dice = CHOICE.load(Relaxed);
        if point as u64 == dice % COUNT && PASSES.fetch_add(1, Relaxed) == dice / COUNT % MOST_PASSES {
            panic!("crash point {point:?}");
        }
    }
}
