//! The frames that a burst takes, before the forwarder decides about them.

use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::virtio::NET_HDR_LEN;

use crate::memory::edited_head::EditedHead;
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
    /// Octets of header and frame, or [`Taken::BROKEN`].
    len: u32,
    /// Where its slices begin in the burst's list.
    from: u32,
    /// How many there are.
    pieces: u32,
    /// Its first octets. The crash record keeps them if the worker dies of this frame.
    pub head: FrameHead,
}

impl Taken {
    /// The length of a frame that breaks the specification.
    const BROKEN: u32 = u32::MAX;

    /// Notes where a frame lies in the burst's list: `pieces` slices from index `from` on. `len`: octets of header and
    /// frame; `None`: the frame breaks the specification.
    #[inline(always)]
    pub fn lies(&mut self, len: Option<usize>, from: usize, pieces: usize) {
        // A frame that is longer is refused for its length as well.
        self.len = len.map_or(Taken::BROKEN, |len| len.min(Taken::BROKEN as usize - 1) as u32);
        (self.from, self.pieces) = (from as u32, pieces as u32);
    }

    /// Octets of header and frame. `None`: the frame breaks the specification.
    #[inline]
    pub fn len(&self) -> Option<usize> {
        (self.len != Taken::BROKEN).then_some(self.len as usize)
    }

    /// Octets of the frame behind a net header of `header_len` octets, if that is a legal length.
    #[inline]
    pub fn frame_len(&self, header_len: usize) -> Option<usize> {
        // One comparison: what is broken or too short is larger than any frame.
        let len = (self.len as usize).wrapping_sub(header_len);
        (ETHERNET_LEN..=MAX_FRAME).contains(&len).then_some(len)
    }

    /// Its slices among all of the burst.
    #[inline]
    pub fn slices<'s, 'm>(&self, all: &'s [GuestSlice<'m>]) -> &'s [GuestSlice<'m>] {
        let (from, pieces) = (self.from as usize, self.pieces as usize);
        all.get(from..from + pieces).unwrap_or(&[])
    }

    /// Whether the frame lies in one piece.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.pieces == 1
    }

    /// The frame as one piece. `None`: it lies in several.
    #[inline]
    pub fn plain<'t>(&'t self, slices: &'t SliceList<'_, '_>) -> Option<PlainFrame<'t>> {
        match self.is_plain() {
            true => Some(PlainFrame { slice: slices.get(self.from as usize)?, head: &self.head, begin: Begin::Head }),
            false => None,
        }
    }

    /// The same with another tag, for which `edited` has room. `window`: what was looked at, if that is more than the head.
    #[inline]
    pub fn plain_edited<'t>(
        &'t self,
        slices: &'t SliceList<'_, '_>,
        window: Option<&Window>,
        (cut, put): (bool, u32),
        edited: &'t mut EditedHead,
    ) -> Option<PlainFrame<'t>> {
        let plain = self.plain(slices)?;
        match window {
            None => edited.edit_head(&self.head, cut, put),
            Some(window) => edited.edit_window(window, cut, put),
        }
        let begin = Begin::Edited(edited);
        (plain.slice.len() >= edited.replaced()).then_some(PlainFrame { begin, ..plain })
    }

    /// The same of a frame whose window was looked at.
    #[inline]
    pub fn plain_with<'t>(&'t self, slices: &'t SliceList<'_, '_>, window: &'t Window) -> Option<PlainFrame<'t>> {
        let plain = self.plain(slices).filter(|plain| plain.slice.len() >= WINDOW_LEN)?;
        Some(PlainFrame { begin: Begin::Window(window), ..plain })
    }
}

/// A frame in one piece, which stays in place until the burst is published (`'t`).
#[derive(Clone, Copy)]
pub struct PlainFrame<'t> {
    /// A net header of [`sv3::virtio::NET_HDR_LEN`] octets, and the frame.
    pub slice: &'t GuestSlice<'t>,
    /// The first octets, as they were read first.
    pub head: &'t FrameHead,
    /// What is delivered in place of them.
    pub begin: Begin<'t>,
}

/// The octets that are delivered in place of a plain frame's first ones.
#[derive(Clone, Copy)]
pub enum Begin<'t> {
    /// These octets.
    Head,
    /// The same, and more of them were looked at. The slice is no shorter.
    Window(&'t Window),
    /// With another VLAN tag. The slice is no shorter than what these stand for.
    Edited(&'t EditedHead),
}

impl<'t> PlainFrame<'t> {
    /// What [`super::sink::Outgoing`] needs of the frame: its snapshot, `skip` and its length. With another tag the snapshot
    /// is longer or shorter than the octets that it replaces, so `skip` makes up for the difference: the octets behind the
    /// snapshot begin at `skip` plus the snapshot's length.
    pub fn outgoing(&self) -> (Snapshot<'t>, usize, usize) {
        let len = self.slice.len().saturating_sub(NET_HDR_LEN);
        match self.begin {
            Begin::Head => (Snapshot::Chain(self.head), NET_HDR_LEN, len),
            Begin::Window(window) => {
                (Snapshot::Frame(window.0.get(NET_HDR_LEN..).unwrap_or_default()), NET_HDR_LEN, len)
            }
            Begin::Edited(edited) => {
                let octets = edited.octets();
                let skip = edited.replaced().saturating_sub(octets.len());
                (Snapshot::Frame(octets), skip, (len + NET_HDR_LEN).saturating_sub(skip))
            }
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
