//! What captures and mirrors see of a burst: [`super::sending`] and [`super::leases`] call this if there are some.
//!
//! A mirror gets a frame once, however many of its ports and directions want it, and as the sender sent it. Its port is
//! leased before the frame is delivered anywhere: so a frame for which another thread has that port's queue stays in its
//! ring, and is neither lost for the mirror nor delivered twice. A mirror's port that has no buffers loses its copy. The
//! sender never waits for it.

use sv3::capture::Passage;
use sv3::drop_reason::DropReason;
use sv3::mirror::MIRRORS_MAX;
use sv3::virtio::NetHdr;

use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::{Leases, Unsent, Way};
use crate::port::observers::{Observed, ObserverLease};
use crate::port::sink::{DeliveryState, Outgoing};

/// Who observes what a port sends.
#[inline]
pub fn of_sender(forwarder: &Forwarder, slot: u16) -> Observed {
    forwarder.leases.observers.as_ref().map_or(Observed::default(), |observers| observers.of_sender(slot))
}

/// A frame was delivered, in this form.
#[cold]
pub fn delivered(observers: &mut Option<ObserverLease>, to: (u16, Observed), frame: &Outgoing<'_, '_, '_>) {
    if let Some(observers) = observers {
        observers.delivered(to, frame);
    }
}

/// A frame was dropped at its receiver.
#[cold]
pub fn dropped(
    observers: &mut Option<ObserverLease>,
    (slot, by): (u16, Observed),
    reason: DropReason,
    frame: &Frame<'_, '_, '_>,
) {
    if let Some(observers) = observers {
        observers.record(by.captures, (slot, Passage::Out, Some(reason)), &outgoing(frame));
    }
}

/// The port that a frame was meant for does not receive.
#[cold]
pub fn down(observers: &mut Option<ObserverLease>, slot: u16, frame: &Frame<'_, '_, '_>) {
    if let Some(observers) = observers {
        let by = observers.of_receiver(slot);
        observers.record(by.captures, (slot, Passage::Out, Some(DropReason::RxDown)), &outgoing(frame));
    }
}

/// A frame was sent and delivered unchanged but for its net header.
pub fn repeated(
    observers: &mut Option<ObserverLease>,
    (from, to): (u16, u16),
    (sent, got): (Observed, Observed),
    frame: &Outgoing<'_, '_, '_>,
    hdr: &NetHdr,
) {
    if let Some(observers) = observers {
        observers.record(sent.captures, (from, Passage::In, None), frame);
        observers.record(got.captures, (to, Passage::Out, None), &Outgoing { hdr, ..*frame });
    }
}

/// Leases the ports of mirrors.
#[cold]
pub fn lease_mirrors(
    forwarder: &mut Forwarder,
    state: &mut DeliveryState<'_>,
    flow: u16,
    of: impl Fn(&Leases) -> Observed,
) -> Result<(), Unsent> {
    let Forwarder { view, leases, .. } = forwarder;
    let wanted = of(leases).mirrors;
    for at in (0..MIRRORS_MAX).filter(|at| wanted >> at & 1 != 0) {
        if let Some(to) = port_of(leases, at) {
            leases.lease(view, to, flow, state)?;
        }
    }
    Ok(())
}

/// The same for all mirrors that want what these ports get.
#[cold]
pub fn lease_mirrors_of_all(
    forwarder: &mut Forwarder,
    state: &mut DeliveryState<'_>,
    flow: u16,
    ports: impl Iterator<Item = u16>,
) -> Result<(), Unsent> {
    let leases = &forwarder.leases;
    let mirrors = |to| leases.find(to).map_or(0, |at| leases.observed(at).mirrors);
    let wanted = Observed { captures: 0, mirrors: ports.map(mirrors).fold(0, |all, some| all | some) };
    lease_mirrors(forwarder, state, flow, |_| wanted)
}

/// Copies a frame that was forwarded to the mirrors that want it.
#[cold]
pub fn copy_to_mirrors<'t>(forwarder: &mut Forwarder, state: &mut DeliveryState<'t>, frame: &Frame<'_, 't, '_>) {
    let Forwarder { view, leases, .. } = forwarder;
    let due = leases.observers.as_mut().map_or(0, |observers| observers.take_due());
    for at in (0..MIRRORS_MAX).filter(|at| due >> at & 1 != 0) {
        let Some(to) = port_of(leases, at) else { continue };
        let lost = match leases.find(to) {
            Some(place) => match leases.deliver(Way::straight(place), state, frame, false, view.counting) {
                Err(Unsent::Dropped(reason)) => Some(reason),
                _ => None,
            },
            None => Some(DropReason::RxDown),
        };
        if let Some((reason, counters)) = lost.zip(view.counters(to)) {
            view.counting.drop(counters, reason);
        }
    }
}

fn port_of(leases: &Leases, mirror: usize) -> Option<u16> {
    leases.observers.as_ref()?.mirror(mirror).map(|mirror| mirror.to)
}

/// A frame as its sender sent it.
fn outgoing<'a, 't, 'm>(frame: &Frame<'a, 't, 'm>) -> Outgoing<'a, 't, 'm> {
    let Frame { offload, slices, skip, len, snapshot, plain, .. } = *frame;
    Outgoing { hdr: offload.hdr_for(u64::MAX), slices, skip, len, snapshot, plain }
}
