//! The threads of a worker, and what they share.
//!
//! # Theory of operation
//!
//! Thread 0 is the process's first one: it obeys the supervisor's commands, and moves frames as the others do. A transmit
//! ring has one thread for life ([`Threads::owner`]), which alone takes frames from it, so frames of one ring stay in order.
//! It copies them straight into the receivers' rings, which it leases for the burst ([`crate::sync::lease`]).
//!
//! No thread waits for another one's work. What one leaves for another to do stands in bits of the port
//! ([`crate::port`]), with a nudge by an eventfd: thread 0 has rings polled that have started, the others have rings
//! stopped that broke.
//!
//! The threads are made before seccomp is put on and after all else of confinement, and have by then all the memory that
//! they will ever ask for: the policy has no syscall for a thread to begin, to wait for a lock, or to grow its allocator.
//! They end with the process.
//!
//! One thread more, which moves no frames, maps and unmaps ([`crate::poll::mapper`]).

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use sv3::MAX_QUEUE_PAIRS;
use sv3::cpus::Cpus;
use sv3::ids::QueueId;
use sv3::timeslice::TimeSlice;

use crate::poll::mapper::Mapper;
use crate::poll::notify::Notify;
use crate::poll::start::Start;
use crate::port::Ports;
use crate::process::{affinity, crash};

/// Between two looks whether all threads are there.
const PAUSE: Duration = Duration::from_micros(20);
/// The number of the thread that obeys commands.
const CONTROL: usize = 0;
/// Octets of a thread's stack.
const STACK: usize = 256 * 1024;

/// What a thread that moves frames does: it gets its number, and says [`Threads::is_ready`].
pub type Life = fn(&'static Threads, usize);

/// All threads.
pub struct Threads {
    /// All ports.
    pub ports: Ports,
    /// What the first command said, once it has come.
    pub start: OnceLock<Start>,
    /// Maps and unmaps.
    pub mapper: Mapper,
    notify: Vec<Notify>,
    ready: AtomicUsize,
}

impl Threads {
    /// A threads of so many, of which only the caller is there. It lives as long as the process.
    pub fn new(threads: usize) -> nix::Result<&'static Threads> {
        let notify = (0..threads).map(|_| Notify::new()).collect::<nix::Result<_>>()?;
        let (ports, mapper, ready) = (Ports::new(), Mapper::new()?, AtomicUsize::new(1));
        let threads = Threads { ports, start: OnceLock::new(), mapper, notify, ready };
        Ok(Box::leak(Box::new(threads)))
    }

    /// How many threads move frames.
    pub fn count(&self) -> usize {
        self.notify.len()
    }

    /// How thread `number` waits; there are [`Threads::count`].
    pub fn notify(&self, number: usize) -> &Notify {
        &self.notify[number]
    }

    /// How the control thread waits.
    pub fn first(&self) -> &Notify {
        self.notify(CONTROL)
    }

    /// The number of the thread that takes frames from a transmit queue.
    pub fn owner(&self, queue: QueueId) -> usize {
        (usize::from(queue.slot) + usize::from(queue.pair())) % self.count()
    }

    /// The worker serves: kicks wake all threads from now on.
    pub fn promote(&self) {
        self.notify.iter().for_each(Notify::serve);
    }

    /// The queue pairs of port `slot` whose transmit rings are thread `number`'s, a bit for each.
    pub fn pairs(&self, number: usize, slot: u16) -> u32 {
        let mine = |pair: &u16| self.owner(QueueId::transmit(slot, *pair)) == number;
        (0..MAX_QUEUE_PAIRS as u16).filter(mine).fold(0, |pairs, pair| pairs | 1 << pair)
    }

    /// Makes the other threads and waits until they need no more syscalls than the policy has. Each that moves frames takes
    /// one of `cpus`.
    pub fn spawn_all(&'static self, cpus: Option<&Cpus>, life: Life) -> Result<(), String> {
        let cpu = |number: usize| Some(*cpus?.numbers().get(number)?);
        let first = cpu(0);
        for number in 1..self.count() {
            let cpu = cpu(number);
            let thread = std::thread::Builder::new().name(format!("sv3-worker/{number}")).stack_size(STACK);
            thread.spawn(move || self.serve(number, cpu, life)).map_err(|error| format!("thread {number}: {error}"))?;
        }
        let (mapper, cpus) = (std::thread::Builder::new().name("sv3-worker/map".to_string()), cpus.cloned());
        mapper.stack_size(STACK).spawn(move || self.map(cpus)).map_err(|error| format!("the mapper: {error}"))?;
        if let Some(cpu) = first.filter(|_| self.count() > 1) {
            affinity::bind(&[cpu])?;
        }
        // A thread that waited by a futex might wake another one by a syscall too late; one that only yields may be let run
        // on for the rest of its slice.
        while self.ready.load(SeqCst) < self.count() + 1 {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The life of thread `number`.
    fn serve(&'static self, number: usize, cpu: Option<usize>, life: Life) {
        self.enlist(number, cpu.as_slice());
        life(self, number);
    }

    /// The life of the mapper, which may run wherever the others do.
    fn map(&'static self, cpus: Option<Cpus>) {
        self.enlist(self.count(), cpus.as_ref().map_or(&[], Cpus::numbers));
        self.is_ready();
        let errno = self.mapper.run(|| self.first().nudge());
        crate::last_words(&format!("epoll_wait: {errno}"));
    }

    /// What each thread does first.
    fn enlist(&self, number: usize, cpus: &[usize]) {
        let bound = if cpus.is_empty() { Ok(()) } else { affinity::bind(cpus) };
        let enlisted = crash::enlist(number as u32).map_err(|errno| format!("thread {number}: {errno}"));
        if let Err(reason) = bound.and(enlisted) {
            crate::last_words(&reason);
        }
        TimeSlice::SHORT.request();
    }

    /// The thread has all the memory that it will ask for.
    pub fn is_ready(&self) {
        // The allocator's own preparations for a thread; a panic message will need some octets.
        drop(black_box(vec![0u8; 4096]));
        self.ready.fetch_add(1, SeqCst);
    }
}
