//! The fabric: all ports and the forwarding table; one frame in, none or some frames out.

use std::sync::atomic::Ordering::Relaxed;

use sv3::drops::Drop;
use sv3::frame::{MAX_FRAME, MacAddr};
use sv3::ipc::RingFault;
use sv3::ledger::{Lane, Ledger, PortLine, RingLine, RingLog, add};
use sv3::virtio::NetHdr;
use sv3::{MAX_PORTS, MAX_RINGS};

use crate::copy::Source;
use crate::cost::{RING, SIGNAL};
use crate::deliver::{Parcel, Receiver, Undelivered};
use crate::fdb::Fdb;
use crate::guest::memory::GuestSlice;
use crate::offload::{Offload, Segments, finish_checksum};
use crate::points::{Point, pass};
use crate::port::Port;

/// A frame as it came from a guest (or, for RARP, from ourselves in its name).
pub struct Frame<'a, 'm> {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Queue pair that it came by.
    pub pair: u16,
    /// Checked offloads.
    pub offload: &'a Offload,
    /// Where it lies.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets of the slices in front of the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// The octets last until the burst is published: they are not the worker's own.
    pub lasts: bool,
}

/// All ports. While a port's ring is served it is taken out of its slot, so that the others can be written.
pub struct Fabric {
    ledger: &'static Ledger,
    lane: &'static Lane,
    ports: Vec<Option<Box<Port>>>,
    /// Slots in use, for flooding.
    taken: Vec<u16>,
    fdb: Fdb<'static>,
    receiver: Receiver,
    /// A whole frame, for work on its octets.
    scratch: Box<[u8]>,
    /// Receive rings with completed entries that are not published.
    touched: Vec<(u16, u16)>,
    /// Receive rings that broke, until the switch stops them.
    pub faults: Vec<(u16, u16, RingFault)>,
    /// Seconds, brought up to date by the switch.
    pub now_s: u64,
    /// The last address that the burst learnt: a burst is one port's, within a second.
    last_learnt: Option<MacAddr>,
    /// The last look-up of the burst; forgotten when the table changes.
    last_found: Option<(MacAddr, Option<u16>)>,
}

impl Fabric {
    /// A fabric without ports. The forwarding table is the one that the ledger holds.
    pub fn new(ledger: &'static Ledger, lane: &'static Lane) -> Fabric {
        Fabric {
            ledger,
            lane,
            ports: std::iter::repeat_with(|| None).take(MAX_PORTS).collect(),
            taken: Vec::with_capacity(MAX_PORTS),
            fdb: Fdb::new(&ledger.fdb),
            receiver: Receiver::new(),
            scratch: vec![0; MAX_FRAME].into_boxed_slice(),
            touched: Vec::with_capacity(MAX_PORTS * MAX_RINGS / 2),
            faults: Vec::with_capacity(MAX_PORTS * MAX_RINGS),
            now_s: 0,
            last_learnt: None,
            last_found: None,
        }
    }

    /// Adds a port, in place of whatever was in its slot; false when there is no such slot.
    pub fn insert(&mut self, port: Port) -> bool {
        let slot = port.slot;
        let Some(place) = self.ports.get_mut(usize::from(slot)) else { return false };
        if place.replace(Box::new(port)).is_none() {
            self.taken.push(slot);
        }
        true
    }

    /// Removes a port.
    pub fn remove(&mut self, slot: u16) -> Option<Box<Port>> {
        let port = self.ports.get_mut(usize::from(slot))?.take()?;
        self.taken.retain(|taken| *taken != slot);
        Some(port)
    }

    /// Forgets the addresses of a port.
    pub fn forget(&self, slot: u16) {
        self.fdb.forget(slot);
    }

    /// The slots in use.
    pub fn slots(&self) -> Vec<u16> {
        self.taken.clone()
    }

    /// A port by its slot.
    pub fn port(&mut self, slot: u16) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(slot))?.as_deref_mut()
    }

    /// Takes a port out of its slot, to serve one of its rings.
    #[inline]
    pub fn take(&mut self, slot: u16) -> Option<Box<Port>> {
        self.ports.get_mut(usize::from(slot))?.take()
    }

    /// Puts a port back that was taken.
    #[inline]
    pub fn put_back(&mut self, port: Box<Port>) {
        if let Some(place) = self.ports.get_mut(usize::from(port.slot)) {
            *place = Some(port);
        }
    }

    /// A port's counters.
    #[inline]
    pub fn line(&self, slot: u16) -> &'static PortLine {
        let ledger = self.ledger;
        ledger.ports.get(usize::from(slot)).unwrap_or(&ledger.ports[0])
    }

    /// The ledger's part of one ring.
    pub fn ring_lines(&self, slot: u16, ring: u16) -> Option<(&'static RingLine, &'static RingLog)> {
        let (slot, ring) = (usize::from(slot), usize::from(ring));
        Some((self.ledger.ports.get(slot)?.rings.get(ring)?, self.ledger.logs.get(slot)?.get(ring)?))
    }

    /// What deliveries and signals have cost since the burst began, see [`crate::cost`].
    #[inline]
    pub fn cost(&self) -> u64 {
        self.receiver.cost
    }

    /// Begins a burst: what the last one looked up is forgotten.
    #[inline]
    pub fn begin(&mut self) {
        self.receiver.cost = 0;
        self.last_learnt = None;
        self.last_found = None;
    }

    /// Learns the sender's address and delivers the frame to whom it is for. `from`: slot of the sender, which is not in
    /// its place. An error is the sender's; receivers' drops are counted here.
    #[inline(always)]
    pub fn forward(&mut self, from: u16, frame: &Frame<'_, '_>) -> Result<(), Drop> {
        if frame.src.is_group() || frame.src.is_zero() {
            return Err(Drop::BadSource);
        }
        if frame.dst.is_link_local() {
            return Err(Drop::LinkLocal);
        }
        if self.last_learnt != Some(frame.src) {
            self.last_learnt = Some(frame.src);
            if self.fdb.learn(frame.src, from, self.now_s) {
                self.last_found = None;
            }
        }
        match self.find(frame.dst) {
            Some(to) if to == from => Err(Drop::Hairpin),
            Some(to) => {
                self.unicast(to, frame);
                Ok(())
            }
            None => self.flood(from, frame),
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

    fn flood(&mut self, from: u16, frame: &Frame<'_, '_>) -> Result<(), Drop> {
        let mut receivers = 0;
        for at in 0..self.taken.len() {
            let Some(to) = self.taken.get(at).copied().filter(|to| *to != from) else { continue };
            if self.port(to).is_some_and(|port| port.receiver(frame.pair).is_some()) {
                receivers += 1;
                self.unicast(to, frame);
            }
        }
        if receivers > 0 { Ok(()) } else { Err(Drop::NoDestination) }
    }

    /// Delivers to one port, translating what the receiver did not negotiate.
    #[inline(always)]
    fn unicast(&mut self, to: u16, frame: &Frame<'_, '_>) {
        let line = self.line(to);
        let Some(port) = self.ports.get_mut(usize::from(to)).and_then(Option::as_deref_mut) else {
            line.drop(Drop::RxDown, 1);
            return;
        };
        let Some(ring) = port.receiver(frame.pair) else {
            line.drop(Drop::RxDown, 1);
            return;
        };
        let mut desk = Desk { receiver: &mut self.receiver, line, port, ring };
        let result = if frame.offload.fits(desk.port.features) {
            let Frame { offload, slices, skip, len, lasts, .. } = *frame;
            desk.hand_over(&Parcel { hdr: &offload.hdr, slices, skip, len, lasts })
        } else {
            desk.translate(frame, &mut self.scratch)
        };
        match result {
            Ok(()) => {}
            Err(Undelivered::Dropped(reason)) => line.drop(reason, 1),
            Err(Undelivered::Fault(fault)) => {
                line.drop(Drop::RxDown, 1);
                self.faults.push((to, ring, fault));
            }
        }
        self.touch(to, ring);
    }

    #[inline]
    fn touch(&mut self, slot: u16, ring: u16) {
        if let Some(state) = self.port(slot).and_then(|port| port.rings.get_mut(usize::from(ring)))
            && !state.touched
        {
            state.touched = true;
            // Whether the driver is to be signalled is known too late to end the burst for it.
            let cost = state.cost;
            self.receiver.cost += cost;
            self.touched.push((slot, ring));
        }
    }

    /// Publishes every receive ring that was delivered to, and signals the guests that want it.
    #[inline]
    pub fn publish(&mut self) {
        self.receiver.settle();
        let hand = &self.lane.hand_port;
        let before = hand.load(Relaxed);
        while let Some((slot, ring)) = self.touched.pop() {
            let line = self.line(slot);
            let Some(state) = self.port(slot).and_then(|port| port.rings.get_mut(usize::from(ring))) else { continue };
            state.touched = false;
            // A receiver holds its call eventfd as well and can make the write block: a hang here is its doing.
            hand.store(u32::from(slot) + 1, Relaxed);
            publish_ring(state, line, ring);
        }
        hand.store(before, Relaxed);
    }
}

/// Publishes one ring's completed entries: to the guest, then to the ledger; signals if the driver wants it.
#[inline]
pub fn publish_ring(state: &mut crate::port::Ring, line: &PortLine, ring: u16) {
    let Some(queue) = &mut state.queue else { return };
    state.cost = RING;
    let signal = queue.publish();
    pass(Point::Published);
    if let Some(position) = line.rings.get(usize::from(ring)) {
        position.used.store(u64::from(queue.position()), Relaxed);
    }
    pass(Point::Noted);
    if signal && let Some(call) = &state.call {
        // A full counter (EAGAIN) signals as well as one more would.
        let _ = nix::unistd::write(call, &1u64.to_ne_bytes());
        add(&line.calls, 1);
        state.cost += SIGNAL;
    }
}

/// Delivery to one receive ring.
struct Desk<'a> {
    receiver: &'a mut Receiver,
    line: &'static PortLine,
    port: &'a mut Port,
    ring: u16,
}

impl Desk<'_> {
    #[inline(always)]
    fn hand_over(&mut self, parcel: &Parcel<'_, '_>) -> Result<(), Undelivered> {
        self.receiver.deliver(self.port, self.ring, parcel)?;
        add(&self.line.to_guest_frames, 1);
        add(&self.line.to_guest_bytes, parcel.len as u64);
        Ok(())
    }

    /// Does in software, on a copy, what the receiver cannot do. Segments are copied one by one, so that a segment is
    /// summed and sent on while it is near.
    #[cold]
    fn translate(&mut self, frame: &Frame<'_, '_>, scratch: &mut [u8]) -> Result<(), Undelivered> {
        let Frame { offload, len, .. } = *frame;
        let mut source = Source::new(frame.slices, frame.skip);
        // Copied once more, and summed.
        self.receiver.cost += 2 * len as u64;
        if !offload.segmented() {
            let copy = scratch.get_mut(..len).ok_or(Undelivered::Dropped(Drop::LongFrame))?;
            source.read(copy);
            finish_checksum(copy, offload);
            return self.hand_over_copy(&NetHdr::NONE, copy);
        }
        let mut fill = |room: &mut [u8]| {
            source.read(room);
        };
        let mut segments = Segments::new(*offload, len, self.port.features, &mut fill);
        while let Some((hdr, segment)) = segments.next(scratch, &mut fill) {
            self.hand_over_copy(&hdr, segment)?;
        }
        Ok(())
    }

    fn hand_over_copy(&mut self, hdr: &NetHdr, copy: &mut [u8]) -> Result<(), Undelivered> {
        let len = copy.len();
        self.hand_over(&Parcel { hdr, slices: &[GuestSlice::of_host(copy)], skip: 0, len, lasts: false })
    }
}
