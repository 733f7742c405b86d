//! The forwarder: all ports and the forwarding table; one frame in, none or some frames out. Each thread has its own view of
//! it.

use std::sync::atomic::Ordering::Relaxed;

use sv3::drop_reason::DropReason;
use sv3::frame::{MAX_FRAME, MacAddr};
use sv3::ipc::RingFault;
use sv3::ledger::{Ledger, PortCounters, PublishJournal, RingPosition, ThreadState};
use sv3::virtio::NetHdr;
use sv3::{MAX_PORTS, MAX_RINGS};

use crate::forward::counting::Counting;
use crate::forward::fdb::Fdb;
use crate::forward::offload::{Offload, Segments, finish_checksum};
use crate::memory::copy::Source;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;
use crate::poll::cost::{RING, SIGNAL};
use crate::poll::lease::Leased;
use crate::poll::pause::BufferWait;
use crate::port::vring::deliver::{Delivered, Outgoing, PlainFrame, Receiver, Undelivered};
use crate::port::vring::queue::Queue;
use crate::port::{Ports, Ring, RingLease};
use crate::process::crash_points::{CrashPoint, pass};

/// A frame as it came from a guest (or, for RARP, from ourselves in its name).
pub struct Frame<'a, 'm> {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What a receiver that has several rings chooses one by: the same for all frames of a transmit ring.
    pub flow: u16,
    /// Checked offloads.
    pub offload: &'a Offload,
    /// Where it lies.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets of the slices in front of the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// Those that are delivered as they were looked at.
    pub snapshot: Snapshot<'a>,
}

/// A thread's view of all ports, and the receive rings that it has leased for its burst.
pub struct Forwarder {
    ledger: &'static Ledger,
    ports: &'static Ports,
    fdb: Fdb<'static>,
    counting: Counting,
    /// The thread's number, and what it is at.
    number: u32,
    state: &'static ThreadState,
    room: Buffers,
    /// Seconds, brought up to date by the loop.
    pub now_s: u64,
    /// The same in nanoseconds.
    pub now_ns: u64,
    /// The ring that is served may be held.
    pub may_pause: bool,
    /// The last address that the burst learnt: a burst is one port's, within a second.
    last_learnt: Option<MacAddr>,
    /// The last look-up of the burst; forgotten when the table changes.
    last_found: Option<(MacAddr, Option<u16>)>,
    /// Where in the room's `held` the ring is that got the last frame, if that frame went to one port and as it was.
    last_egress: Option<usize>,
}

/// What a forwarder needs room for; made before the worker is confined, but for the first thread's: the allocator of any
/// other one may need syscalls that the policy does not have.
pub struct Buffers {
    receiver: Receiver,
    /// A whole frame, for work on its octets.
    scratch: Box<[u8]>,
    held: Vec<Held>,
    /// By slot: where in `held` its receive ring is, plus one; 0: nowhere. A burst is of one transmit ring, so there is one.
    at: Box<[u16]>,
    /// Rings that broke, until the loop has them stopped.
    pub faults: Vec<(u16, u16, RingFault)>,
}

/// A receive ring that is leased, and what has not been counted yet.
struct Held {
    slot: u16,
    index: u16,
    ring: RingLease,
    frames: u64,
    octets: u64,
}

/// A way that frames of the burst go.
pub struct Egress {
    /// Where in the room's `held` the ring is.
    at: usize,
    /// Slot of the receiver.
    to: u16,
}

/// Why a frame was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// Counted against the sender.
    Dropped(DropReason),
    /// Another thread has a receiver's ring; nothing was done.
    Busy,
    /// It is worth waiting for the receiver; nothing was done.
    Early(BufferWait),
}

impl From<DropReason> for Unsent {
    fn from(reason: DropReason) -> Unsent {
        Unsent::Dropped(reason)
    }
}

impl Buffers {
    /// Buffers for one thread.
    pub fn new() -> Buffers {
        Buffers {
            receiver: Receiver::new(),
            scratch: vec![0; MAX_FRAME].into_boxed_slice(),
            held: Vec::with_capacity(MAX_PORTS),
            at: vec![0; MAX_PORTS].into_boxed_slice(),
            faults: Vec::with_capacity(MAX_PORTS * MAX_RINGS),
        }
    }
}

impl Forwarder {
    /// The view of thread `number` of `threads`. The forwarding table is the one that the ledger holds.
    pub fn new(
        ledger: &'static Ledger,
        state: &'static ThreadState,
        ports: &'static Ports,
        room: Buffers,
        (number, threads): (usize, usize),
    ) -> Forwarder {
        Forwarder {
            ledger,
            ports,
            fdb: Fdb::new(ledger),
            counting: Counting { single_threaded: threads == 1 },
            number: number as u32,
            state,
            room,
            now_s: 0,
            now_ns: 0,
            may_pause: false,
            last_learnt: None,
            last_found: None,
            last_egress: None,
        }
    }

    /// Notes that an address was seen on a port.
    #[cfg(test)]
    pub fn learn(&self, mac: MacAddr, port: u16) {
        self.fdb.learn(mac, port, self.now_s);
    }

    /// Forgets the addresses of a port.
    pub fn forget(&self, slot: u16) {
        self.fdb.forget(slot);
    }

    /// Begins to serve: what the last worker did not come to count is counted.
    pub fn recount(&self) {
        self.fdb.recount();
    }

    /// How counters are written.
    #[inline]
    pub fn counting(&self) -> Counting {
        self.counting
    }

    /// A ring that broke during the burst. Each is told of once.
    pub fn next_fault(&mut self) -> Option<(u16, u16, RingFault)> {
        self.room.faults.pop()
    }

    /// A ring broke; `state` does not run any more.
    pub fn note_fault(&mut self, (slot, ring): (u16, u16), state: &mut Ring, fault: RingFault) {
        state.fault = Some(fault);
        self.room.faults.push((slot, ring, fault));
    }

    /// A port's counters.
    #[inline]
    pub fn line(&self, slot: u16) -> &'static PortCounters {
        let ledger = self.ledger;
        ledger.ports.get(usize::from(slot)).unwrap_or(&ledger.ports[0])
    }

    /// The ledger's part of one ring.
    pub fn ring_lines(&self, slot: u16, ring: u16) -> Option<(&'static RingPosition, &'static PublishJournal)> {
        let (slot, ring) = (usize::from(slot), usize::from(ring));
        Some((self.ledger.ports.get(slot)?.rings.get(ring)?, self.ledger.journals.get(slot)?.get(ring)?))
    }

    /// What deliveries and signals have cost since the burst began, see [`crate::poll::cost`].
    #[inline]
    pub fn cost(&self) -> u64 {
        self.room.receiver.cost
    }

    /// Begins a burst: what the last one looked up is forgotten.
    #[inline]
    pub fn begin(&mut self) {
        self.room.receiver.cost = 0;
        self.last_learnt = None;
        self.last_found = None;
        self.last_egress = None;
    }

    /// Learns the sender's address and delivers the frame to whom it is for. `from`: slot of the sender. A drop that is
    /// returned is the sender's; receivers' drops are counted here.
    #[inline(always)]
    pub fn forward(&mut self, from: u16, frame: &Frame<'_, '_>) -> Result<(), Unsent> {
        self.last_egress = None;
        if frame.src.is_group() || frame.src.is_zero() {
            return Err(DropReason::BadSource.into());
        }
        if frame.dst.is_link_local() {
            return Err(DropReason::LinkLocal.into());
        }
        self.learn_in_burst(frame.src, from);
        match self.find(frame.dst) {
            Some(to) if to == from => Err(DropReason::Hairpin.into()),
            Some(to) => self.unicast(to, frame),
            None => self.flood(from, frame),
        }
    }

    #[inline]
    fn learn_in_burst(&mut self, src: MacAddr, from: u16) {
        if self.last_learnt != Some(src) {
            self.last_learnt = Some(src);
            if self.fdb.learn(src, from, self.now_s) {
                self.last_found = None;
            }
        }
    }

    #[inline]
    fn find(&mut self, dst: MacAddr) -> Option<u16> {
        if dst.is_group() {
            return None;
        }
        match self.last_found {
            Some((mac, found)) if mac == dst => found,
            _ => {
                let found = self.fdb.find(dst, self.now_s);
                self.last_found = Some((dst, found));
                found
            }
        }
    }

    fn flood(&mut self, from: u16, frame: &Frame<'_, '_>) -> Result<(), Unsent> {
        let ports = self.ports;
        let others = || ports.receivers().filter(|to| *to != from);
        let mut receivers = 0;
        // All or none get it now, so that it need not be remembered who has. All threads ask in the same order.
        for to in others() {
            receivers += usize::from(self.hold(to, frame.flow)?.is_some());
        }
        for to in others() {
            if let Some(at) = self.held_at(to) {
                // Who waited for one would make the others wait.
                self.hand_to(at, frame, false)?;
            }
        }
        if receivers > 0 { Ok(()) } else { Err(DropReason::NoDestination.into()) }
    }

    /// Delivers to one port.
    #[inline(always)]
    fn unicast(&mut self, to: u16, frame: &Frame<'_, '_>) -> Result<(), Unsent> {
        match self.hold(to, frame.flow)? {
            Some(at) => {
                self.hand_to(at, frame, self.may_pause)?;
                self.last_egress = frame.offload.is_none().then_some(at);
            }
            None => self.counting.drop(self.line(to), DropReason::RxDown),
        }
        Ok(())
    }

    /// Where the last frame went, if it went to one port and as it was.
    #[inline]
    pub fn last_egress(&mut self) -> Option<Egress> {
        let at = self.last_egress.take()?;
        let held = self.room.held.get(at).filter(|held| held.ring.fault.is_none())?;
        Some(Egress { at, to: held.slot })
    }

    /// Whether a frame with these addresses goes that way too. Its source is one that is known at the sender's port: a new
    /// one is learnt when it is the frame's turn, lest those in front of it, which may not get away yet, see it.
    #[inline]
    pub fn goes(&mut self, egress: &Egress, from: u16, (dst, src): (MacAddr, MacAddr)) -> bool {
        if dst.is_group() || self.last_learnt != Some(src) && self.fdb.find(src, self.now_s) != Some(from) {
            return false;
        }
        self.learn_in_burst(src, from);
        egress.to != from && self.find(dst) == Some(egress.to)
    }

    /// Delivers up to `most` frames without offloads by a way that all of them go, as long as that is easy.
    #[inline]
    pub fn repeat<'a, 'm: 'a>(
        &mut self,
        egress: &Egress,
        frames: impl Iterator<Item = PlainFrame<'a, 'm>>,
        most: usize,
    ) -> Delivered {
        let Buffers { receiver, held, .. } = &mut self.room;
        let Some(held) = held.get_mut(egress.at) else { return Delivered::default() };
        let delivered = receiver.deliver_plain(&mut held.ring, frames, most);
        held.frames += delivered.frames;
        held.octets += delivered.octets;
        delivered
    }

    /// Where in `held` the receive ring of a port is.
    #[inline]
    fn held_at(&self, slot: u16) -> Option<usize> {
        self.room.at.get(usize::from(slot)).and_then(|at| usize::from(*at).checked_sub(1))
    }

    /// Leases the receive ring of a port for the rest of the burst; where in `held` it is. `None`: the port does not
    /// receive.
    #[inline]
    fn hold(&mut self, to: u16, flow: u16) -> Result<Option<usize>, Unsent> {
        match self.held_at(to) {
            Some(at) => Ok(Some(at)),
            None => self.hold_anew(to, flow),
        }
    }

    fn hold_anew(&mut self, to: u16, flow: u16) -> Result<Option<usize>, Unsent> {
        let Some(port) = self.ports.get(to) else { return Ok(None) };
        let Some(index) = port.receiver(flow) else { return Ok(None) };
        let Some(leased) = port.ring(index) else { return Ok(None) };
        let ring = leased.lease(self.number).ok_or(Unsent::Busy)?;
        if !ring.runs() {
            return Ok(None);
        }
        let Buffers { receiver, held, at, .. } = &mut self.room;
        let Some(place) = at.get_mut(usize::from(to)) else { return Ok(None) };
        // Whether the driver is to be signalled is known too late to end the burst for it.
        receiver.cost += ring.cost;
        held.push(Held { slot: to, index, ring, frames: 0, octets: 0 });
        *place = held.len() as u16;
        Ok(Some(held.len() - 1))
    }

    /// Delivers to a ring that is held, translating what the receiver did not negotiate.
    #[inline(always)]
    fn hand_to(&mut self, at: usize, frame: &Frame<'_, '_>, may_pause: bool) -> Result<(), Unsent> {
        let Buffers { receiver, scratch, held, faults, .. } = &mut self.room;
        let Some(held) = held.get_mut(at) else { return Ok(()) };
        let mut delivery = Delivery { receiver, held, handed: false };
        let result = if frame.offload.fits(delivery.held.ring.features) {
            let Frame { offload, slices, skip, len, snapshot, .. } = *frame;
            delivery.hand_over(&Outgoing { hdr: &offload.hdr, slices, skip, len, snapshot })
        } else {
            delivery.translate(frame, scratch)
        };
        let Err(reason) = result else { return Ok(()) };
        let reason = match reason {
            Undelivered::Dropped(DropReason::NoRxBuffers) if may_pause && delivery.is_worth_waiting() => {
                return Err(Unsent::Early(BufferWait { slot: held.slot, ring: held.index, cursor: receiver.missed }));
            }
            Undelivered::Dropped(reason) => reason,
            Undelivered::Fault(fault) => {
                if held.ring.fault.replace(fault).is_none() {
                    faults.push((held.slot, held.index, fault));
                }
                DropReason::RxDown
            }
        };
        let slot = held.slot;
        self.counting.drop(self.line(slot), reason);
        Ok(())
    }

    /// A ring that was ever used.
    #[inline]
    pub fn ring(&self, slot: u16, ring: u16) -> Option<&'static Leased<Ring>> {
        self.ports.get(slot)?.ring(ring)
    }

    /// The thread's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Publishes every receive ring that was delivered to, signals the guests that want it, and gives the rings back.
    #[inline]
    pub fn publish(&mut self) {
        self.room.receiver.settle();
        let current = &self.state.port;
        let before = current.load(Relaxed);
        while let Some(mut held) = self.room.held.pop() {
            if let Some(place) = self.room.at.get_mut(usize::from(held.slot)) {
                *place = 0;
            }
            let line = self.line(held.slot);
            // A receiver holds its call eventfd as well and can make the write block: a hang here is its doing.
            current.store(u32::from(held.slot) + 1, Relaxed);
            publish_ring(&mut held.ring, line, held.index, self.counting);
            if held.frames > 0 {
                self.counting.add(&line.to_guest_frames, held.frames);
                self.counting.add(&line.to_guest_bytes, held.octets);
            }
        }
        current.store(before, Relaxed);
    }
}

/// Publishes one ring's completed entries: to the guest, then to the ledger; signals if the driver wants it.
#[inline]
pub fn publish_ring(state: &mut Ring, line: &PortCounters, ring: u16, counting: Counting) {
    let Some(queue) = &mut state.queue else { return };
    state.cost = RING;
    let signal = queue.publish();
    pass(CrashPoint::Published);
    if let Some(position) = line.rings.get(usize::from(ring)) {
        position.used.store(u64::from(queue.position()), Relaxed);
    }
    pass(CrashPoint::Noted);
    if signal && let Some(call) = &state.call {
        // A full counter (EAGAIN) signals as well as one more would.
        let _ = nix::unistd::write(call, &1u64.to_ne_bytes());
        counting.add(&line.calls, 1);
        state.cost += SIGNAL;
    }
}

/// Delivery to one receive ring.
struct Delivery<'a> {
    receiver: &'a mut Receiver,
    held: &'a mut Held,
    /// A part of the frame was delivered.
    handed: bool,
}

impl Delivery<'_> {
    /// Nothing of the frame is delivered yet, and the receiver has taken frames since it was last waited for in vain.
    #[cold]
    fn is_worth_waiting(&self) -> bool {
        let Ring { queue, futile_at, .. } = &*self.held.ring;
        !self.handed && (futile_at.is_none() || *futile_at != queue.as_ref().map(Queue::position))
    }

    #[inline(always)]
    fn hand_over(&mut self, outgoing: &Outgoing<'_, '_>) -> Result<(), Undelivered> {
        if self.held.ring.fault.is_some() {
            return Err(Undelivered::Dropped(DropReason::RxDown));
        }
        self.receiver.deliver(&mut self.held.ring, outgoing)?;
        self.handed = true;
        self.held.frames += 1;
        self.held.octets += outgoing.len as u64;
        Ok(())
    }

    /// Does in software, on a copy, what the receiver cannot do. Segments are copied one by one, so that a segment is
    /// summed and sent on while it is near.
    #[cold]
    fn translate(&mut self, frame: &Frame<'_, '_>, scratch: &mut [u8]) -> Result<(), Undelivered> {
        let Frame { offload, slices, skip, len, snapshot, .. } = *frame;
        let mut room = [0; HEAD_LEN];
        let mut source = Source::new(snapshot.octets((skip, len), &mut room), slices, skip);
        // Copied once more, and summed.
        self.receiver.cost += 2 * len as u64;
        if !offload.segmented() {
            let copy = scratch.get_mut(..len).ok_or(Undelivered::Dropped(DropReason::LongFrame))?;
            source.read(copy);
            finish_checksum(copy, offload);
            return self.hand_over_copy(&NetHdr::NONE, copy);
        }
        let mut fill = |room: &mut [u8]| {
            source.read(room);
        };
        let mut segments = Segments::new(*offload, len, self.held.ring.features, &mut fill);
        while let Some((hdr, segment)) = segments.next(scratch, &mut fill) {
            self.hand_over_copy(&hdr, segment)?;
        }
        Ok(())
    }

    fn hand_over_copy(&mut self, hdr: &NetHdr, copy: &mut [u8]) -> Result<(), Undelivered> {
        let len = copy.len();
        self.hand_over(&Outgoing {
            hdr,
            slices: &[GuestSlice::of_host(copy)],
            skip: 0,
            len,
            snapshot: Snapshot::NOTHING,
        })
    }
}
