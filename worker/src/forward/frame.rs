//! A frame that is to be forwarded.

use sv3::frame::MacAddr;

use super::offload::Offload;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::batch::PlainFrame;

/// A frame as it came from a port, or, for RARP, from ourselves in its name. `'t` lasts until the burst is published.
pub struct Frame<'a, 't, 'm> {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What a receiver that has several queues chooses one by: the same for all frames of a transmit queue.
    pub flow: u16,
    /// Checked offloads.
    pub offload: &'a Offload,
    /// Where it lies.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets of the slices in front of the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// Those that are delivered as they were looked at.
    pub snapshot: Snapshot<'a>,
    /// The same frame, if it lies in one piece with a header of [`sv3::virtio::NET_HDR_LEN`] octets.
    pub plain: Option<PlainFrame<'t>>,
}
