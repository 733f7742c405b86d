//! A burst: at most one batch of frames from one transmit queue, as many as its budget allows. It goes in stages, so
//! that the processor can fetch memory before it is needed: heads and descriptors, then chains and headers, then
//! decisions and copies, then publication.
//!
//! The order of publication makes a crash harmless: the receivers' used entries come first, then the sender's. Before
//! the first entry nothing is visible. Between the two a new worker sends the frames again.

use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::ids::QueueId;
use sv3::ipc::{RingFault, Settings};
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use self::sorted::Sorter;
use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::Unsent;
use super::offload::{self, Offload};
use super::sending::{Egress, Sending};
use crate::memory::copy::Reader;
use crate::memory::edited_head::EditedHead;
use crate::memory::frame_head::{FrameHead, HEAD_LEN, Snapshot, Window};
use crate::memory::meddling::looked;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::{Arena, SliceList};
use crate::port::batch::{Batch, MAX_SLICES, Taken};
use crate::port::bucket::Short;
use crate::port::cost::{DELIVERY, DESCRIPTOR};
use crate::port::endpoint::{Endpoint, each_source};
use crate::port::kind::Kind;
use crate::port::sink::{BufferWait, Delivered, Outgoing};
use crate::port::source::Source;
use crate::port::traffic_rules::{Edit, TrafficRules};
use crate::port::wait_budget::WaitBudget;
use crate::port::{Port, TransmitQueue};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};

const MAX_BATCH: usize = Settings::MAX_BATCH as usize;

/// Takes bursts. Owns the memory that they need.
pub struct Burst {
    arena: Arena,
    taken: Box<[Taken; MAX_BATCH]>,
    windows: Box<[Window; MAX_BATCH]>,
    edited: Box<[EditedHead; MAX_BATCH]>,
    sorter: Box<Sorter>,
    batch: u16,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Frames that were forwarded or dropped.
    pub frames: usize,
    /// Their cost ([`crate::port::cost`]).
    pub cost: u64,
    /// Why the burst ended.
    pub end: End,
}

/// Why a burst ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// No taken frame is left.
    #[default]
    Done,
    /// The next frame needs a queue that another thread has leased.
    Contended,
    /// The next frame waits for this buffer, for at most this many nanoseconds.
    Waits(BufferWait, u64),
    /// The sender has sent as much as it may. The next frame stays in its ring until then, in nanoseconds.
    Held(u64),
}

impl Burst {
    /// Starts with bursts of one frame.
    pub fn new() -> Burst {
        let (taken, windows) = (Box::new([Taken::default(); MAX_BATCH]), Box::new([Window::EMPTY; MAX_BATCH]));
        let edited = Box::new([EditedHead::EMPTY; MAX_BATCH]);
        let sorter = Box::new(Sorter::new());
        Burst { arena: Arena::new(4 * MAX_SLICES), taken, windows, edited, sorter, batch: 1 }
    }

    /// Sets the size of later bursts: at most `batch` frames.
    pub fn set_batch(&mut self, batch: u16) {
        self.batch = batch.clamp(1, Settings::MAX_BATCH);
    }

    /// Serves transmit queue `id` of a port. To take frames may cost `budget`, and to deliver them as much again. The
    /// last frame may exceed it. `may_pause`: a frame may wait for a receiver's buffers.
    #[inline]
    pub fn serve(
        &mut self,
        forwarder: &mut Forwarder,
        (port, id): (&'static Port, QueueId),
        queue: &mut TransmitQueue,
        budget: u64,
        may_pause: bool,
    ) -> Result<Served, RingFault> {
        if queue.endpoint.holds() {
            return self.serve_held(forwarder, (port, id), queue, budget, may_pause);
        }
        let TransmitQueue { endpoint, wait_budget, rules, .. } = queue;
        let sender = Sender::of((port, id), endpoint, rules.as_deref(), budget, may_pause);
        if !forwarder.begin_observing() {
            return Ok(Served { end: End::Contended, ..Served::default() });
        }
        let served =
            each_source!(endpoint, source => self.run(forwarder, source, &sender, wait_budget), Ok(Served::default()));
        forwarder.end_observing();
        let mut served = served?;
        if served.frames > 0 {
            endpoint.publish(port.counters(), id.index, forwarder.view.counting);
            served.cost += endpoint.publish_cost();
            pass(CrashPoint::Done);
        }
        Ok(served)
    }

    /// Runs the burst until its receivers are published. The sender's frames are completed, not published.
    #[inline]
    fn run<'m, S: Source<'m>>(
        &mut self,
        forwarder: &mut Forwarder,
        source: &mut S,
        sender: &Sender<'_>,
        wait_budget: &mut WaitBudget,
    ) -> Result<Served, RingFault> {
        let Burst { arena, taken, windows, edited, sorter, batch } = self;
        let places = taken.get_mut(..usize::from(*batch)).unwrap_or_default();
        let mut batch = Batch { places, count: 0, slices: arena.list() };
        let cost = source.take(&mut batch, sender.budget)?;
        let Batch { places, count, slices } = batch;
        let Some(taken) = places.get_mut(..count).filter(|taken| !taken.is_empty()) else {
            return Ok(Served::default());
        };
        pass(CrashPoint::Taken);
        let all = slices.all();
        for one in &mut *taken {
            one.head = source.head(one, one.slices(all));
        }
        // Closures take copies of the references: so the list itself stays in registers.
        let heads = &*taken;
        looked(move |at| heads.iter().for_each(|one| at(one.slices(all), HEAD_LEN)));
        let (counting, counters, now_ns) = (forwarder.view.counting, sender.port.counters(), forwarder.now_ns);
        let mut sending = Sending::begin(forwarder, (sender.port, sender.rules), sender.may_pause);
        if S::HOLDS {
            sending.let_stay(source.stay());
        }
        if sender.rules.is_some() {
            sending.edited = edited.iter_mut();
        }
        if sender.guard().is_some() {
            sending.windows = guarded::look(&mut windows[..], taken, &slices);
        }
        let sent = match sending.is_observed() {
            false => sender.send_all::<false>(&mut sending, taken, &slices, (wait_budget, now_ns, sorter)),
            true => sender.send_observed(&mut sending, taken, &slices, (wait_budget, now_ns, sorter)),
        };
        if sent.forwarded.frames > 0 {
            counting.add(&counters.from_guest_frames, sent.forwarded.frames);
            counting.add(&counters.from_guest_bytes, sent.forwarded.octets);
        }
        let done = taken.get(..sent.frames).unwrap_or(&[]);
        match S::HOLDS {
            true => source.hold(done, sending.stay()),
            false => source.complete(done),
        }
        pass(CrashPoint::SenderEntered);
        let cost = cost + sending.publish();
        pass(CrashPoint::ReceiversDone);
        Ok(Served { frames: sent.frames, cost, end: sent.end })
    }
}

/// What each frame needs to know of its sender.
struct Sender<'r> {
    port: &'static Port,
    /// What its frames are held to.
    rules: Option<&'r TrafficRules>,
    flow: u16,
    features: u64,
    /// What a frame's header begins with if its checksum was verified ([`Kind::verified`]).
    verified: u16,
    header_len: usize,
    budget: u64,
    may_pause: bool,
}

/// What happened to the frames of a burst.
struct Sent {
    /// How many frames were forwarded or dropped.
    frames: usize,
    /// All of these but the frames whose drop is charged to the sender.
    forwarded: Delivered,
    end: End,
}

impl<'r> Sender<'r> {
    #[inline(always)]
    fn of(
        (port, id): (&'static Port, QueueId),
        endpoint: &Endpoint,
        rules: Option<&'r TrafficRules>,
        budget: u64,
        may_pause: bool,
    ) -> Sender<'r> {
        Sender {
            port,
            rules,
            // Spreads senders that have one transmit queue each over the queues of a receiver that has several.
            flow: id.slot.wrapping_add(id.pair()),
            features: endpoint.features(),
            verified: endpoint.verified(),
            header_len: endpoint.header_len(),
            budget,
            may_pause,
        }
    }
}

impl Sender<'_> {
    /// Sends the taken frames, while there are captures or mirrors.
    #[cold]
    fn send_observed<'t>(
        &self,
        sending: &mut Sending<'_, 't>,
        taken: &'t [Taken],
        slices: &'t SliceList<'_, '_>,
        with: (&mut WaitBudget, u64, &mut Sorter),
    ) -> Sent {
        self.send_all::<true>(sending, taken, slices, with)
    }

    /// Sends the taken frames, as many as the budget allows and as the receivers accept. `OBSERVED`: there are captures
    /// or mirrors.
    #[inline(always)]
    fn send_all<'t, const OBSERVED: bool>(
        &self,
        sending: &mut Sending<'_, 't>,
        taken: &'t [Taken],
        slices: &'t SliceList<'_, '_>,
        (wait_budget, now_ns, sorter): (&mut WaitBudget, u64, &mut Sorter),
    ) -> Sent {
        let mut sent = Sent { frames: 0, forwarded: Delivered::default(), end: End::Done };
        while let Some(one) = taken.get(sent.frames) {
            // The cost of floods and translations is known afterwards. A frame that was taken and not completed stays
            // in the ring. At least one frame is served, even if it needs two tries.
            if sending.cost() >= self.budget && sent.frames > 0 {
                break;
            }
            if let Err(Short(ns)) = self.pay(one, now_ns) {
                sent.end = End::Held(now_ns.saturating_add(ns));
                break;
            }
            if OBSERVED {
                let window = sending.windows.get(sent.frames);
                self.observe((one, window), slices, |frame| sending.begin_frame(frame));
            }
            match self.send::<OBSERVED>(sending, (sent.frames, one), slices) {
                Ok(octets) => {
                    sent.forwarded.frames += 1;
                    sent.forwarded.octets += octets as u64;
                }
                Err(Unsent::Dropped(reason)) => {
                    sending.count_drop(reason);
                    if OBSERVED {
                        sending.end_frame(Some(reason));
                    }
                    sent.frames += 1;
                    // The frame went to no port, so the next frame cannot repeat its path.
                    continue;
                }
                // The receiver gets another try when the burst has given back all leases.
                Err(unsent) => {
                    self.pay_back(one);
                    if OBSERVED {
                        sending.end_frame(None);
                    }
                    let Unsent::Waits(wait) = unsent else {
                        sent.end = End::Contended;
                        break;
                    };
                    match wait_budget.left(now_ns) {
                        // The same frame again. This time it is dropped.
                        0 => {
                            sending.may_pause = false;
                            continue;
                        }
                        longest => {
                            sent.end = End::Waits(wait, longest);
                            break;
                        }
                    }
                }
            }
            sent.frames += 1;
            let others = taken.get(sent.frames..).unwrap_or(&[]);
            let repeated = self.repeat::<OBSERVED>(sending, one, others, slices, sent.frames);
            sent.frames += repeated.frames as usize;
            sent.forwarded.frames += repeated.frames;
            sent.forwarded.octets += repeated.octets;
            if !OBSERVED && (repeated.frames as usize) < sorted::SHORT && self.may_sort(one) {
                let (frames, forwarded) = self.send_sorted(sorter, sending, taken, slices, sent.frames);
                sent.frames += frames;
                sent.forwarded.frames += forwarded.frames;
                sent.forwarded.octets += forwarded.octets;
            }
        }
        sent
    }

    /// Sends one frame; returns its length in octets.
    #[inline]
    fn send<'t, const OBSERVED: bool>(
        &self,
        sending: &mut Sending<'_, 't>,
        (at, one): (usize, &'t Taken),
        slices: &'t SliceList<'_, '_>,
    ) -> Result<usize, Unsent> {
        let (skip, head) = (self.header_len, &one.head);
        let total = one.len().ok_or(DropReason::BadChain)?;
        let len = total.checked_sub(skip).filter(|len| *len >= ETHERNET_LEN).ok_or(DropReason::ShortFrame)?;
        if len > MAX_FRAME {
            return Err(DropReason::LongFrame.into());
        }
        if let Some(guard) = self.guard() {
            self.send_guarded::<OBSERVED>(guard, sending, (at, one), slices, len)?;
            return Ok(len);
        }
        let pieces = one.slices(slices.all());
        let checked;
        let (offload, snapshot) = match head.asks() {
            0 => (Offload::NONE, Snapshot::Chain(head)),
            asks if asks == self.verified => (Offload::VERIFIED, Snapshot::Chain(head)),
            _ => {
                checked = self.check(head, pieces, len).ok_or(DropReason::BadOffload)?;
                (&checked.offload, checked.snapshot(head))
            }
        };
        let (dst, src) = head.addresses(skip);
        let plain = match snapshot {
            Snapshot::Chain(_) if skip == NET_HDR_LEN => one.plain(slices),
            _ => None,
        };
        let (flow, guarded) = (self.flow, Ok(&[][..]));
        let frame = Frame { dst, src, flow, offload, snapshot, slices: pieces, skip, len, plain, guarded };
        if OBSERVED {
            sending.begin_mirroring(flow)?;
        }
        crash::with_current(&head.0, || sending.forward(&frame))?;
        if OBSERVED {
            sending.copy_to_mirrors(&frame);
        }
        Ok(len)
    }

    /// Sends those of `others` that go where `one` went. Stops at the first frame that needs more work, or that does
    /// not lie in one piece.
    #[inline]
    fn repeat<'t, const OBSERVED: bool>(
        &self,
        sending: &mut Sending<'_, 't>,
        one: &Taken,
        others: &'t [Taken],
        slices: &'t SliceList<'_, '_>,
        first: usize,
    ) -> Delivered {
        let Some(egress) = sending.last_egress().filter(|_| self.header_len == NET_HDR_LEN) else {
            return Delivered::default();
        };
        // A capture gets a frame with another tag from the delivery of one frame.
        if OBSERVED && (sending.is_mirrored(&egress) || egress.edit != Edit::NONE && sending.is_captured(&egress)) {
            return Delivered::default();
        }
        let delivered = match self.rules {
            Some(rules) => self.repeat_by_rules(rules, sending, &egress, (one, others, first), slices),
            None => {
                let (most, _) = self.alike(sending, &egress, one, others, (|_, _, _, _| true, |_| true));
                let plain = others.iter().map_while(|next| next.plain(slices));
                sending.repeat(&egress, plain, most, self.is_verified(one))
            }
        };
        if OBSERVED && sending.is_captured(&egress) {
            let hdr = NetHdr::of_complete(self.is_verified(one));
            for (at, next) in (first..).zip(others).take(delivered.frames as usize) {
                let window = sending.windows.get(at);
                self.observe((next, window), slices, |frame| sending.record_repeated(&egress, frame, hdr));
            }
        }
        delivered
    }

    /// Whether frames that ask for the same as `one` may be sorted by receiver.
    #[inline]
    fn may_sort(&self, one: &Taken) -> bool {
        let asks = one.head.asks();
        self.rules.is_none() && self.header_len == NET_HDR_LEN && (asks == 0 || asks == self.verified)
    }

    /// Whether a frame that needs no offload has a verified checksum.
    #[inline]
    fn is_verified(&self, one: &Taken) -> bool {
        let asks = one.head.asks();
        asks != 0 && asks == self.verified
    }

    /// How many of `others` go where `one` went, as they are, and their octets. Each is `admitted`: by its number, its
    /// length, and whether it has the addresses of the one before; and `paid` for at last.
    #[inline(always)]
    fn alike(
        &self,
        sending: &mut Sending<'_, '_>,
        egress: &Egress,
        one: &Taken,
        others: &[Taken],
        (mut admitted, paid): (impl FnMut(usize, &Taken, usize, bool) -> bool, impl Fn(usize) -> bool),
    ) -> (usize, u64) {
        let (mut last, mut cost, mut most) = (&one.head, sending.cost(), 0);
        let (asks, before, cost_of_frame) = (one.head.asks(), cost, DELIVERY + DESCRIPTOR + egress.frame_cost);
        for next in others {
            let Some(len) = self.plain_len(next, asks).filter(|_| cost < self.budget) else { break };
            let addresses = || next.head.addresses(self.header_len);
            let same_addresses = next.head.same_addresses(last);
            let is_admitted = admitted(most, next, len, same_addresses);
            if !is_admitted || !same_addresses && !sending.goes_to(egress, addresses()) || !paid(len) {
                break;
            }
            last = &next.head;
            cost += cost_of_frame + len as u64;
            most += 1;
        }
        (most, cost - before - cost_of_frame * most as u64)
    }

    /// Shows a taken frame to somebody, as it was sent. One that breaks the specification has no octets.
    fn observe(
        &self,
        (one, window): (&Taken, Option<&Window>),
        slices: &SliceList<'_, '_>,
        see: impl FnOnce(&Outgoing<'_, '_, '_>),
    ) {
        let (skip, head) = (self.header_len, &one.head);
        let len = one.len().and_then(|len| len.checked_sub(skip)).unwrap_or(0);
        let known = window.and_then(|window| window.0.get(skip..skip.saturating_add(len).min(window.0.len())));
        let snapshot = known.map_or(Snapshot::Chain(head), Snapshot::Frame);
        let slices = one.slices(slices.all());
        see(&Outgoing { hdr: &head.net_hdr(skip), slices, skip, len, snapshot, plain: None });
    }

    /// Octets of a frame that lies in one piece and asks for the same as a frame that needs no offload.
    #[inline]
    fn plain_len(&self, taken: &Taken, asks: u16) -> Option<usize> {
        let plain = taken.is_plain() && taken.head.asks() == asks;
        taken.frame_len(self.header_len).filter(|_| plain)
    }

    /// Checks the sender's header against the octets that will be delivered.
    #[inline(never)]
    fn check(&self, head: &FrameHead, slices: &[GuestSlice<'_>], len: usize) -> Option<Checked> {
        let (mut octets, mut room) = ([0; offload::HEAD], [0; HEAD_LEN]);
        let snapshot = Snapshot::Chain(head).octets((self.header_len, len), &mut room);
        let known = Reader::new(snapshot, slices, self.header_len).read(&mut octets);
        let hdr = head.net_hdr(self.header_len);
        let offload = offload::check(&hdr, octets.get(..known)?, len, self.features).ok()?;
        if offload.segmented() {
            looked(|at| at(slices, self.header_len + known));
        }
        Some(Checked { offload, octets, known })
    }
}

/// A frame whose offload was checked, and the octets that the check used.
struct Checked {
    offload: Offload,
    octets: [u8; offload::HEAD],
    /// How many octets of the frame are known.
    known: usize,
}

impl Checked {
    /// What is delivered exactly as it was checked. A plain checksum may cover any octets: its check looks at no
    /// header.
    fn snapshot<'a>(&'a self, head: &'a FrameHead) -> Snapshot<'a> {
        match self.offload.segmented() {
            true => Snapshot::Frame(self.octets.get(..self.known).unwrap_or(&[])),
            false => Snapshot::Chain(head),
        }
    }
}

mod guarded;
mod held;
#[cfg(test)]
mod pace;
mod sorted;
#[cfg(test)]
pub(super) mod tests;
