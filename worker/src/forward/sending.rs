//! The forwarding of one burst: what it looks up and learns, and to whom its frames go.
//!
//! Frames of a burst are mostly for one receiver, and alike. So the last look-up is kept, and frames that go the same way
//! as the last one are delivered in a run ([`Sending::repeat`]).

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;

use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::Unsent;
use crate::port::Port;
use crate::port::batch::PlainFrame;
use crate::port::sink::{Delivered, DeliveryState};

/// A burst of one port's frames, which stay where they are for `'t`. Receivers see nothing of it before
/// [`Sending::publish`]; if it is dropped without, what was not copied yet is given up.
pub struct Sending<'f, 't> {
    forwarder: &'f mut Forwarder,
    state: DeliveryState<'t>,
    from: &'static Port,
    /// The transmit queue may be paused.
    pub may_pause: bool,
    /// The last address that was learnt: all frames are one port's, within a second.
    last_learnt: Option<MacAddr>,
    /// The last look-up; forgotten when the table changes.
    last_found: Option<(MacAddr, Option<u16>)>,
    /// Where the leased queue is that got the last frame, if that frame went to one port and as it was.
    last_egress: Option<usize>,
}

/// Where frames of the burst go out.
#[derive(Clone, Copy)]
pub struct Egress {
    /// Which of the leased queues it is.
    at: usize,
    /// Slot of the receiver.
    to: u16,
}

impl<'f, 't> Sending<'f, 't> {
    /// Begins a burst of port `from`, whose transmit queue may be paused if `may_pause`.
    #[inline]
    pub fn begin(forwarder: &'f mut Forwarder, from: &'static Port, may_pause: bool) -> Sending<'f, 't> {
        let state = DeliveryState { deferred: forwarder.leases.deferred.begin(), cost: 0, missed: 0 };
        Sending { forwarder, state, from, may_pause, last_learnt: None, last_found: None, last_egress: None }
    }

    /// What deliveries and signals have cost so far ([`crate::port::cost`]).
    #[inline]
    pub fn cost(&self) -> u64 {
        self.state.cost
    }

    /// Counts a frame that was dropped against its sender.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.forwarder.view.counting.drop(self.from.counters(), reason);
    }

    /// Learns the sender's address and delivers the frame to its receivers. A drop that is returned is the sender's;
    /// receivers' drops are counted here.
    #[inline(always)]
    pub fn forward(&mut self, frame: &Frame<'_, 't, '_>) -> Result<(), Unsent> {
        self.last_egress = None;
        if frame.src.is_group() || frame.src.is_zero() {
            return Err(DropReason::BadSource.into());
        }
        if frame.dst.is_link_local() {
            return Err(DropReason::LinkLocal.into());
        }
        self.learn(frame.src);
        match self.find(frame.dst) {
            Some(to) if to == self.from.slot() => Err(DropReason::Hairpin.into()),
            Some(to) => self.unicast(to, frame),
            None => self.flood(frame),
        }
    }

    #[inline]
    fn learn(&mut self, src: MacAddr) {
        if self.last_learnt != Some(src) {
            self.last_learnt = Some(src);
            if self.forwarder.fdb.learn(src, self.from.slot(), self.forwarder.now_s) {
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
                let found = self.forwarder.fdb.find(dst, self.forwarder.now_s);
                self.last_found = Some((dst, found));
                found
            }
        }
    }

    fn flood(&mut self, frame: &Frame<'_, 't, '_>) -> Result<(), Unsent> {
        let Forwarder { view, leases, .. } = &mut *self.forwarder;
        let from = self.from.slot();
        let others = || view.ports.receivers().filter(|to| *to != from);
        let mut receivers = 0;
        // All or none get it now, so that it need not be remembered who has. All threads ask in the same order.
        for to in others() {
            receivers += usize::from(leases.lease(view, to, frame.flow, &mut self.state)?.is_some());
        }
        for to in others() {
            if let Some(at) = leases.find(to) {
                // A sender that waited for one would make the others wait.
                leases.deliver(at, &mut self.state, frame, false, view.counting)?;
            }
        }
        if receivers > 0 { Ok(()) } else { Err(DropReason::NoDestination.into()) }
    }

    /// Delivers to one port.
    #[inline(always)]
    fn unicast(&mut self, to: u16, frame: &Frame<'_, 't, '_>) -> Result<(), Unsent> {
        let Forwarder { view, leases, .. } = &mut *self.forwarder;
        match leases.lease(view, to, frame.flow, &mut self.state)? {
            Some(at) => {
                leases.deliver(at, &mut self.state, frame, self.may_pause, view.counting)?;
                self.last_egress = frame.offload.is_none().then_some(at);
            }
            None => {
                if let Some(counters) = view.counters(to) {
                    view.counting.drop(counters, DropReason::RxDown);
                }
            }
        }
        Ok(())
    }

    /// Where the last frame went, if it went to one port and as it was.
    #[inline]
    pub fn last_egress(&mut self) -> Option<Egress> {
        let at = self.last_egress.take()?;
        Some(Egress { at, to: self.forwarder.leases.receiver(at)? })
    }

    /// Whether a frame with these addresses goes there too. Its source is one that is known at the sender's port: a new
    /// one is learnt when it is the frame's turn, so that those in front of it, which may not get away yet, do not see it.
    #[inline]
    pub fn goes_to(&mut self, egress: &Egress, (dst, src): (MacAddr, MacAddr)) -> bool {
        let from = self.from.slot();
        let is_known = || self.forwarder.fdb.find(src, self.forwarder.now_s) == Some(from);
        if dst.is_group() || self.last_learnt != Some(src) && !is_known() {
            return false;
        }
        self.learn(src);
        egress.to != from && self.find(dst) == Some(egress.to)
    }

    /// Delivers up to `most` frames without offloads that all go out there, as long as that is easy.
    #[inline]
    pub fn repeat(&mut self, egress: &Egress, frames: impl Iterator<Item = PlainFrame<'t>>, most: usize) -> Delivered {
        self.forwarder.leases.deliver_plain(egress.at, &mut self.state, frames, most)
    }

    /// Publishes to all receivers, signals the guests that want it, and gives the leases back; what all of it has cost.
    #[inline]
    pub fn publish(mut self) -> u64 {
        let Forwarder { view, leases, thread, .. } = &mut *self.forwarder;
        leases.publish(&mut self.state, thread, view.counting);
        self.state.cost
    }
}

impl Drop for Sending<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.forwarder.leases.deferred.end(&mut self.state.deferred);
    }
}
