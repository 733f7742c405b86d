//! Copies that wait until the whole burst has been taken.
#![allow(unsafe_code)] // named in the design: guest memory

use sv3::virtio::NET_HDR_LEN;

use super::frame_head::{FrameHead, HEAD_LEN};
use super::slice::{GuestSlice, copy};
use crate::process::crash::{self, HEAD_WORDS};
use crate::process::crash_points::{CrashPoint, pass};

/// Copies that wait until the burst has been taken. A line that a guest has written last is with the guest's processor,
/// and a store to it holds up all stores behind it; so the lines of a whole burst are asked for before the first is
/// written.
pub struct DeferredCopies {
    room: Box<[DeferredCopy]>,
    waiting: usize,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct DeferredCopy {
    hdr: (u64, u32),
    /// Octets behind the head.
    len: u32,
    /// Where they are.
    from: *const u8,
    to: *mut u8,
    /// The head of the chain that is in hand meanwhile: what is behind its net header is delivered, not what stands in the
    /// guest's memory by then.
    head: *const [u64; HEAD_WORDS],
}

impl DeferredCopy {
    /// To write `hdr` ([`sv3::virtio::NetHdr::to_words`]) and the frame of the chain `from` behind it, whose head is `head`,
    /// into `to`, whose lines are asked for now. `None`: there is no room, or the chain is no longer than a head.
    #[inline(always)]
    pub fn new(hdr: (u64, u32), from: &GuestSlice<'_>, to: &GuestSlice<'_>, head: &FrameHead) -> Option<DeferredCopy> {
        // A descriptor tells no more octets than a u32 does.
        let len = from.len().checked_sub(HEAD_LEN).filter(|_| from.len() <= to.len())? as u32;
        to.prefetch_to_write(from.len());
        Some(DeferredCopy {
            hdr,
            len,
            from: from.ptr().wrapping_add(HEAD_LEN).cast_const(),
            to: to.ptr(),
            head: &raw const head.0,
        })
    }
}

impl DeferredCopies {
    /// Room for `copies` copies.
    pub fn new(copies: usize) -> DeferredCopies {
        let nothing = DeferredCopy {
            hdr: (0, 0),
            len: 0,
            from: std::ptr::null(),
            to: std::ptr::null_mut(),
            head: std::ptr::null(),
        };
        DeferredCopies { room: vec![nothing; copies].into_boxed_slice(), waiting: 0 }
    }

    /// Makes room for `copies` copies, if there can be.
    #[inline]
    pub fn make_room(&mut self, copies: usize) {
        if self.room.len() - self.waiting < copies {
            self.settle();
        }
    }

    /// Places for further copies, which do not count before [`DeferredCopies::wait_for`].
    #[inline]
    pub fn places(&mut self) -> impl Iterator<Item = &mut DeferredCopy> {
        self.room.iter_mut().skip(self.waiting)
    }

    /// The next places that many copies were put into count from now on.
    ///
    /// # Safety
    /// What their slices were looked up in stays mapped until [`DeferredCopies::settle`], and their heads stay where they are.
    #[inline]
    pub unsafe fn wait_for(&mut self, copies: usize) {
        self.waiting = self.room.len().min(self.waiting + copies);
    }

    /// Does what was postponed.
    #[inline]
    pub fn settle(&mut self) {
        let before = crash::current();
        for DeferredCopy { hdr, len, from, to, head } in self.room.get(..self.waiting).unwrap_or(&[]) {
            crash::set_current(*head);
            // SAFETY: `wait_for` was told that both are still mapped, and that the head is there; `DeferredCopy::new` saw that a
            // head and `len` octets lie in both.
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
