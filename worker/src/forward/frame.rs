//! A frame to be forwarded.

use sv3::frame::MacAddr;

use super::offload::Offload;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::batch::PlainFrame;

/// A frame that came from a port, or a RARP frame that the worker sends in the port's name. `'t` lasts until the
/// burst is published.
pub struct Frame<'a, 't, 'm> {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Selects one queue of a receiver that has several. The same for all frames of one transmit queue.
    pub flow: u16,
    /// Checked offloads.
    pub offload: &'a Offload,
    /// The slices that hold the frame.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets in the slices before the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// The octets that are delivered exactly as they were read first.
    pub snapshot: Snapshot<'a>,
    /// The same frame, if it lies in one piece with a header of [`sv3::virtio::NET_HDR_LEN`] octets.
    pub plain: Option<PlainFrame<'t>>,
}

impl<'a, 'm> Frame<'a, '_, 'm> {
    /// A frame of the worker's own memory.
    pub fn complete(dst: MacAddr, src: MacAddr, slices: &'a [GuestSlice<'m>], len: usize) -> Self {
        let (offload, snapshot) = (Offload::NONE, Snapshot::NOTHING);
        Frame { dst, src, flow: 0, offload, slices, skip: 0, len, snapshot, plain: None }
    }
}
