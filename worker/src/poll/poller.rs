//! The loop of one thread over its transmit rings.
//!
//! Rings are *polled* or *parked*. A polled ring is looked at in each turn of the loop, with kicks suppressed, and may
//! spend its share of the turn ([`crate::poll::cost`]). When it has been empty for long, or when all have been for as long as
//! the loop spins ([`crate::poll::spin`]), it asks for a kick, is looked at once more, and is parked: it costs nothing until
//! its kick fd wakes the loop. While rings are polled, the kernel is asked for kicks and commands now and then; when
//! none is, the loop blocks. So an idle switch uses no processor and a busy one makes no syscall per frame.
//!
//! A ring whose frame finds no buffer is *held* for a bounded time ([`crate::poll::pause`]): it is looked at in no turn until
//! its receiver has buffers again. Other rings do not wait for it.

use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::{EpollEvent, EpollTimeout};
use sv3::ipc::BUSY_QUIET;
use sv3::ledger::ThreadState;
use sv3::{MAX_PORTS, MAX_RINGS};

use crate::forward::burst::{Burst, Served};
use crate::forward::forwarder::{self, Forwarder};
use crate::poll::cost::{self, Credit};
use crate::poll::notify::{self, Events, MAX_EVENTS, Woken};
use crate::poll::pause::{Pauses, Remaining, Resumed};
use crate::poll::spin::Spin;
use crate::poll::start::Start;
use crate::poll::threads::Threads;
use crate::port::{RingLease, transmits};
use crate::process::clock;

/// Longest time between two looks at the kernel while rings are busy, in nanoseconds.
const LOOK_NS: u64 = 50_000;
/// The same while the polled rings are empty.
const IDLE_LOOK_NS: u64 = 5_000;
/// How long a ring that is empty is polled while others are not, in nanoseconds: longer than there is between frames of
/// most conversations, since a look at a ring costs less than a kick.
const LINGER_NS: u64 = 1_000_000;
/// How long after its last frame a ring counts among those that want a share, in nanoseconds: longer than a conversation pauses.
const WANTS_NS: u64 = 200_000;
/// How long one of several threads sleeps at most while it pauses rings, in nanoseconds: their receivers' kicks do not wake it.
const NAP_NS: u64 = 1_000_000;

/// A ring that is polled.
#[derive(Clone, Copy)]
struct Polled {
    slot: u16,
    ring: u16,
    /// When it last had something, in nanoseconds.
    busy_ns: u64,
    credit: Credit,
    /// It was held, and nothing was taken from it since.
    remaining: Option<Remaining>,
}

/// What a thread needs room for; made before it is confined, but for the first one's.
pub struct Buffers {
    forwarder: forwarder::Buffers,
    burst: Burst,
    polled: Vec<Polled>,
    pauses: Pauses<Polled>,
    listed: Box<[u32]>,
}

impl Buffers {
    /// Buffers for one thread.
    pub fn new() -> Buffers {
        Buffers {
            forwarder: forwarder::Buffers::new(),
            burst: Burst::new(),
            // All that there can be: the policy has no mremap, by which the allocator lets large blocks grow.
            polled: Vec::with_capacity(MAX_PORTS * MAX_RINGS / 2),
            pauses: Pauses::new(),
            listed: vec![0; MAX_PORTS].into_boxed_slice(),
        }
    }
}

/// What a look at the kernel has found.
pub struct Looked {
    /// The thread had blocked.
    pub blocked: bool,
    /// There are commands.
    pub commands: bool,
    /// Another thread has left something to be done.
    pub nudged: bool,
}

/// One thread's rings.
pub struct Poller {
    threads: &'static Threads,
    number: usize,
    state: &'static ThreadState,
    /// The thread's view of all ports.
    pub forwarder: Forwarder,
    burst: Burst,
    spin: Spin,
    polled: Vec<Polled>,
    /// How many of them wanted a share in the last turn.
    wanting: usize,
    /// Those that are held instead.
    pauses: Pauses<Polled>,
    /// By slot: queue pairs whose transmit rings are in `polled` or `pauses`, a bit for each.
    listed: Box<[u32]>,
    events: Events,
    /// When the loop's turn began, in nanoseconds.
    now_ns: u64,
    /// When the kernel is to be looked at, in nanoseconds; 0: at once.
    look_at: u64,
}

impl Poller {
    /// The loop of thread `number`; no rings yet.
    pub fn new(threads: &'static Threads, number: usize, room: Buffers, start: &Start) -> Poller {
        let Buffers { forwarder, mut burst, polled, pauses, listed } = room;
        burst.set_batch(start.settings.batch);
        Poller {
            threads,
            number,
            state: start.thread(number),
            forwarder: Forwarder::new(
                start.ledger,
                start.thread(number),
                &threads.ports,
                forwarder,
                (number, threads.count()),
            ),
            burst,
            spin: Spin::new(u64::from(start.settings.poll_us) * 1000),
            polled,
            wanting: 0,
            pauses,
            listed,
            events: [EpollEvent::empty(); MAX_EVENTS],
            now_ns: 0,
            look_at: 0,
        }
    }

    /// The loop of a thread that hears no commands: waits for the first one, which thread 0 hears.
    pub fn of_thread(threads: &'static Threads, number: usize, room: Buffers) -> Poller {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            if let Some(start) = threads.start.get() {
                return Poller::new(threads, number, room, start);
            }
            if let Err(errno) =
                threads.notify(number).wait(&mut events, EpollTimeout::NONE).map(|woken| woken.for_each(drop))
            {
                crate::last_words(&format!("epoll_wait: {errno}"));
            }
        }
    }

    /// Runs until the process ends.
    pub fn run(mut self) {
        // Commands may have been obeyed already, and the nudges for them taken for the one that told of the start.
        self.poll_woken();
        let mut said_busy = 0;
        loop {
            if self.begin_turn() {
                match self.look(true) {
                    Ok(looked) => {
                        if looked.blocked && self.now_ns.saturating_sub(said_busy) >= BUSY_QUIET.as_nanos() as u64 {
                            // Thread 0 wakes of it, and says so.
                            said_busy = self.now_ns;
                            self.threads.notify(0).nudge();
                        }
                    }
                    Err(errno) => crate::last_words(&format!("epoll_wait: {errno}")),
                }
            }
            self.turn();
            let mut broke = false;
            while let Some((slot, ring, _)) = self.forwarder.next_fault() {
                if let Some(port) = self.threads.ports.get(slot) {
                    port.break_ring(ring);
                    broke = true;
                }
            }
            if broke {
                self.threads.notify(0).nudge();
            }
        }
    }

    /// Begins a turn of the loop. True: it is time to look at the kernel.
    pub fn begin_turn(&mut self) -> bool {
        self.beat();
        self.read_clock();
        let look = self.now_ns >= self.look_at || self.may_block();
        if look {
            self.look_at = 0;
        }
        look
    }

    /// Nothing is to be polled before something comes, or a hold is over.
    fn may_block(&self) -> bool {
        self.polled.is_empty() && self.pauses.are_armed()
    }

    /// How long to block.
    fn timeout(&self) -> EpollTimeout {
        let until = self.pauses.until().map(|until| match self.threads.count() {
            1 => until,
            _ => until.min(self.now_ns + NAP_NS),
        });
        notify::until(until, self.now_ns)
    }

    fn read_clock(&mut self) {
        self.now_ns = clock::now_ns();
        self.forwarder.now_ns = self.now_ns;
        self.forwarder.now_s = self.now_ns / 1_000_000_000;
    }

    /// Shows that the thread gets on.
    pub fn beat(&self) {
        self.state.heartbeat.store(self.state.heartbeat.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Asks the kernel for kicks and commands; blocks, if it may, when there is nothing to poll.
    pub fn look(&mut self, may_block: bool) -> nix::Result<Looked> {
        let block = may_block && self.may_block();
        let timeout = if block { self.timeout() } else { EpollTimeout::ZERO };
        let asked_ns = self.now_ns;
        if block {
            self.state.fall_asleep(asked_ns);
        }
        let mut looked = Looked { blocked: block, commands: false, nudged: false };
        let mut kicked = [None; MAX_EVENTS];
        let woken = self.threads.notify(self.number).wait(&mut self.events, timeout)?;
        for (woken, place) in woken.zip(&mut kicked) {
            match woken {
                Woken::Control => looked.commands = true,
                Woken::Nudge => looked.nudged = true,
                Woken::Kick(slot, ring) => *place = Some((slot, ring)),
            }
        }
        // It may have slept for long.
        self.read_clock();
        if !self.state.sleep_clock().is_awake() {
            self.state.wake_up(asked_ns, self.now_ns);
        }
        let counting = self.forwarder.counting();
        for (slot, ring) in kicked.into_iter().flatten() {
            counting.add(&self.forwarder.line(slot).kicks, 1);
            // A receiver's kick tells of a buffer that a held ring waits for.
            if transmits(ring) {
                self.poll(slot, ring);
            }
        }
        if looked.nudged {
            self.poll_woken();
        }
        Ok(looked)
    }

    /// Polls the rings that thread 0 wants polled.
    pub fn poll_woken(&mut self) {
        for port in self.threads.ports.all() {
            for ring in port.woken(self.threads.pairs(self.number, port.slot)) {
                self.rouse(port.slot, ring);
            }
        }
    }

    /// Serves each polled ring that has credit once; parks those that have been empty for long.
    pub fn turn(&mut self) {
        let now = self.now_ns;
        while let Some(resumed) = self.pauses.next_due(&self.forwarder, now) {
            self.resume(resumed);
        }
        let worked = self.serve_all(now);
        if worked {
            self.spin.found(now);
        } else if self.spin.is_over(now) {
            self.park_all();
        }
        if self.look_at == 0 {
            self.look_at = now + if worked { LOOK_NS } else { IDLE_LOOK_NS };
        } else if !worked {
            self.look_at = self.look_at.min(now + IDLE_LOOK_NS);
        }
    }

    /// True: something was there.
    fn serve_all(&mut self, now: u64) -> bool {
        let linger = self.spin.window().max(LINGER_NS);
        let share = cost::share(self.wanting);
        self.wanting = 0;
        let mut worked = false;
        let mut at = 0;
        while let Some(entry) = self.polled.get_mut(at) {
            self.wanting += usize::from(now.saturating_sub(entry.busy_ns) < WANTS_NS);
            let Some(budget) = entry.credit.draw(share) else {
                worked = true;
                at += 1;
                continue;
            };
            let Polled { slot, ring, busy_ns, .. } = *entry;
            match self.serve(slot, ring, budget) {
                Some(Served { chains, cost, wanted: Some((wanted, longest)), .. }) => {
                    worked |= chains > 0;
                    // It stays listed.
                    let mut entry = self.polled.swap_remove(at);
                    entry.credit.spend(cost);
                    let remaining = entry.remaining.filter(|_| chains == 0).unwrap_or(Remaining::new(now, longest));
                    self.pauses.hold(entry, (slot, ring), wanted, remaining);
                    continue;
                }
                Some(Served { chains: 0, held_up: false, .. }) => {
                    if now.saturating_sub(busy_ns) >= linger && self.park(slot, ring) {
                        self.unlist(at);
                        continue;
                    }
                }
                Some(Served { chains, cost, .. }) => {
                    worked = true;
                    if let Some(entry) = self.polled.get_mut(at) {
                        entry.busy_ns = now;
                        entry.remaining = entry.remaining.filter(|_| chains == 0);
                        entry.credit.spend(cost);
                    }
                }
                None => {
                    self.unlist(at);
                    continue;
                }
            }
            at += 1;
        }
        worked
    }

    /// Takes a burst from a ring; `None`: the ring does not run (any more).
    fn serve(&mut self, slot: u16, ring: u16, budget: u64) -> Option<Served> {
        let Some(mut state) = self.own_ring(slot, ring) else {
            return Some(Served { held_up: true, ..Served::default() });
        };
        if !state.runs() {
            return None;
        }
        self.state.ring.store(u32::from(ring), Relaxed);
        self.state.port.store(u32::from(slot) + 1, Relaxed);
        self.forwarder.may_pause = !self.pauses.is_full();
        let result = self.burst.serve(&mut self.forwarder, &mut state, (slot, ring), budget);
        self.state.port.store(0, Relaxed);
        match result {
            Ok(served) => {
                state.is_paused = served.wanted.is_some();
                if served.chains > 0 {
                    self.state.trace_burst(self.now_ns, slot, ring, served.chains as u16);
                }
                Some(served)
            }
            Err(fault) => {
                self.forwarder.note_fault((slot, ring), &mut state, fault);
                None
            }
        }
    }

    /// The lease of a ring of the thread's own; `None`: a command changes it right now.
    #[inline]
    fn own_ring(&self, slot: u16, ring: u16) -> Option<RingLease> {
        self.threads.ports.get(slot)?.ring(ring)?.lease(self.number as u32)
    }

    /// Parks all rings in which nothing came meanwhile.
    fn park_all(&mut self) {
        let mut at = 0;
        while let Some(Polled { slot, ring, .. }) = self.polled.get(at).copied() {
            match self.park(slot, ring) {
                true => self.unlist(at),
                false => at += 1,
            }
        }
        while let Some(resumed) = self.pauses.arm(&self.forwarder, self.now_ns) {
            self.resume(resumed);
        }
    }

    /// Lets a ring sleep until it is kicked; false when entries came meanwhile.
    fn park(&mut self, slot: u16, ring: u16) -> bool {
        let Some(mut state) = self.own_ring(slot, ring) else { return false };
        let Some(queue) = &mut state.queue else { return true };
        if queue.arm() {
            queue.disarm();
            return false;
        }
        true
    }

    /// Begins to poll a ring, if it runs and is not polled already.
    pub fn poll(&mut self, slot: u16, ring: u16) {
        let Some(pairs) = self.listed.get_mut(usize::from(slot)) else { return };
        let Some(pair) = 1u32.checked_shl(u32::from(ring / 2)).filter(|pair| *pairs & pair == 0) else { return };
        // It is in the list even if a command changes it right now: the next turn looks again.
        if let Some(leased) = self.threads.ports.get(slot).and_then(|port| port.ring(ring))
            && let Some(mut state) = leased.lease(self.number as u32)
        {
            if !state.runs() {
                return;
            }
            if let Some(queue) = &mut state.queue {
                queue.disarm();
            }
        }
        *pairs |= pair;
        self.polled.push(Polled { slot, ring, busy_ns: clock::now_ns(), credit: Credit::default(), remaining: None });
    }

    /// The same for a ring that was started, stopped or changed: if it is held, that ends.
    pub fn rouse(&mut self, slot: u16, ring: u16) {
        match self.pauses.release((slot, ring), &self.forwarder, self.now_ns) {
            Some(resumed) => self.resume(resumed),
            None => self.poll(slot, ring),
        }
    }

    /// Tries all rings that are held again: whatever has changed, it shows.
    pub fn resume_all(&mut self) {
        while let Some(resumed) = self.pauses.next(&self.forwarder, self.now_ns) {
            self.resume(resumed);
        }
    }

    fn resume(&mut self, (entry, remaining): Resumed<Polled>) {
        self.polled.push(Polled { busy_ns: self.now_ns, remaining, ..entry });
    }

    /// Takes an entry out of the list.
    fn unlist(&mut self, at: usize) {
        let Polled { slot, ring, .. } = self.polled.swap_remove(at);
        if let Some(pairs) = self.listed.get_mut(usize::from(slot)) {
            *pairs &= !(1 << (ring / 2));
        }
    }
}
