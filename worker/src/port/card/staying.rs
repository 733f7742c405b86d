//! Frames to a card that reads guests' memory.
//!
//! A long frame is left where it is but for its first octets: those that were checked, and all headers that the card is to
//! look at, are copied, so that what is sent is what was checked. The sender's ring keeps the frame until the card has read
//! it ([`crate::port::vring::held`]), and keeps the frames behind it. Copies of those do not outlive the worker
//! ([`Request::again`]): the next one finds them in the ring, behind that frame.

use sv3::card::{Statistic, guest_iova};
use sv3::virtio::VIRTIO_NET_HDR_F_NEEDS_CSUM;

use super::output::Output;
use crate::memory::copy::Writer;
use crate::memory::frame_head::HEAD_LEN;
use crate::memory::slice::GuestSlice;
use crate::nic::card::Card;
use crate::nic::fault::Fault;
use crate::nic::request::Request;
use crate::nic::statistics;
use crate::nic::transmit_area::{LINE, REQUEST};
use crate::nic::transmit_queue::PIECE;
use crate::port::sink::{DeliveryState, Mark, Outgoing, Stay, Undelivered};
use crate::process::crash_points::{CrashPoint, pass};

/// From this length on, a frame that may stay where it is is not copied. A copy of 1,514 octets takes fewer cycles than
/// descriptors and completion (docs/measured/data-path.md).
const STAYS_FROM: usize = 3072;
/// Octets in front of such a frame that are copied: with the request, one line.
const HEAD: usize = LINE - REQUEST;
/// The same if the card is to look at headers: four lines.
const HEADERS: usize = 4 * LINE - REQUEST;
/// Most pieces of such a frame. The 82599 takes 40 descriptors (7.2.3.3), and some are for the head and the context.
const PIECES: usize = 36;

impl Output {
    /// The longest frame that is copied without a further look.
    pub(super) fn longest_plain(&self, stay: &Stay) -> usize {
        match (stay.keeps(self.id), stay.may_at(self.id)) {
            // Each is to be counted.
            (true, _) => 0,
            (false, true) => self.longest.min(STAYS_FROM - 1),
            (false, false) => self.longest.min(PIECE),
        }
    }

    /// Sends a frame of a burst whose frames may stay. Its length was checked.
    #[cold]
    #[inline(never)]
    pub(super) fn send_or_leave(
        &mut self,
        card: &Card,
        state: &mut DeliveryState<'_>,
        frame: &Outgoing<'_, '_, '_>,
    ) -> Result<(), Undelivered> {
        let may_stay = state.stay.may_at(self.id) && frame.len >= STAYS_FROM && card.memory.settings().zero_copy;
        let has_left = may_stay && self.leave(card, frame).map_err(|fault| Undelivered::Fault(fault.into()))?;
        let keeps = has_left || state.stay.keeps(self.id);
        if !has_left {
            self.copy(card, state, frame, keeps)?;
        }
        if keeps {
            state.stay.mark = Some(Mark { queue: self.id, number: self.queue.kept() });
        }
        Ok(())
    }

    /// Leaves a frame where it is. False: it must be copied whole, or there is no room.
    fn leave(&mut self, card: &Card, frame: &Outgoing<'_, '_, '_>) -> Result<bool, Fault> {
        let asks = frame.hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
        let mut room = [0; HEAD_LEN];
        let snapshot = frame.snapshot.octets((frame.skip, frame.len), &mut room);
        // Only a frame whose headers are longer has a longer snapshot than this.
        let head = if asks { HEADERS } else { HEAD }.max(snapshot.len());
        let count = pieces(frame.slices, frame.skip + head).take(PIECES + 1).count();
        if frame.len <= head || count > PIECES {
            return Ok(false);
        }
        let Some(place) = self.queue.find_part(&card.memory, head, count)? else { return Ok(false) };
        let begin = Outgoing { len: head, ..*frame };
        begin.write_frame(Writer::new(&[place.frame]));
        let Some(request) = Request::prepare_head(frame.hdr, &place.frame, frame.len) else { return Ok(false) };
        if request.longest() as usize > self.longest {
            return Ok(false);
        }
        pass(CrashPoint::Copied);
        self.queue.put_part(&card.memory, &place, &request, pieces(frame.slices, frame.skip + head));
        self.position = self.position.wrapping_add(1);
        statistics::count(card.memory.state(), Statistic::ZeroCopy, 1);
        pass(CrashPoint::Entered);
        Ok(true)
    }
}

/// What lies in slices behind `skip` octets, by the card's addresses, in pieces of at most [`PIECE`] octets.
fn pieces<'s>(slices: &'s [GuestSlice<'_>], skip: usize) -> impl Iterator<Item = (u64, usize)> + 's {
    let mut before = skip;
    slices.iter().flat_map(move |slice| {
        let from = before.min(slice.len());
        before -= from;
        let (first, len) = (slice.address() + from, slice.len() - from);
        (0..len).step_by(PIECE).map(move |at| (guest_iova(first + at), (len - at).min(PIECE)))
    })
}
