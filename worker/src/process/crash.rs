//! The worker's last words. A fatal signal or a panic leaves a record in the ledger, from which the supervisor says what
//! happened and to whom; then it hangs up, and the process dies.
//!
//! It hangs up because the kernel tells the supervisor of a death only when it has taken the dead process's memory away,
//! page by page of all that it touched of every guest's. The closed control socket is known at once.
//!
//! A worker has one death: the first thread that dies writes the record, any other one that goes wrong meanwhile waits for
//! the end. With several threads nothing is over when one has written it, so none hangs up, and the
//! supervisor waits for the kernel.
//!
//! The handlers run on a stack of their own, touch nothing but static atomics and the ledger, and make no syscall but
//! close(2), for the policy may be what killed us. A genuine SIGSEGV or SIGBUS is repeated with the signal blocked, so
//! that the kernel ends the process by that very signal; everything else ends in an illegal instruction, and the record
//! tells the cause.
//!
//! Which client a fault address belongs to is found in [`RANGES`], where every mapping of guest memory is written down, as
//! many as the supervisor admits. Clients add and remove mappings without pause, so a free place is found by a bit for each,
//! 64 at a look; only a fault looks at all places.
#![allow(unsafe_code)] // named in the design: crash handler

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use sv3::MAX_REGIONS;
use sv3::ledger::{Crash, FRAME_HEAD, WorkerArea};

/// Words of a chain's first octets, at least [`FRAME_HEAD`] octets of them.
pub const HEAD_WORDS: usize = FRAME_HEAD.div_ceil(8);

/// One mapping of guest memory; none while `len` is 0.
struct Range {
    start: AtomicU64,
    len: AtomicU64,
    port: AtomicU32,
    guest_addr: AtomicU64,
}

/// Places for all regions, and as many again, since a table is replaced by mapping the new one beside the old one.
const MAX_RANGES: usize = (2 * MAX_REGIONS).next_multiple_of(64);

/// Mappings by host address.
static RANGES: [Range; MAX_RANGES] = [const {
    Range { start: AtomicU64::new(0), len: AtomicU64::new(0), port: AtomicU32::new(0), guest_addr: AtomicU64::new(0) }
}; MAX_RANGES];

/// Places that are taken, a bit for each.
static TAKEN: [AtomicU64; MAX_RANGES / 64] = [const { AtomicU64::new(0) }; MAX_RANGES / 64];

/// The first so many places are all that were ever taken.
static EVER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The first octets of the chain in hand, as they stand in memory; null while there is none. Constant and without a
    /// destructor, so that a signal handler may read it.
    static IN_HAND: Cell<*const [u64; HEAD_WORDS]> = const { Cell::new(std::ptr::null()) };
    /// This thread's number.
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// The number plus one of the thread that died first; 0: none has.
static DEAD: AtomicU32 = AtomicU32::new(0);

static RECORD: AtomicPtr<Crash> = AtomicPtr::new(std::ptr::null_mut());

/// The control socket's fd beside stdin.
static CONTROL: AtomicI32 = AtomicI32::new(-1);

const ALT_STACK: usize = 64 * 1024;

/// A place in [`RANGES`], given back when dropped. `None`: there was none.
pub struct Watch(Option<usize>);

/// Notes that `[start, start + len)` is memory of `port`, at `guest_addr` for its guest. Where there is no place left, which is
/// more than the supervisor admits, a fault in it is nobody's.
pub fn watch(start: u64, len: u64, port: u16, guest_addr: u64) -> Watch {
    let place = take_place();
    if let Some(at) = place
        && let Some(range) = RANGES.get(at)
    {
        range.start.store(start, Relaxed);
        range.port.store(u32::from(port), Relaxed);
        range.guest_addr.store(guest_addr, Relaxed);
        range.len.store(len, Release);
        EVER.fetch_max(at + 1, Release);
    }
    Watch(place)
}

/// The first place that is free; it is no more.
fn take_place() -> Option<usize> {
    for (word, first) in TAKEN.iter().zip((0..).step_by(64)) {
        let mut free = !word.load(Relaxed);
        while free != 0 {
            let bit = free.trailing_zeros();
            let before = word.fetch_or(1 << bit, Acquire);
            if before & 1 << bit == 0 {
                return Some(first + bit as usize);
            }
            free = !before;
        }
    }
    None
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(at) = self.0 else { return };
        if let (Some(range), Some(word)) = (RANGES.get(at), TAKEN.get(at / 64)) {
            range.len.store(0, Release);
            word.fetch_and(!(1 << (at % 64)), Release);
        }
    }
}

/// This is thread `number` of the worker; its signals are handled on a stack of its own. Before the sandbox, which permits
/// no such thing.
pub fn enlist(number: u32) -> nix::Result<()> {
    THREAD.set(number);
    let stack = Box::leak(vec![0u8; ALT_STACK].into_boxed_slice());
    let alt = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALT_STACK };
    // SAFETY: the stack is leaked, hence lives as long as the process.
    nix::Error::result(unsafe { libc::sigaltstack(&alt, std::ptr::null_mut()) }).map(drop)
}

/// Installs the signal handlers, for all threads; before the sandbox.
pub fn handle_signals() -> nix::Result<()> {
    enlist(0)?;
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(on_signal), flags, SigSet::all());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGSYS, Signal::SIGABRT] {
        // SAFETY: `on_signal` is async-signal-safe: atomics and close(2) only.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// A death that is recorded ends the conversation by this fd, and by stdin, which is the same socket.
pub fn hang_up_after_record(control: BorrowedFd<'_>) {
    CONTROL.store(control.as_raw_fd(), Relaxed);
}

/// From now on deaths are recorded in the ledger, panics included.
pub fn record_in(area: &'static WorkerArea) {
    RECORD.store(std::ptr::from_ref(&area.crash).cast_mut(), Release);
    std::panic::set_hook(Box::new(|info| {
        if let Some(crash) = record().filter(|_| dies_first()) {
            crash.write_message(&info.to_string());
            keep_in_hand(crash);
            crash.thread.store(THREAD.get(), Relaxed);
            crash.signal.store(libc::SIGABRT, Release);
            hang_up();
        }
        die();
    }));
}

/// Runs `work` with a chain in hand, so that its first octets are known if the worker dies of it.
#[inline]
pub fn with_current<T>(head: &[u64; HEAD_WORDS], work: impl FnOnce() -> T) -> T {
    IN_HAND.set(std::ptr::from_ref(head));
    let result = work();
    IN_HAND.set(std::ptr::null());
    result
}

/// The head of the chain in hand, or null.
#[inline]
pub fn current() -> *const [u64; HEAD_WORDS] {
    IN_HAND.get()
}

/// Takes a chain in hand again, or none. Whoever does so sees to it that its head stays where it is until the next one is
/// taken.
#[inline]
pub fn set_current(head: *const [u64; HEAD_WORDS]) {
    IN_HAND.set(head);
}

fn keep_in_hand(crash: &Crash) {
    // SAFETY: null or a reference that `with_current`, or who called `set_current`, holds while this runs, on the same
    // thread.
    if let Some(head) = unsafe { IN_HAND.get().as_ref() } {
        for (to, from) in crash.frame_head.iter().zip(head.iter().flat_map(|word| word.to_ne_bytes())) {
            to.store(from, Relaxed);
        }
        crash.has_frame.store(1, Relaxed);
    }
}

/// Whether this thread is the first one to die, and has not written it down yet. Does not return to a thread when another
/// one was first, which is about to end the process.
fn dies_first() -> bool {
    let me = THREAD.get() + 1;
    match DEAD.compare_exchange(0, me, Acquire, Acquire) {
        Ok(_) => true,
        Err(first) if first == me => false,
        Err(_) => loop {
            std::hint::spin_loop();
        },
    }
}

fn record() -> Option<&'static Crash> {
    // SAFETY: null or a pointer from a `&'static WorkerArea`, stored by `record_in`.
    unsafe { RECORD.load(Relaxed).as_ref() }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers to an SA_SIGINFO handler.
    let (info, context) = unsafe { (&*info, &*context.cast::<libc::ucontext_t>()) };
    // SAFETY: reading the union's field that the signal sets; for others any bits are fine, they are only recorded.
    let addr = unsafe { info.si_addr() } as u64;
    // A genuine fault has a positive code; kill(2) and its like have none.
    let fault = info.si_code > 0 && (signal == libc::SIGSEGV || signal == libc::SIGBUS);
    if let Some(crash) = record().filter(|_| dies_first()) {
        crash.code.store(info.si_code, Relaxed);
        keep_in_hand(crash);
        crash.ip.store(context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64, Relaxed);
        if fault {
            crash.addr.store(addr, Relaxed);
            attribute(crash, addr);
        }
        if signal == libc::SIGSYS {
            crash.syscall.store(context.uc_mcontext.gregs[libc::REG_RAX as usize] as i32, Relaxed);
        }
        crash.thread.store(THREAD.get(), Relaxed);
        crash.signal.store(signal, Release);
        hang_up();
    }
    if signal == libc::SIGSYS {
        // Begins with a syscall that the policy forbids too: with the signal blocked the kernel ends the process by it.
        std::process::abort();
    }
    if fault {
        // SAFETY: this faults, as it did before, and is meant to: with the signal blocked the kernel ends the process
        // by it. Should it not fault any more, `die` follows.
        unsafe {
            let at = addr as *mut u8;
            at.write_volatile(at.read_volatile());
        }
    }
    die();
}

fn hang_up() {
    let control = CONTROL.load(Relaxed);
    // If it is the mapper that died, the thread that moves frames does so still.
    if control < 0 || THREAD.get() != 0 {
        return;
    }
    for fd in [libc::STDIN_FILENO, control] {
        // SAFETY: what holds these fds is never used again: the process is about to end.
        unsafe { libc::close(fd) };
    }
}

fn attribute(crash: &Crash, addr: u64) {
    let holds = |range: &&Range| addr.wrapping_sub(range.start.load(Relaxed)) < range.len.load(Relaxed);
    if let Some(range) = RANGES.iter().take(EVER.load(Acquire)).find(holds) {
        crash.fault_region.store(range.guest_addr.load(Relaxed), Relaxed);
        crash.fault_port.store(range.port.load(Relaxed) + 1, Relaxed);
    }
}

fn die() -> ! {
    // SAFETY: raises SIGILL, which is blocked or has been recorded already: the process ends.
    unsafe { std::arch::asm!("ud2", options(noreturn)) }
}

/// Ends the process at once, without the exit handlers, which make syscalls that the policy forbids.
pub fn end(code: i32) -> ! {
    // SAFETY: `_exit` only ends the process.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    #[test]
    fn a_fault_finds_its_client_however_many_mappings_there_are() {
        const FIRST: u64 = 1 << 46;
        // Other tests have mappings too.
        const COUNT: u64 = MAX_REGIONS as u64 - 500;
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let crash = &ledger.workers[0].crash;
        let place = |n: u64| FIRST + n * 8192;
        let fill = |more: u64| -> Vec<Watch> {
            (0..COUNT).map(|n| watch(place(n), 4096, ((n + more) % 1000) as u16, n << 20)).collect()
        };
        // What a client replaces lies beside what it has, for a while.
        let mut watches = fill(0);
        for more in 1..20 {
            let new = fill(more);
            drop(watches);
            watches = new;
            assert!(watches.iter().all(|watch| watch.0.is_some()));
            let last = COUNT - 1;
            attribute(crash, place(last) + 4095);
            let found = (crash.fault_port.load(Relaxed), crash.fault_region.load(Relaxed));
            assert_eq!(found, (((last + more) % 1000) as u32 + 1, last << 20));
        }
        drop(watches);
        crash.fault_port.store(0, Relaxed);
        for n in [0, 7, COUNT - 1] {
            attribute(crash, place(n));
        }
        assert_eq!(crash.fault_port.load(Relaxed), 0, "a client is found for what it has no more");
    }
}
