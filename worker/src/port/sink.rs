//! Where frames go: what the forwarder asks of a queue that its guest receives on, of whatever kind.

use sv3::drop_reason::DropReason;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::virtio::{NET_HDR_LEN_LEGACY, NetHdr};

use super::batch::PlainFrame;
use crate::memory::copy::Writer;
use crate::memory::deferred::DeferredCopies;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;

/// A frame on its way out: a header, and octets in slices.
#[derive(Clone, Copy)]
pub struct Outgoing<'a, 't, 'm> {
    /// The header for the receiver; `num_buffers` is the sink's to set.
    pub hdr: &'a NetHdr,
    /// The slices that the frame lies in.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets of the slices in front of the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// Those that are not to be read again.
    pub snapshot: Snapshot<'a>,
    /// The same frame, if it lies in one piece with a header of [`sv3::virtio::NET_HDR_LEN`] octets.
    pub plain: Option<PlainFrame<'t>>,
}

impl Outgoing<'_, '_, '_> {
    /// Writes header and frame into `buffers` of the receiver, which have room for both.
    #[inline(always)]
    pub fn write(&self, buffers: &[GuestSlice<'_>], header_len: usize, num_buffers: u16) {
        let whole = NetHdr { num_buffers, ..*self.hdr }.to_bytes();
        let hdr = if header_len == NET_HDR_LEN_LEGACY { &whole[..NET_HDR_LEN_LEGACY] } else { &whole[..] };
        let mut writer = Writer::new(buffers);
        writer.write(hdr);
        let (Outgoing { slices, skip, len, snapshot, .. }, mut room) = (*self, [0; HEAD_LEN]);
        let snapshot = snapshot.octets((skip, len), &mut room);
        writer.write(snapshot);
        writer.copy(slices, skip + snapshot.len(), len - snapshot.len());
    }
}

/// What was delivered.
#[derive(Clone, Copy, Default)]
pub struct Delivered {
    /// Frames.
    pub frames: u64,
    /// Octets of them.
    pub octets: u64,
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug)]
pub enum Undelivered {
    /// Counted against the receiver.
    Dropped(DropReason),
    /// The queue is broken and must stop.
    Fault(RingFault),
}

/// What a paused frame waits for: a buffer of a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferWait {
    /// The receiver.
    pub queue: QueueId,
    /// Which buffer, in the sink's own counting ([`DeliveryState::missed`]).
    pub cursor: u16,
}

/// What deliveries of one burst leave behind for the burst.
pub struct DeliveryState<'t> {
    /// Copies that wait until all of the burst has been looked at.
    pub deferred: DeferredCopies<'t>,
    /// What deliveries have cost ([`super::cost`]).
    pub cost: u64,
    /// Which buffer the last frame without enough of them did not find.
    pub missed: u16,
}

/// A receive queue. Nothing that is delivered is visible to the guest before the queue is published.
pub trait Sink {
    /// Room that a thread needs to deliver to queues of this kind, made once.
    type Workspace;

    /// Delivers a frame, all of it or nothing.
    fn deliver<'t>(
        &mut self,
        workspace: &mut Self::Workspace,
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered>;

    /// Delivers up to `most` frames without offloads as long as that is easy. The first one that is not is left to
    /// [`Sink::deliver`].
    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
    ) -> Delivered;

    /// Where the next frame goes, in the sink's own counting: it changes with each frame that is delivered.
    fn position(&self) -> u16;

    /// Whether the buffer that a frame missed is there, or it is not missed any more.
    fn is_ready(&self, cursor: u16) -> bool;

    /// Asks for a kick when it is. True: [`Sink::is_ready`] already.
    fn arm_at(&mut self, cursor: u16) -> bool;
}
