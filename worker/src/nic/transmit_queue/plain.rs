//! Frames that the card sends as they are, in bulk.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::Relaxed;

use super::{NO_OFFLOAD, SPARE, TransmitQueue};
use crate::memory::frame_head::{FrameHead, HEAD_LEN};
use crate::memory::slice::GuestSlice;
use crate::nic::descriptor::{Data, Options};
use crate::nic::memory::CardMemory;
use crate::nic::transmit_area::{LINE, REQUEST};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};

/// What became of frames that were to be put.
#[derive(Default)]
pub struct Put<'f> {
    /// How many were put.
    pub frames: u64,
    /// Their octets.
    pub octets: u64,
    /// The first frame that was not.
    pub left: Option<(&'f GuestSlice<'f>, &'f FrameHead)>,
}

impl TransmitQueue {
    /// Puts frames that are complete and lie in one piece, behind a header as long as a request, with a head. Ends with the
    /// first frame that needs more work, or whose length is not among `lens`, or for which there is no room at once.
    #[inline]
    pub fn put_plain<'f>(
        &mut self,
        memory: &CardMemory,
        frames: &mut impl Iterator<Item = (&'f GuestSlice<'f>, &'f FrameHead)>,
        lens: RangeInclusive<usize>,
    ) -> Put<'f> {
        let mut put = Put::default();
        if self.always_context && self.context != Some(NO_OFFLOAD) {
            put.left = frames.next();
            return put;
        }
        let (ring, (words, octets)) = (self.descriptors(memory), self.area.view(memory));
        let (address, mut limit) = (self.area.address(memory, 0), self.area.limit((self.done, self.end)));
        let data = Data::of(Options { context: self.always_context, ..Options::default() }, 0);
        let mut free = self.ring.0.saturating_sub(self.ring.distance(self.clean, self.tail) + SPARE + 2);
        let (mut tail, mut end, before) = (self.tail, self.end, crash::current());
        for (slice, head) in frames {
            let (with, len) = (slice.len(), slice.len().wrapping_sub(REQUEST));
            let behind = end + with.next_multiple_of(LINE);
            let place = words.get(end / 16..end / 16 + 2);
            let (Some([[first, second], [third, fourth]]), Some([low, high]), true) =
                (place, ring.get(usize::from(tail)), free > 0 && behind <= limit && lens.contains(&len))
            else {
                put.left = Some((slice, head));
                break;
            };
            crash::set_current(&raw const head.0);
            // The request takes the header's place.
            first.store(len as u64, Relaxed);
            second.store(head.0[1] >> 32 << 32, Relaxed);
            third.store(head.0[2], Relaxed);
            fourth.store(head.0[3], Relaxed);
            slice.copy_to(HEAD_LEN, &octets, end + HEAD_LEN, with - HEAD_LEN);
            pass(CrashPoint::Copied);
            let words = data.alone(address + end as u64, len as u16);
            low.store(words[0], Relaxed);
            high.store(words[1], Relaxed);
            end = behind;
            if end >= self.area.size() {
                end = 0;
                limit = self.area.limit((self.done, 0));
            }
            if let Some(place) = self.ends.get_mut(usize::from(tail)) {
                *place = end as u32;
            }
            (tail, free) = (self.ring.behind(tail, 1), free - 1);
            (put.frames, put.octets) = (put.frames + 1, put.octets + len as u64);
        }
        crash::set_current(before);
        if put.frames > 0 {
            (self.last, self.tail, self.end) = (self.ring.before(tail), tail, end);
        }
        put
    }
}
