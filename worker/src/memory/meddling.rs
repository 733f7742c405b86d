//! In tests and fuzzers a guest may write to its frames between look and delivery.

use super::slice::GuestSlice;

/// Octets of slices were looked at, which are delivered as they were: where tests and fuzzers have a guest write to them.
/// `tell` says which: slices, and how many of their first octets.
#[inline(always)]
pub fn looked(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
    #[cfg(any(test, feature = "fuzzing"))]
    meddler::looked(tell);
    #[cfg(not(any(test, feature = "fuzzing")))]
    let _ = tell;
}

/// The guest that does.
#[cfg(any(test, feature = "fuzzing"))]
pub mod meddler {
    use std::cell::Cell;

    use super::super::slice::GuestSlice;

    thread_local! {
        static MEDDLES: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on all octets that were looked at are others at once, or are so no more.
    pub fn set(meddles: bool) {
        MEDDLES.set(meddles);
    }

    #[inline]
    pub(super) fn looked(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
        if MEDDLES.get() {
            meddle(tell);
        }
    }

    /// Apart, so that what `pace` measures is what is there without it.
    #[cold]
    #[inline(never)]
    fn meddle(tell: impl FnOnce(&mut dyn FnMut(&[GuestSlice<'_>], usize))) {
        tell(&mut spoil);
    }

    /// Headers of a frame that nobody may send, from its net header on: to a link-local address, from a group, neither IP
    /// nor anything else.
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
