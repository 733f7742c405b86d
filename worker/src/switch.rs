//! The control thread: what the supervisor commands changes ports and rings while frames pass.
//!
//! It obeys between two turns of its own rings and, like any thread, takes a ring's lease for whatever it does to the
//! ring. So when it says that a command is obeyed, no frame is under way that the command forbids, in any thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sv3::ipc::{BUSY_QUIET, Command, Region, Report, ReportKind, RingFault, Settings};
use sv3::ledger::{Ledger, ThreadState, WorkerArea};
use sv3::{MAX_PORTS, MAX_RINGS};

use crate::clock;
use crate::control::{Control, Order, Over};
use crate::guest::memory::{GuestMemory, Mapping};
use crate::guest::queue::Place;
use crate::mapper::{Errands, Mapped, Wanted};
use crate::poller::{Poller, Room};
use crate::port::{Ring, RingLease, transmits};
use crate::rarp;
use crate::team::Team;

/// Most commands obeyed at a look, lest clients that come and go by the thousand hold up those that stay. The rest is
/// still there at the next look.
const MAX_ORDERS: usize = 4;

/// What the first command says.
#[derive(Clone, Copy)]
pub struct Start {
    /// How the worker runs.
    pub settings: Settings,
    /// The mapped ledger.
    pub ledger: &'static Ledger,
    /// The worker's own area of it.
    pub area: &'static WorkerArea,
    /// The worker waits for [`Command::Promote`].
    pub standby: bool,
}

impl Start {
    /// The state of thread `number`. [`crate::args`] sees to it that there are no more threads than the ledger has.
    pub fn thread(&self, number: usize) -> &'static ThreadState {
        match self.area.thread(number) {
            Some(state) => state,
            None => crate::last_words(&format!("the ledger has no place for thread {number}")),
        }
    }
}

/// What only commands are about of a client.
#[derive(Default)]
struct Client {
    /// Negotiated virtio features.
    features: u64,
    /// Memory table in force.
    memory: GuestMemory,
    /// Memory table being collected.
    staged: GuestMemory,
    /// Between two announcements.
    rarp: rarp::Pause,
}

/// The worker's whole state.
pub struct Switch {
    team: &'static Team,
    /// Rings are only noted; the worker that serves is another.
    standby: bool,
    control: Control,
    clients: Vec<Option<Box<Client>>>,
    errands: Errands,
    /// An order that cannot be obeyed before regions are mapped; those behind it wait, too.
    put_off: Option<Order>,
    poller: Poller,
    /// When the worker last said that it had woken, in nanoseconds.
    said_busy: u64,
}

impl Switch {
    /// A switch without ports.
    pub fn new(team: &'static Team, start: &Start, control: Control, room: Room) -> Switch {
        let poller = Poller::new(team, 0, room, start);
        if !start.standby {
            team.promote();
            poller.fabric.recount();
        }
        let clients = std::iter::repeat_with(|| None).take(MAX_PORTS).collect();
        let errands = Errands::new(&team.mapper);
        Switch { team, standby: start.standby, control, clients, errands, put_off: None, poller, said_busy: 0 }
    }

    /// Runs until the supervisor closes the control socket.
    pub fn run(&mut self) -> Over {
        loop {
            if self.poller.begin_turn()
                && let Err(over) = self.look()
            {
                return over;
            }
            self.poller.turn();
            while let Some((slot, ring, fault)) = self.poller.fabric.next_fault() {
                self.fault(slot, ring, fault);
            }
        }
    }

    /// Asks the kernel for kicks and commands; blocks when there is nothing to poll.
    fn look(&mut self) -> Result<(), Over> {
        self.control.flush()?;
        self.errands.hand_over();
        let may_block = !self.control.pending() && !self.errands.must_try_again();
        let looked = self.poller.look(may_block);
        let looked = looked.map_err(|errno| Over::Broken(format!("epoll_wait: {errno}")))?;
        if looked.blocked && !self.standby {
            self.say_busy()?;
        }
        if looked.nudged {
            self.stop_broken();
        }
        let mut changed = looked.orders && self.put_off.is_none();
        while let Some(mapped) = self.errands.next_mapped() {
            self.take_mapped(mapped)?;
            changed = true;
        }
        if changed {
            self.obey_some()?;
            self.poller.resume_all();
        }
        if let Some(seq) = self.errands.unmapped() {
            self.control.report(Report::new(ReportKind::Unmapped, seq))?;
        }
        Ok(())
    }

    /// Obeys what has come, as far as it need not wait for regions to be mapped.
    fn obey_some(&mut self) -> Result<(), Over> {
        for _ in 0..MAX_ORDERS {
            let before = self.put_off.take();
            let had_waited = before.is_some();
            let Some(order) = before.map_or_else(|| self.control.receive(), |order| Ok(Some(order)))? else { break };
            let stages = matches!(order.0.command, Command::RegionStage { .. }) && !self.errands.is_full();
            let waits = self.errands.awaits_mappings() && !stages;
            if waits != had_waited {
                self.team.notify(0).heed_control(&self.control, !waits);
            }
            if waits {
                self.put_off = Some(order);
                break;
            }
            self.obey(order)?;
        }
        Ok(())
    }

    /// Tells the supervisor now and then that there is a heartbeat to look at.
    fn say_busy(&mut self) -> Result<(), Over> {
        let now = clock::now_ns();
        if now.saturating_sub(self.said_busy) < BUSY_QUIET.as_nanos() as u64 {
            return Ok(());
        }
        self.said_busy = now;
        self.control.report(Report::new(ReportKind::Busy, 0))
    }

    fn obey(&mut self, (envelope, fds): Order) -> Result<(), Over> {
        let (seq, about) = (envelope.seq, envelope.command.port().unwrap_or(0));
        let mut fds = fds.into_iter();
        let result = match envelope.command {
            Command::Start { .. } => Err(nix::errno::Errno::EALREADY),
            Command::Promote => {
                self.promote();
                Ok(())
            }
            Command::PortAdd { port, .. } => self.add(port, seq),
            Command::PortRemove { port } => self.remove(port, seq),
            Command::PortFeatures { port, features } => self.client(port).map(|client| client.features = features),
            Command::RegionStage { port, region } => self.map(seq, port, true, region, fds.next()),
            Command::MemoryCommit { port } => self.commit(port, seq),
            Command::RegionAdd { port, region } => self.map(seq, port, false, region, fds.next()),
            Command::RegionRemove { port, region } => self.remove_region(port, &region, seq),
            Command::RingStart { port, ring, size, addr, base, run } => {
                self.stop(port, ring);
                match self.poller.fabric.ring_lines(port, ring) {
                    Some((line, log)) => self.start(port, ring, Place { size, addr, base, run, line, log }, fds.next()),
                    None => Err(NO_PORT),
                }
            }
            Command::RingStop { port, ring } => {
                let value = u64::from(self.stop(port, ring));
                let report = Report { port, ring, value, ..Report::new(ReportKind::RingStopped, seq) };
                return self.control.report(report);
            }
            Command::RingEnable { port, ring, enable } => self.enable(port, ring, enable),
            Command::RingCall { port, ring, .. } => self.use_ring(port, ring).map(|mut state| state.call = fds.next()),
            Command::SendRarp { .. } if self.standby => Ok(()),
            Command::SendRarp { port, mac } => {
                let now_ns = self.poller.fabric.now_ns;
                let over = self.client(port).map(|client| client.rarp.is_over(now_ns));
                if over == Ok(true) {
                    rarp::announce(&mut self.poller.fabric, port, mac);
                }
                over.map(drop)
            }
            Command::Barrier => return self.control.report(Report::new(ReportKind::Done, seq)),
        };
        self.tell_failure(seq, about, result)
    }

    fn tell_failure(&mut self, seq: u64, port: u16, result: nix::Result<()>) -> Result<(), Over> {
        let Err(errno) = result else { return Ok(()) };
        let value = errno as i32 as u64;
        self.control.report(Report { port, value, ..Report::new(ReportKind::Failed, seq) })
    }

    fn client(&mut self, slot: u16) -> nix::Result<&mut Client> {
        self.clients.get_mut(usize::from(slot)).and_then(Option::as_deref_mut).ok_or(NO_PORT)
    }

    /// The lease of a ring of a client that is here, if the ring was ever used.
    fn ring(&self, slot: u16, ring: u16) -> Option<RingLease> {
        self.clients.get(usize::from(slot))?.as_ref()?;
        Some(self.team.ports.get(slot)?.ring(ring)?.seize(|| self.poller.beat()))
    }

    /// The lease of a ring of a client that is here, which begins to use it.
    fn use_ring(&self, slot: u16, ring: u16) -> nix::Result<RingLease> {
        if let Some(Some(_)) = self.clients.get(usize::from(slot)) {
            self.team.ports.get(slot).and_then(|port| port.make_ring(ring)).ok_or(NO_PORT)?;
        }
        self.ring(slot, ring).ok_or(NO_PORT)
    }

    fn add(&mut self, slot: u16, seq: u64) -> nix::Result<()> {
        // A place that nobody left in order is empty, too.
        self.clear(slot, seq);
        self.team.ports.make(slot).ok_or(NO_PORT)?;
        let place = self.clients.get_mut(usize::from(slot)).ok_or(NO_PORT)?;
        *place = Some(Box::default());
        Ok(())
    }

    /// Has a region mapped, for the table that is being collected or the one in force.
    fn map(&mut self, seq: u64, port: u16, staged: bool, region: Region, fd: Option<OwnedFd>) -> nix::Result<()> {
        self.client(port)?;
        let fd = fd.ok_or(nix::errno::Errno::EBADF)?;
        self.errands.map(Wanted { seq, port, staged, region, fd });
        Ok(())
    }

    /// A region was mapped, or could not be.
    fn take_mapped(&mut self, mapped: Mapped) -> Result<(), Over> {
        let Mapped { seq, port, staged, outcome } = mapped;
        let result = outcome.and_then(|bare| {
            let mapping = Arc::new(Mapping::new(port, bare));
            let client = self.client(port)?;
            let table = if staged { &mut client.staged } else { &mut client.memory };
            if let Err(mapping) = table.add(mapping) {
                self.errands.unmap([mapping], seq);
                return Err(nix::errno::Errno::ENOSPC);
            }
            if staged { Ok(()) } else { self.show_regions(port) }
        });
        self.tell_failure(seq, port, result)
    }

    fn commit(&mut self, slot: u16, seq: u64) -> nix::Result<()> {
        let client = self.client(slot)?;
        // The old table lives until the rings have been looked up in the new one.
        let old: GuestMemory = std::mem::replace(&mut client.memory, std::mem::take(&mut client.staged));
        self.relocated(slot);
        self.errands.unmap(old.into_mappings(), seq);
        Ok(())
    }

    /// Shows all rings a table that has grown.
    fn show_regions(&mut self, slot: u16) -> nix::Result<()> {
        let memory = self.client(slot)?.memory.clone();
        for ring in 0..MAX_RINGS as u16 {
            if let Some(mut state) = self.ring(slot, ring)
                && state.queue.is_some()
            {
                state.memory = memory.clone();
            }
        }
        Ok(())
    }

    fn remove_region(&mut self, slot: u16, region: &Region, seq: u64) -> nix::Result<()> {
        let mapping = self.client(slot)?.memory.remove(region);
        let found = mapping.is_some();
        if found {
            self.relocated(slot);
        }
        self.errands.unmap(mapping, seq);
        found.then_some(()).ok_or(nix::errno::Errno::ENOENT)
    }

    /// Looks all rings that are started up again, in a table that has changed. Those that are not in it any more stop.
    fn relocated(&mut self, slot: u16) {
        for ring in 0..MAX_RINGS as u16 {
            if self.ring(slot, ring).is_none_or(|state| state.queue.is_none()) {
                continue;
            }
            // Rings are made anew, with kicks suppressed: those that are parked are polled until they park again.
            match self.begin(slot, ring) {
                Ok(()) => self.poll(slot, ring),
                Err(fault) => self.fault(slot, ring, fault),
            }
        }
    }

    /// Begins with a ring whose place is known.
    fn begin(&mut self, slot: u16, ring: u16) -> Result<(), RingFault> {
        let (Some(mut state), Ok(client)) = (self.ring(slot, ring), self.client(slot)) else { return Ok(()) };
        state.begin(&client.memory, client.features)
    }

    /// Has a transmit ring polled by its thread.
    fn poll(&mut self, slot: u16, ring: u16) {
        if !transmits(ring) {
            return;
        }
        match self.team.owner(slot, ring) {
            0 => self.poller.rouse(slot, ring),
            owner => {
                if let Some(port) = self.team.ports.get(slot) {
                    port.wake(ring);
                    self.team.notify(owner).nudge();
                }
            }
        }
    }

    fn remove(&mut self, slot: u16, seq: u64) -> nix::Result<()> {
        let was_there = self.client(slot).is_ok();
        self.clear(slot, seq);
        if was_there && !self.standby {
            self.poller.fabric.forget(slot);
        }
        was_there.then_some(()).ok_or(NO_PORT)
    }

    /// Stops all rings of a port, and forgets what they and the client were told.
    fn clear(&mut self, slot: u16, seq: u64) {
        for ring in 0..MAX_RINGS as u16 {
            self.stop(slot, ring);
            if let Some(mut state) = self.ring(slot, ring) {
                *state = Ring::default();
            }
        }
        let client = self.clients.get_mut(usize::from(slot)).and_then(Option::take);
        let tables = client.into_iter().flat_map(|client| [client.memory, client.staged]);
        self.errands.unmap(tables.flat_map(GuestMemory::into_mappings), seq);
    }

    fn start(&mut self, slot: u16, ring: u16, place: Place, kick: Option<OwnedFd>) -> nix::Result<()> {
        let mut state = self.use_ring(slot, ring)?;
        state.place = Some(place);
        state.kick = kick;
        drop(state);
        match self.standby {
            true => self.prepare(slot, ring),
            false => self.bring_up(slot, ring),
        }
        Ok(())
    }

    /// On standby: does what can be done for a ring that was started without touching it.
    fn prepare(&mut self, slot: u16, ring: u16) {
        // What fails now will fail again, and be told of, at the promotion.
        let _ = self.watch(slot, ring);
        if let (Some(state), Ok(client)) = (self.ring(slot, ring), self.client(slot))
            && let Some(place) = &state.place
        {
            place.areas(client.features).into_iter().for_each(|(addr, len)| client.memory.populate(addr, len));
        }
    }

    /// Has kicks wake the thread of a ring that was started, if they do not yet; nothing for another.
    fn watch(&mut self, slot: u16, ring: u16) -> Option<nix::Result<()>> {
        let mut state = self.ring(slot, ring)?;
        let Ring { place: Some(_), kick: Some(kick), is_watched, .. } = &mut *state else { return None };
        // A receiver's kick is for the thread that holds rings for its sake, if there is but one thread.
        if *is_watched || !transmits(ring) && self.team.threads() > 1 {
            return Some(Ok(()));
        }
        let watched = self.team.notify(self.team.owner(slot, ring)).watch(kick, slot, ring);
        *is_watched = watched.is_ok();
        Some(watched)
    }

    /// Starts a ring whose place and kick fd are known; nothing for another.
    fn bring_up(&mut self, slot: u16, ring: u16) {
        let Some(watched) = self.watch(slot, ring) else { return };
        match (self.begin(slot, ring), watched) {
            (Ok(()), Ok(())) => self.changed(slot, ring),
            (Err(fault), _) => self.fault(slot, ring, fault),
            (_, Err(_)) => self.fault(slot, ring, RingFault::BadKick),
        }
    }

    /// Takes over from the worker that served. All receive first: other threads begin with a transmit ring at once, and
    /// its first frame must not meet a receiver that is to start after it.
    fn promote(&mut self) {
        self.standby = false;
        let team = self.team;
        self.poller.fabric.recount();
        for transmit in [false, true] {
            for port in team.ports.all() {
                let rings = port.used().filter(|ring| transmits(*ring) == transmit);
                rings.for_each(|ring| self.bring_up(port.slot, ring));
            }
        }
        team.promote();
    }

    fn enable(&mut self, slot: u16, ring: u16, enable: bool) -> nix::Result<()> {
        self.use_ring(slot, ring)?.enabled = enable;
        self.changed(slot, ring);
        Ok(())
    }

    /// After a ring was started or enabled: a transmit ring counts as kicked, a receiver's driver is signalled once,
    /// since what an earlier worker's signals came to is unknown.
    fn changed(&mut self, slot: u16, ring: u16) {
        let Some(state) = self.ring(slot, ring) else { return };
        let runs = state.runs();
        if runs && let Some(call) = &state.call {
            let _ = nix::unistd::write(call, &1u64.to_ne_bytes());
        }
        drop(state);
        if !transmits(ring) {
            self.team.ports.note_receiver(slot, ring, runs);
        } else if runs {
            self.poll(slot, ring);
        }
    }

    /// Stops a ring; returns the vring base. A ring that does not run has base 0.
    fn stop(&mut self, slot: u16, ring: u16) -> u16 {
        let Some(mut state) = self.ring(slot, ring) else { return 0 };
        let was_held = state.is_held;
        let base = state.end().map_or(0, |queue| queue.position());
        state.place = None;
        state.is_watched = false;
        if let Some(kick) = state.kick.take() {
            self.team.notify(self.team.owner(slot, ring)).forget(&kick);
        }
        if !transmits(ring) {
            self.team.ports.note_receiver(slot, ring, false);
        }
        drop(state);
        if was_held {
            self.poll(slot, ring);
        }
        base
    }

    /// Stops the rings that other threads found broken.
    fn stop_broken(&mut self) {
        let team = self.team;
        for port in team.ports.all() {
            for ring in port.broken() {
                let fault = self.ring(port.slot, ring).and_then(|state| state.fault);
                if let Some(fault) = fault {
                    self.fault(port.slot, ring, fault);
                }
            }
        }
    }

    /// Stops a ring by itself and tells the supervisor.
    fn fault(&mut self, slot: u16, ring: u16, fault: RingFault) {
        self.stop(slot, ring);
        let report = Report { port: slot, ring, value: fault as u64, ..Report::new(ReportKind::RingFault, 0) };
        // A supervisor that is gone is noticed at the next look.
        let _ = self.control.report(report);
    }
}

const NO_PORT: nix::errno::Errno = nix::errno::Errno::ENXIO;
