//! The loop, and the commands that change what it runs over.
//!
//! Rings are *polled* or *parked*. A polled ring is looked at in each turn of the loop, with kicks suppressed, and may
//! spend its share of the turn ([`crate::cost`]). When it has been empty for long, or when all have been for as long as
//! the loop spins ([`crate::spin`]), it asks for a kick, is looked at once more, and is parked: it costs nothing until
//! its kick fd wakes the loop. While rings are polled, the kernel is asked for kicks and commands now and then; when
//! none is, the loop blocks. So an idle switch uses no processor and a busy one makes no syscall per frame.
//!
//! Nothing waits but for its ring's turn: a frame whose receiver has no buffer is dropped and counted, so a slow
//! receiver holds nobody up, not even frames of the same ring for others.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use sv3::ipc::{BUSY_QUIET, Command, Region, Report, ReportKind, RingFault, Settings};
use sv3::ledger::{Lane, Ledger, add};

use crate::burst::{Burst, Served};
use crate::clock;
use crate::control::{Control, Order, Over};
use crate::cost::{self, Credit};
use crate::fabric::Fabric;
use crate::guest::memory::{GuestMemory, Mapping};
use crate::guest::queue::{Place, Queue};
use crate::notify::{MAX_EVENTS, Notify, Woken};
use crate::port::{Port, transmits};
use crate::rarp;
use crate::spin::Spin;

/// Longest time between two looks at the kernel while rings are busy, in nanoseconds.
const LOOK_NS: u64 = 50_000;
/// The same while the polled rings are empty.
const IDLE_LOOK_NS: u64 = 5_000;
/// How long a ring that is empty is polled while others are not, in nanoseconds: longer than there is between frames of
/// most conversations, since a look at a ring costs less than a kick.
const LINGER_NS: u64 = 1_000_000;
/// Most commands obeyed at a look, lest clients that come and go by the thousand hold up those that stay. The rest is
/// still there at the next look.
const MAX_ORDERS: usize = 4;

/// A ring that is polled.
#[derive(Clone, Copy)]
struct Polled {
    slot: u16,
    ring: u16,
    /// When it last had something, in nanoseconds.
    busy_ns: u64,
    credit: Credit,
}

/// What the first command says.
pub struct Start {
    /// How the worker runs.
    pub settings: Settings,
    /// The mapped ledger.
    pub ledger: &'static Ledger,
    /// The worker's own lane of it.
    pub lane: &'static Lane,
    /// The worker waits for [`Command::Promote`].
    pub standby: bool,
}

/// The worker's whole state.
pub struct Switch {
    lane: &'static Lane,
    /// Rings are only noted; the worker that serves is another.
    standby: bool,
    spin: Spin,
    control: Control,
    notify: Notify,
    fabric: Fabric,
    burst: Burst,
    polled: Vec<Polled>,
    /// When the loop's turn began, in nanoseconds.
    now_ns: u64,
    /// When the worker last said that it had woken, in nanoseconds.
    said_busy: u64,
}

impl Switch {
    /// A switch without ports.
    pub fn new(start: &Start, control: Control, notify: Notify) -> Switch {
        Switch {
            lane: start.lane,
            standby: start.standby,
            spin: Spin::new(u64::from(start.settings.poll_us) * 1000),
            control,
            notify,
            fabric: Fabric::new(start.ledger, start.lane),
            burst: Burst::new(start.settings.batch),
            // All that there can be: the policy has no mremap, by which the allocator lets large blocks grow.
            polled: Vec::with_capacity(sv3::MAX_PORTS * sv3::MAX_RINGS / 2),
            now_ns: 0,
            said_busy: 0,
        }
    }

    /// Runs until the supervisor closes the control socket.
    pub fn run(&mut self) -> Over {
        let mut look_at = 0;
        loop {
            let head = self.lane;
            head.heartbeat.store(head.heartbeat.load(Relaxed).wrapping_add(1), Relaxed);
            self.read_clock();
            if self.now_ns >= look_at || self.polled.is_empty() {
                if let Err(over) = self.look() {
                    return over;
                }
                look_at = 0;
            }
            let now = self.now_ns;
            let worked = self.turn(now);
            if worked {
                self.spin.found(now);
            } else if self.spin.is_over(now) {
                self.park_all();
            }
            if look_at == 0 {
                look_at = now + if worked { LOOK_NS } else { IDLE_LOOK_NS };
            } else if !worked {
                look_at = look_at.min(now + IDLE_LOOK_NS);
            }
        }
    }

    /// Serves each polled ring that has credit once; parks those that have been empty for long. True: something was
    /// there.
    fn turn(&mut self, now: u64) -> bool {
        let linger = self.spin.window().max(LINGER_NS);
        let share = cost::share(self.polled.len());
        let mut worked = false;
        let mut at = 0;
        while let Some(entry) = self.polled.get_mut(at) {
            let Some(budget) = entry.credit.draw(share) else {
                worked = true;
                at += 1;
                continue;
            };
            let Polled { slot, ring, busy_ns, .. } = *entry;
            match self.serve(slot, ring, budget) {
                Some(Served { chains: 0, .. }) => {
                    if now.saturating_sub(busy_ns) >= linger && self.park(slot, ring) {
                        self.polled.swap_remove(at);
                        continue;
                    }
                }
                Some(Served { cost, .. }) => {
                    worked = true;
                    if let Some(entry) = self.polled.get_mut(at) {
                        entry.busy_ns = now;
                        entry.credit.spend(cost);
                    }
                }
                None => {
                    self.polled.swap_remove(at);
                    continue;
                }
            }
            at += 1;
        }
        while let Some((slot, ring, fault)) = self.fabric.faults.pop() {
            self.fault(slot, ring, fault);
        }
        worked
    }

    /// Takes a burst from a ring; `None`: the ring does not run (any more).
    fn serve(&mut self, slot: u16, ring: u16, budget: u64) -> Option<Served> {
        let head = self.lane;
        let mut port = self.fabric.take(slot)?;
        let runs = port.rings.get(usize::from(ring)).is_some_and(|state| state.polled && state.runs());
        head.hand_ring.store(u32::from(ring), Relaxed);
        head.hand_port.store(u32::from(slot) + 1, Relaxed);
        let result = match runs {
            true => self.burst.serve(&mut self.fabric, &mut port, ring, budget),
            false => Ok(Served::default()),
        };
        head.hand_port.store(0, Relaxed);
        if !runs && let Some(state) = port.rings.get_mut(usize::from(ring)) {
            state.polled = false;
        }
        self.fabric.put_back(port);
        match result {
            Ok(served) => {
                if served.chains > 0 {
                    head.note_flight(self.now_ns, slot, ring, served.chains as u16);
                }
                runs.then_some(served)
            }
            Err(fault) => {
                self.fabric.faults.push((slot, ring, fault));
                None
            }
        }
    }

    /// Parks all rings in which nothing came meanwhile.
    fn park_all(&mut self) {
        let mut at = 0;
        while let Some(Polled { slot, ring, .. }) = self.polled.get(at).copied() {
            if self.park(slot, ring) {
                self.polled.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Lets a ring sleep until it is kicked; false when entries came meanwhile.
    fn park(&mut self, slot: u16, ring: u16) -> bool {
        let state = self.fabric.port(slot).and_then(|port| port.rings.get_mut(usize::from(ring)));
        let Some(state) = state else { return true };
        let Some(queue) = &mut state.queue else { return true };
        if queue.arm() {
            queue.disarm();
            return false;
        }
        state.polled = false;
        true
    }

    /// Begins to poll a ring, if it runs and is not polled already.
    fn poll(&mut self, slot: u16, ring: u16) {
        let now = clock::now_ns();
        let state = self.fabric.port(slot).and_then(|port| port.rings.get_mut(usize::from(ring)));
        let Some(state) = state.filter(|state| state.runs() && !state.polled) else { return };
        if let Some(queue) = &mut state.queue {
            queue.disarm();
        }
        state.polled = true;
        self.polled.push(Polled { slot, ring, busy_ns: now, credit: Credit::default() });
    }

    fn read_clock(&mut self) {
        self.now_ns = clock::now_ns();
        self.fabric.now_s = self.now_ns / 1_000_000_000;
    }

    /// Asks the kernel for kicks and commands; blocks when there is nothing to poll.
    fn look(&mut self) -> Result<(), Over> {
        self.control.flush()?;
        let block = self.polled.is_empty() && !self.control.pending();
        if block {
            self.lane.busy.store(0, Relaxed);
        }
        let mut kicked = [None; MAX_EVENTS];
        let mut orders = false;
        let woken = self.notify.wait(block).map_err(|errno| Over::Broken(format!("epoll_wait: {errno}")))?;
        for (woken, place) in woken.zip(&mut kicked) {
            match woken {
                Woken::Control => orders = true,
                Woken::Kick(slot, ring) => *place = Some((slot, ring)),
            }
        }
        self.lane.busy.store(1, Relaxed);
        // It may have slept for long.
        self.read_clock();
        if block && !self.standby {
            self.say_busy()?;
        }
        for (slot, ring) in kicked.into_iter().flatten() {
            add(&self.fabric.line(slot).kicks, 1);
            self.poll(slot, ring);
        }
        if orders {
            for _ in 0..MAX_ORDERS {
                let Some(order) = self.control.receive()? else { break };
                self.obey(order)?;
            }
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
            Command::PortAdd { port } => self.fabric.insert(Port::new(port)).then_some(()).ok_or(NO_PORT),
            Command::PortRemove { port } => self.remove(port),
            Command::PortFeatures { port, features } => self.port(port).map(|port| port.features = features),
            Command::RegionStage { port, region } => {
                self.map(port, region, fds.next()).and_then(|mapping| self.stage(port, mapping))
            }
            Command::MemoryCommit { port } => self.commit(port),
            Command::RegionAdd { port, region } => {
                self.map(port, region, fds.next()).and_then(|mapping| self.add_region(port, mapping))
            }
            Command::RegionRemove { port, region } => self.remove_region(port, &region),
            Command::RingStart { port, ring, size, addr, base, run } => {
                self.stop(port, ring);
                match self.fabric.ring_lines(port, ring) {
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
            Command::RingCall { port, ring, .. } => self.ring(port, ring).map(|state| state.call = fds.next()),
            Command::SendRarp { .. } if self.standby => Ok(()),
            Command::SendRarp { port, mac } => {
                rarp::announce(&mut self.fabric, port, mac);
                Ok(())
            }
            Command::Barrier => return self.control.report(Report::new(ReportKind::Done, seq)),
        };
        match result {
            Ok(()) => Ok(()),
            Err(errno) => {
                let value = errno as i32 as u64;
                self.control.report(Report { port: about, value, ..Report::new(ReportKind::Failed, seq) })
            }
        }
    }

    fn port(&mut self, slot: u16) -> nix::Result<&mut Port> {
        self.fabric.port(slot).ok_or(NO_PORT)
    }

    fn ring(&mut self, slot: u16, ring: u16) -> nix::Result<&mut crate::port::Ring> {
        self.port(slot)?.rings.get_mut(usize::from(ring)).ok_or(NO_PORT)
    }

    fn map(&mut self, slot: u16, region: Region, fd: Option<OwnedFd>) -> nix::Result<Mapping> {
        let fd = fd.ok_or(nix::errno::Errno::EBADF)?;
        let errno = |e: std::io::Error| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EINVAL));
        Mapping::new(slot, region, fd).map_err(errno)
    }

    fn stage(&mut self, slot: u16, mapping: Mapping) -> nix::Result<()> {
        self.port(slot)?.staged.add(mapping).then_some(()).ok_or(nix::errno::Errno::ENOSPC)
    }

    fn commit(&mut self, slot: u16) -> nix::Result<()> {
        let port = self.port(slot)?;
        // The old table lives until the rings have been looked up in the new one.
        let old: GuestMemory = std::mem::replace(&mut port.memory, std::mem::take(&mut port.staged));
        self.relocated(slot);
        drop(old);
        Ok(())
    }

    fn add_region(&mut self, slot: u16, mapping: Mapping) -> nix::Result<()> {
        self.port(slot)?.memory.add(mapping).then_some(()).ok_or(nix::errno::Errno::ENOSPC)
    }

    fn remove_region(&mut self, slot: u16, region: &Region) -> nix::Result<()> {
        if !self.port(slot)?.memory.remove(region) {
            return Err(nix::errno::Errno::ENOENT);
        }
        self.relocated(slot);
        Ok(())
    }

    fn relocated(&mut self, slot: u16) {
        let faults = self.fabric.port(slot).map(Port::relocate).unwrap_or_default();
        for (ring, fault) in faults {
            self.fault(slot, ring, fault);
        }
        // Rings were made anew, with kicks suppressed: those that are parked are polled until they park again.
        for ring in 0..sv3::MAX_RINGS as u16 {
            if transmits(ring) {
                self.poll(slot, ring);
            }
        }
    }

    fn remove(&mut self, slot: u16) -> nix::Result<()> {
        for ring in 0..sv3::MAX_RINGS as u16 {
            self.stop(slot, ring);
        }
        if !self.standby {
            self.fabric.forget(slot);
        }
        self.fabric.remove(slot).map(drop).ok_or(NO_PORT)
    }

    fn start(&mut self, slot: u16, ring: u16, place: Place, kick: Option<OwnedFd>) -> nix::Result<()> {
        let state = self.ring(slot, ring)?;
        state.place = Some(place);
        state.kick = kick;
        if !self.standby {
            self.bring_up(slot, ring);
        }
        Ok(())
    }

    /// Starts a ring whose place and kick fd are known; nothing for another.
    fn bring_up(&mut self, slot: u16, ring: u16) {
        let Some(port) = self.fabric.port(slot) else { return };
        let Some(state) = port.rings.get_mut(usize::from(ring)) else { return };
        let (Some(place), Some(kick)) = (state.place, &state.kick) else { return };
        let queue = Queue::new(&port.memory, &place, port.features);
        let watched = if transmits(ring) { self.notify.watch(kick, slot, ring) } else { Ok(()) };
        match (queue, watched) {
            (Ok(queue), Ok(())) => {
                state.queue = Some(queue);
                self.changed(slot, ring);
            }
            (Err(fault), _) => self.fault(slot, ring, fault),
            (_, Err(_)) => self.fault(slot, ring, RingFault::BadKick),
        }
    }

    /// Takes over from the worker that served.
    fn promote(&mut self) {
        self.standby = false;
        for slot in self.fabric.slots() {
            for ring in 0..sv3::MAX_RINGS as u16 {
                self.bring_up(slot, ring);
            }
        }
    }

    fn enable(&mut self, slot: u16, ring: u16, enable: bool) -> nix::Result<()> {
        self.ring(slot, ring)?.enabled = enable;
        self.changed(slot, ring);
        Ok(())
    }

    /// After a ring was started or enabled: a transmit ring counts as kicked, a receiver's driver is signalled once,
    /// since what an earlier worker's signals came to is unknown.
    fn changed(&mut self, slot: u16, ring: u16) {
        if let Some(port) = self.fabric.port(slot) {
            port.count_receivers();
            if let Some(Some(call)) = port.rings.get(usize::from(ring)).filter(|s| s.runs()).map(|s| &s.call) {
                let _ = nix::unistd::write(call, &1u64.to_ne_bytes());
            }
        }
        if transmits(ring) {
            self.poll(slot, ring);
        }
    }

    /// Stops a ring; returns the vring base. A ring that does not run has base 0.
    fn stop(&mut self, slot: u16, ring: u16) -> u16 {
        let Some(port) = self.fabric.port(slot) else { return 0 };
        let Some(state) = port.rings.get_mut(usize::from(ring)) else { return 0 };
        let base = state.queue.take().map_or(0, |queue| queue.position());
        state.place = None;
        state.polled = false;
        if let Some(kick) = state.kick.take() {
            self.notify.forget(&kick);
        }
        port.count_receivers();
        self.polled.retain(|entry| (entry.slot, entry.ring) != (slot, ring));
        base
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
