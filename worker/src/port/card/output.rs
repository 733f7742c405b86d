//! Frames to a card.

use sv3::card::CardModel;
use sv3::drop_reason::DropReason;
use sv3::frame::ETHERNET_LEN;
use sv3::ids::QueueId;
use sv3::virtio::{NET_HDR_LEN, NetHdr, VIRTIO_NET_HDR_GSO_NONE};

use super::queue::{CardQueue, Way};
use crate::memory::copy::Writer;
use crate::memory::frame_head::Snapshot;
use crate::nic::card::Card;
use crate::nic::memory::CardMemory;
use crate::nic::queue_registers::QueueRegisters;
use crate::nic::request::Request;
use crate::nic::transmit_queue::{PIECE, TransmitQueue};
use crate::port::batch::{Begin, PlainFrame};
use crate::port::cost::{DELIVERY, DESCRIPTOR};
use crate::port::sink::{Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};

/// Octets of two VLAN tags (802.1Q, 802.1ad).
const TAGS: usize = 8;
/// Octets of the shortest frame, without its check sequence (802.3-2022, 4.4.2). A virtual function's card may be told
/// not to pad.
const SHORTEST: usize = 60;

/// What goes out by a queue pair.
pub struct Output {
    /// Which queue it is.
    pub(super) id: QueueId,
    /// The card's queue.
    pub queue: TransmitQueue,
    /// There is a link.
    pub is_up: bool,
    /// How many frames it took in total.
    pub(super) position: u16,
    /// Octets of the longest frame on the wire.
    pub(super) longest: usize,
}

impl Output {
    /// See [`TransmitQueue::open`].
    pub fn open(memory: &CardMemory, id: QueueId, registers: QueueRegisters, goes_on: bool) -> Output {
        let settings = memory.settings();
        let always_context = settings.model == CardModel::IxgbeVf;
        Output {
            id,
            queue: TransmitQueue::open(memory, id.pair(), registers, goes_on, always_context),
            is_up: false,
            position: 0,
            longest: usize::from(settings.mtu) + ETHERNET_LEN + TAGS,
        }
    }

    #[inline]
    fn send(
        &mut self,
        card: &Card,
        state: &mut DeliveryState<'_>,
        frame: &Outgoing<'_, '_, '_>,
    ) -> Result<(), Undelivered> {
        state.cost += DELIVERY + DESCRIPTOR + frame.len as u64;
        if frame.hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE && frame.len > self.longest {
            return Err(Undelivered::Dropped(DropReason::RxTooSmall));
        }
        if state.stay.on {
            return self.send_or_leave(card, state, frame);
        }
        self.copy(card, state, frame, false)
    }

    /// Sends a copy of a frame. `again`: see [`Request::again`].
    #[inline(always)]
    pub(super) fn copy(
        &mut self,
        card: &Card,
        state: &mut DeliveryState<'_>,
        frame: &Outgoing<'_, '_, '_>,
        again: bool,
    ) -> Result<(), Undelivered> {
        let len = frame.len.max(SHORTEST);
        let place = self.queue.find(&card.memory, len).map_err(|fault| Undelivered::Fault(fault.into()))?;
        let Some(place) = place else {
            state.missed = self.position;
            return Err(Undelivered::Dropped(DropReason::RxNoBuffers));
        };
        frame.write_frame(Writer::new(&[place.frame]));
        if len > frame.len {
            place.frame.write(frame.len, &[0; SHORTEST]);
        }
        let request = Request { again, ..Request::prepare(frame.hdr, &place.frame) };
        if request.longest() as usize > self.longest {
            return Err(Undelivered::Dropped(DropReason::RxTooSmall));
        }
        pass(CrashPoint::Copied);
        self.queue.put(&card.memory, &place, &request);
        self.position = self.position.wrapping_add(1);
        pass(CrashPoint::Entered);
        Ok(())
    }
}

impl Sink for CardQueue {
    type Workspace = ();

    fn deliver<'t>(
        &mut self,
        _: &mut (),
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        match &mut self.way {
            Way::Out(output) => output.send(&self.card, state, frame),
            Way::In(_) => Err(Undelivered::Dropped(DropReason::RxDown)),
        }
    }

    #[inline]
    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        _: bool,
    ) -> Delivered {
        let (mut delivered, Way::Out(output)) = (Delivered::default(), &mut self.way) else {
            return Delivered::default();
        };
        // The rings know heads only. A frame of which more was looked at is sent for itself.
        let plain = |PlainFrame { slice, head, begin }| match begin {
            Begin::Head => Some((slice, head)),
            Begin::Window(_) | Begin::Edited(_) => None,
        };
        let mut frames = frames.take(most).map_while(plain);
        let longest = output.longest.min(PIECE);
        loop {
            let longest = if state.stay.on { output.longest_plain(&state.stay) } else { longest };
            let put = output.queue.put_plain(&self.card.memory, &mut frames, SHORTEST..=longest);
            output.position = output.position.wrapping_add(put.frames as u16);
            delivered.frames += put.frames;
            delivered.octets += put.octets;
            state.cost += put.frames * (DELIVERY + DESCRIPTOR) + put.octets;
            pass(CrashPoint::Entered);
            let Some((slice, head)) = put.left else { break };
            let Some(len) = slice.len().checked_sub(NET_HDR_LEN) else { break };
            let (hdr, slices, snapshot) = (&NetHdr::NONE, &[*slice], Snapshot::Chain(head));
            let frame = Outgoing { hdr, slices, skip: NET_HDR_LEN, len, snapshot, plain: None };
            if crash::with_current(&head.0, || output.send(&self.card, state, &frame)).is_err() {
                break;
            }
            delivered.frames += 1;
            delivered.octets += len as u64;
        }
        delivered
    }

    #[inline]
    fn position(&self) -> u16 {
        match &self.way {
            Way::Out(output) => output.position,
            Way::In(_) => 0,
        }
    }

    #[inline]
    fn is_ready(&self, cursor: u16) -> bool {
        match &self.way {
            Way::Out(output) => output.position != cursor || output.queue.has_news(&self.card.memory),
            Way::In(_) => true,
        }
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        self.interrupts.acknowledge(&self.card.bar, self.vector);
        self.interrupts.unmask(&self.card.bar, self.vector);
        self.is_ready(cursor)
    }
}
