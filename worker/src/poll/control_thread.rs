//! The control thread: it executes the supervisor's commands and changes ports and queues while frames pass.
//!
//! It executes commands between two turns of its own queues. Like any thread, it leases a queue before it changes the
//! queue. So when it reports that a command is done, no thread still moves a frame that the command forbids.

mod cards;
mod files;
mod memory;
mod observers;
mod pins;
mod questions;
mod rules;
#[cfg(test)]
mod tests;
mod trace;
mod uplinks;
mod vrings;

use std::collections::BTreeMap;
use std::sync::Arc;

use sv3::MAX_PORTS;
use sv3::attachment::Learning;
use sv3::ids::QueueId;
use sv3::ipc::{BUSY_QUIET, Command, PortKind, Report, ReportKind, RingFault};
use sv3::ledger::Ledger;
use sv3::rules::PortRules;
use sv3_policy::WorkerRole;

use super::mapper::{MapRequests, Purpose};
use super::poller::{Buffers, Poller};
use super::start::Start;
use super::threads::Threads;
use crate::forward::fdb::Address;
use crate::forward::rarp;
use crate::memory::dirty_log::DirtyLog;
use crate::memory::guest_memory::GuestMemory;
use crate::port::endpoint::Endpoint;
use crate::port::kind::Kind;
use crate::port::observers::Mirror;
use crate::port::traffic_rules::TrafficRules;
use crate::port::{Port, QueueLease};
use crate::process::clock;
use crate::process::link::{CommandWithFds, Link, LinkEnd};

/// Most commands that one look executes, so that thousands of clients that come and go do not delay the others. The
/// rest waits for the next look.
const MAX_COMMANDS: usize = 4;

/// No port has this slot, or no queue this index.
const NO_PORT: nix::errno::Errno = nix::errno::Errno::ENXIO;

/// What commands say of a client and queues do not need.
#[derive(Default)]
struct Client {
    /// Negotiated virtio features.
    features: u64,
    /// Memory table in force.
    memory: GuestMemory,
    /// Memory table being collected.
    staged: GuestMemory,
    /// The log in which pages are marked.
    log: Option<DirtyLog>,
    /// What of the table in force is pinned for a card, or is to be.
    pins: Vec<pins::Pin>,
    /// The pause between two announcements.
    rarp: rarp::Pause,
    /// Rules in force; `None`: the port is open.
    rules: Option<Arc<TrafficRules>>,
    /// Rules for the next commit.
    staged_rules: Option<Box<PortRules>>,
}

/// The state of the whole worker.
pub struct ControlThread {
    threads: &'static Threads,
    ledger: &'static Ledger,
    /// A standby only registers queues. Another worker serves.
    standby: bool,
    /// The policy has the syscalls that ports of files need.
    may_use_files: bool,
    /// The policy has the calls that pin memory for a card.
    may_pin: bool,
    link: Link,
    clients: Vec<Option<Box<Client>>>,
    requests: MapRequests,
    /// A command that must wait until regions are mapped. Later commands wait behind it.
    deferred: Option<CommandWithFds>,
    announcements: rarp::Pending,
    /// Static addresses and their ports.
    addresses: BTreeMap<Address, u16>,
    uplinks: uplinks::Uplinks,
    cards: cards::Cards,
    questions: questions::Questions,
    reader: pins::Reader,
    poller: Poller,
    /// When the worker last reported that it woke, in nanoseconds.
    said_busy: u64,
}

impl ControlThread {
    /// The control thread of a worker without ports.
    pub fn new(threads: &'static Threads, start: &Start, link: Link, buffers: Buffers) -> ControlThread {
        let poller = Poller::new(threads, 0, buffers, start);
        if !start.standby {
            threads.promote();
            poller.forwarder.recount();
        }
        let clients = std::iter::repeat_with(|| None).take(MAX_PORTS).collect();
        let requests = MapRequests::new(&threads.mapper);
        let (ledger, standby) = (start.ledger, start.standby);
        let mut thread = ControlThread {
            threads,
            ledger,
            standby,
            may_use_files: start.role >= WorkerRole::Files,
            may_pin: start.role >= WorkerRole::Cards,
            link,
            clients,
            requests,
            deferred: None,
            announcements: rarp::Pending::default(),
            addresses: BTreeMap::new(),
            uplinks: uplinks::Uplinks::new(),
            cards: cards::Cards::default(),
            questions: questions::Questions::new(start.settings.snooping),
            reader: pins::Reader::default(),
            poller,
            said_busy: 0,
        };
        if !standby {
            thread.apply_snooping();
        }
        thread
    }

    /// Runs until the supervisor closes the control socket, or breaks the protocol.
    pub fn run(&mut self) -> LinkEnd {
        loop {
            if self.poller.begin_turn()
                && let Err(end) = self.look()
            {
                return end;
            }
            self.poller.turn();
            while let Some((queue, fault)) = self.poller.forwarder.next_fault() {
                self.fault(queue, fault);
            }
            if self.poller.forwarder.take_noted() {
                self.take_notes();
            }
        }
    }

    /// Asks the kernel for kicks and commands. Blocks when there is nothing to poll.
    fn look(&mut self) -> Result<(), LinkEnd> {
        self.link.flush()?;
        self.requests.hand_over();
        self.announce_pending();
        let has_more = self.tend_uplinks() | self.tend_questions();
        self.tend_cards(false);
        let must_try_again = has_more || self.requests.must_try_again() || !self.announcements.is_empty();
        let may_block = !self.link.pending() && !must_try_again;
        let looked = self.poller.look(may_block);
        let looked = looked.map_err(|errno| LinkEnd::Broken(format!("epoll_wait: {errno}")))?;
        if looked.blocked && !self.standby {
            self.say_busy()?;
        }
        if looked.cards {
            self.tend_cards(true);
        }
        if looked.nudged {
            self.stop_broken();
            self.take_notes();
        }
        let mut changed = looked.commands && self.deferred.is_none();
        while let Some(mapped) = self.requests.next_mapped() {
            self.take_mapped(mapped)?;
            changed = true;
        }
        self.take_opened();
        while let Some(pinned) = self.requests.next_pinned() {
            self.take_pinned(pinned);
        }
        changed |=
            self.deferred.is_some() && !self.requests.awaits_mappings() && !self.requests.pins.awaits_unpinning();
        if changed {
            self.execute_some()?;
            self.poller.resume_all();
        }
        if let Some(seq) = self.requests.unmapped() {
            self.link.report(Report::new(ReportKind::Unmapped, seq))?;
        }
        Ok(())
    }

    /// Executes the commands that have arrived, up to one that must wait for regions to be mapped.
    fn execute_some(&mut self) -> Result<(), LinkEnd> {
        for _ in 0..MAX_COMMANDS {
            let before = self.deferred.take();
            let had_waited = before.is_some();
            let Some(command) = before.map_or_else(|| self.link.receive(), |command| Ok(Some(command)))? else {
                break;
            };
            let stages = matches!(command.0.command, Command::RegionStage { .. }) && !self.requests.is_full();
            let waits = self.requests.awaits_mappings() && !stages || self.requests.pins.awaits_unpinning();
            if waits != had_waited {
                self.threads.first().heed_control(&self.link, !waits);
            }
            if waits {
                self.deferred = Some(command);
                break;
            }
            self.execute(command)?;
        }
        Ok(())
    }

    /// Tells the supervisor, now and then, that this worker is awake and that its heartbeat means something.
    fn say_busy(&mut self) -> Result<(), LinkEnd> {
        let now = clock::now_ns();
        if now.saturating_sub(self.said_busy) < BUSY_QUIET.as_nanos() as u64 {
            return Ok(());
        }
        self.said_busy = now;
        self.link.report(Report::new(ReportKind::Busy, 0))
    }

    fn execute(&mut self, (envelope, fds): CommandWithFds) -> Result<(), LinkEnd> {
        let (seq, about) = (envelope.seq, envelope.command.port().unwrap_or(0));
        let mut fds = fds.into_iter();
        let result = match envelope.command {
            Command::Start { .. } => Err(nix::errno::Errno::EALREADY),
            Command::Promote => {
                self.promote();
                Ok(())
            }
            Command::PortAdd { port, kind, learning } => self.add((port, kind), learning, seq),
            Command::RulesStage { port, rules } => self.stage_rules(port, rules),
            Command::RulesCommit => {
                self.commit_rules();
                Ok(())
            }
            Command::AddressAdd { port, vid, mac } => self.add_address(port, vid, mac),
            Command::AddressRemove { port, vid, mac } => self.remove_address(port, vid, mac),
            Command::AddressFlush { port, vid, mac } => {
                self.flush_addresses(port, vid, mac);
                Ok(())
            }
            Command::PortRemove { port } => self.remove(port, seq),
            Command::PortFeatures { port, features } => self.client(port).map(|client| client.features = features),
            Command::RegionStage { port, region } => self.map(seq, (port, Purpose::Staged), region, fds.next()),
            Command::MemoryCommit { port } => self.commit(port, seq),
            Command::RegionAdd { port, region } => self.map(seq, (port, Purpose::InForce), region, fds.next()),
            Command::LogOpen { port, region } => self.map(seq, (port, Purpose::Log), region, fds.next()),
            Command::LogClose { port } => self.set_log(port, seq, None),
            Command::RingLog { port, ring, addr } => self.set_ring_log(QueueId::new(port, ring), addr),
            Command::RegionRemove { port, region } => self.remove_region(port, &region, seq),
            Command::RingStart { port, ring, size, addr, base, run } => {
                self.start(QueueId::new(port, ring), (size, addr, base, run), fds.next())
            }
            Command::RingStop { port, ring } => {
                let value = u64::from(self.stop(QueueId::new(port, ring)));
                let report = Report { port, ring, value, ..Report::new(ReportKind::RingStopped, seq) };
                return self.link.report(report);
            }
            Command::RingEnable { port, ring, enable } => self.enable(QueueId::new(port, ring), enable),
            Command::RingCall { port, ring, .. } => self.set_call(QueueId::new(port, ring), fds.next()),
            Command::SendRarp { port, mac } => self.send_rarp(port, mac),
            Command::FileOpen { port, pair, settings } => self.open_file((port, pair), settings, fds.next()),
            Command::FileClose { port, pair } => self.close_file(port, pair),
            Command::CardMemory { port, settings } => self.card_memory(port, settings, fds.next()),
            Command::CardInterrupt { port, vector } => self.card_interrupt(port, vector, fds.next()),
            Command::CardContainer { port, limit } => self.card_container(port, limit, fds.next()),
            Command::CardOpen { port, settings } => self.card_device(port, settings, fds.next()),
            Command::CardStart { port } => self.card_start(port),
            Command::LoopProbe { port, token } => self.probe(port, token),
            Command::Snoop { setting } => {
                self.set_snooping(setting);
                Ok(())
            }
            Command::Trace { port, frame } => return self.trace(seq, port, &frame),
            Command::CaptureOpen { capture, snaplen } => self.open_capture(capture, snaplen, fds.next()),
            Command::CapturePorts { capture, ports } => self.set_captured(capture, *ports),
            Command::CaptureClose { capture } => self.close_capture(capture),
            Command::MirrorSet { mirror, to, senders, receivers } => {
                self.set_mirror(mirror, Some(Mirror { to, senders: *senders, receivers: *receivers }))
            }
            Command::MirrorEnd { mirror } => self.set_mirror(mirror, None),
            Command::Barrier => return self.link.report(Report::new(ReportKind::Done, seq)),
        };
        self.tell_failure(seq, about, result)
    }

    fn tell_failure(&mut self, seq: u64, port: u16, result: nix::Result<()>) -> Result<(), LinkEnd> {
        let Err(errno) = result else { return Ok(()) };
        let value = errno as i32 as u64;
        self.link.report(Report { port, value, ..Report::new(ReportKind::Failed, seq) })
    }

    fn client(&mut self, slot: u16) -> nix::Result<&mut Client> {
        self.clients.get_mut(usize::from(slot)).and_then(Option::as_deref_mut).ok_or(NO_PORT)
    }

    /// The port of a client that is connected.
    fn port(&self, slot: u16) -> Option<&'static Port> {
        self.clients.get(usize::from(slot))?.as_ref()?;
        self.threads.ports.get(slot)
    }

    /// Leases a queue of a connected client, if the queue was ever used.
    fn queue(&self, queue: QueueId) -> Option<QueueLease> {
        self.port(queue.slot)?.seize(queue, || self.poller.beat())
    }

    /// The same, but the queue counts as used from now on.
    fn use_queue(&self, queue: QueueId) -> nix::Result<QueueLease> {
        let port = self.make_pair(queue.slot, queue.pair())?;
        port.seize(queue, || self.poller.beat()).ok_or(NO_PORT)
    }

    fn add(&mut self, (slot, kind): (u16, PortKind), learning: Learning, seq: u64) -> nix::Result<()> {
        // The place may still hold an earlier port that was not removed.
        self.clear(slot, seq);
        self.threads.ports.make(slot, self.ledger).ok_or(NO_PORT)?;
        self.threads.ports.set_learning(slot, learning);
        let place = self.clients.get_mut(usize::from(slot)).ok_or(NO_PORT)?;
        *place = Some(Box::default());
        // The client of a port of vrings starts them, and files and cards come by commands. A port of any other kind has
        // one queue pair from the start.
        if matches!(kind, PortKind::Vrings | PortKind::Files | PortKind::Card) {
            return Ok(());
        }
        for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
            let endpoint = Endpoint::of(kind).ok_or(nix::errno::Errno::ENOTSUP)?;
            self.use_queue(queue)?.reset(endpoint);
            if !self.standby {
                self.changed(queue);
            }
        }
        Ok(())
    }

    fn remove(&mut self, slot: u16, seq: u64) -> nix::Result<()> {
        let was_there = self.client(slot).is_ok();
        self.clear(slot, seq);
        if was_there && !self.standby {
            self.poller.forwarder.forget(slot);
        }
        was_there.then_some(()).ok_or(NO_PORT)
    }

    /// Stops all queues of a port, and resets what commands said of them and of the client.
    fn clear(&mut self, slot: u16, seq: u64) {
        for queue in self.port(slot).into_iter().flat_map(Port::used) {
            self.stop(queue);
            if let Some(mut lease) = self.queue(queue) {
                lease.reset(Endpoint::default());
                *lease.rules() = None;
            }
        }
        self.forget_rules(slot);
        self.close_card(slot);
        self.forget_observed(slot);
        self.announcements.forget(slot);
        self.uplinks.forget(slot);
        self.questions.forget(slot);
        self.threads.ports.set_learning(slot, Learning::Free);
        self.threads.ports.leave(slot);
        let client = self.clients.get_mut(usize::from(slot)).and_then(Option::take);
        let Client { memory, staged, log, .. } = client.map(|client| *client).unwrap_or_default();
        let tables = [memory, staged].into_iter().flat_map(GuestMemory::into_mappings);
        self.requests.unmap(tables.chain(log.map(DirtyLog::into_mapping)), seq);
    }

    /// Takes over from the worker that served. All receive queues start first: other threads begin with a transmit
    /// queue at once, and its first frame must find every receiver started. So an uplink's first frame finds every guest
    /// running, and takes no guest's address.
    fn promote(&mut self) {
        self.standby = false;
        let threads = self.threads;
        self.correct_addresses();
        self.apply_snooping();
        self.uplinks.takes_over = true;
        self.open_cards();
        for transmit in [false, true] {
            for port in threads.ports.all() {
                port.used().filter(|queue| queue.transmits() == transmit).for_each(|queue| self.bring_up(queue));
            }
        }
        self.uplinks.takes_over = false;
        threads.promote();
    }

    fn send_rarp(&mut self, slot: u16, mac: [u8; 6]) -> nix::Result<()> {
        if self.standby {
            return Ok(());
        }
        let (now_ns, rules) = (self.poller.forwarder.now_ns, self.rules_of(slot));
        if self.client(slot)?.rarp.is_over(now_ns)
            && let Some(port) = self.port(slot)
            && !rarp::announce(&mut self.poller.forwarder, (port, rules.as_deref()), mac)
        {
            self.announcements.add(slot, mac, now_ns);
        }
        Ok(())
    }

    /// After a queue was started or enabled, a transmit queue counts as kicked, and a receiver's driver gets one
    /// signal: nobody knows whether an earlier worker's signals arrived.
    fn changed(&mut self, queue: QueueId) {
        let Some(mut lease) = self.queue(queue) else { return };
        let runs = lease.endpoint().runs();
        if runs && let Some(vring) = lease.vring() {
            vring.signal();
        }
        drop(lease);
        if !queue.transmits() {
            let ports = &self.threads.ports;
            let receives = || ports.get(queue.slot).is_some_and(|port| port.receiver(0).is_some());
            let received = receives();
            ports.note_receiver(queue, runs);
            if !received && receives() {
                self.receives_again(queue.slot);
                self.greet(queue.slot);
            }
        } else if runs {
            self.poll(queue);
        }
    }

    /// Tries again to send an announcement for which another thread had a receiver's queue.
    fn announce_pending(&mut self) {
        let (forwarder, ports, clients) = (&mut self.poller.forwarder, &self.threads.ports, &self.clients);
        self.announcements.retry(forwarder.now_ns, |slot, mac| {
            let client = clients.get(usize::from(slot)).and_then(Option::as_ref);
            let rules = client.and_then(|client| client.rules.as_deref());
            ports.get(slot).is_none_or(|port| rarp::announce(forwarder, (port, rules), mac))
        });
    }

    /// Lets the owner thread poll a transmit queue.
    fn poll(&mut self, queue: QueueId) {
        if !queue.transmits() {
            return;
        }
        match self.threads.owner(queue) {
            0 => self.poller.rouse(queue),
            owner => {
                if let Some(port) = self.threads.ports.get(queue.slot) {
                    port.wake(queue.pair());
                    self.threads.notify(owner).nudge();
                }
            }
        }
    }

    /// Stops the queues that other threads found broken.
    fn stop_broken(&mut self) {
        let threads = self.threads;
        for port in threads.ports.all() {
            for queue in port.broken() {
                let fault = self.queue(queue).and_then(|mut lease| lease.endpoint().fault());
                if let Some(fault) = fault {
                    self.fault(queue, fault);
                }
            }
        }
    }

    /// Stops a queue without a command and reports that to the supervisor.
    fn fault(&mut self, queue: QueueId, fault: RingFault) {
        if self.queue(queue).is_some_and(|mut lease| lease.endpoint().card().is_some()) {
            return self.stop_card(queue.slot, fault);
        }
        self.stop(queue);
        // What is behind a file is gone for both directions.
        if self.queue(queue).is_some_and(|mut lease| lease.endpoint().file().is_some()) {
            self.stop(QueueId { index: queue.index ^ 1, ..queue });
        }
        let QueueId { slot: port, index: ring } = queue;
        let report = Report { port, ring, value: fault as u64, ..Report::new(ReportKind::RingFault, 0) };
        // The next look notices a supervisor that is gone.
        let _ = self.link.report(report);
    }
}
