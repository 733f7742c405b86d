//! Copies that wait until the whole burst has been read.
//!
//! The guest's processor holds the cache lines that the guest has just written. A store to such a line delays all
//! stores after it. So the worker prefetches the lines of a whole burst before it writes the first one.
#![allow(unsafe_code)] // named in the design: guest memory

use std::marker::PhantomData;

use sv3::virtio::NET_HDR_LEN;

use super::edited_head::EditedHead;
use super::frame_head::{FrameHead, HEAD_LEN, WINDOW_LEN, Window};
use super::slice::{GuestSlice, LONG, copy};
use crate::process::crash::{self, HEAD_WORDS};
use crate::process::crash_points::{CrashPoint, pass};

/// Set in the length of an entry whose head is the beginning of a [`Window`].
const WINDOWED: u32 = 1 << 31;
/// The same if it is the beginning of an [`EditedHead`]. No longer chain is deferred.
const EDITED: u32 = 1 << 30;
/// Octets of a window behind the head.
const MORE: usize = WINDOW_LEN - HEAD_LEN;

/// Room for copies, made once.
#[derive(Default)]
pub struct DeferredRoom(Box<[Entry]>);

/// Copies of frames that stay in place for `'t`. `'t` ends after the copies are done or abandoned.
pub struct DeferredCopies<'t> {
    room: Box<[Entry]>,
    waiting: usize,
    frames: PhantomData<&'t ()>,
}

/// Room for one copy.
pub struct Place<'p, 't> {
    entry: &'p mut Entry,
    frames: PhantomData<&'t ()>,
}

#[derive(Clone, Copy)]
struct Entry {
    hdr: (u64, u32),
    /// Octets after the head, or after the window with [`WINDOWED`].
    len: u32,
    /// Where these octets are.
    from: *const u8,
    to: *mut u8,
    /// The head of the chain. The chain is the current one during the copy. What follows its net header is delivered
    /// from here, not from guest memory, which may have changed.
    head: *const [u64; HEAD_WORDS],
}

// SAFETY: only `DeferredCopies` uses the pointers, and one thread makes it from its own room for one burst.
unsafe impl Send for Entry {}

impl DeferredRoom {
    /// Room for `copies` copies.
    pub fn new(copies: usize) -> DeferredRoom {
        let (from, to, head) = (std::ptr::null(), std::ptr::null_mut(), std::ptr::null());
        DeferredRoom(vec![Entry { hdr: (0, 0), len: 0, from, to, head }; copies].into_boxed_slice())
    }

    /// Starts without copies and takes the room.
    #[inline]
    pub fn begin<'t>(&mut self) -> DeferredCopies<'t> {
        DeferredCopies { room: std::mem::take(&mut self.0), waiting: 0, frames: PhantomData }
    }

    /// Takes the room back. Copies that are not done are abandoned.
    #[inline]
    pub fn end(&mut self, copies: &mut DeferredCopies<'_>) {
        copies.waiting = 0;
        self.0 = std::mem::take(&mut copies.room);
    }
}

impl<'t> Place<'_, 't> {
    /// Defers a copy into `to`: `hdr` ([`sv3::virtio::NetHdr::to_words`]), then the frame of the chain `from`, whose
    /// head is `head`. Prefetches the lines of `to`. `None`: `to` is too small, or the chain is no longer than a
    /// head.
    #[inline(always)]
    pub fn put(
        self,
        hdr: (u64, u32),
        from: &'t GuestSlice<'_>,
        to: &GuestSlice<'_>,
        head: &'t FrameHead,
    ) -> Option<()> {
        if !(HEAD_LEN..EDITED as usize).contains(&from.len()) || from.len() > to.len() {
            return None;
        }
        let len = (from.len() - HEAD_LEN) as u32;
        to.prefetch_to_write(from.len());
        let from = from.ptr().wrapping_add(HEAD_LEN).cast_const();
        *self.entry = Entry { hdr, len, from, to: to.ptr(), head: &raw const head.0 };
        Some(())
    }

    /// The same of a chain of which a whole window was read, and is delivered as it was read.
    #[inline(always)]
    pub fn put_windowed(
        self,
        hdr: (u64, u32),
        from: &'t GuestSlice<'_>,
        to: &GuestSlice<'_>,
        window: &'t Window,
    ) -> Option<()> {
        if !(WINDOW_LEN..EDITED as usize).contains(&from.len()) || from.len() > to.len() {
            return None;
        }
        let len = (from.len() - WINDOW_LEN) as u32;
        to.prefetch_to_write(from.len());
        let from = from.ptr().wrapping_add(WINDOW_LEN).cast_const();
        let head = window.0.as_ptr().cast();
        *self.entry = Entry { hdr, len: len | WINDOWED, from, to: to.ptr(), head };
        Some(())
    }
}

impl<'t> Place<'_, 't> {
    /// The same of a chain of which other octets stand for the first ones. Returns how many octets are written.
    #[inline(always)]
    pub fn put_edited(
        self,
        hdr: (u64, u32),
        from: &'t GuestSlice<'_>,
        to: &GuestSlice<'_>,
        edited: &'t EditedHead,
    ) -> Option<usize> {
        let len = from.len().checked_sub(edited.replaced()).filter(|len| *len < EDITED as usize)?;
        let written = NET_HDR_LEN + edited.octets().len() + len;
        // The worker writes as many octets as a head has before it writes all.
        if written.max(HEAD_LEN) > to.len() {
            return None;
        }
        to.prefetch_to_write(written);
        let from = from.ptr().wrapping_add(edited.replaced()).cast_const();
        let head = std::ptr::from_ref(edited).cast();
        *self.entry = Entry { hdr, len: len as u32 | EDITED, from, to: to.ptr(), head };
        Some(written)
    }
}

impl<'t> DeferredCopies<'t> {
    /// Makes room for `copies` copies, if the room is large enough: does the waiting ones if it must.
    #[inline]
    pub fn make_room(&mut self, copies: usize) {
        if self.room.len() - self.waiting < copies {
            self.settle();
        }
    }

    /// Room for more copies. They do not count before [`DeferredCopies::wait_for`].
    #[inline]
    pub fn places(&mut self) -> impl Iterator<Item = Place<'_, 't>> {
        self.room.iter_mut().skip(self.waiting).map(|entry| Place { entry, frames: PhantomData })
    }

    /// The next `copies` entries, filled by [`Place::put`], now count.
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
            // SAFETY: `put` borrowed frame and head for `'t`, which has not ended, and checked that both `from` and
            // `to` have room for a head and `len` octets; `put_windowed` did so for a window, which is aligned as a head
            // is and longer, and `put_edited` for an edited head, which begins as a head does. The caller of `wait_for` promises that the target is still mapped.
            unsafe {
                to.cast::<u64>().write_unaligned(hdr.0.to_le());
                to.add(8).cast::<u32>().write_unaligned(hdr.1.to_le());
                let head = head.cast::<u8>();
                std::ptr::copy_nonoverlapping(head.add(NET_HDR_LEN), to.add(NET_HDR_LEN), HEAD_LEN - NET_HDR_LEN);
                match *len as usize {
                    len if len < LONG => std::ptr::copy(*from, to.add(HEAD_LEN), len),
                    _ if *len & (WINDOWED | EDITED) == 0 => copy(*from, to.add(HEAD_LEN), *len as usize),
                    _ if *len & EDITED == 0 => {
                        std::ptr::copy_nonoverlapping(head.add(HEAD_LEN), to.add(HEAD_LEN), MORE);
                        copy(*from, to.add(WINDOW_LEN), (*len & !WINDOWED) as usize);
                    }
                    _ => {
                        let octets = (*head.cast::<EditedHead>()).octets();
                        std::ptr::copy_nonoverlapping(octets.as_ptr(), to.add(NET_HDR_LEN), octets.len());
                        copy(*from, to.add(NET_HDR_LEN + octets.len()), (*len & !EDITED) as usize);
                    }
                }
            }
            pass(CrashPoint::Copied);
        }
        self.waiting = 0;
        crash::set_current(before);
    }
}
