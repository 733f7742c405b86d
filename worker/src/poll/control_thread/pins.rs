//! A card that reads guests' memory: whose memory is pinned for it, and what must be over before memory goes.
//!
//! One card of a worker does so at most. Once its container has come and its queues are off, the mapper removes what an
//! earlier worker has pinned, and pins the memory of all ports. A port's frames stay in its memory when all of that is
//! pinned ([`Held`]); until then, and if it cannot be, they are copied.
//!
//! Before memory leaves a table, before a ring stops, and when the card is closed, the rings of the port are *settled*: no
//! further frame stays, and those that a card reads are done. The control thread waits for that for a moment. Then it takes
//! the card's queue back, and the ring's frames are taken once more, to be copied. Commands that follow the removal of
//! memory wait until the mapper has unpinned it.
//!
//! To take the queue back stops the card for everybody. So the port's frames are copied for a while afterwards, whatever its
//! client does, even if it comes again ([`REST_NS`]). A card that does not give its queue back is stopped at once: what it
//! still reads is about to be unpinned, and belongs to the guest again.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use sv3::ids::QueueId;
use sv3::ipc::{Report, ReportKind};

use super::ControlThread;
use crate::memory::dma::Container;
use crate::memory::guest_memory::GuestMemory;
use crate::poll::pins::{Pages, Pinned};
use crate::port::Port;
use crate::port::QueueLease;
use crate::port::card::CardQueue;
use crate::port::kind::Kind;
use crate::port::vring::held::{Held, REST_NS};
use crate::process::clock;

/// How long a ring's frames may still be read when it is settled, in nanoseconds. A card of 10 Gbit/s sends a ring of
/// 256 frames of 1,514 octets in 0.3 ms.
const PATIENCE_NS: u64 = 1_000_000;

/// What the control thread knows of pins.
#[derive(Default)]
pub struct Reader {
    /// Slot of the card that reads guests' memory.
    card: Option<u16>,
    /// The number of the last request.
    last: u64,
    /// Containers in which an earlier worker may have left something.
    unclear: u32,
    /// Until when frames of a port are copied, in nanoseconds.
    rests: BTreeMap<u16, u64>,
}

impl Reader {
    /// A card's queue was taken back because of this port: its frames are copied for a while.
    fn rest(&mut self, slot: u16) {
        let now = clock::now_ns();
        self.rests.retain(|_, until| *until > now);
        self.rests.insert(slot, now.saturating_add(REST_NS));
    }
}

/// The pages of one mapping.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Where they begin.
    at: usize,
    /// The number of the request.
    number: u64,
    /// Whether they are pinned; `None`: they are to be.
    outcome: Option<bool>,
}

impl ControlThread {
    /// A card whose queues are off reads guests' memory from now on. At most `limit` octets may be pinned.
    pub(super) fn begin_to_pin(&mut self, card: u16, container: Container, limit: u64) {
        self.reader.card = Some(card);
        self.reader.unclear += 1;
        self.requests.pins.begin(Some((card, container, limit)));
        for slot in self.threads.ports.all().map(Port::slot).collect::<Vec<_>>() {
            self.pin(slot);
        }
    }

    /// The card is off: it reads no guest's memory any more.
    pub(super) fn end_pins(&mut self, card: u16) {
        if self.reader.card != Some(card) {
            return;
        }
        self.reader.card = None;
        self.requests.pins.begin(None);
        for port in self.threads.ports.all() {
            if let Ok(client) = self.client(port.slot()) {
                client.pins.clear();
            }
            for queue in port.used().filter(|queue| queue.transmits()) {
                let Some(mut lease) = self.queue(queue) else { continue };
                let held = lease.vring().and_then(|vring| vring.held.take());
                drop(lease);
                // What the card had is taken once more.
                if held.is_some_and(|held| !held.is_empty()) {
                    self.poll(queue);
                }
            }
        }
    }

    /// Has what is new in a port's table pinned.
    pub(super) fn pin(&mut self, slot: u16) {
        if self.reader.card.is_none() {
            return;
        }
        let Some(client) = self.clients.get_mut(usize::from(slot)).and_then(Option::as_deref_mut) else { return };
        let all: Vec<(usize, usize)> = client.memory.mappings().map(|mapping| mapping.pages()).collect();
        client.pins.retain(|pin| all.iter().any(|(at, _)| *at == pin.at));
        for (at, len) in all {
            if client.pins.iter().all(|pin| pin.at != at) {
                self.reader.last += 1;
                client.pins.push(Pin { at, number: self.reader.last, outcome: None });
                self.requests.pins.pin(slot, self.reader.last, Pages { at, len });
            }
        }
        self.show_pins(slot);
    }

    /// Takes an answer of the mapper.
    pub(super) fn take_pinned(&mut self, pinned: Pinned) {
        let Pinned { port, number, outcome } = pinned;
        if number == 0 {
            // Nothing is left that an earlier worker has pinned: the card may reach memory again.
            self.reader.unclear = self.reader.unclear.saturating_sub(1);
            if self.reader.card == Some(port) && self.reader.unclear == 0 {
                self.report_of(ReportKind::CardReady, (port, 0), 0);
            }
            return;
        }
        let Ok(client) = self.client(port) else { return };
        let is_told = client.pins.iter().any(|pin| pin.outcome == Some(false));
        let Some(pin) = client.pins.iter_mut().find(|pin| pin.number == number) else { return };
        pin.outcome = Some(outcome.is_ok());
        match outcome {
            Ok(()) => self.show_pins(port),
            Err(_) if is_told => {}
            Err(errno) => {
                let value = errno as i32 as u64;
                // The next look notices a supervisor that is gone.
                let _ = self.link.report(Report { port, value, ..Report::new(ReportKind::NotPinned, 0) });
            }
        }
    }

    /// Lets frames of a port stay in its memory if all of it is pinned, or no longer.
    pub(super) fn show_pins(&mut self, slot: u16) {
        let has_card = self.reader.card.is_some();
        let rests_until = self.reader.rests.get(&slot).copied().unwrap_or(0);
        let Ok(client) = self.client(slot) else { return };
        let is_pinned = has_card
            && is_whole(&client.memory, &client.pins)
            && client.pins.iter().all(|pin| pin.outcome == Some(true));
        for queue in self.port(slot).into_iter().flat_map(Port::used).filter(|queue| queue.transmits()) {
            let Some(mut lease) = self.queue(queue) else { continue };
            let Some(vring) = lease.vring() else { continue };
            if vring.held.is_none() && is_pinned {
                vring.held = Some(Box::new(Held::new()));
            }
            if let Some(held) = &mut vring.held {
                held.close(!is_pinned);
                held.rest(rests_until);
            }
        }
    }

    /// Settles all rings of a port.
    pub(super) fn settle_port(&mut self, slot: u16) {
        for queue in self.port(slot).into_iter().flat_map(Port::used) {
            self.settle(queue);
        }
    }

    /// No card reads frames of a ring any more, and no further frame stays in its memory.
    pub(super) fn settle(&mut self, queue: QueueId) {
        let Some(port) = self.port(queue.slot).filter(|_| queue.transmits()) else { return };
        let Some(mut lease) = self.queue(queue) else { return };
        let Some(held) = held_by(&mut lease) else { return };
        held.close(true);
        let Some(reader) = held.queue() else { return };
        let (begin, mut is_over) = (clock::now_ns(), false);
        while held_by(&mut lease).is_some_and(|held| !held.is_empty()) {
            self.poller.beat();
            if self.poller.forwarder.release(lease.endpoint()) > 0 {
                lease.endpoint().publish(port.counters(), queue.index, self.poller.forwarder.view.counting);
            }
            if is_over {
                // What is left is taken once more.
                held_by(&mut lease).into_iter().for_each(Held::forget);
            } else if clock::now_ns().saturating_sub(begin) > PATIENCE_NS {
                is_over = true;
                self.reader.rest(queue.slot);
                if let Some(Err(fault)) = self.with_card(reader, CardQueue::recall) {
                    drop(lease);
                    return self.card_fault(reader.slot, fault);
                }
            }
        }
    }

    /// Keeps the container of a card that is to read guests' memory. A worker whose policy does not have the calls goes
    /// without.
    pub(super) fn card_container(&mut self, slot: u16, limit: u64, fd: Option<OwnedFd>) -> nix::Result<()> {
        let fd = fd.ok_or(nix::errno::Errno::EBADF)?;
        if self.may_pin {
            self.cards.keep_container(slot, Container::Kernel(fd), limit).ok_or(super::NO_PORT)?;
        }
        Ok(())
    }
}

fn held_by(lease: &mut QueueLease) -> Option<&mut Held> {
    lease.vring()?.held.as_deref_mut()
}

/// Whether there are pins for all of a table.
fn is_whole(memory: &GuestMemory, pins: &[Pin]) -> bool {
    let mut all = memory.mappings().peekable();
    all.peek().is_some() && all.all(|mapping| pins.iter().any(|pin| pin.at == mapping.pages().0))
}
