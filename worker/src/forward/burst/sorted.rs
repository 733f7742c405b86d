//! Frames of one burst that go to several receivers in turn.
//!
//! # Theory of operation
//!
//! A look-up and a delivery for each frame alone cost twice as much as a run of frames to one receiver. So if a run is short,
//! the frames behind it are sorted by receiver first: [`Sorter`] has a list of frames for each. Then each list is delivered
//! as a run.
//!
//! What receivers see does not change. A list keeps the order, so each receiver gets its frames in the order in which they
//! were sent. Only plain frames to known addresses from known addresses are sorted. The first frame of any other kind ends
//! the sorting, so no frame passes a flood.
//!
//! A sender's frames are given back in order, so a frame that must wait for its receiver's buffers would make frames behind
//! it, which others already have, come again. So a list is no longer than the receiver has buffers for, and the first frame
//! behind it ends the sorting as well. A guest that offers a buffer and then cannot take a frame with it loses that frame.

use sv3::frame::MacAddr;

use super::{MAX_BATCH, Sender, Sending};
use crate::forward::sending::Room;
use crate::memory::slice_list::SliceList;
use crate::port::batch::Taken;
use crate::port::cost::{DELIVERY, DESCRIPTOR};
use crate::port::sink::Delivered;

/// A run is short if fewer frames than these follow its first one.
pub const SHORT: usize = 4;
/// Most receivers among which frames are sorted.
const MAX_LISTS: usize = 16;
/// Addresses whose list is remembered. A power of two.
const KNOWN: usize = 16;
/// No address.
const NONE: (u64, u8) = (u64::MAX, 0);

/// Sorts the frames of a burst by receiver. Frames are numbers: places in the burst.
pub struct Sorter {
    lists: [List; MAX_LISTS],
    /// How many lists there are.
    count: usize,
    /// The frame behind each one in its list.
    next: [u8; MAX_BATCH],
    /// Destinations and their lists, each at a place that its last octet says.
    known: [(u64, u8); KNOWN],
}

/// The frames to one receiver.
#[derive(Clone, Copy, Default)]
struct List {
    room: Room,
    first: u8,
    last: u8,
    len: u16,
}

impl Sorter {
    /// Has no frames.
    pub fn new() -> Sorter {
        Sorter { lists: [List::default(); MAX_LISTS], count: 0, next: [0; MAX_BATCH], known: [NONE; KNOWN] }
    }

    fn clear(&mut self) {
        self.count = 0;
        self.known = [NONE; KNOWN];
    }

    /// The list of frames to this address. `None`: they cannot be sorted.
    #[inline]
    fn list(&mut self, sending: &mut Sending<'_, '_>, dst: MacAddr, flow: u16) -> Option<usize> {
        let place = dst.bits() as usize % KNOWN;
        match self.known.get(place) {
            Some((known, list)) if *known == dst.bits() => Some((*list).into()),
            _ => self.seek(sending, dst, flow),
        }
    }

    #[inline(never)]
    fn seek(&mut self, sending: &mut Sending<'_, '_>, dst: MacAddr, flow: u16) -> Option<usize> {
        let at = sending.receiver(dst, flow)?;
        let list = match self.lists.iter().take(self.count).position(|list| list.room.at == at) {
            Some(list) => list,
            None => {
                let room = sending.room(at, MAX_BATCH)?;
                *self.lists.get_mut(self.count)? = List { room, ..List::default() };
                self.count += 1;
                self.count - 1
            }
        };
        *self.known.get_mut(dst.bits() as usize % KNOWN)? = (dst.bits(), list as u8);
        Some(list)
    }

    /// Adds frame number `frame`, of `len` octets, to a list. False: the receiver has no buffer for it.
    #[inline]
    fn add(&mut self, list: usize, frame: usize, len: usize) -> bool {
        let Some(list) = self.lists.get_mut(list) else { return false };
        if usize::from(list.len) >= list.room.frames || len > list.room.longest {
            return false;
        }
        match list.len {
            0 => list.first = frame as u8,
            _ => {
                if let Some(next) = self.next.get_mut(usize::from(list.last)) {
                    *next = frame as u8;
                }
            }
        }
        list.last = frame as u8;
        list.len += 1;
        true
    }

    /// The frames of a list, from one of them on.
    #[inline]
    fn from(&self, first: u8) -> impl Iterator<Item = usize> {
        let mut at = first;
        std::iter::repeat_with(move || {
            let frame = usize::from(at);
            at = self.next.get(frame).copied().unwrap_or(0);
            frame
        })
    }
}

impl Sender<'_> {
    /// Sends frames from number `first` on, sorted by receiver, while they are plain and ask for the same as the one before.
    /// Returns how many there were, all of which are done, and what was forwarded of them.
    #[inline(never)]
    pub(super) fn send_sorted<'t>(
        &self,
        sorter: &mut Sorter,
        sending: &mut Sending<'_, 't>,
        taken: &'t [Taken],
        slices: &'t SliceList<'_, '_>,
        first: usize,
    ) -> (usize, Delivered) {
        let Some(one) = first.checked_sub(1).and_then(|before| taken.get(before)) else {
            return (0, Delivered::default());
        };
        sorter.clear();
        let (asks, verified) = (one.head.asks(), self.is_verified(one));
        let (mut end, mut cost) = (first, 0);
        while let Some(next) = taken.get(end).filter(|_| sending.cost() + cost < self.budget) {
            let Some(len) = self.plain_len(next, asks) else { break };
            let (dst, src) = next.head.addresses(self.header_len);
            if !sending.has_learnt(src) {
                break;
            }
            let list = sorter.list(sending, dst, self.flow);
            if !list.is_some_and(|list| sorter.add(list, end, len)) {
                break;
            }
            cost += DELIVERY + DESCRIPTOR + len as u64;
            end += 1;
        }
        let mut forwarded = Delivered::default();
        for at in 0..sorter.count {
            let Some(list) = sorter.lists.get(at).filter(|list| list.len > 0).copied() else { continue };
            let sent = self.send_list(sorter, list, sending, (taken, slices), verified);
            forwarded.frames += sent.frames;
            forwarded.octets += sent.octets;
        }
        (end - first, forwarded)
    }

    /// Sends the frames of one list. All of them are done then.
    #[inline]
    fn send_list<'t>(
        &self,
        sorter: &Sorter,
        list: List,
        sending: &mut Sending<'_, 't>,
        (taken, slices): (&'t [Taken], &'t SliceList<'_, '_>),
        verified: bool,
    ) -> Delivered {
        let (mut forwarded, mut left, mut first) = (Delivered::default(), usize::from(list.len), list.first);
        loop {
            let plain = sorter.from(first).map_while(|frame| taken.get(frame)?.plain(slices));
            let run = sending.deliver_run(list.room.at, plain, left, verified);
            forwarded.frames += run.frames;
            forwarded.octets += run.octets;
            left = left.saturating_sub(run.frames as usize);
            if left == 0 {
                return forwarded;
            }
            // This one needs more work, such as a look-up of its buffer in another region.
            let mut rest = sorter.from(first).skip(run.frames as usize);
            let Some((at, frame)) = rest.next().and_then(|at| Some((at, taken.get(at)?))) else { return forwarded };
            let octets = self.send_alone(sending, (at, frame), slices);
            forwarded.frames += u64::from(octets.is_some());
            forwarded.octets += octets.unwrap_or(0) as u64;
            left -= 1;
            if left == 0 {
                return forwarded;
            }
            first = rest.next().unwrap_or(0) as u8;
        }
    }

    /// Sends a frame that cannot wait, since frames behind it are sent. Returns its octets if it was forwarded.
    #[cold]
    fn send_alone<'t>(
        &self,
        sending: &mut Sending<'_, 't>,
        one: (usize, &'t Taken),
        slices: &'t SliceList<'_, '_>,
    ) -> Option<usize> {
        let may_pause = std::mem::replace(&mut sending.may_pause, false);
        let sent = self.send::<false>(sending, one, slices);
        sending.may_pause = may_pause;
        match sent {
            Ok(octets) => Some(octets),
            Err(unsent) => {
                sending.count_drop(unsent.reason());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
