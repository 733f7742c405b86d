//! Delivery of one frame into a guest's receive ring (virtio 1.3, 5.1.6.4).
//!
//! Buffers for the whole frame are reserved before an octet is written: either the guest gets all of the frame, in one
//! buffer or, with MRG_RXBUF, in several, or it gets nothing and its buffers stay where they are. The one exception is a
//! buffer that breaks the specification, which is handed back empty, lest it block the ring.

use sv3::drop_reason::DropReason;
use sv3::ipc::RingFault;
use sv3::ledger::JOURNAL_LEN;
use sv3::virtio::{NET_HDR_LEN, NET_HDR_LEN_LEGACY, NetHdr, VIRTIO_NET_F_MRG_RXBUF};

use crate::memory::copy::Sink;
use crate::memory::deferred::{DeferredCopies, DeferredCopy};
use crate::memory::frame_head::{FrameHead, HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::Arena;
use crate::poll::cost::{DELIVERY, DESCRIPTOR};
use crate::port::Ring;
use crate::port::vring::chain::{MAX_SLICES, Walker};
use crate::port::vring::queue::either;
use crate::port::vring::virtqueue::{Chain, Virtqueue};
use crate::process::crash_points::{CrashPoint, pass};
use sv3::ids::Direction;

/// A frame on its way: a header and octets in slices.
#[derive(Clone, Copy)]
pub struct Outgoing<'a, 'm> {
    /// The header for the receiver; `num_buffers` is set here.
    pub hdr: &'a NetHdr,
    /// The slices that the frame lies in.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets of the slices in front of the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// Those that are not to be read again.
    pub snapshot: Snapshot<'a>,
}

/// A frame in one piece of a guest's memory, which lasts until the burst is published.
pub struct PlainFrame<'a, 'm> {
    /// Its chain: a net header of [`NET_HDR_LEN`] octets, and the frame.
    pub slice: &'a GuestSlice<'m>,
    /// The chain's head.
    pub head: &'a FrameHead,
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
    /// The receive ring is broken and must stop.
    Fault(RingFault),
}

/// Buffers reserved for a frame.
pub struct Receiver {
    arena: Arena,
    /// The reserved chains.
    chains: Vec<Chain>,
    later: DeferredCopies,
    /// What deliveries have cost, see [`crate::poll::cost`].
    pub cost: u64,
    /// Where the buffer was to be that the last frame without enough of them did not find.
    pub missed: u16,
}

/// The receiver's particulars.
#[derive(Clone, Copy)]
struct Reader {
    header_len: usize,
    mergeable: bool,
}

/// Octets of a cache line.
const LINE: usize = 64;
/// Most buffers of one frame; they are published at once.
const MAX_CHAINS: usize = JOURNAL_LEN;
/// Most copies that wait, so that what was asked for is still there.
const MAX_LATER: usize = 128;

impl Receiver {
    /// Room to reserve in, made once.
    pub fn new() -> Receiver {
        Receiver {
            arena: Arena::new(2 * MAX_SLICES),
            chains: Vec::with_capacity(MAX_CHAINS),
            later: DeferredCopies::new(MAX_LATER),
            cost: 0,
            missed: 0,
        }
    }

    /// Does the copies that wait; before anything is published.
    #[inline]
    pub fn settle(&mut self) {
        self.later.settle();
    }

    /// Copies a frame into buffers of a receive ring. Nothing is visible to the guest before the ring is published.
    #[inline(always)]
    pub fn deliver(&mut self, ring: &mut Ring, outgoing: &Outgoing<'_, '_>) -> Result<(), Undelivered> {
        let reader = Reader { header_len: ring.header_len(), mergeable: VIRTIO_NET_F_MRG_RXBUF.of(ring.features) };
        let Ring { queue, memory, features, .. } = ring;
        let queue = queue.as_mut().ok_or(Undelivered::Dropped(DropReason::RxDown))?;
        let walker = Walker { memory, features: *features, direction: Direction::Receive };
        either!(queue, queue => self.put(queue, &walker, reader, outgoing))
    }

    /// Copies up to `most` frames without offloads as long as one buffer after the other takes one. The frame that is not
    /// like that is another one's to deliver.
    #[inline]
    pub fn deliver_plain<'a, 'm: 'a>(
        &mut self,
        ring: &mut Ring,
        frames: impl Iterator<Item = PlainFrame<'a, 'm>>,
        most: usize,
    ) -> Delivered {
        if ring.header_len() != NET_HDR_LEN {
            return Delivered::default();
        }
        let Ring { queue, memory, features, .. } = ring;
        let Some(queue) = queue else { return Delivered::default() };
        let walker = Walker { memory, features: *features, direction: Direction::Receive };
        either!(queue, queue => self.put_plain(queue, &walker, &NetHdr::NONE, frames, most))
    }

    #[inline]
    #[allow(unsafe_code)] // guest memory, beyond the borrow of it
    fn put_plain<'a, 'm: 'a>(
        &mut self,
        queue: &mut impl Virtqueue,
        walker: &Walker<'_>,
        hdr: &NetHdr,
        mut frames: impl Iterator<Item = PlainFrame<'a, 'm>>,
        most: usize,
    ) -> Delivered {
        let hdr = NetHdr { num_buffers: 1, ..*hdr }.to_words();
        self.reserve(queue, most);
        self.later.make_room(most);
        let mut places = self.later.places();
        let mut octets = 0;
        let frames = queue.fill_plain(walker, most, |to| {
            let PlainFrame { slice, head } = frames.next()?;
            *places.next()? = DeferredCopy::new(hdr, slice, &to, head)?;
            octets += slice.len() as u64;
            Some(slice.len() as u32)
        });
        drop(places);
        octets -= (frames * NET_HDR_LEN) as u64;
        // SAFETY: both rings keep their guest's memory mapped, and no command changes a ring before its lease is given
        // back, which is after the burst is published, which settles first. Frames are of a guest's memory, so their heads
        // are the burst's, which keeps them.
        unsafe { self.later.wait_for(frames) };
        pass(CrashPoint::Entered);
        self.cost += frames as u64 * (DELIVERY + DESCRIPTOR) + octets;
        Delivered { frames: frames as u64, octets }
    }

    /// Makes room for that many chains to be completed. What waits to be copied into chains that are complete must be done
    /// before they can be seen.
    #[inline]
    fn reserve(&mut self, queue: &mut impl Virtqueue, chains: usize) {
        if !queue.has_room(chains) {
            self.later.settle();
            queue.make_room();
        }
    }

    #[inline(always)]
    fn put(
        &mut self,
        queue: &mut impl Virtqueue,
        walker: &Walker<'_>,
        reader: Reader,
        outgoing: &Outgoing<'_, '_>,
    ) -> Result<(), Undelivered> {
        if let Outgoing { hdr, slices: [slice], skip: NET_HDR_LEN, snapshot: Snapshot::Chain(head), .. } = *outgoing
            && reader.header_len == NET_HDR_LEN
            && self.put_plain(queue, walker, hdr, std::iter::once(PlainFrame { slice, head }), 1).frames > 0
        {
            return Ok(());
        }
        self.put_any(queue, walker, reader, outgoing)
    }

    #[inline(never)]
    fn put_any(
        &mut self,
        queue: &mut impl Virtqueue,
        walker: &Walker<'_>,
        Reader { header_len, mergeable }: Reader,
        outgoing: &Outgoing<'_, '_>,
    ) -> Result<(), Undelivered> {
        let needed = header_len + outgoing.len;
        self.cost += DELIVERY;
        let mut slices = self.arena.list();
        self.chains.clear();
        let mut cursor = queue.position();
        let mut room = 0;
        while room < needed {
            let most = if mergeable { MAX_CHAINS } else { 1 } - self.chains.len();
            if most == 0 || slices.spare() < MAX_SLICES {
                return Err(Undelivered::Dropped(DropReason::RxTooSmall));
            }
            let mut tail = slices.tail();
            let plain = queue.take_plain(&mut cursor, walker, most, |chain, slice| {
                if room >= needed || !tail.push(slice) {
                    return false;
                }
                // Of each buffer the guest may have looked at the snapshot, which is then with its processor.
                slice.prefetch_to_write(2 * LINE);
                room += slice.len();
                self.chains.push(chain);
                true
            });
            drop(tail);
            self.cost += DESCRIPTOR * plain as u64;
            if plain > 0 {
                continue;
            }
            let chain = queue.take(&mut cursor, walker, &mut slices).map_err(Undelivered::Fault)?;
            let Some(chain) = chain else {
                self.missed = cursor;
                return Err(Undelivered::Dropped(DropReason::NoRxBuffers));
            };
            self.cost += DESCRIPTOR * std::mem::take(&mut slices.walked);
            self.chains.push(chain);
            match chain.len {
                Some(len) => room += len,
                // Entries are used in order: the good ones in front of the bad one go back empty with it.
                None => {
                    self.reserve(queue, self.chains.len());
                    queue.complete_all(self.chains.iter().map(|chain| (chain, 0)));
                    return Err(Undelivered::Dropped(DropReason::RxBadChain));
                }
            }
        }

        // The next frame's, if it is like this one, come while this one is copied.
        queue.take_plain(&mut cursor, walker, self.chains.len(), |_, slice| {
            slice.prefetch_to_write(2 * LINE);
            true
        });
        self.cost += outgoing.len as u64;
        let whole = NetHdr { num_buffers: self.chains.len() as u16, ..*outgoing.hdr }.to_bytes();
        let hdr = if header_len == NET_HDR_LEN_LEGACY { &whole[..NET_HDR_LEN_LEGACY] } else { &whole[..] };
        let mut sink = Sink::new(slices.from(0));
        sink.write(hdr);
        let (Outgoing { slices, skip, len, snapshot, .. }, mut room) = (*outgoing, [0; HEAD_LEN]);
        let snapshot = snapshot.octets((skip, len), &mut room);
        sink.write(snapshot);
        sink.copy(slices, skip + snapshot.len(), len - snapshot.len());
        pass(CrashPoint::Copied);

        self.reserve(queue, self.chains.len());
        let mut left = needed;
        queue.complete_all(self.chains.iter().map(|chain| {
            let used = left.min(chain.len.unwrap_or(0));
            left -= used;
            (chain, used as u32)
        }));
        pass(CrashPoint::Entered);
        Ok(())
    }
}
