//! The frames that a burst takes, before anything is decided about them.

use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;

/// Most slices of one frame, as in QEMU (`VIRTQUEUE_MAX_SIZE`).
pub const MAX_SLICES: usize = 1024;

/// One frame of the burst, with the net header in front of it.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    /// What its kind calls it by when it is done: of a vring, the chain's id and its descriptors.
    pub id: u16,
    /// See `id`.
    pub parts: u16,
    /// Octets of header and frame; `None`: it breaks the specification.
    pub len: Option<usize>,
    /// Where its slices begin in the burst's list.
    pub from: usize,
    /// Where they end.
    pub to: usize,
    /// Its first octets, which are kept if the worker dies of it.
    pub head: FrameHead,
}

impl Taken {
    /// The frame as one piece; `None`: it lies in several.
    #[inline]
    pub fn plain<'t>(&'t self, slices: &'t SliceList<'_, '_>) -> Option<PlainFrame<'t>> {
        match self.to == self.from + 1 {
            true => Some(PlainFrame { slice: slices.get(self.from)?, head: &self.head }),
            false => None,
        }
    }
}

/// A frame in one piece, which stays where it is until the burst is published (`'t`).
#[derive(Clone, Copy)]
pub struct PlainFrame<'t> {
    /// A net header of [`sv3::virtio::NET_HDR_LEN`] octets, and the frame.
    pub slice: &'t GuestSlice<'t>,
    /// The first octets, as they were looked at.
    pub head: &'t FrameHead,
}

/// Room for the frames of a burst, and how many there are.
pub struct Batch<'b, 'm> {
    /// Places; the first `count` are taken.
    pub places: &'b mut [Taken],
    /// Frames so far.
    pub count: usize,
    /// Their slices.
    pub slices: SliceList<'b, 'm>,
}
