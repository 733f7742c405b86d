//! A burst: up to a batch of chains from one transmit ring, taken in stages so that memory is asked for before it is
//! needed: heads and descriptors, then chains and headers, then decisions and copies, then publication.
//!
//! The order of publication is what makes a crash harmless: receivers' used entries first, then the sender's. Before the
//! first nothing is visible; between the two a new worker sends the frames again.

use sv3::drops::Drop;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME, MacAddr};
use sv3::ipc::{RingFault, Settings};
use sv3::ledger::{FRAME_HEAD, PortLine, add};
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use crate::copy::gather;
use crate::crash;
use crate::fabric::{Fabric, Frame, publish_ring};
use crate::guest::chain::{Direction, MAX_SLICES, Walker};
use crate::guest::memory::{Arena, GuestSlice};
use crate::guest::queue::{Chain, Virtqueue, either};
use crate::offload::{self, Offload};
use crate::points::{Point, pass};
use crate::port::Port;

const MAX_BATCH: usize = Settings::MAX_BATCH as usize;

/// Octets read at once of a chain's begin: the net header, the Ethernet header.
const PEEK: usize = FRAME_HEAD;

/// One chain of the burst.
#[derive(Clone, Copy, Default)]
struct Taken {
    chain: Chain,
    /// Its slices in the arena.
    from: usize,
    to: usize,
}

/// Takes bursts; holds the room that they need.
pub struct Burst {
    arena: Arena,
    taken: Box<[Taken; MAX_BATCH]>,
    batch: u16,
}

impl Burst {
    /// Bursts of at most `batch` chains.
    pub fn new(batch: u16) -> Burst {
        Burst {
            arena: Arena::new(4 * MAX_SLICES),
            taken: Box::new([Taken::default(); MAX_BATCH]),
            batch: batch.clamp(1, Settings::MAX_BATCH),
        }
    }

    /// Serves transmit ring `ring` of `port`, which is out of its slot; returns how many chains were taken.
    #[inline]
    pub fn serve(&mut self, fabric: &mut Fabric, port: &mut Port, ring: u16) -> Result<usize, RingFault> {
        let line = fabric.line(port.slot);
        let sender = Sender { slot: port.slot, pair: ring / 2, features: port.features, header_len: port.header_len() };
        let Port { memory, rings, features, .. } = port;
        let Some(state) = rings.get_mut(usize::from(ring)).filter(|state| state.runs()) else { return Ok(0) };
        let Some(queue) = &mut state.queue else { return Ok(0) };
        let walker = Walker { memory, features: *features, direction: Direction::FromGuest };
        let taken = either!(queue, queue => self.run(fabric, queue, &walker, &sender, line))?;
        if taken > 0 {
            publish_ring(state, line, ring);
            pass(Point::Done);
        }
        Ok(taken)
    }

    /// The burst up to the publication of its receivers; the sender's chains are completed.
    #[inline]
    fn run(
        &mut self,
        fabric: &mut Fabric,
        queue: &mut impl Virtqueue,
        walker: &Walker<'_>,
        sender: &Sender,
        line: &PortLine,
    ) -> Result<usize, RingFault> {
        let ready = queue.prepare(self.batch)?;
        let mut slices = self.arena.list();
        let mut cursor = queue.position();
        let mut count = 0;
        for taken in self.taken.iter_mut().take(usize::from(ready)) {
            if slices.spare() < MAX_SLICES {
                break;
            }
            taken.from = slices.len();
            taken.chain = match queue.take(&mut cursor, walker, &mut slices) {
                Ok(Some(chain)) => chain,
                // A fault waits until those in front of it are served.
                Ok(None) | Err(_) if count > 0 => break,
                Ok(None) => return Ok(0),
                Err(fault) => return Err(fault),
            };
            taken.to = slices.len();
            if let Some(first) = slices.from(taken.from).first() {
                first.prefetch(0);
            }
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }

        pass(Point::Taken);
        fabric.begin();
        let (mut frames, mut octets) = (0, 0);
        for taken in self.taken.iter().take(count) {
            let Some(len) = taken.chain.len else {
                line.drop(Drop::BadChain, 1);
                continue;
            };
            match sender.send(fabric, slices.range(taken.from, taken.to), len) {
                Ok(len) => {
                    frames += 1;
                    octets += len as u64;
                }
                Err(reason) => line.drop(reason, 1),
            }
        }
        add(&line.from_guest_frames, frames);
        add(&line.from_guest_bytes, octets);

        for taken in self.taken.iter().take(count) {
            queue.complete(&taken.chain, 0);
        }
        pass(Point::SenderEntered);
        fabric.publish();
        pass(Point::ReceiversDone);
        Ok(count)
    }
}

/// The sender's particulars that each frame needs.
struct Sender {
    slot: u16,
    pair: u16,
    features: u64,
    header_len: usize,
}

impl Sender {
    /// Sends one frame of `total` octets with its header; returns the frame's length.
    #[inline]
    fn send(&self, fabric: &mut Fabric, slices: &[GuestSlice<'_>], total: usize) -> Result<usize, Drop> {
        let skip = self.header_len;
        let len = total.checked_sub(skip).filter(|len| *len >= ETHERNET_LEN).ok_or(Drop::ShortFrame)?;
        if len > MAX_FRAME {
            return Err(Drop::LongFrame);
        }
        let peek = peek(slices);
        let (hdr, rest) = if skip == NET_HDR_LEN {
            let (hdr, rest) = peek.split_first_chunk::<NET_HDR_LEN>().ok_or(Drop::ShortFrame)?;
            (NetHdr::from_bytes(*hdr), rest)
        } else {
            let (hdr, rest) = peek.split_first_chunk::<10>().ok_or(Drop::ShortFrame)?;
            let [a, b, c, d, e, f, g, h, i, j] = *hdr;
            (NetHdr::from_bytes([a, b, c, d, e, f, g, h, i, j, 0, 0]), rest)
        };
        let (dst, rest) = rest.split_first_chunk::<6>().ok_or(Drop::ShortFrame)?;
        let (src, _) = rest.split_first_chunk::<6>().ok_or(Drop::ShortFrame)?;
        let offload = if hdr.flags == 0 && hdr.gso_type == 0 {
            Offload::default()
        } else {
            self.check(&hdr, slices, len).ok_or(Drop::BadOffload)?
        };
        let (dst, src) = (MacAddr::new(*dst), MacAddr::new(*src));
        let frame = Frame { dst, src, pair: self.pair, offload, slices, skip, len };
        crash::with_in_hand(&peek, || fabric.forward(self.slot, &frame))?;
        Ok(len)
    }

    #[inline(never)]
    fn check(&self, hdr: &NetHdr, slices: &[GuestSlice<'_>], len: usize) -> Option<Offload> {
        let mut head = [0; offload::HEAD];
        let known = gather(slices, self.header_len, &mut head);
        offload::check(hdr, head.get(..known)?, len, self.features).ok()
    }
}

/// The first octets of a chain, which has at least as many but for a legacy header's two.
#[inline]
fn peek(slices: &[GuestSlice<'_>]) -> [u8; PEEK] {
    if let Some(octets) = slices.first().and_then(|first| first.read_array::<PEEK>(0)) {
        return octets;
    }
    let mut octets = [0; PEEK];
    gather(slices, 0, &mut octets);
    octets
}
