//! The frames that a burst takes, before the forwarder decides about them.

use sv3::virtio::NET_HDR_LEN;

use crate::memory::frame_head::{FrameHead, Snapshot, WINDOW_LEN, Window};
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;

/// Most slices of one frame, as in QEMU (`VIRTQUEUE_MAX_SIZE`).
pub const MAX_SLICES: usize = 1024;

/// One frame of the burst, with the net header in front of it.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    /// How its source names it when it is done. Of a vring: the chain's id.
    pub id: u16,
    /// Of a vring: the chain's number of descriptors.
    pub parts: u16,
    /// Octets of header and frame. `None`: the frame breaks the specification.
    pub len: Option<usize>,
    /// Where its slices begin in the burst's list.
    pub from: usize,
    /// Where they end.
    pub to: usize,
    /// Its first octets. The crash record keeps them if the worker dies of this frame.
    pub head: FrameHead,
}

impl Taken {
    /// The frame as one piece. `None`: it lies in several.
    #[inline]
    pub fn plain<'t>(&'t self, slices: &'t SliceList<'_, '_>) -> Option<PlainFrame<'t>> {
        match self.to == self.from + 1 {
            true => Some(PlainFrame { slice: slices.get(self.from)?, head: &self.head, window: None }),
            false => None,
        }
    }

    /// The same of a frame whose window was looked at.
    #[inline]
    pub fn plain_with<'t>(&'t self, slices: &'t SliceList<'_, '_>, window: &'t Window) -> Option<PlainFrame<'t>> {
        let plain = self.plain(slices).filter(|plain| plain.slice.len() >= WINDOW_LEN)?;
        Some(PlainFrame { window: Some(window), ..plain })
    }
}

/// A frame in one piece, which stays in place until the burst is published (`'t`).
#[derive(Clone, Copy)]
pub struct PlainFrame<'t> {
    /// A net header of [`sv3::virtio::NET_HDR_LEN`] octets, and the frame.
    pub slice: &'t GuestSlice<'t>,
    /// The first octets, as they were read first.
    pub head: &'t FrameHead,
    /// More of them, the head included, if more were looked at. The slice is no shorter.
    pub window: Option<&'t Window>,
}

impl<'t> PlainFrame<'t> {
    /// What is delivered as it was read first.
    pub fn snapshot(&self) -> Snapshot<'t> {
        match self.window {
            None => Snapshot::Chain(self.head),
            Some(window) => Snapshot::Frame(window.0.get(NET_HDR_LEN..).unwrap_or_default()),
        }
    }
}

/// Room for the frames of a burst, and how many there are.
pub struct Batch<'b, 'm> {
    /// Room for frames. The first `count` are taken.
    pub places: &'b mut [Taken],
    /// Number of frames so far.
    pub count: usize,
    /// Their slices.
    pub slices: SliceList<'b, 'm>,
}
