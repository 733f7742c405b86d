//! The threads of a worker, and what they share.
//!
//! # Theory of operation
//!
//! Thread 0 is the first thread of the process. It executes the supervisor's commands, and moves frames like the
//! others. Each transmit ring belongs to one thread for life ([`Threads::owner`]). Only that thread takes frames from
//! it, so the frames of one ring stay in order. It copies them straight into the receivers' rings, which it leases
//! for the burst ([`crate::sync::lease`]).
//!
//! No thread waits for another one's work. Work for another thread is marked in bits of the port ([`crate::port`]),
//! followed by a nudge through an eventfd: thread 0 asks others to poll rings that have started; the others ask
//! thread 0 to stop rings that broke.
//!
//! The threads are made after all other steps of confinement and before seccomp. By then they have all the memory
//! that they will ever need: the policy has no syscall to start a thread, to wait for a lock, or to grow a thread's
//! heap. They end with the process.
//!
//! One more thread moves no frames: it maps and unmaps ([`crate::poll::mapper`]).

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

/// Time between two checks whether all threads are ready.
const PAUSE: Duration = Duration::from_micros(20);
/// The number of the thread that executes commands.
const CONTROL: usize = 0;
/// Octets of a thread's stack.
const STACK: usize = 256 * 1024;

/// What a thread that moves frames runs: it gets its number, and calls [`Threads::is_ready`].
pub type Life = fn(&'static Threads, usize);

/// All threads.
pub struct Threads {
    /// All ports.
    pub ports: Ports,
    /// What the first command said, once it has come.
    pub start: OnceLock<Start>,
    /// Maps and unmaps memory.
    pub mapper: Mapper,
    notify: Vec<Notify>,
    ready: AtomicUsize,
}

impl Threads {
    /// The threads of a worker; only the calling one exists yet. Lives as long as the process.
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

    /// What thread `number` waits with. There are [`Threads::count`].
    pub fn notify(&self, number: usize) -> &Notify {
        &self.notify[number]
    }

    /// What the control thread waits with.
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

    /// The queue pairs of port `slot` whose transmit rings belong to thread `number`, one bit for each.
    pub fn pairs(&self, number: usize, slot: u16) -> u32 {
        let mine = |pair: &u16| self.owner(QueueId::transmit(slot, *pair)) == number;
        (0..MAX_QUEUE_PAIRS as u16).filter(mine).fold(0, |pairs, pair| pairs | 1 << pair)
    }

    /// Makes the other threads, and waits until they need only syscalls that the policy has. Each thread that moves
    /// frames gets one of `cpus`.
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
        // A thread that waits by a futex might wake another one by a syscall after seccomp is installed. A thread
        // that only yields may keep the processor for the rest of its time slice.
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

    /// The life of the mapper, which may run on all processors of the others.
    fn map(&'static self, cpus: Option<Cpus>) {
        self.enlist(self.count(), cpus.as_ref().map_or(&[], Cpus::numbers));
        self.is_ready();
        let errno = self.mapper.run(|| self.first().nudge());
        crash::last_words(&format!("epoll_wait: {errno}"));
    }

    /// The first step of each thread.
    fn enlist(&self, number: usize, cpus: &[usize]) {
        let bound = if cpus.is_empty() { Ok(()) } else { affinity::bind(cpus) };
        let enlisted = crash::enlist(number as u32).map_err(|errno| format!("thread {number}: {errno}"));
        if let Err(reason) = bound.and(enlisted) {
            crash::last_words(&reason);
        }
        TimeSlice::SHORT.request();
    }

    /// Notes that the thread has all the memory that it needs.
    pub fn is_ready(&self) {
        // Makes the allocator prepare for this thread. A panic message will need some octets.
        drop(black_box(vec![0u8; 4096]));
        self.ready.fetch_add(1, SeqCst);
    }
}
