//! Captures and mirrors: who else gets to see a port's frames.
//!
//! # Theory of operation
//!
//! Each thread that moves frames has its own [`Observers`], which it leases for a burst. The control thread seizes those
//! of all threads, one after the other, to change something. While there is no capture and no mirror, a burst reads one
//! flag ([`ObserverTable::is_on`]) and nothing else happens.
//!
//! A frame that a port sends is recorded before it is forwarded, since it is not known yet what becomes of it
//! ([`Observers::take`]). If it is dropped, the record gets the reason. If it stays in its ring, the record is undone. What
//! is delivered is recorded after that, as the receiver gets it. Records become visible when the burst is published.
//!
//! A record has the octets as they are when it is written. Those of its head, and of a guarded frame's window, are read
//! once and cannot differ from what was delivered. A guest that rewrites the others while they are forwarded can show a capture other
//! octets than its receiver gets.

mod capture;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sv3::capture::{CAPTURES_MAX, CaptureMap, Passage};
use sv3::drop_reason::DropReason;
use sv3::ledger::THREADS;
use sv3::mirror::MIRRORS_MAX;
use sv3::port_set::PortSet;

use super::sink::Outgoing;
use crate::process::clock;
use crate::sync::lease::{Lease, Leased};
use capture::Capture;

/// The observers of each thread.
pub struct ObserverTable {
    on: AtomicBool,
    threads: Box<[Leased<Observers>]>,
}

/// A thread's observers, for a burst.
pub type ObserverLease = Lease<Observers>;

/// Who observes one port: a bit for each capture and each mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Captures.
    pub captures: u8,
    /// Mirrors.
    pub mirrors: u8,
}

/// One thread's observers.
#[derive(Default)]
pub struct Observers {
    captures: [Option<Capture>; CAPTURES_MAX],
    mirrors: [Option<Mirror>; MIRRORS_MAX],
    /// When the burst began, in nanoseconds.
    now_ns: u64,
    /// Captures that have the present frame of the sender.
    taken: u8,
    /// Mirrors that are to get a copy of it.
    due: u8,
}

/// A mirror.
#[derive(Clone, Copy)]
pub struct Mirror {
    /// The port that gets the copies.
    pub to: u16,
    /// Ports of which the frames that they send are copied.
    pub senders: PortSet,
    /// Ports of which the frames that they get are copied.
    pub receivers: PortSet,
}

impl ObserverTable {
    /// Nobody observes.
    pub fn new() -> ObserverTable {
        ObserverTable {
            on: AtomicBool::new(false),
            threads: std::iter::repeat_with(Leased::default).take(THREADS).collect(),
        }
    }

    /// Whether somebody observes some port.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// The observers for thread `number`, for a burst. `None`: they are being changed.
    #[cold]
    pub fn lease(&'static self, number: u32) -> Option<ObserverLease> {
        let mut observers = self.threads.get(number as usize)?.lease(number)?;
        observers.begin();
        Some(observers)
    }

    /// The ports that get copies. Only the control thread calls this, which holds no lease.
    pub fn mirror_ports(&self) -> Vec<u16> {
        let first = self.threads.first().map(|leased| leased.seize(|| ()));
        first.map_or(Vec::new(), |observers| observers.mirrors.iter().flatten().map(|mirror| mirror.to).collect())
    }

    /// All mirrors, by number. Only the control thread calls this, which holds no lease.
    pub fn mirrors(&self) -> Vec<(u8, Mirror)> {
        let first = self.threads.first().map(|leased| leased.seize(|| ()));
        let all = |observers: &Observers| {
            let mirrors = (0..).zip(&observers.mirrors);
            mirrors.filter_map(|(number, mirror)| Some((number, (*mirror)?))).collect()
        };
        first.map_or(Vec::new(), |observers| all(&observers))
    }

    /// Changes the observers of `threads` threads, one after the other; calls `meanwhile` while one of them is busy.
    pub fn change(&self, threads: usize, meanwhile: impl Fn(), change: impl Fn(&mut Observers, usize)) {
        let mut is_on = false;
        for (number, leased) in self.threads.iter().enumerate().take(threads) {
            let mut observers = leased.seize(&meanwhile);
            change(&mut observers, number);
            is_on |= observers.is_on();
        }
        self.on.store(is_on, Relaxed);
    }
}

impl Observers {
    fn is_on(&self) -> bool {
        self.captures.iter().any(Option::is_some) || self.mirrors.iter().any(Option::is_some)
    }

    /// Begins, or replaces, a capture by this thread.
    pub fn open_capture(&mut self, capture: usize, thread: usize, snaplen: u32, map: Arc<CaptureMap>) {
        if let Some(place) = self.captures.get_mut(capture) {
            *place = Some(Capture::new(map, thread, snaplen));
        }
    }

    /// Sets the ports of a capture. False: there is no such capture.
    pub fn set_captured(&mut self, capture: usize, ports: PortSet) -> bool {
        let capture = self.captures.get_mut(capture).and_then(Option::as_mut);
        capture.map(|capture| capture.ports = ports).is_some()
    }

    /// Ends a capture.
    pub fn close_capture(&mut self, capture: usize) {
        self.captures.get_mut(capture).and_then(Option::take);
    }

    /// Begins, changes or ends a mirror. False: there is no such place.
    pub fn set_mirror(&mut self, mirror: usize, now: Option<Mirror>) -> bool {
        self.mirrors.get_mut(mirror).map(|place| *place = now).is_some()
    }

    /// The mirror at a place.
    pub fn mirror(&self, mirror: usize) -> Option<&Mirror> {
        self.mirrors.get(mirror)?.as_ref()
    }

    /// Forgets a port: the next one in its slot is observed by nobody.
    pub fn forget(&mut self, slot: u16) {
        self.captures.iter_mut().flatten().for_each(|capture| capture.ports.remove(slot));
        for place in &mut self.mirrors {
            if let Some(mirror) = place {
                mirror.senders.remove(slot);
                mirror.receivers.remove(slot);
            }
            place.take_if(|mirror| mirror.to == slot);
        }
    }

    fn begin(&mut self) {
        (self.now_ns, self.taken, self.due) = (clock::now_ns(), 0, 0);
        self.captures.iter_mut().flatten().for_each(Capture::begin);
    }

    /// Shows readers what was recorded.
    pub fn publish(&mut self) {
        self.captures.iter_mut().flatten().for_each(Capture::publish);
    }

    /// Who observes what this port sends.
    pub fn of_sender(&self, slot: u16) -> Observed {
        Observed { captures: self.capturing(slot), mirrors: self.mirroring(|mirror| mirror.senders.has(slot)) }
    }

    /// Who observes what this port gets.
    pub fn of_receiver(&self, slot: u16) -> Observed {
        Observed { captures: self.capturing(slot), mirrors: self.mirroring(|mirror| mirror.receivers.has(slot)) }
    }

    fn capturing(&self, slot: u16) -> u8 {
        bits(self.captures.iter().map(|capture| capture.as_ref().is_some_and(|capture| capture.ports.has(slot))))
    }

    fn mirroring(&self, is: impl Fn(&Mirror) -> bool) -> u8 {
        bits(self.mirrors.iter().map(|mirror| mirror.as_ref().is_some_and(&is)))
    }

    /// Begins the next frame of a sender, and records it.
    pub fn take(&mut self, (slot, by): (u16, Observed), frame: &Outgoing<'_, '_, '_>) {
        (self.taken, self.due) = (by.captures, by.mirrors);
        self.record(by.captures, (slot, Passage::In, None), frame);
    }

    /// The frame was dropped. No mirror gets it.
    pub fn drop_taken(&mut self, reason: DropReason) {
        self.due = 0;
        let taken = std::mem::take(&mut self.taken);
        self.each(taken, |capture| capture.mark_dropped(reason));
    }

    /// The frame stays in its ring.
    pub fn undo_taken(&mut self) {
        self.due = 0;
        let taken = std::mem::take(&mut self.taken);
        self.each(taken, Capture::undo);
    }

    /// Records a frame.
    pub fn record(
        &mut self,
        captures: u8,
        (slot, passage, dropped): (u16, Passage, Option<DropReason>),
        frame: &Outgoing<'_, '_, '_>,
    ) {
        let now_ns = self.now_ns;
        self.each(captures, |capture| capture.record((slot, passage, dropped, now_ns), frame));
    }

    /// The frame was delivered to a port: records it as it was delivered.
    pub fn delivered(&mut self, (slot, by): (u16, Observed), frame: &Outgoing<'_, '_, '_>) {
        self.due |= by.mirrors;
        self.record(by.captures, (slot, Passage::Out, None), frame);
    }

    /// The mirrors that are to get a copy of the frame. Each time, none is left.
    pub fn take_due(&mut self) -> u8 {
        std::mem::take(&mut self.due)
    }

    fn each(&mut self, captures: u8, act: impl Fn(&mut Capture)) {
        let wanted = |(at, _): &(usize, &mut Option<Capture>)| captures >> at & 1 != 0;
        self.captures.iter_mut().enumerate().filter(wanted).for_each(|(_, capture)| {
            if let Some(capture) = capture {
                act(capture);
            }
        });
    }
}

fn bits(set: impl Iterator<Item = bool>) -> u8 {
    set.enumerate().fold(0, |bits, (at, is)| bits | u8::from(is) << at)
}

const _: () = assert!(CAPTURES_MAX <= 8 && MIRRORS_MAX <= 8);
