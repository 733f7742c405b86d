//! Copies that wait until the whole burst has been looked at.
//!
//! A cache line that a guest has written last is with the guest's processor, and a store to it holds up all stores behind
//! it. So the lines of a whole burst are asked for before the first one is written.
#![allow(unsafe_code)] // named in the design: guest memory

use std::marker::PhantomData;

use sv3::virtio::NET_HDR_LEN;

use super::frame_head::{FrameHead, HEAD_LEN};
use super::slice::{GuestSlice, copy};
use crate::process::crash::{self, HEAD_WORDS};
use crate::process::crash_points::{CrashPoint, pass};

/// Room for copies, made once.
#[derive(Default)]
pub struct DeferredRoom(Box<[Entry]>);

/// Copies of frames that stay where they are for `'t`, which ends after the copies are done or given up.
pub struct DeferredCopies<'t> {
    room: Box<[Entry]>,
    waiting: usize,
    frames: PhantomData<&'t ()>,
}

/// A place for one of them.
pub struct Place<'p, 't> {
    entry: &'p mut Entry,
    frames: PhantomData<&'t ()>,
}

#[derive(Clone, Copy)]
struct Entry {
    hdr: (u64, u32),
    /// Octets behind the head.
    len: u32,
    /// Where they are.
    from: *const u8,
    to: *mut u8,
    /// The head of the chain, which is the current one meanwhile: what is behind its net header is delivered, not what
    /// stands in the guest's memory by then.
    head: *const [u64; HEAD_WORDS],
}

// SAFETY: the pointers are used through `DeferredCopies` alone, which a thread makes of its own room for one burst.
unsafe impl Send for Entry {}

impl DeferredRoom {
    /// Room for `copies` copies.
    pub fn new(copies: usize) -> DeferredRoom {
        let (from, to, head) = (std::ptr::null(), std::ptr::null_mut(), std::ptr::null());
        DeferredRoom(vec![Entry { hdr: (0, 0), len: 0, from, to, head }; copies].into_boxed_slice())
    }

    /// No copies yet; the room is theirs.
    #[inline]
    pub fn begin<'t>(&mut self) -> DeferredCopies<'t> {
        DeferredCopies { room: std::mem::take(&mut self.0), waiting: 0, frames: PhantomData }
    }

    /// Takes the room back. Copies that were not done are given up.
    #[inline]
    pub fn end(&mut self, copies: &mut DeferredCopies<'_>) {
        copies.waiting = 0;
        self.0 = std::mem::take(&mut copies.room);
    }
}

impl<'t> Place<'_, 't> {
    /// To write `hdr` ([`sv3::virtio::NetHdr::to_words`]) and the frame of the chain `from` behind it, whose head is `head`,
    /// into `to`, whose lines are asked for now. `None`: there is no room, or the chain is no longer than a head.
    #[inline(always)]
    pub fn put(
        self,
        hdr: (u64, u32),
        from: &'t GuestSlice<'_>,
        to: &GuestSlice<'_>,
        head: &'t FrameHead,
    ) -> Option<()> {
        // A descriptor tells no more octets than a u32 does.
        let len = from.len().checked_sub(HEAD_LEN).filter(|_| from.len() <= to.len())? as u32;
        to.prefetch_to_write(from.len());
        let from = from.ptr().wrapping_add(HEAD_LEN).cast_const();
        *self.entry = Entry { hdr, len, from, to: to.ptr(), head: &raw const head.0 };
        Some(())
    }
}

impl<'t> DeferredCopies<'t> {
    /// Makes room for `copies` copies, if there can be.
    #[inline]
    pub fn make_room(&mut self, copies: usize) {
        if self.room.len() - self.waiting < copies {
            self.settle();
        }
    }

    /// Places for further copies, which do not count before [`DeferredCopies::wait_for`].
    #[inline]
    pub fn places(&mut self) -> impl Iterator<Item = Place<'_, 't>> {
        self.room.iter_mut().skip(self.waiting).map(|entry| Place { entry, frames: PhantomData })
    }

    /// The next places that many copies were put into count from now on.
    ///
    /// # Safety
    /// Their targets stay mapped until [`DeferredCopies::settle`] or [`DeferredRoom::end`].
    #[inline]
    pub unsafe fn wait_for(&mut self, copies: usize) {
        self.waiting = self.room.len().min(self.waiting + copies);
    }

    /// Does the copies.
    #[inline]
    pub fn settle(&mut self) {
        let before = crash::current();
        for Entry { hdr, len, from, to, head } in self.room.get(..self.waiting).unwrap_or(&[]) {
            crash::set_current(*head);
            // SAFETY: `put` borrowed frame and head for `'t`, which is not over, and saw that a head and `len` octets lie
            // in both; `wait_for` was told that the target is still mapped.
            unsafe {
                to.cast::<u64>().write_unaligned(hdr.0.to_le());
                to.add(8).cast::<u32>().write_unaligned(hdr.1.to_le());
                let head = head.cast::<u8>();
                std::ptr::copy_nonoverlapping(head.add(NET_HDR_LEN), to.add(NET_HDR_LEN), HEAD_LEN - NET_HDR_LEN);
                copy(*from, to.add(HEAD_LEN), *len as usize);
            }
            pass(CrashPoint::Copied);
        }
        self.waiting = 0;
        crash::set_current(before);
    }
}
