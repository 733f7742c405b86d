//! The loop of one thread over its transmit rings.
//!
//! Rings are *polled* or *parked*. Each turn of the loop looks at each polled ring, with kicks suppressed, and the
//! ring may spend its share of the turn ([`crate::port::cost`]). A ring is parked when it has been empty for long, or
//! when all rings have been empty for as long as the loop spins ([`crate::poll::spin`]). To park it, the loop asks
//! for a kick and looks at it once more. A parked ring costs nothing until its kick fd wakes the loop. While rings
//! are polled, the loop asks the kernel for kicks and commands now and then. When no ring is polled, it blocks. So an
//! idle switch uses no processor, and a busy one makes no syscall per frame.
//!
//! A queue whose files tell it by an event when there is more ([`crate::port::kind::WhenEmpty`]) is neither polled while
//! it is empty nor spun for. If a part of a frame has come, the loop looks at it again when the rest is overdue.
//!
//! A ring whose frame finds no buffer is *paused* for a bounded time ([`crate::poll::pause`]): no turn looks at it
//! until its receiver has buffers again. Other rings do not wait for it.

mod listing;
mod serving;

use std::sync::atomic::Ordering::Relaxed;

use nix::sys::epoll::{EpollEvent, EpollTimeout};
use sv3::ids::QueueId;
use sv3::ipc::BUSY_QUIET;
use sv3::ledger::ThreadState;
use sv3::{MAX_PORTS, MAX_RINGS};

use super::fair_share::{self, Credit};
use super::notify::{self, Events, MAX_EVENTS, Notify, Woken};
use super::pause::{Pauses, Remaining};
use super::spin::Spin;
use super::start::Start;
use super::threads::Threads;
use crate::forward::burst::Burst;
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::port::counting::Counting;
use crate::port::sink::BufferWait;
use crate::port::view::View;
use crate::process::clock;
use crate::process::crash;
use serving::Outcome;

/// Longest time between two looks at the kernel while rings are busy, in nanoseconds.
const LOOK_NS: u64 = 50_000;
/// The same while all polled rings are empty.
const IDLE_LOOK_NS: u64 = 5_000;
/// How long an empty ring stays polled while others are busy, in nanoseconds. Longer than the time between frames of
/// most flows, since a look at a ring costs less than a kick.
const LINGER_NS: u64 = 1_000_000;
/// How long after its last frame a ring still counts among those that want a share, in nanoseconds. Longer than the
/// short gaps in a flow.
const WANTS_NS: u64 = 200_000;
/// With several threads, how long a thread that pauses rings sleeps at most, in nanoseconds: the receivers' kicks do
/// not wake it.
const NAP_NS: u64 = 1_000_000;
/// Longest time without a look at a ring whose sender is held back, in nanoseconds: its bound may be changed meanwhile.
const HOLD_NS: u64 = 100_000_000;

/// A ring that is polled.
#[derive(Clone, Copy)]
struct Polled {
    queue: QueueId,
    /// When it last had something, in nanoseconds.
    busy_ns: u64,
    credit: Credit,
    /// It was paused, and no frame was taken from it since.
    remaining: Option<Remaining>,
    /// While it has no frames, it is worth a look for a while.
    lingers: bool,
}

/// A queue that rests although a part of a frame has come.
#[derive(Clone, Copy)]
struct Unfinished {
    queue: QueueId,
    /// When to look at it again, in nanoseconds.
    until: u64,
}

/// The memory that a thread needs. Made before the thread is confined, except for the first thread's.
pub struct Buffers {
    leases: Leases,
    burst: Burst,
    polled: Vec<Polled>,
    pauses: Pauses<Polled>,
    unfinished: Vec<Unfinished>,
    listed: Box<[u32]>,
}

impl Buffers {
    /// Buffers for one thread.
    pub fn new() -> Buffers {
        Buffers {
            leases: Leases::new(),
            burst: Burst::new(),
            // Capacity for all rings: the policy has no mremap, by which the allocator grows large blocks.
            polled: Vec::with_capacity(MAX_PORTS * MAX_RINGS / 2),
            pauses: Pauses::new(),
            unfinished: Vec::with_capacity(MAX_PORTS),
            listed: vec![0; MAX_PORTS].into_boxed_slice(),
        }
    }
}

/// The result of a look at the kernel.
pub struct Looked {
    /// The thread had blocked.
    pub blocked: bool,
    /// There are commands.
    pub commands: bool,
    /// Another thread has left work for this one.
    pub nudged: bool,
    /// The vector of a card came that is no queue's.
    pub cards: bool,
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
    /// Those of them that linger: rings of guests.
    wanting_rings: usize,
    /// In this turn there are some.
    rings_wait: bool,
    /// The paused rings.
    pauses: Pauses<Polled>,
    /// The queues that rest for a time only. A queue without a place stays polled.
    unfinished: Vec<Unfinished>,
    /// By slot: queue pairs whose transmit rings are in `polled` or `pauses`, a bit for each.
    listed: Box<[u32]>,
    events: Events,
    /// When this turn of the loop began, in nanoseconds.
    now_ns: u64,
    /// When the next look at the kernel is due, in nanoseconds; 0: now.
    look_at: u64,
    /// When the thread must not sleep any longer, in nanoseconds.
    pub alarm: Option<u64>,
}

impl Poller {
    /// The loop of thread `number`, without rings.
    pub fn new(threads: &'static Threads, number: usize, buffers: Buffers, start: &Start) -> Poller {
        let Buffers { leases, mut burst, polled, pauses, unfinished, listed } = buffers;
        burst.set_batch(start.settings.batch);
        let counting = Counting { single_threaded: threads.count() == 1 };
        let view = View { ports: &threads.ports, number: number as u32, counting };
        Poller {
            threads,
            number,
            state: start.thread(number),
            forwarder: Forwarder::new(start.ledger, start.thread(number), view, leases),
            burst,
            spin: Spin::new(u64::from(start.settings.poll_us) * 1000),
            polled,
            wanting: 0,
            wanting_rings: 0,
            rings_wait: false,
            pauses,
            unfinished,
            listed,
            events: [EpollEvent::empty(); MAX_EVENTS],
            now_ns: 0,
            look_at: 0,
            alarm: None,
        }
    }

    /// The life of a thread that executes no commands. It waits until thread 0 has received the first command.
    pub fn live(threads: &'static Threads, number: usize) {
        let buffers = Buffers::new();
        threads.is_ready();
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let start = loop {
            if let Some(start) = threads.start.get() {
                break start;
            }
            let woken = threads.notify(number).wait(&mut events, EpollTimeout::NONE);
            if let Err(errno) = woken.map(|woken| woken.for_each(drop)) {
                crash::last_words(&format!("epoll_wait: {errno}"));
            }
        };
        Poller::new(threads, number, buffers, start).run();
    }

    /// Runs until the process ends.
    fn run(mut self) {
        // Thread 0 may have executed commands already, and this thread may have taken the nudges for them as the
        // nudge of the start.
        self.poll_woken();
        let mut said_busy = 0;
        loop {
            if self.begin_turn() {
                match self.look(true) {
                    Ok(looked) => {
                        if looked.blocked && self.now_ns.saturating_sub(said_busy) >= BUSY_QUIET.as_nanos() as u64 {
                            // The nudge wakes thread 0, which tells the supervisor.
                            said_busy = self.now_ns;
                            self.threads.first().nudge();
                        }
                    }
                    Err(errno) => crash::last_words(&format!("epoll_wait: {errno}")),
                }
            }
            self.turn();
            self.tell_control();
        }
    }

    /// Tells the control thread of queues that broke and of what was noted, if there is something.
    pub fn tell_control(&mut self) {
        let mut has_news = self.forwarder.take_noted();
        while let Some((queue, _)) = self.forwarder.next_fault() {
            if let Some(port) = self.threads.ports.get(queue.slot) {
                port.break_queue(queue.index);
                has_news = true;
            }
        }
        if has_news {
            self.threads.first().nudge();
        }
    }

    /// Begins a turn of the loop. True: the look at the kernel is due.
    pub fn begin_turn(&mut self) -> bool {
        self.beat();
        self.read_clock();
        let look = self.now_ns >= self.look_at || self.may_block();
        if look {
            self.look_at = 0;
        }
        look
    }

    /// Whether nothing needs polling until an event comes or a pause ends.
    fn may_block(&self) -> bool {
        self.polled.is_empty() && self.pauses.are_armed()
    }

    /// How long to block.
    fn timeout(&self) -> EpollTimeout {
        let unfinished = self.unfinished.iter().map(|one| one.until).min();
        let paused = self.pauses.until().map(|until| match self.threads.count() {
            1 => until,
            _ => until.min(self.now_ns + NAP_NS),
        });
        notify::until(paused.into_iter().chain(unfinished).chain(self.alarm).min(), self.now_ns)
    }

    /// How long the loop would sleep now, in milliseconds; for ever: `None`. Outside: it would not.
    #[cfg(test)]
    pub fn may_sleep(&self) -> Option<Option<u32>> {
        let timeout = self.timeout();
        self.may_block().then(|| (timeout != EpollTimeout::NONE).then(|| u32::try_from(timeout).unwrap_or(0)))
    }

    fn read_clock(&mut self) {
        self.now_ns = clock::now_ns();
        self.forwarder.now_ns = self.now_ns;
        self.forwarder.now_s = self.now_ns / 1_000_000_000;
    }

    /// Shows that the thread makes progress.
    pub fn beat(&self) {
        self.state.heartbeat.store(self.state.heartbeat.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// What this thread does from now on it does for a queue, or for none: the supervisor charges a hang to its client.
    pub fn work_for(&self, queue: Option<QueueId>) {
        self.state.ring.store(queue.map_or(0, |queue| queue.index.into()), Relaxed);
        self.state.port.store(queue.map_or(0, |queue| u32::from(queue.slot) + 1), Relaxed);
    }

    /// Asks the kernel for kicks and commands. Blocks, if it may, when there is nothing to poll.
    pub fn look(&mut self, may_block: bool) -> nix::Result<Looked> {
        let block = may_block && self.may_block();
        let timeout = if block { self.timeout() } else { EpollTimeout::ZERO };
        let asked_ns = self.now_ns;
        if block {
            self.state.fall_asleep(asked_ns);
        }
        let mut looked = Looked { blocked: block, commands: false, nudged: false, cards: false };
        let mut kicked = [None; MAX_EVENTS];
        let woken = self.notify().wait(&mut self.events, timeout)?;
        for (woken, place) in woken.zip(&mut kicked) {
            match woken {
                Woken::Control => looked.commands = true,
                Woken::Nudge => looked.nudged = true,
                Woken::Card => looked.cards = true,
                Woken::Kick(queue) => *place = Some(queue),
            }
        }
        // The thread may have slept for long.
        self.read_clock();
        if !self.state.sleep_clock().is_awake() {
            self.state.wake_up(asked_ns, self.now_ns);
        }
        let view = self.forwarder.view;
        for queue in kicked.into_iter().flatten() {
            if let Some(port) = view.port(queue.slot) {
                view.counting.add(&port.counters().kicks, 1);
                port.note_event(queue.pair());
            }
            // A receiver's kick only wakes the loop: a paused queue waits for the buffer.
            if queue.transmits() {
                self.poll(queue);
            }
        }
        if looked.nudged {
            self.poll_woken();
        }
        while let Some(at) = self.unfinished.iter().position(|one| one.until <= self.now_ns) {
            let Unfinished { queue, .. } = self.unfinished.swap_remove(at);
            self.poll(queue);
        }
        Ok(looked)
    }

    /// Polls the queues that thread 0 wants polled.
    pub fn poll_woken(&mut self) {
        for port in self.threads.ports.all() {
            for pair in port.woken(self.threads.pairs(self.number, port.slot())) {
                self.rouse(QueueId::transmit(port.slot(), pair));
            }
        }
    }

    /// Serves each polled ring that has credit once. Parks rings that have been empty for long.
    pub fn turn(&mut self) {
        let now = self.now_ns;
        while let Some(resumed) = self.pauses.next_due(&self.forwarder.view, now) {
            self.resume(resumed);
        }
        let (worked, spins) = self.serve_all(now);
        if spins {
            self.spin.found(now);
        } else if self.spin.is_over(now) && !worked {
            self.park_all();
        }
        if self.look_at == 0 {
            self.look_at = now + if worked { LOOK_NS } else { IDLE_LOOK_NS };
        } else if !worked {
            self.look_at = self.look_at.min(now + IDLE_LOOK_NS);
        }
    }

    /// Whether at least one queue had frames, and whether one had that lingers.
    fn serve_all(&mut self, now: u64) -> (bool, bool) {
        let linger = self.spin.window().max(LINGER_NS);
        let share = fair_share::share(self.wanting);
        self.rings_wait = self.wanting_rings > 0;
        (self.wanting, self.wanting_rings) = (0, 0);
        let (mut worked, mut spins) = (false, false);
        let mut at = 0;
        while let Some(entry) = self.polled.get_mut(at) {
            let wants = usize::from(now.saturating_sub(entry.busy_ns) < WANTS_NS);
            self.wanting += wants;
            self.wanting_rings += if entry.lingers { wants } else { 0 };
            let Some(budget) = entry.credit.draw(share) else {
                (worked, spins) = (true, spins | entry.lingers);
                at += 1;
                continue;
            };
            let Polled { queue, busy_ns, lingers, .. } = *entry;
            let outcome = self.serve(queue, budget);
            worked |= outcome.worked();
            spins |= outcome.worked() && lingers;
            let stays = match outcome {
                Outcome::Stopped => false,
                Outcome::Rests(until) => !self.rest(queue, until) && until.is_some(),
                Outcome::Held { frames, cost, until } => {
                    self.charge(at, now, frames, cost);
                    !self.rest(queue, Some(until.min(now + HOLD_NS)))
                }
                Outcome::Idle => now.saturating_sub(busy_ns) < linger || !self.park(queue),
                Outcome::Served { frames, cost } => {
                    self.charge(at, now, frames, cost);
                    true
                }
                // What it has to pay is forgotten: a queue that is drained does not keep others waiting.
                Outcome::Drained => false,
                Outcome::Waits { frames, cost, wait, longest } => {
                    self.pause(at, now, (frames, cost), (wait, longest));
                    continue;
                }
            };
            if stays {
                at += 1;
            } else {
                self.unlist(at);
            }
        }
        (worked, spins)
    }

    /// Notes how long a queue rests. False: there is no place for that, and it rests until its next event.
    fn rest(&mut self, queue: QueueId, until: Option<u64>) -> bool {
        self.unfinished.retain(|one| one.queue != queue);
        let has_place = self.unfinished.len() < self.unfinished.capacity();
        if let Some(until) = until.filter(|_| has_place) {
            self.unfinished.push(Unfinished { queue, until });
        }
        has_place
    }

    /// Charges a polled queue that was served.
    fn charge(&mut self, at: usize, now: u64, frames: usize, cost: u64) {
        if let Some(entry) = self.polled.get_mut(at) {
            entry.busy_ns = now;
            entry.remaining = entry.remaining.filter(|_| frames == 0);
            entry.credit.spend(cost);
        }
    }

    /// Pauses a polled queue. It stays listed.
    fn pause(&mut self, at: usize, now: u64, (frames, cost): (usize, u64), (wait, longest): (BufferWait, u64)) {
        let mut entry = self.polled.swap_remove(at);
        entry.credit.spend(cost);
        let remaining = entry.remaining.filter(|_| frames == 0).unwrap_or(Remaining::new(now, longest));
        self.pauses.pause(entry, entry.queue, wait, remaining);
    }

    /// What the thread waits with.
    fn notify(&self) -> &'static Notify {
        self.threads.notify(self.number)
    }
}
