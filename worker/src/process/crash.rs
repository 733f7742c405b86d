//! The crash record. A fatal signal or a panic leaves a record in the ledger. From the record the supervisor knows
//! what happened and which client caused it. Then the worker hangs up, and the process dies.
//!
//! Why it hangs up: the kernel reports a death to the supervisor only after it has freed the memory of the dead
//! process, page by page, including all touched memory of every guest. The supervisor notices the closed control
//! socket at once.
//!
//! A worker dies once. The first thread that dies writes the record; any other thread that fails meanwhile waits for
//! the end. With several threads the others still run when one has written the record. So no thread hangs up then,
//! and the supervisor waits for the kernel.
//!
//! The handlers run on a stack of their own and touch only static atomics and the ledger. The only syscall that they
//! make is close(2), since the policy may be the reason for the death. After a genuine SIGSEGV or SIGBUS the handler
//! repeats the access with the signal blocked, so that the kernel ends the process by that signal. All other deaths
//! end in an illegal instruction, and the record says the cause.
//!
//! [`RANGES`] holds every mapping of guest memory, as many as the supervisor admits; it tells which client a fault
//! address belongs to. Clients add and remove mappings all the time, so a bit for each place finds a free one, 64 at
//! a time. Only a fault searches all places.
#![allow(unsafe_code)] // named in the design: crash handler

use std::cell::Cell;
use std::io::Write;
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

/// One mapping of guest memory. `len` is 0: none.
struct Range {
    start: AtomicU64,
    len: AtomicU64,
    port: AtomicU32,
    guest_addr: AtomicU64,
}

/// Places for all regions, twice: a new table is mapped before the old one is unmapped.
const MAX_RANGES: usize = (2 * MAX_REGIONS).next_multiple_of(64);

/// Mappings by host address.
static RANGES: [Range; MAX_RANGES] = [const {
    Range { start: AtomicU64::new(0), len: AtomicU64::new(0), port: AtomicU32::new(0), guest_addr: AtomicU64::new(0) }
}; MAX_RANGES];

/// Which places are taken, one bit for each.
static TAKEN: [AtomicU64; MAX_RANGES / 64] = [const { AtomicU64::new(0) }; MAX_RANGES / 64];

/// Number of places, from the first one, that were ever taken.
static EVER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The first octets of the current chain, in memory order. Null: no current chain. Constant and without a
    /// destructor, so that a signal handler may read it.
    static CURRENT: Cell<*const [u64; HEAD_WORDS]> = const { Cell::new(std::ptr::null()) };
    /// This thread's number.
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// Number plus one of the thread that died first. 0: no thread has died.
static DEAD: AtomicU32 = AtomicU32::new(0);

static RECORD: AtomicPtr<Crash> = AtomicPtr::new(std::ptr::null_mut());

/// The control socket's second fd, beside stdin.
static CONTROL: AtomicI32 = AtomicI32::new(-1);

const ALT_STACK: usize = 64 * 1024;

/// A place in [`RANGES`], given back when dropped. `None`: no place was free.
pub struct Watch(Option<usize>);

/// Registers `[start, start + len)` as memory of `port`, at `guest_addr` for its guest. If no place is left, which
/// needs more regions than the supervisor admits, a fault in this range belongs to no client.
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

/// Takes the first free place.
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

/// Gives this thread its number, and a stack of its own for its signal handlers. Before the sandbox, which does not
/// permit that.
pub fn enlist(number: u32) -> nix::Result<()> {
    THREAD.set(number);
    let stack = Box::leak(vec![0u8; ALT_STACK].into_boxed_slice());
    let alt = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALT_STACK };
    // SAFETY: the stack is leaked, hence it lives as long as the process.
    nix::Error::result(unsafe { libc::sigaltstack(&alt, std::ptr::null_mut()) }).map(drop)
}

/// Installs the signal handlers for all threads. Before the sandbox.
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

/// After a death is recorded, closes this fd and stdin, which is the same socket.
pub fn hang_up_after_record(control: BorrowedFd<'_>) {
    CONTROL.store(control.as_raw_fd(), Relaxed);
}

/// From now on records deaths in the ledger, panics included.
pub fn record_in(area: &'static WorkerArea) {
    RECORD.store(std::ptr::from_ref(&area.crash).cast_mut(), Release);
    std::panic::set_hook(Box::new(|info| {
        if let Some(crash) = record().filter(|_| dies_first()) {
            crash.write_message(&info.to_string());
            record_current(crash);
            crash.thread.store(THREAD.get(), Relaxed);
            crash.signal.store(libc::SIGABRT, Release);
            hang_up();
        }
        die();
    }));
}

/// Runs `work` with `head` as the current chain, so that its first octets are known if the worker dies of it.
#[inline]
pub fn with_current<T>(head: &[u64; HEAD_WORDS], work: impl FnOnce() -> T) -> T {
    CURRENT.set(std::ptr::from_ref(head));
    let result = work();
    CURRENT.set(std::ptr::null());
    result
}

/// The head of the current chain, or null.
#[inline]
pub fn current() -> *const [u64; HEAD_WORDS] {
    CURRENT.get()
}

/// Sets the current chain again, or none. The caller keeps its head in place until the next chain is set.
#[inline]
pub fn set_current(head: *const [u64; HEAD_WORDS]) {
    CURRENT.set(head);
}

fn record_current(crash: &Crash) {
    // SAFETY: null, or a reference that `with_current` or the caller of `set_current` holds while this runs, on the
    // same thread.
    if let Some(head) = unsafe { CURRENT.get().as_ref() } {
        for (to, from) in crash.frame_head.iter().zip(head.iter().flat_map(|word| word.to_ne_bytes())) {
            to.store(from, Relaxed);
        }
        crash.has_frame.store(1, Relaxed);
    }
}

/// Whether this thread is the first one to die and has not written its record yet. Does not return in another thread:
/// the first thread is about to end the process.
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
    // SAFETY: reads the field of the union that the signal sets. For other signals any bits are valid: they are only
    // recorded.
    let addr = unsafe { info.si_addr() } as u64;
    // A genuine fault has a positive code. Signals of kill(2) and similar calls do not.
    let fault = info.si_code > 0 && (signal == libc::SIGSEGV || signal == libc::SIGBUS);
    if let Some(crash) = record().filter(|_| dies_first()) {
        crash.code.store(info.si_code, Relaxed);
        record_current(crash);
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
        // `abort` begins with a syscall that the policy also forbids. The signal is blocked, so the kernel ends the
        // process by it.
        std::process::abort();
    }
    if fault {
        // SAFETY: this access faults again, on purpose: the signal is blocked, so the kernel ends the process by it.
        // If it does not fault any more, `die` follows.
        unsafe {
            let at = addr as *mut u8;
            at.write_volatile(at.read_volatile());
        }
    }
    die();
}

fn hang_up() {
    let control = CONTROL.load(Relaxed);
    // If the mapper died, the thread that moves frames still runs.
    if control < 0 || THREAD.get() != 0 {
        return;
    }
    for fd in [libc::STDIN_FILENO, control] {
        // SAFETY: the owners of these fds never use them again: the process is about to end.
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
    // SAFETY: raises SIGILL, which is blocked or has been recorded already, so the process ends.
    unsafe { std::arch::asm!("ud2", options(noreturn)) }
}

/// Ends the worker, which cannot go on, with a line on stderr.
pub fn last_words(reason: &str) -> ! {
    // A supervisor that ends closes stderr too. That is no reason to panic.
    let _ = writeln!(std::io::stderr(), "sv3-worker: {reason}");
    end(1)
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
        const COUNT: u64 = MAX_REGIONS as u64 - 4_000;
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let crash = &ledger.workers[0].crash;
        let place = |n: u64| FIRST + n * 8192;
        let fill = |more: u64| -> Vec<Watch> {
            (0..COUNT).map(|n| watch(place(n), 4096, ((n + more) % 1000) as u16, n << 20)).collect()
        };
        // A client's new table exists beside the old one for a while.
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
