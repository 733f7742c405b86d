//! A burst: up to a batch of chains from one transmit ring, as many as its budget allows, taken in stages so that memory is asked for before it is
//! needed: heads and descriptors, then chains and headers, then decisions and copies, then publication.
//!
//! The order of publication is what makes a crash harmless: receivers' used entries first, then the sender's. Before the
//! first nothing is visible; between the two a new worker sends the frames again.

use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::ipc::{RingFault, Settings};
use sv3::virtio::NET_HDR_LEN;

use crate::forward::forwarder::{Forwarder, Frame, Unsent, publish_ring};
use crate::forward::offload::{self, Offload};
use crate::memory::copy::Source;
use crate::memory::frame_head::{FrameHead, HEAD_LEN, Snapshot};
use crate::memory::meddling::looked;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::Arena;
use crate::memory::slice_list::SliceList;
use crate::poll::cost::{DELIVERY, DESCRIPTOR, FRAME};
use crate::poll::pause::{BufferWait, WaitBudget};
use crate::port::Ring;
use crate::port::vring::chain::{MAX_SLICES, Walker};
use crate::port::vring::deliver::{Delivered, PlainFrame};
use crate::port::vring::queue::either;
use crate::port::vring::virtqueue::{Chain, Virtqueue};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};
use sv3::ids::Direction;

const MAX_BATCH: usize = Settings::MAX_BATCH as usize;

/// One chain of the burst.
#[derive(Clone, Copy, Default)]
struct Taken {
    chain: Chain,
    /// Its slices in the arena.
    from: usize,
    to: usize,
    /// Its first octets, which are kept if the worker dies of it.
    head: FrameHead,
}

/// Takes bursts; holds the room that they need.
pub struct Burst {
    arena: Arena,
    taken: Box<[Taken; MAX_BATCH]>,
    batch: u16,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Chains that were served.
    pub chains: usize,
    /// What they cost, see [`crate::poll::cost`].
    pub cost: u64,
    /// There are more, for which a ring is needed that another thread has.
    pub held_up: bool,
    /// What the first frame that was not served waits for, and for how many nanoseconds at most.
    pub wanted: Option<(BufferWait, u64)>,
}

impl Burst {
    /// Bursts of one chain.
    pub fn new() -> Burst {
        Burst { arena: Arena::new(4 * MAX_SLICES), taken: Box::new([Taken::default(); MAX_BATCH]), batch: 1 }
    }

    /// From now on of at most `batch` chains.
    pub fn set_batch(&mut self, batch: u16) {
        self.batch = batch.clamp(1, Settings::MAX_BATCH);
    }

    /// Serves transmit ring `ring` of port `slot`. Taking chains and delivering them may each cost as
    /// much as `budget`, and by what the last frame costs more.
    #[inline]
    pub fn serve(
        &mut self,
        forwarder: &mut Forwarder,
        state: &mut Ring,
        (slot, ring): (u16, u16),
        budget: u64,
    ) -> Result<Served, RingFault> {
        let nothing = Served::default();
        let (features, header_len) = (state.features, state.header_len());
        // Guests with one transmit ring each meet different rings of a receiver that has several.
        let flow = slot.wrapping_add(ring / 2);
        let sender = Sender { slot, flow, features, header_len, budget };
        let Ring { queue, memory, features, wait_budget, .. } = state;
        let Some(queue) = queue else { return Ok(nothing) };
        let walker = Walker { memory, features: *features, direction: Direction::Transmit };
        let mut served = either!(queue, queue => self.run(forwarder, queue, &walker, &sender, wait_budget))?;
        if served.chains > 0 {
            publish_ring(state, forwarder.line(slot), ring, forwarder.counting());
            served.cost += state.cost;
            pass(CrashPoint::Done);
        }
        Ok(served)
    }

    /// The burst up to the publication of its receivers; the sender's chains are completed.
    #[inline]
    fn run(
        &mut self,
        forwarder: &mut Forwarder,
        queue: &mut impl Virtqueue,
        walker: &Walker<'_>,
        sender: &Sender,
        wait_budget: &mut WaitBudget,
    ) -> Result<Served, RingFault> {
        let ready = queue.prepare(self.batch)?;
        let mut slices = self.arena.list();
        let (count, cost) = take(queue, walker, self.taken.get_mut(..ready.into()), &mut slices, sender.budget)?;
        if count == 0 {
            return Ok(Served::default());
        }

        pass(CrashPoint::Taken);
        forwarder.begin();
        let (mut chains, mut frames, mut octets, mut held_up, mut wanted) = (0, 0, 0, false, None);
        let (counting, line) = (forwarder.counting(), forwarder.line(sender.slot));
        let taken = self.taken.get_mut(..count).unwrap_or(&mut []);
        for taken in &mut *taken {
            taken.head = FrameHead::read(slices.range(taken.from, taken.to));
        }
        // By copies: the list itself stays in registers.
        let (heads, all) = (&*taken, slices.from(0));
        looked(move |at| heads.iter().for_each(|one| at(all.get(one.from..one.to).unwrap_or(&[]), HEAD_LEN)));
        while let Some(one) = taken.get(chains) {
            // Floods and translations are not foreseen. Chains that were taken and are not completed stay where they are. One
            // is served, even if it is tried twice.
            if forwarder.cost() >= sender.budget && chains > 0 {
                break;
            }
            let Some(len) = one.chain.len else {
                counting.drop(line, DropReason::BadChain);
                chains += 1;
                continue;
            };
            match sender.send(forwarder, slices.range(one.from, one.to), len, &one.head) {
                Ok(len) => {
                    frames += 1;
                    octets += len as u64;
                }
                Err(Unsent::Dropped(reason)) => {
                    counting.drop(line, reason);
                    chains += 1;
                    // It went no way that others could go.
                    continue;
                }
                // The receiver's turn comes when all that is held has been given back.
                Err(Unsent::Busy) => {
                    held_up = true;
                    break;
                }
                Err(Unsent::Early(place)) => match wait_budget.left(forwarder.now_ns) {
                    // The same frame again, which is dropped now.
                    0 => {
                        forwarder.may_pause = false;
                        continue;
                    }
                    longest => {
                        wanted = Some((place, longest));
                        break;
                    }
                },
            }
            chains += 1;
            let repeated = sender.repeat(forwarder, one, taken.get(chains..).unwrap_or(&[]), &slices);
            chains += repeated.frames as usize;
            frames += repeated.frames;
            octets += repeated.octets;
        }
        if frames > 0 {
            counting.add(&line.from_guest_frames, frames);
            counting.add(&line.from_guest_bytes, octets);
        }

        queue.complete_all(taken.iter().take(chains).map(|taken| (&taken.chain, 0)));
        pass(CrashPoint::SenderEntered);
        forwarder.publish();
        pass(CrashPoint::ReceiversDone);
        Ok(Served { chains, cost: cost + forwarder.cost(), held_up, wanted })
    }
}

/// Takes chains, as many as there are places and `budget` allows; how many, and what they cost. What delivering them
/// may cost is limited as well.
#[inline(always)]
fn take<'m>(
    queue: &mut impl Virtqueue,
    walker: &Walker<'m>,
    places: Option<&mut [Taken]>,
    slices: &mut SliceList<'_, 'm>,
    budget: u64,
) -> Result<(usize, u64), RingFault> {
    let places = places.unwrap_or_default();
    let mut cursor = queue.position();
    let (mut count, mut cost, mut ahead) = (0, 0, 0);
    loop {
        let most = places.len() - count;
        let mut free = places.iter_mut().skip(count);
        let mut at = slices.len();
        let mut tail = slices.tail();
        let plain = queue.take_plain(&mut cursor, walker, most, |chain, slice| {
            if cost + ahead >= budget {
                return false;
            }
            let Some(taken) = free.next().filter(|_| tail.push(slice)) else { return false };
            prefetch_head(&slice);
            cost += FRAME + DESCRIPTOR;
            ahead += DELIVERY + slice.len() as u64;
            (taken.chain, taken.from, taken.to) = (chain, at, at + 1);
            at += 1;
            true
        });
        drop(tail);
        count += plain;
        let Some(taken) = places.get_mut(count) else { break };
        if slices.spare() < MAX_SLICES || cost + ahead >= budget {
            break;
        }
        taken.from = slices.len();
        taken.chain = match queue.take(&mut cursor, walker, slices) {
            Ok(Some(chain)) => chain,
            // A fault waits until those in front of it are served.
            Ok(None) | Err(_) if count > 0 => break,
            Ok(None) => return Ok((0, 0)),
            Err(fault) => return Err(fault),
        };
        taken.to = slices.len();
        cost += FRAME + DESCRIPTOR * std::mem::take(&mut slices.walked);
        ahead += taken.chain.len.map_or(0, |len| DELIVERY + len as u64);
        if let Some(first) = slices.from(taken.from).first() {
            prefetch_head(first);
        }
        count += 1;
    }
    Ok((count, cost))
}

/// Asks for the net header and a frame's first octets, which may lie in the next line.
#[inline]
fn prefetch_head(slice: &GuestSlice<'_>) {
    slice.prefetch(0);
    slice.prefetch(HEAD_LEN - 1);
}

/// The sender's particulars that each frame needs.
struct Sender {
    slot: u16,
    flow: u16,
    features: u64,
    header_len: usize,
    budget: u64,
}

impl Sender {
    /// Sends one frame of `total` octets with its header; returns the frame's length.
    #[inline]
    fn send(
        &self,
        forwarder: &mut Forwarder,
        slices: &[GuestSlice<'_>],
        total: usize,
        head: &FrameHead,
    ) -> Result<usize, Unsent> {
        let skip = self.header_len;
        let len = total.checked_sub(skip).filter(|len| *len >= ETHERNET_LEN).ok_or(DropReason::ShortFrame)?;
        if len > MAX_FRAME {
            return Err(DropReason::LongFrame.into());
        }
        let checked;
        let (offload, snapshot) = match head.has_offload() {
            false => (Offload::NONE, Snapshot::Chain(head)),
            true => {
                checked = self.check(head, slices, len).ok_or(DropReason::BadOffload)?;
                (&checked.offload, checked.begin(head))
            }
        };
        let (dst, src) = head.addresses(skip);
        let frame = Frame { dst, src, flow: self.flow, offload, snapshot, slices, skip, len };
        crash::with_current(&head.0, || forwarder.forward(self.slot, &frame))?;
        Ok(len)
    }

    /// Sends those of `others` that go where `one` went, up to the first one of which that is not sure: nothing is left to
    /// be done to them, and each lies in one piece.
    #[inline]
    fn repeat(
        &self,
        forwarder: &mut Forwarder,
        one: &Taken,
        others: &[Taken],
        slices: &SliceList<'_, '_>,
    ) -> Delivered {
        let Some(egress) = forwarder.last_egress().filter(|_| self.header_len == NET_HDR_LEN) else {
            return Delivered::default();
        };
        let (mut last, mut cost, mut most) = (&one.head, forwarder.cost(), 0);
        for next in others {
            let Some(len) = self.plain_len(next).filter(|_| cost < self.budget) else { break };
            let addresses = || next.head.addresses(self.header_len);
            if !next.head.same_addresses(last) && !forwarder.goes(&egress, self.slot, addresses()) {
                break;
            }
            last = &next.head;
            cost += DELIVERY + DESCRIPTOR + len as u64;
            most += 1;
        }
        let frames =
            others.iter().map_while(|next| Some(PlainFrame { slice: slices.get(next.from)?, head: &next.head }));
        forwarder.repeat(&egress, frames, most)
    }

    /// Octets of a frame that lies in one piece and with which nothing is left to be done.
    #[inline]
    fn plain_len(&self, taken: &Taken) -> Option<usize> {
        let len = taken.chain.len?.checked_sub(self.header_len)?;
        let plain = taken.to == taken.from + 1 && !taken.head.has_offload();
        (plain && (ETHERNET_LEN..=MAX_FRAME).contains(&len)).then_some(len)
    }

    /// Checks what the sender says of its frame against what is delivered of it.
    #[inline(never)]
    fn check(&self, head: &FrameHead, slices: &[GuestSlice<'_>], len: usize) -> Option<Checked> {
        let (mut octets, mut room) = ([0; offload::HEAD], [0; HEAD_LEN]);
        let snapshot = Snapshot::Chain(head).octets((self.header_len, len), &mut room);
        let known = Source::new(snapshot, slices, self.header_len).read(&mut octets);
        let hdr = head.net_hdr(self.header_len);
        let offload = offload::check(&hdr, octets.get(..known)?, len, self.features).ok()?;
        if offload.segmented() {
            looked(|at| at(slices, self.header_len + known));
        }
        Some(Checked { offload, octets, known })
    }
}

/// A frame whose offload was checked, and what it was checked against.
struct Checked {
    offload: Offload,
    octets: [u8; offload::HEAD],
    /// Octets of the frame that are known.
    known: usize,
}

impl Checked {
    /// What is delivered as it was checked. For a checksum, which may be about any octets, no header was looked at.
    fn begin<'a>(&'a self, head: &'a FrameHead) -> Snapshot<'a> {
        match self.offload.segmented() {
            true => Snapshot::Frame(self.octets.get(..self.known).unwrap_or(&[])),
            false => Snapshot::Chain(head),
        }
    }
}

#[cfg(test)]
mod pace;
#[cfg(test)]
mod tests;
