//! Where frames go: what the forwarder asks of a queue on which the guest receives, whatever its kind.

use sv3::drop_reason::DropReason;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::virtio::{NET_HDR_LEN_LEGACY, NetHdr};

use super::batch::PlainFrame;
use crate::memory::copy::Writer;
use crate::memory::deferred::DeferredCopies;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;

/// A frame to be delivered: a header, and octets in slices.
#[derive(Clone, Copy)]
pub struct Outgoing<'a, 't, 'm> {
    /// The header for the receiver. The sink sets `num_buffers`.
    pub hdr: &'a NetHdr,
    /// The slices that hold the frame.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets in the slices before the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// The octets that must not be read again.
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
        self.write_frame(writer);
    }

    /// Writes the frame alone, to where there is room for it.
    #[inline(always)]
    pub fn write_frame(&self, mut writer: Writer<'_, '_>) {
        let (Outgoing { slices, skip, len, snapshot, .. }, mut room) = (*self, [0; HEAD_LEN]);
        let snapshot = snapshot.octets((skip, len), &mut room);
        writer.write(snapshot);
        writer.copy(slices, skip + snapshot.len(), len - snapshot.len());
    }
}

/// How much was delivered.
#[derive(Clone, Copy, Default)]
pub struct Delivered {
    /// Number of frames.
    pub frames: u64,
    /// Octets of these frames.
    pub octets: u64,
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug)]
pub enum Undelivered {
    /// To be counted against the receiver, unless the sender waits for its buffers.
    Dropped(DropReason),
    /// To be counted against the sender: the frame can be sent to nobody.
    Unsendable(DropReason),
    /// The queue is broken and must stop.
    Fault(RingFault),
}

/// What a paused frame waits for: a buffer of a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferWait {
    /// The receiver.
    pub queue: QueueId,
    /// Which buffer, in the sink's own numbers ([`DeliveryState::missed`]).
    pub cursor: u16,
}

/// Up to where a card must have sent, so that it reads frames no more that were left where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The card's queue.
    pub queue: QueueId,
    /// The number of a frame, in the card's own numbers.
    pub number: u64,
}

/// Whether a card may read frames of a burst where they are. The sender's ring keeps such frames until the card has read
/// them ([`super::vring::held`]), and keeps frames behind them.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    /// All else here counts.
    pub on: bool,
    /// A card may read frames of this burst where they are, if that pays.
    pub may: bool,
    /// The card's queue that reads frames of earlier bursts.
    pub behind: Option<QueueId>,
    /// Up to where the card must be done until frames of this burst are.
    pub mark: Option<Mark>,
}

impl Stay {
    /// All frames are copied.
    pub const OFF: Stay = Stay { on: false, may: false, behind: None, mark: None };

    /// Whether a queue of a card may read the next frame where it is.
    pub fn may_at(&self, queue: QueueId) -> bool {
        // One ring waits for one queue at a time.
        self.may && self.behind.is_none_or(|other| other == queue)
    }

    /// Whether the sender's ring keeps the next frame to this queue even if it is copied, since it keeps one before it. If
    /// the worker dies, the next one sends the copy no more: it would overtake that frame.
    pub fn keeps(&self, queue: QueueId) -> bool {
        self.on && (self.behind == Some(queue) || self.mark.is_some_and(|mark| mark.queue == queue))
    }
}

/// What the deliveries of one burst leave to the burst.
pub struct DeliveryState<'t> {
    /// Copies that wait until the whole burst has been read.
    pub deferred: DeferredCopies<'t>,
    /// The cost of the deliveries ([`super::cost`]).
    pub cost: u64,
    /// Which buffer was missing for the last frame that did not find enough.
    pub missed: u16,
    /// The time, in nanoseconds of CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// Whether a card may read frames where they are.
    pub stay: Stay,
}

impl DeliveryState<'_> {
    /// Does `work` with frames that are all copied.
    pub fn without_stay<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let may = std::mem::take(&mut self.stay.may);
        let done = work(self);
        self.stay.may = may;
        done
    }
}

/// A receive queue. The guest sees nothing that is delivered before the queue is published.
pub trait Sink {
    /// Room that a thread needs to deliver to queues of this kind. Made once.
    type Workspace;

    /// Delivers a whole frame or nothing.
    fn deliver<'t>(
        &mut self,
        workspace: &mut Self::Workspace,
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered>;

    /// Delivers up to `most` frames without offloads, whose checksums were `verified` or not. Stops at the first frame that
    /// needs more work; [`Sink::deliver`] takes that one.
    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered;

    /// For how many frames, `most` at most, there are buffers now, if each goes to one; and the most octets of such a frame.
    /// None, if the sink cannot say.
    fn room(&mut self, _most: usize) -> (usize, usize) {
        (0, 0)
    }

    /// The position of the next frame, in the sink's own numbers. Each delivered frame changes it.
    fn position(&self) -> u16;

    /// Whether the buffer at `cursor` has come, or the queue has moved past it.
    fn is_ready(&self, cursor: u16) -> bool;

    /// Asks for a kick when the buffer comes. True: [`Sink::is_ready`] already.
    fn arm_at(&mut self, cursor: u16) -> bool;
}
