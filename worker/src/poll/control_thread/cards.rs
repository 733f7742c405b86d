//! Commands about network cards, and what the control thread does for them meanwhile: it looks at the link, at resets and
//! at statistics when a card's last vector comes, and about once a second.
//!
//! The commands of a card are its memory, its interrupts and its device. A worker that serves opens it then; a standby
//! opens it when it is promoted. An open card's queues are off until [`sv3::ipc::Command::CardStart`].

mod opening;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use sv3::card::{CardModel, CardSettings};
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ipc::{Report, ReportKind, RingFault};

use super::{ControlThread, NO_PORT};
use crate::memory::dma::Container;
use crate::nic::address::Mac;
use crate::nic::card::Card;
#[cfg(test)]
use crate::nic::card::Registers;
use crate::nic::device::Device;
use crate::nic::event::Event;
use crate::nic::fault::Fault;
use crate::nic::memory::CardMemory;
use crate::port::card::CardQueue;
use crate::port::endpoint::Endpoint;

/// How often a card is looked at, in nanoseconds.
const LOOK_NS: u64 = 1_000_000_000;
/// How long after a look a card may be looked at again because a guest has come, in nanoseconds.
const SOON_NS: u64 = 20_000_000;
/// Most addresses of guests that a card is told of. Those of a virtual function have room for fewer.
const ADDRESSES: usize = 128;

/// The cards of all ports.
#[derive(Default)]
pub struct Cards {
    all: Vec<CardPort>,
    /// When they are looked at next, in nanoseconds.
    look_ns: u64,
    /// When they were looked at last, in nanoseconds.
    looked_ns: u64,
    /// How many cards were given to the mapper to be opened, and how many of these it has.
    given: u64,
    waiting: usize,
    /// The registers of the next card, in tests.
    #[cfg(test)]
    pub simulated: Option<Registers>,
}

/// What commands said of a card.
struct CardPort {
    slot: u16,
    settings: CardSettings,
    memory: Option<CardMemory>,
    /// The eventfd of each vector.
    interrupts: Vec<(u16, OwnedFd)>,
    /// The device's file, until its registers are mapped.
    device: Option<OwnedFd>,
    /// The number of the opening that is under way.
    opening: Option<u64>,
    /// For a card that is to read guests' memory: what it is pinned in, and how many octets may be.
    container: Option<(Container, u64)>,
    open: Option<Open>,
}

/// A card that this worker drives.
struct Open {
    card: Arc<Card>,
    device: Device,
    /// Its queues were started.
    is_started: bool,
    /// The addresses that it was told last.
    filtered: Vec<Mac>,
}

impl CardPort {
    fn is_closed(&self) -> bool {
        self.open.is_none() && self.opening.is_none()
    }
}

impl Cards {
    fn get(&mut self, slot: u16) -> Option<&mut CardPort> {
        self.all.iter_mut().find(|card| card.slot == slot)
    }

    /// An open card.
    fn open(&mut self, slot: u16) -> Option<&mut Open> {
        self.get(slot)?.open.as_mut()
    }

    /// Keeps the container of a card that is not open yet.
    pub fn keep_container(&mut self, slot: u16, container: Container, limit: u64) -> Option<()> {
        self.get(slot).filter(|port| port.is_closed())?.container = Some((container, limit));
        Some(())
    }

    /// A guest has come: functions are soon to hear frames for it.
    pub fn guest_came(&mut self) {
        self.look_ns = self.look_ns.min(self.looked_ns.saturating_add(SOON_NS));
    }

    fn slots(&self) -> Vec<u16> {
        self.all.iter().map(|card| card.slot).collect()
    }
}

impl ControlThread {
    /// Maps a card's memory. It is the first of a card's commands: what was said of an earlier card is forgotten.
    pub(super) fn card_memory(&mut self, slot: u16, settings: CardSettings, fd: Option<OwnedFd>) -> nix::Result<()> {
        self.client(slot)?;
        self.close_card(slot);
        let memory = CardMemory::new(&fd.ok_or(Errno::EBADF)?, settings).map_err(errno)?;
        self.cards.all.push(CardPort {
            slot,
            settings,
            memory: Some(memory),
            interrupts: Vec::new(),
            device: None,
            container: None,
            opening: None,
            open: None,
        });
        Ok(())
    }

    /// Keeps the eventfd of a vector.
    pub(super) fn card_interrupt(&mut self, slot: u16, vector: u16, fd: Option<OwnedFd>) -> nix::Result<()> {
        let fd = fd.ok_or(Errno::EBADF)?;
        let port = self.cards.get(slot).filter(|port| port.is_closed()).ok_or(NO_PORT)?;
        port.interrupts.retain(|(other, _)| *other != vector);
        port.interrupts.push((vector, fd));
        Ok(())
    }

    /// Keeps a card's device, and opens the card unless this is a standby.
    pub(super) fn card_device(&mut self, slot: u16, settings: CardSettings, fd: Option<OwnedFd>) -> nix::Result<()> {
        let fd = fd.ok_or(Errno::EBADF)?;
        let is_same = |port: &&mut CardPort| port.is_closed() && port.settings == settings;
        self.cards.get(slot).filter(is_same).ok_or(NO_PORT)?.device = Some(fd);
        if self.standby {
            return Ok(());
        }
        if let Err(errno) = self.open_card(slot) {
            self.reset_card(slot);
            return Err(errno);
        }
        self.card_queues(slot).into_iter().for_each(|queue| self.changed(queue));
        Ok(())
    }

    /// Lets vectors wake the threads of the queues, and the last one this thread.
    fn watch_card(&mut self, slot: u16, pairs: u16) -> nix::Result<()> {
        let threads = self.threads;
        let Some(port) = self.cards.get(slot) else { return Ok(()) };
        let all = port.settings.pairs;
        for (vector, fd) in &port.interrupts {
            let queue = QueueId::transmit(slot, *vector);
            match *vector {
                vector if vector < pairs => threads.notify(threads.owner(queue)).watch(fd, queue)?,
                vector if vector == all => threads.first().watch_card(fd)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The card reaches its memory: its queues start.
    pub(super) fn card_start(&mut self, slot: u16) -> nix::Result<()> {
        if self.standby {
            return Ok(());
        }
        let open = self.cards.open(slot).filter(|open| !open.is_started).ok_or(NO_PORT)?;
        open.is_started = true;
        let started = self.start_queues(slot).and_then(|()| self.look_at_link(slot, true));
        if let Err(fault) = started {
            self.card_fault(slot, fault);
        }
        self.cards.look_ns = 0;
        Ok(())
    }

    fn start_queues(&mut self, slot: u16) -> Result<(), Fault> {
        let Some(Open { card, device, .. }) = self.cards.open(slot) else { return Ok(()) };
        // Its physical function is away. An event tells when it is back.
        if !device.start(&card.bar)? {
            return Ok(());
        }
        for queue in self.card_queues(slot) {
            let started = self.with_card(queue, CardQueue::start);
            started.unwrap_or(Ok(()))?;
            self.poll(queue);
        }
        Ok(())
    }

    /// All queues of a port that are a card's, those to the wire first: the first frame that comes in must find its way.
    fn card_queues(&self, slot: u16) -> Vec<QueueId> {
        let mut queues: Vec<_> = self.port(slot).into_iter().flat_map(crate::port::Port::used).collect();
        queues.sort_by_key(|queue| queue.transmits());
        queues
    }

    pub(super) fn with_card<T>(&self, queue: QueueId, work: impl FnOnce(&mut CardQueue) -> T) -> Option<T> {
        self.queue(queue)?.endpoint().card().map(work)
    }

    /// Reads the link's state, and tells it if it has changed or if `must_tell`.
    fn look_at_link(&mut self, slot: u16, must_tell: bool) -> Result<(), Fault> {
        let Some(Open { card, device, .. }) = self.cards.open(slot) else { return Ok(()) };
        let (link, cell) = (device.link(&card.bar)?, &card.memory.state().link);
        if cell.swap(link, Relaxed) == link && !must_tell {
            return Ok(());
        }
        for queue in self.card_queues(slot).into_iter().filter(|queue| !queue.transmits()) {
            self.with_card(queue, |it| it.set_link(link != 0));
            if link == 0
                && let Some(recalled) = self.with_card(queue, CardQueue::recall)
            {
                // Guests' rings do not wait for the link.
                recalled?;
            }
            self.changed(queue);
        }
        self.report_of(ReportKind::CardLink, (slot, 0), link.into());
        Ok(())
    }

    /// Looks after all cards, if it is time or if a vector came. Sets the alarm for the next time.
    pub(super) fn tend_cards(&mut self, vector_came: bool) {
        let now = self.poller.forwarder.now_ns;
        let is_time = now >= self.cards.look_ns;
        if self.cards.all.iter().all(|port| port.open.is_none()) {
            return;
        }
        if is_time || vector_came {
            for slot in self.cards.slots() {
                if let Err(fault) = self.tend_card(slot, is_time) {
                    self.card_fault(slot, fault);
                }
            }
        }
        if is_time {
            (self.cards.looked_ns, self.cards.look_ns) = (now, now.saturating_add(LOOK_NS));
        }
        let alarm = self.poller.alarm.map_or(self.cards.look_ns, |alarm| alarm.min(self.cards.look_ns));
        self.poller.alarm = Some(alarm);
    }

    fn tend_card(&mut self, slot: u16, is_time: bool) -> Result<(), Fault> {
        // A physical function passes all frames.
        let filters = self.cards.get(slot).is_some_and(|port| port.settings.model != CardModel::Ixgbe);
        let counters = self.ledger.ports.get(usize::from(slot)).map(|line| &line.card);
        let addresses = if is_time && filters { self.guests_addresses() } else { Vec::new() };
        let Some(Open { card, device, is_started: true, filtered }) = self.cards.open(slot) else { return Ok(()) };
        let state = card.memory.state();
        let event = device.service(&card.bar, state)?;
        if is_time {
            device.statistics(&card.bar, state)?;
            if let Some(counters) = counters {
                counters.mac.store(state.mac.load(Relaxed), Relaxed);
                for (told, counted) in counters.statistics.iter().zip(&state.statistics) {
                    told.store(counted.load(Relaxed), Relaxed);
                }
            }
            if filters && *filtered != addresses {
                device.filter(&card.bar, &addresses)?;
                *filtered = addresses;
            }
        }
        let interrupts = device.interrupts();
        interrupts.unmask(&card.bar, interrupts.pairs);
        match event {
            Event::Nothing => Ok(()),
            Event::Link(_) => self.look_at_link(slot, true),
            Event::Reset => {
                filtered.clear();
                for queue in self.card_queues(slot) {
                    self.with_card(queue, CardQueue::was_reset);
                }
                self.start_queues(slot)?;
                self.look_at_link(slot, false)
            }
        }
    }

    /// Addresses of guests that run, lowest first: a virtual function gets frames for these only.
    fn guests_addresses(&self) -> Vec<Mac> {
        let (forwarder, ports) = (&self.poller.forwarder, &self.threads.ports);
        let mut all: Vec<_> = forwarder.addresses(|slot| ports.is_guest(slot)).map(MacAddr::octets).collect();
        all.sort_unstable();
        all.truncate(ADDRESSES);
        all
    }

    /// A card cannot be used any more. Its port stops.
    pub(super) fn card_fault(&mut self, slot: u16, fault: Fault) {
        self.reset_card(slot);
        let (value, detail) = (RingFault::from(fault) as u64, fault.name());
        // The next look notices a supervisor that is gone.
        let _ = self.link.report(Report { port: slot, value, detail, ..Report::new(ReportKind::RingFault, 0) });
    }

    /// The same, for a queue of a card that broke.
    pub(super) fn stop_card(&mut self, slot: u16, fault: RingFault) {
        self.reset_card(slot);
        self.report_of(ReportKind::RingFault, (slot, 0), fault as u64);
    }

    /// Forgets a card and its queues.
    fn reset_card(&mut self, slot: u16) {
        for queue in self.card_queues(slot) {
            self.stop(queue);
            if let Some(mut lease) = self.queue(queue) {
                lease.reset(Endpoint::default());
            }
        }
        self.close_card(slot);
    }

    /// Forgets a card. Its queues are reset already.
    pub(super) fn close_card(&mut self, slot: u16) {
        let Some(at) = self.cards.all.iter().position(|port| port.slot == slot) else { return };
        let port = self.cards.all.swap_remove(at);
        for (vector, fd) in &port.interrupts {
            let owner =
                if *vector < port.settings.pairs { self.threads.owner(QueueId::transmit(slot, *vector)) } else { 0 };
            self.threads.notify(owner).forget(fd);
        }
        if let Some(Open { card, mut device, .. }) = port.open {
            // If it does not stop, the supervisor's stop has to do.
            let _ = device.stop(&card.bar);
        }
        self.end_pins(slot);
    }
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
