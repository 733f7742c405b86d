//! A burst: up to a batch of chains from one transmit ring, taken in stages so that memory is asked for before it is
//! needed: heads and descriptors, then chains and headers, then decisions and copies, then publication.
//!
//! The order of publication is what makes a crash harmless: receivers' used entries first, then the sender's. Before the
//! first nothing is visible; between the two a new worker sends the frames again.

use sv3::drops::Drop;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME, MacAddr};
use sv3::ipc::{RingFault, Settings};
use sv3::ledger::{FRAME_HEAD, add};
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use crate::copy::gather;
use crate::crash;
use crate::fabric::{Fabric, Frame, publish_ring};
use crate::guest::chain::{Direction, MAX_SLICES, Walker};
use crate::guest::memory::{Arena, GuestSlice};
use crate::offload::{self, Offload};
use crate::points::{Point, pass};
use crate::port::Port;

const MAX_BATCH: usize = Settings::MAX_BATCH as usize;

/// Octets read at once of a chain's begin: the net header, the Ethernet header.
const PEEK: usize = FRAME_HEAD;

/// One chain of the burst.
#[derive(Clone, Copy, Default)]
struct Chain {
    head: u16,
    /// The chain's slices in the arena.
    from: usize,
    to: usize,
    /// Octets; `None`: a bad chain.
    len: Option<usize>,
}

/// Takes bursts; holds the room that they need.
pub struct Burst {
    arena: Arena,
    chains: Box<[Chain; MAX_BATCH]>,
    batch: u16,
}

impl Burst {
    /// Bursts of at most `batch` chains.
    pub fn new(batch: u16) -> Burst {
        Burst {
            arena: Arena::new(4 * MAX_SLICES),
            chains: Box::new([Chain::default(); MAX_BATCH]),
            batch: batch.clamp(1, Settings::MAX_BATCH),
        }
    }

    /// Serves transmit ring `ring` of `port`, which is out of its slot; returns how many chains were taken.
    #[inline]
    pub fn serve(&mut self, fabric: &mut Fabric, port: &mut Port, ring: u16) -> Result<usize, RingFault> {
        let line = fabric.line(port.slot);
        let (slot, features, header_len) = (port.slot, port.features, port.header_len());
        let Port { memory, rings, .. } = port;
        let Some(state) = rings.get_mut(usize::from(ring)).filter(|state| state.runs()) else { return Ok(0) };
        let Some(split) = &mut state.split else { return Ok(0) };
        let ready = split.refresh()?.min(self.batch);
        if ready == 0 {
            return Ok(0);
        }

        for (ahead, chain) in (0..ready).zip(self.chains.iter_mut()) {
            chain.head = split.head(ahead);
            split.prefetch_descriptor(chain.head);
        }

        let walker = Walker { memory, features, direction: Direction::FromGuest };
        let mut slices = self.arena.list();
        let mut taken = 0;
        for chain in self.chains.iter_mut().take(usize::from(ready)) {
            if slices.spare() < MAX_SLICES {
                break;
            }
            chain.from = slices.len();
            chain.len = walker.walk(split, chain.head, &mut slices).ok();
            chain.to = slices.len();
            if let Some(first) = slices.from(chain.from).first() {
                first.prefetch(0);
            }
            taken += 1;
        }

        pass(Point::Taken);
        fabric.begin();
        let sender = Sender { slot, pair: ring / 2, features, header_len };
        let (mut frames, mut octets) = (0, 0);
        for chain in self.chains.iter().take(taken) {
            let Some(len) = chain.len else {
                line.drop(Drop::BadChain, 1);
                continue;
            };
            match sender.send(fabric, slices.range(chain.from, chain.to), len) {
                Ok(len) => {
                    frames += 1;
                    octets += len as u64;
                }
                Err(reason) => line.drop(reason, 1),
            }
        }
        add(&line.from_guest_frames, frames);
        add(&line.from_guest_bytes, octets);

        for chain in self.chains.iter().take(taken) {
            split.complete(chain.head, 0);
        }
        pass(Point::SenderEntered);
        fabric.publish();
        pass(Point::ReceiversDone);
        publish_ring(state, line, ring);
        pass(Point::Done);
        Ok(taken)
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
