//! Ports whose frames are in memory, for tests and fuzzers only. This kind shows what a kind is, and that nothing
//! else in the data path needs to know about it.
//!
//! Each frame starts with a net header of 12 octets, like the frames of a tap device.

#[cfg(test)]
mod tests;

use sv3::drop_reason::DropReason;
use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;
use sv3::virtio::{NET_HDR_LEN, NetHdr, VIRTIO_NET_F_GUEST_CSUM};

use super::batch::{Batch, PlainFrame, Taken};
use super::cost::{DELIVERY, DESCRIPTOR, FRAME, RING};
use super::counting::Counting;
use super::kind::Kind;
use super::sink::{Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use super::source::Source;
use crate::memory::slice::GuestSlice;

/// One queue. Its direction says which fields are used.
#[derive(Default)]
pub struct InMemory {
    /// The virtio features that its frames' headers may use.
    pub features: u64,
    /// Closed, or broken.
    pub closed: Option<RingFault>,
    /// Transmit: frames to be sent, oldest first.
    pub to_send: Vec<Vec<u8>>,
    /// Transmit: how many frames are done and not given back yet.
    completed: usize,
    /// Receive: how many more frames it takes.
    pub room: usize,
    /// Receive: frames that are not published yet.
    pending: Vec<Vec<u8>>,
    /// Receive: frames that arrived, oldest first.
    pub received: Vec<Vec<u8>>,
    /// Receive: how many frames it got in total.
    delivered: u16,
}

/// The source of one burst.
pub struct MemorySource<'m> {
    frames: std::slice::IterMut<'m, Vec<u8>>,
    completed: &'m mut usize,
}

impl InMemory {
    /// An open queue without frames, with room for `room` frames.
    pub fn new(features: u64, room: usize) -> InMemory {
        InMemory { features, room, ..InMemory::default() }
    }

    /// Its frames, for a burst.
    pub fn source(&mut self) -> MemorySource<'_> {
        MemorySource { frames: self.to_send.iter_mut(), completed: &mut self.completed }
    }
}

impl<'m> Source<'m> for MemorySource<'m> {
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let (mut cost, mut ahead) = (0, 0);
        while batch.count < batch.places.len() && cost + ahead < budget {
            let Some(frame) = self.frames.next() else { break };
            let (len, from) = (frame.len(), batch.slices.len());
            if !batch.slices.push(GuestSlice::of_host(frame)) {
                break;
            }
            batch.places[batch.count].lies(Some(len), from, 1);
            batch.count += 1;
            cost += FRAME + DESCRIPTOR;
            ahead += DELIVERY + len as u64;
        }
        Ok(cost)
    }

    fn complete(&mut self, done: &[Taken]) {
        *self.completed += done.len();
    }
}

impl Sink for InMemory {
    type Workspace = ();

    fn deliver<'t>(
        &mut self,
        _: &mut (),
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        state.cost += DELIVERY + frame.len as u64;
        let Some(room) = self.room.checked_sub(1) else {
            state.missed = self.delivered;
            return Err(Undelivered::Dropped(DropReason::RxNoBuffers));
        };
        let mut octets = vec![0; NET_HDR_LEN + frame.len];
        frame.write(&[GuestSlice::of_host(&mut octets)], NET_HDR_LEN, 1);
        self.pending.push(octets);
        self.room = room;
        self.delivered = self.delivered.wrapping_add(1);
        Ok(())
    }

    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let verified = verified && VIRTIO_NET_F_GUEST_CSUM.of(self.features);
        for plain in frames.take(most) {
            let (hdr, slices) = (NetHdr::of_complete(verified), &[*plain.slice]);
            let (snapshot, skip, len) = plain.outgoing();
            let frame = Outgoing { hdr, slices, skip, len, snapshot, plain: None };
            if self.deliver(&mut (), state, &frame).is_err() {
                break;
            }
            delivered.frames += 1;
            delivered.octets += len as u64;
        }
        delivered
    }

    fn room(&mut self, most: usize) -> (usize, usize) {
        (most.min(self.room), usize::MAX)
    }

    fn position(&self) -> u16 {
        self.delivered
    }

    fn is_ready(&self, cursor: u16) -> bool {
        self.room > 0 || self.delivered != cursor
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        self.is_ready(cursor)
    }
}

impl Kind for InMemory {
    fn runs(&self) -> bool {
        self.closed.is_none()
    }

    fn fault(&self) -> Option<RingFault> {
        self.closed
    }

    fn break_with(&mut self, fault: RingFault) {
        self.closed = Some(fault);
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn header_len(&self) -> usize {
        NET_HDR_LEN
    }

    fn arm(&mut self) -> bool {
        !self.to_send.is_empty()
    }

    fn disarm(&mut self) {}

    fn publish(&mut self, _: &PortCounters, _: u16, _: Counting) {
        self.to_send.drain(..self.completed);
        self.completed = 0;
        self.received.append(&mut self.pending);
    }

    fn publish_cost(&self) -> u64 {
        RING
    }
}
