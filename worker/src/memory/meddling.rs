//! In tests and fuzzers, a guest may write to its frames between check and delivery.

use super::slice::GuestSlice;

/// The caller has just read octets that it will deliver as read. Tests and fuzzers let a guest overwrite them here.
/// `tell` passes the slices, and how many of their first octets were read.
#[inline(always)]
pub fn looked(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
    #[cfg(any(test, feature = "fuzzing"))]
    meddler::looked(tell);
    #[cfg(not(any(test, feature = "fuzzing")))]
    let _ = tell;
}

/// The guest that overwrites its frames.
#[cfg(any(test, feature = "fuzzing"))]
pub mod meddler {
    use std::cell::Cell;

    use super::super::slice::GuestSlice;

    thread_local! {
        static MEDDLES: Cell<bool> = const { Cell::new(false) };
    }

    /// Turns the overwriting of all octets that were read on or off.
    pub fn set(meddles: bool) {
        MEDDLES.set(meddles);
    }

    #[inline]
    pub(super) fn looked(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
        if MEDDLES.get() {
            meddle(tell);
        }
    }

    /// A separate function, so that `pace` measures the code as it is without it.
    #[cold]
    #[inline(never)]
    fn meddle(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
        tell(&mut spoil);
    }

    /// Overwrites a frame from its net header on with headers that no guest may send: to a link-local address, from a
    /// group address, neither IP nor another known protocol.
    fn spoil(slices: &[GuestSlice<'_>], octets: usize) {
        let mut spoilt =
            [0x05, 0x81].into_iter().chain([0xff; 10]).chain([1, 0x80, 0xc2, 0, 0, 0x0e]).chain([0xff; 300]);
        let mut left = octets;
        for slice in slices {
            let piece: Vec<u8> = spoilt.by_ref().take(slice.len().min(left)).collect();
            left -= slice.write(0, &piece);
        }
    }
}
