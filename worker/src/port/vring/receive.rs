//! Frames into a vring on which the guest receives (virtio 1.3, 5.1.6.4).
//!
//! Buffers for the whole frame are reserved before an octet is written. So the guest either gets the whole frame, in
//! one buffer or, with MRG_RXBUF, in several; or it gets nothing and keeps its buffers. The only exception is a
//! buffer that breaks the specification. It goes back empty, so that it does not block the ring.

use sv3::drop_reason::DropReason;
use sv3::ids::Direction;
use sv3::ledger::JOURNAL_LEN;
use sv3::virtio::{NET_HDR_LEN, NetHdr, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF};

use super::chain::Walker;
use super::queue::{Queue, either};
use super::state::Vring;
use super::virtqueue::{Chain, Virtqueue};
use crate::memory::slice_list::{Arena, SliceList};
use crate::port::batch::{Begin, MAX_SLICES, PlainFrame};
use crate::port::cost::{DELIVERY, DESCRIPTOR};
use crate::port::kind::Kind;
use crate::port::sink::{Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use crate::process::crash_points::{CrashPoint, pass};

/// Buffers reserved for a frame.
pub struct Workspace {
    arena: Arena,
    /// The reserved chains.
    chains: Vec<Chain>,
}

/// What the receiver negotiated.
#[derive(Clone, Copy)]
struct Format {
    header_len: usize,
    mergeable: bool,
}

/// Octets of a cache line.
const LINE: usize = 64;
/// Most buffers of one frame. They are published at once.
const MAX_CHAINS: usize = JOURNAL_LEN;

impl Workspace {
    /// Room for reservations. Made once.
    pub fn new() -> Workspace {
        Workspace { arena: Arena::new(2 * MAX_SLICES), chains: Vec::with_capacity(MAX_CHAINS) }
    }
}

impl Sink for Vring {
    type Workspace = Workspace;

    #[inline(always)]
    fn deliver<'t>(
        &mut self,
        workspace: &mut Workspace,
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        let format = Format { header_len: self.header_len(), mergeable: VIRTIO_NET_F_MRG_RXBUF.of(self.features) };
        let Vring { queue, memory, features, .. } = self;
        let queue = queue.as_mut().ok_or(Undelivered::Dropped(DropReason::RxDown))?;
        let walker = Walker { memory, features: *features, direction: Direction::Receive };
        either!(queue, queue => Filling { queue, walker, state }.put(workspace, format, frame))
    }

    #[inline]
    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        if self.header_len() != NET_HDR_LEN {
            return Delivered::default();
        }
        let Vring { queue, memory, features, .. } = self;
        let Some(queue) = queue else { return Delivered::default() };
        let walker = Walker { memory, features: *features, direction: Direction::Receive };
        let hdr = NetHdr::of_complete(verified && VIRTIO_NET_F_GUEST_CSUM.of(*features));
        either!(queue, queue => Filling { queue, walker, state }.put_plain(hdr, frames, most))
    }

    fn room(&mut self, most: usize) -> (usize, usize) {
        let is_plain = self.header_len() == NET_HDR_LEN && self.fault.is_none();
        let Vring { queue: Some(queue), memory, features, .. } = self else { return (0, 0) };
        if !is_plain {
            return (0, 0);
        }
        let walker = Walker { memory, features: *features, direction: Direction::Receive };
        let (mut buffer, mut cursor) = (0, queue.position());
        let frames = either!(queue, queue => {
            let ready = queue.ready(most.min(MAX_CHAINS) as u16);
            queue.take_plain(&mut cursor, &walker, 1, |_, slice| {
                buffer = slice.len();
                false
            });
            ready
        });
        (frames.into(), buffer.saturating_sub(NET_HDR_LEN))
    }

    #[inline]
    fn position(&self) -> u16 {
        self.queue.as_ref().map_or(0, Queue::position)
    }

    #[inline]
    fn is_ready(&self, cursor: u16) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.is_ready(cursor))
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        self.queue.as_mut().is_none_or(|queue| queue.arm_at(cursor))
    }
}

/// A receive queue with the state of a delivery.
struct Filling<'q, 's, 't, 'r, Q> {
    queue: &'q mut Q,
    walker: Walker<'r>,
    state: &'s mut DeliveryState<'t>,
}

impl<'t, 'r, Q: Virtqueue> Filling<'_, '_, 't, 'r, Q> {
    #[inline]
    #[allow(unsafe_code)] // guest memory, beyond the borrow of it
    fn put_plain(&mut self, hdr: &NetHdr, mut frames: impl Iterator<Item = PlainFrame<'t>>, most: usize) -> Delivered {
        let hdr = NetHdr { num_buffers: 1, ..*hdr }.to_words();
        self.reserve(most);
        self.state.deferred.make_room(most);
        let mut places = self.state.deferred.places();
        let mut octets = 0;
        let frames = self.queue.fill_plain(&self.walker, most, |to| {
            let PlainFrame { slice, head, begin } = frames.next()?;
            let place = places.next()?;
            let written = match begin {
                Begin::Head => place.put(hdr, slice, &to, head).map(|()| slice.len())?,
                Begin::Window(window) => place.put_windowed(hdr, slice, &to, window).map(|()| slice.len())?,
                Begin::Edited(edited) => place.put_edited(hdr, slice, &to, edited)?,
            };
            octets += written as u64;
            Some(written as u32)
        });
        drop(places);
        octets -= (frames * NET_HDR_LEN) as u64;
        // SAFETY: the vring keeps its guest's memory mapped, and no command changes a vring before its lease is given
        // back. Its thread gives it back after the burst is published, and publishing does the copies first.
        unsafe { self.state.deferred.wait_for(frames) };
        pass(CrashPoint::Entered);
        self.state.cost += frames as u64 * (DELIVERY + DESCRIPTOR) + octets;
        Delivered { frames: frames as u64, octets }
    }

    /// Makes room to complete `chains` chains. The copies into completed chains must be done before these become
    /// visible.
    #[inline]
    fn reserve(&mut self, chains: usize) {
        if !self.queue.has_room(chains) {
            self.state.deferred.settle();
            self.queue.make_room();
        }
    }

    #[inline(always)]
    fn put(
        &mut self,
        workspace: &mut Workspace,
        format: Format,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        if let Some(plain) = frame.plain
            && format.header_len == NET_HDR_LEN
            && self.put_plain(frame.hdr, std::iter::once(plain), 1).frames > 0
        {
            return Ok(());
        }
        self.put_any(workspace, format, frame)
    }

    #[inline(never)]
    fn put_any(
        &mut self,
        Workspace { arena, chains }: &mut Workspace,
        format: Format,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        self.state.cost += DELIVERY;
        let mut slices = arena.list();
        chains.clear();
        let needed = format.header_len + frame.len;
        let mut cursor = self.find(needed, format.mergeable, chains, &mut slices)?;
        // The next frame's buffers, if it has the same size, are fetched while this one is copied.
        self.queue.take_plain(&mut cursor, &self.walker, chains.len(), |_, slice| {
            slice.prefetch_to_write(2 * LINE);
            true
        });
        self.state.cost += frame.len as u64;
        frame.write(slices.from(0), format.header_len, chains.len() as u16);
        pass(CrashPoint::Copied);

        self.reserve(chains.len());
        let mut left = needed;
        self.queue.complete_all(chains.iter().map(|chain| {
            let used = left.min(chain.len.unwrap_or(0));
            left -= used;
            (*chain, used as u32)
        }));
        pass(CrashPoint::Entered);
        Ok(())
    }

    /// Finds buffers for `needed` octets. Returns the position after them.
    #[inline(always)]
    fn find(
        &mut self,
        needed: usize,
        mergeable: bool,
        chains: &mut Vec<Chain>,
        slices: &mut SliceList<'_, 'r>,
    ) -> Result<u16, Undelivered> {
        let mut cursor = self.queue.position();
        let mut room = 0;
        while room < needed {
            let most = if mergeable { MAX_CHAINS } else { 1 } - chains.len();
            if most == 0 || slices.spare() < MAX_SLICES {
                return Err(Undelivered::Dropped(DropReason::RxTooSmall));
            }
            let mut tail = slices.tail();
            let plain = self.queue.take_plain(&mut cursor, &self.walker, most, |chain, slice| {
                if room >= needed || !tail.push(slice) {
                    return false;
                }
                // The guest's processor may still have the beginning of each buffer in its cache.
                slice.prefetch_to_write(2 * LINE);
                room += slice.len();
                chains.push(chain);
                true
            });
            drop(tail);
            self.state.cost += DESCRIPTOR * plain as u64;
            if plain > 0 {
                continue;
            }
            let chain = self.queue.take(&mut cursor, &self.walker, slices).map_err(Undelivered::Fault)?;
            let Some(chain) = chain else {
                self.state.missed = cursor;
                return Err(Undelivered::Dropped(DropReason::RxNoBuffers));
            };
            self.state.cost += DESCRIPTOR * std::mem::take(&mut slices.walked);
            chains.push(chain);
            match chain.len {
                Some(len) => room += len,
                // Entries are used in order, so the good buffers before the bad one go back empty with it.
                None => {
                    self.reserve(chains.len());
                    self.queue.complete_all(chains.iter().map(|chain| (*chain, 0)));
                    return Err(Undelivered::Dropped(DropReason::RxBadChain));
                }
            }
        }
        Ok(cursor)
    }
}
