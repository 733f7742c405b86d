//! One trial: a child confines itself, makes one syscall, and ends.
#![allow(unsafe_code)] // fork and syscalls by number

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{Line, Subject};
use crate::Verdict;
use crate::steps::Achieved;

/// Exit status of a child whose confinement failed. Above all errnos.
const NOT_CONFINED: i32 = 200;
/// Added to the landlock ABI in the exit status of the child that reports it.
const ABI: i32 = 100;
/// Seconds after which a blocked child is ended.
const TIMEOUT_S: u32 = 10;

/// One syscall, and what should come of it.
pub struct Trial {
    pub group: &'static str,
    pub what: String,
    pub layers: Layers,
    pub entry: Entry,
    pub number: i64,
    pub args: [u64; 6],
    pub declared: Declared,
}

/// Which layers of confinement the child puts on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// All, as in the real process.
    All,
    /// All but seccomp.
    ButSeccomp,
}

/// How the kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// `syscall`, for x86_64 and x32.
    Native,
    /// `int 0x80`, for i386.
    I386,
}

/// What should come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// What the policy says.
    Verdict(Verdict),
    /// It is made and fails with this errno.
    Fails(Errno),
    /// The kernel exempts it from filters and fails it by itself.
    Exempt,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observed {
    Made(Option<Errno>),
    /// Ended by SIGSYS, after the handler noted this number.
    Trapped(i32),
    /// Ended by SIGSYS.
    Killed,
    Died(Signal),
}

impl Trial {
    /// Runs the trial.
    pub fn run(&self, subject: &Subject<'_>) -> Result<Line, String> {
        (subject.noted)();
        let status = child(|| {
            let confined = match self.layers {
                Layers::All => (subject.confine)(),
                Layers::ButSeccomp => (subject.reach)(),
            };
            confined.map_or(NOT_CONFINED, |_| self.make())
        })?;
        let observed = match status {
            WaitStatus::Exited(_, NOT_CONFINED) => return Err(format!("{}: the confinement failed", self.what)),
            WaitStatus::Exited(_, errno @ 1..NOT_CONFINED) => Observed::Made(Some(Errno::from_raw(errno))),
            WaitStatus::Exited(..) => Observed::Made(None),
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => match (subject.noted)() {
                Some(number) => Observed::Trapped(number),
                None => Observed::Killed,
            },
            WaitStatus::Signaled(_, signal, _) => Observed::Died(signal),
            other => return Err(format!("{}: the child ended by {other:?}", self.what)),
        };
        let (group, what) = (self.group.to_string(), self.what.clone());
        let (declared, agrees) = (self.declared.words(), self.agrees(observed));
        Ok(Line { group, what, declared, observed: self.words(observed), agrees })
    }

    fn make(&self) -> i32 {
        let [a, b, c, d, e, f] = self.args;
        if self.entry == Entry::I386 {
            getpid_by_int_0x80(self.number);
            return 0;
        }
        // SAFETY: the arguments name no memory of this process but constants and what `attempts` leaked. This process
        // only has to end.
        let result = unsafe { libc::syscall(self.number, a, b, c, d, e, f) };
        if result == -1 { Errno::last_raw() } else { 0 }
    }

    fn agrees(&self, observed: Observed) -> bool {
        match (self.declared, observed) {
            (Declared::Verdict(Verdict::Allow), Observed::Made(_)) => true,
            (Declared::Verdict(Verdict::Trap), Observed::Trapped(number)) => i64::from(number) == self.number,
            (Declared::Verdict(Verdict::Kill), Observed::Killed) => true,
            // A kernel without i386's syscalls does not have this entry.
            (Declared::Verdict(Verdict::Kill), Observed::Died(Signal::SIGSEGV)) => self.entry == Entry::I386,
            (Declared::Fails(errno), Observed::Made(Some(made))) => errno == made,
            (Declared::Exempt, Observed::Made(Some(_)) | Observed::Died(Signal::SIGILL | Signal::SIGSEGV)) => true,
            // An older kernel does not exempt it.
            (Declared::Exempt, Observed::Trapped(_) | Observed::Killed) => true,
            _ => false,
        }
    }

    fn words(&self, observed: Observed) -> String {
        match observed {
            // Arguments that name nothing: the errno of an allowed syscall does not matter.
            Observed::Made(_) if self.declared == Declared::Verdict(Verdict::Allow) => "made".to_string(),
            Observed::Made(None) => "made".to_string(),
            Observed::Made(Some(errno)) => format!("made, fails by {errno:?}"),
            Observed::Trapped(number) if i64::from(number) == self.number => "trapped and named".to_string(),
            Observed::Trapped(number) => format!("trapped as {number}"),
            Observed::Killed => "killed".to_string(),
            Observed::Died(signal) => format!("died of {signal}"),
        }
    }
}

impl Declared {
    fn words(self) -> String {
        match self {
            Declared::Verdict(Verdict::Allow) => "made".to_string(),
            Declared::Verdict(Verdict::Trap) => "trapped and named".to_string(),
            Declared::Verdict(Verdict::Kill) => "killed".to_string(),
            Declared::Fails(errno) => format!("made, fails by {errno:?}"),
            Declared::Exempt => "left to the kernel".to_string(),
        }
    }
}

/// The landlock ABI that the kernel gives here.
pub fn achieved(subject: &Subject<'_>) -> Result<Achieved, String> {
    let tell = || (subject.reach)().map_or(NOT_CONFINED, |achieved| ABI + achieved.landlock_abi as i32);
    match child(tell)? {
        WaitStatus::Exited(_, told @ ABI..NOT_CONFINED) => Ok(Achieved { landlock_abi: (told - ABI) as u32 }),
        other => Err(format!("the confinement failed: {other:?}")),
    }
}

/// Runs `act` in a child and returns the child's exit status.
fn child(act: impl FnOnce() -> i32) -> Result<WaitStatus, String> {
    let patient = || {
        nix::unistd::alarm::set(TIMEOUT_S);
        act()
    };
    let child = spawn(patient).map_err(|e| format!("fork: {e}"))?;
    waitpid(child, None).map_err(|e| format!("wait: {e}"))
}

/// Forks a child that ends with the status that `act` returns.
pub fn spawn(act: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: this process has one thread, so no other thread has a lock and the child may use all of Rust.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = act();
            // SAFETY: only ends the process.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Enters the kernel as i386 programs do.
fn getpid_by_int_0x80(number: i64) {
    // SAFETY: getpid takes no argument. The kernel saves all registers except rax, and r8 to r11, which it may zero.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") number => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
}
