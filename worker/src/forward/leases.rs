//! The receive queues that a thread has leased for its burst, and delivery to them.

use std::sync::atomic::Ordering::Relaxed;

use sv3::MAX_PORTS;
use sv3::MAX_RINGS;
use sv3::drop_reason::DropReason;
use sv3::frame::MAX_FRAME;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::ledger::ThreadState;
use sv3::virtio::NetHdr;

use super::frame::Frame;
use super::observation;
use super::offload::{Segments, finish_checksum};
use super::tagging;
use crate::memory::copy::Reader;
use crate::memory::deferred::DeferredRoom;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;
use crate::port::batch::PlainFrame;
use crate::port::bucket::Bucket;
use crate::port::counting::Counting;
use crate::port::endpoint::Workspaces;
use crate::port::kind::Kind;
use crate::port::observers::{Observed, ObserverLease};
use crate::port::sink::{BufferWait, Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use crate::port::traffic_rules::{Edit, Passage};
use crate::port::view::View;
use crate::port::{Port, ReceiveLease};

/// Most copies that are deferred, so that the prefetched cache lines are still there.
const MAX_DEFERRED: usize = 128;

/// What a thread needs to deliver. Made before the worker is confined, except for the first thread's: in any other
/// thread the allocator may need syscalls that the policy does not have.
pub struct Leases {
    workspaces: Workspaces,
    /// Room for deferred copies, between two bursts.
    pub deferred: DeferredRoom,
    /// Room for a whole frame, for work on its octets.
    scratch: Box<[u8]>,
    held: Vec<Held>,
    /// By slot: index in `held` of the port's receive queue, plus one; 0: not leased. A burst comes from one transmit
    /// queue, so it needs one receive queue of each port.
    at: Box<[u16]>,
    /// Queues that broke. The loop stops them.
    faults: Vec<(QueueId, RingFault)>,
    /// The captures and mirrors of this burst, if there are some.
    pub observers: Option<ObserverLease>,
}

/// A leased receive queue, and what is not counted yet.
struct Held {
    port: &'static Port,
    queue: QueueId,
    lease: ReceiveLease,
    frames: u64,
    octets: u64,
    /// Who observes what it gets.
    observed: Observed,
}

/// How a frame goes to a receiver.
#[derive(Clone, Copy)]
pub struct Way {
    /// Index of the leased queue.
    pub at: usize,
    /// What becomes of the frame's VLAN tag.
    pub edit: Edit,
    /// The receiver gets only so much.
    pub is_limited: bool,
}

impl Way {
    /// The way to a leased queue, without a look at rules: the frame goes as it is.
    pub fn straight(at: usize) -> Way {
        Way { at, edit: Edit::NONE, is_limited: false }
    }

    /// Whether the next frame may take it without a look at rules.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.edit == Edit::NONE && !self.is_limited
    }
}

/// What a leased queue has room for.
#[derive(Clone, Copy, Default)]
pub struct Room {
    /// Index of the leased queue.
    pub at: usize,
    /// How many plain frames, if each goes to one buffer.
    pub frames: usize,
    /// Most octets of a frame in one buffer.
    pub longest: usize,
}

/// Why a frame was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// Dropped, and counted against the sender.
    Dropped(DropReason),
    /// Another thread has leased a receiver's queue. Nothing was done.
    Busy,
    /// The frame may wait for the receiver. Nothing was done.
    Waits(BufferWait),
}

impl Unsent {
    /// As what a frame counts that cannot be sent again.
    pub fn reason(self) -> DropReason {
        match self {
            Unsent::Dropped(reason) => reason,
            // Its address has moved meanwhile.
            Unsent::Busy | Unsent::Waits(_) => DropReason::NoDestination,
        }
    }
}

impl From<DropReason> for Unsent {
    fn from(reason: DropReason) -> Unsent {
        Unsent::Dropped(reason)
    }
}

impl Leases {
    /// No leases. Room for one thread.
    pub fn new() -> Leases {
        Leases {
            workspaces: Workspaces::new(),
            deferred: DeferredRoom::new(MAX_DEFERRED),
            scratch: vec![0; MAX_FRAME].into_boxed_slice(),
            held: Vec::with_capacity(MAX_PORTS),
            at: vec![0; MAX_PORTS].into_boxed_slice(),
            faults: Vec::with_capacity(MAX_PORTS * MAX_RINGS),
            observers: None,
        }
    }

    /// The next queue that broke. Each is reported once.
    pub fn next_fault(&mut self) -> Option<(QueueId, RingFault)> {
        self.faults.pop()
    }

    /// Notes that a queue broke. It no longer runs.
    pub fn note_fault(&mut self, queue: QueueId, fault: RingFault) {
        self.faults.push((queue, fault));
    }

    /// Who observes what a leased queue gets.
    pub fn observed(&self, at: usize) -> Observed {
        self.held.get(at).map_or(Observed::default(), |held| held.observed)
    }

    /// Index of the leased receive queue of a port.
    #[inline]
    pub fn find(&self, slot: u16) -> Option<usize> {
        self.at.get(usize::from(slot)).and_then(|at| usize::from(*at).checked_sub(1))
    }

    /// Leases the receive queue of port `to` for the rest of the burst, unless this burst has it already. Returns its
    /// index. `None`: the port does not receive.
    #[inline]
    pub fn lease(
        &mut self,
        view: &View,
        to: u16,
        flow: u16,
        state: &mut DeliveryState<'_>,
    ) -> Result<Option<usize>, Unsent> {
        match self.find(to) {
            Some(at) => Ok(Some(at)),
            None => self.lease_anew(view, to, flow, state),
        }
    }

    fn lease_anew(
        &mut self,
        view: &View,
        to: u16,
        flow: u16,
        state: &mut DeliveryState<'_>,
    ) -> Result<Option<usize>, Unsent> {
        let Some(port) = view.port(to) else { return Ok(None) };
        let Some(pair) = port.receiver(flow) else { return Ok(None) };
        let Some(leased) = port.receive(pair) else { return Ok(None) };
        let lease = leased.lease(view.number).ok_or(Unsent::Busy)?;
        if !lease.endpoint.runs() {
            return Ok(None);
        }
        let Some(place) = self.at.get_mut(usize::from(to)) else { return Ok(None) };
        state.cost += lease.endpoint.publish_cost();
        let observed = self.observers.as_ref().map_or(Observed::default(), |observers| observers.of_receiver(to));
        self.held.push(Held { port, queue: QueueId::receive(to, pair), lease, frames: 0, octets: 0, observed });
        *place = self.held.len() as u16;
        Ok(Some(self.held.len() - 1))
    }

    /// The port whose queue has this index, if the queue is not broken, and what a frame to it costs in addition
    /// ([`Kind::frame_cost`]).
    #[inline]
    pub fn receiver(&self, at: usize) -> Option<(u16, u64)> {
        let held = self.held.get(at).filter(|held| held.lease.endpoint.fault().is_none())?;
        Some((held.queue.slot, held.lease.endpoint.frame_cost()))
    }

    /// For how many plain frames, `most` at most, a leased queue has room now. `None`: it cannot say, or for none.
    pub fn room(&mut self, at: usize, most: usize) -> Option<Room> {
        let held = self.held.get_mut(at).filter(|held| held.lease.endpoint.fault().is_none())?;
        let (frames, longest) = held.lease.endpoint.room(most);
        (frames > 0).then_some(Room { at, frames, longest })
    }

    /// The way of a frame to a leased queue, if it may go there.
    #[inline]
    pub fn way_to(&self, at: usize, passage: &Passage) -> Result<Way, DropReason> {
        let rules = self.held.get(at).and_then(|held| held.lease.rules.as_deref());
        let is_limited = rules.is_some_and(|rules| rules.to_port.is_some());
        Ok(Way { at, edit: passage.way_to(rules)?, is_limited })
    }

    /// Delivers to a leased queue. Does in software what the receiver did not negotiate.
    #[inline(always)]
    pub fn deliver<'t>(
        &mut self,
        way: Way,
        state: &mut DeliveryState<'t>,
        frame: &Frame<'_, 't, '_>,
        may_pause: bool,
        counting: Counting,
    ) -> Result<(), Unsent> {
        match way.is_plain() {
            true => self.deliver_as_it_is(way.at, state, frame, may_pause, counting),
            // What is edited or limited does not stay where it is.
            false => state.without_stay(|state| self.deliver_by_rules(way, state, frame, may_pause, counting)),
        }
    }

    #[inline(never)]
    fn deliver_by_rules<'t>(
        &mut self,
        Way { at, edit, is_limited }: Way,
        state: &mut DeliveryState<'t>,
        frame: &Frame<'_, 't, '_>,
        may_pause: bool,
        counting: Counting,
    ) -> Result<(), Unsent> {
        let (offload, mut room) = (tagging::offload(frame, edit), [0; tagging::ROOM]);
        let edited;
        let frame = match edit == Edit::NONE {
            true => frame,
            false => {
                edited = tagging::edited(frame, edit, &offload, &mut room);
                &edited
            }
        };
        if is_limited && !self.take_limit(at, frame.len, state.now_ns, counting) {
            let Leases { held, observers, .. } = self;
            if let Some(held) = held.get(at).filter(|held| held.observed != Observed::default()) {
                observation::dropped(observers, (held.queue.slot, held.observed), DropReason::RxLimit, frame);
            }
            return Ok(());
        }
        let delivered = self.deliver_as_it_is(at, state, frame, may_pause, counting);
        if is_limited && delivered.is_err() {
            self.give_back_limit(at, frame.len);
        }
        delivered
    }

    /// Takes a frame off what the receiver may get. False: that is too little, and the drop is counted.
    fn take_limit(&self, at: usize, len: usize, now_ns: u64, counting: Counting) -> bool {
        let Some((held, limit)) = self.limit(at) else { return true };
        let may = limit.take(limit.tokens(1, len as u64), now_ns).is_ok();
        if !may {
            counting.drop(held.port.counters(), DropReason::RxLimit);
        }
        may
    }

    fn give_back_limit(&self, at: usize, len: usize) {
        if let Some((_, limit)) = self.limit(at) {
            limit.give_back(limit.tokens(1, len as u64));
        }
    }

    fn limit(&self, at: usize) -> Option<(&Held, &Bucket)> {
        let held = self.held.get(at)?;
        Some((held, held.lease.rules.as_deref()?.to_port.as_ref()?))
    }

    #[inline(always)]
    fn deliver_as_it_is<'t>(
        &mut self,
        at: usize,
        state: &mut DeliveryState<'t>,
        frame: &Frame<'_, 't, '_>,
        may_pause: bool,
        counting: Counting,
    ) -> Result<(), Unsent> {
        let Leases { workspaces, scratch, held, faults, observers, .. } = self;
        let Some(held) = held.get_mut(at) else { return Ok(()) };
        let mut delivery = Delivery { workspaces, held, state, observers, has_delivered: false };
        let features = delivery.held.lease.endpoint.features();
        let result = if frame.offload.fits(features) {
            let Frame { offload, slices, skip, len, snapshot, plain, .. } = *frame;
            delivery.deliver(&Outgoing { hdr: offload.hdr_for(features), slices, skip, len, snapshot, plain })
        } else {
            delivery.translate(frame, scratch)
        };
        let Err(reason) = result else { return Ok(()) };
        let reason = match reason {
            Undelivered::Dropped(DropReason::RxNoBuffers) if may_pause && delivery.is_worth_waiting() => {
                return Err(Unsent::Waits(BufferWait { queue: held.queue, cursor: state.missed }));
            }
            Undelivered::Dropped(reason) => reason,
            Undelivered::Unsendable(reason) => return Err(Unsent::Dropped(reason)),
            Undelivered::Fault(fault) => {
                if held.lease.endpoint.fault().is_none() {
                    faults.push((held.queue, fault));
                }
                held.lease.endpoint.break_with(fault);
                DropReason::RxDown
            }
        };
        counting.drop(held.port.counters(), reason);
        if held.observed != Observed::default() {
            observation::dropped(observers, (held.queue.slot, held.observed), reason, frame);
        }
        Ok(())
    }

    /// Delivers up to `most` frames without offloads, whose checksums were `verified` or not. Stops at the first frame that
    /// needs more work.
    #[inline]
    pub fn deliver_plain<'t>(
        &mut self,
        at: usize,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        let Some(held) = self.held.get_mut(at) else { return Delivered::default() };
        let delivered = held.lease.endpoint.deliver_plain(state, frames, most, verified);
        held.frames += delivered.frames;
        held.octets += delivered.octets;
        delivered
    }

    /// Publishes every queue that was leased, signals the guests that want it, and gives the leases back.
    #[inline]
    pub fn publish(&mut self, state: &mut DeliveryState<'_>, thread: &ThreadState, counting: Counting) {
        state.deferred.settle();
        let before = thread.port.load(Relaxed);
        while let Some(mut held) = self.held.pop() {
            let slot = held.queue.slot;
            if let Some(place) = self.at.get_mut(usize::from(slot)) {
                *place = 0;
            }
            let counters = held.port.counters();
            // The client of the receiver also holds the call eventfd and can make this write block. So a hang here is
            // charged to it.
            thread.port.store(u32::from(slot) + 1, Relaxed);
            let had_fault = held.lease.endpoint.fault().is_some();
            held.lease.endpoint.publish(counters, held.queue.index, counting);
            if let Some(fault) = held.lease.endpoint.fault().filter(|_| !had_fault) {
                self.faults.push((held.queue, fault));
            }
            if held.frames > 0 {
                counting.add(&counters.to_guest_frames, held.frames);
                counting.add(&counters.to_guest_bytes, held.octets);
            }
        }
        thread.port.store(before, Relaxed);
    }
}

/// Delivery to one receive queue.
struct Delivery<'l, 't> {
    workspaces: &'l mut Workspaces,
    held: &'l mut Held,
    state: &'l mut DeliveryState<'t>,
    observers: &'l mut Option<ObserverLease>,
    /// A part of the frame was already delivered.
    has_delivered: bool,
}

impl<'t> Delivery<'_, 't> {
    /// True if nothing of the frame is delivered yet and the receiver has taken frames since the last futile wait for
    /// it.
    #[cold]
    fn is_worth_waiting(&self) -> bool {
        let lease = &self.held.lease;
        !self.has_delivered && (lease.futile_at != Some(lease.endpoint.position()))
    }

    #[inline(always)]
    fn deliver(&mut self, frame: &Outgoing<'_, 't, '_>) -> Result<(), Undelivered> {
        let Delivery { workspaces, held, state, has_delivered, observers } = self;
        if held.lease.endpoint.fault().is_some() {
            return Err(Undelivered::Dropped(DropReason::RxDown));
        }
        held.lease.endpoint.deliver(workspaces, state, frame)?;
        *has_delivered = true;
        held.frames += 1;
        held.octets += frame.len as u64;
        if held.observed != Observed::default() {
            state.cost += frame.len as u64;
            observation::delivered(observers, (held.queue.slot, held.observed), frame);
        }
        Ok(())
    }

    /// Does in software, on a copy, what the receiver cannot do. Each segment is copied, summed and delivered while
    /// it is in the cache.
    #[cold]
    fn translate(&mut self, frame: &Frame<'_, 't, '_>, scratch: &mut [u8]) -> Result<(), Undelivered> {
        // What is delivered is a copy, which is overwritten soon.
        let may_stay = std::mem::take(&mut self.state.stay.may);
        let translated = self.deliver_translated(frame, scratch);
        self.state.stay.may = may_stay;
        translated
    }

    fn deliver_translated(&mut self, frame: &Frame<'_, 't, '_>, scratch: &mut [u8]) -> Result<(), Undelivered> {
        let Frame { offload, slices, skip, len, snapshot, .. } = *frame;
        let mut room = [0; HEAD_LEN];
        let mut source = Reader::new(snapshot.octets((skip, len), &mut room), slices, skip);
        // The translation copies and sums the octets once more.
        self.state.cost += 2 * len as u64;
        if !offload.segmented() {
            let copy = scratch.get_mut(..len).ok_or(Undelivered::Dropped(DropReason::LongFrame))?;
            source.read(copy);
            finish_checksum(copy, offload);
            return self.deliver_copy(&NetHdr::NONE, copy);
        }
        let mut fill = |room: &mut [u8]| {
            source.read(room);
        };
        let features = self.held.lease.endpoint.features();
        let mut segments = Segments::new(*offload, len, features, &mut fill);
        while let Some((hdr, segment)) = segments.next(scratch, &mut fill) {
            self.deliver_copy(&hdr, segment)?;
        }
        Ok(())
    }

    fn deliver_copy(&mut self, hdr: &NetHdr, copy: &mut [u8]) -> Result<(), Undelivered> {
        let (len, slices) = (copy.len(), &[GuestSlice::of_host(copy)]);
        self.deliver(&Outgoing { hdr, slices, skip: 0, len, snapshot: Snapshot::NOTHING, plain: None })
    }
}
