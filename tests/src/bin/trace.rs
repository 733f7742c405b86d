//! `trace FILE COMMAND...`: becomes the command, and records every syscall that it and its children make under a
//! seccomp policy: one line with the program's name, the number and six arguments, hexadecimal, none twice. The last
//! line is `end`.
//!
//! Each program runs without the kernel's vDSO, as on machines whose clock the vDSO cannot read, so that the trace has
//! syscalls that are rare elsewhere. strace cannot take the vDSO away.
//!
//! The command keeps its process id: a child of it becomes the tracer, which gets no signals.
#![allow(unsafe_code)] // fork, before there are threads

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork, getpid, pipe};
use sv3_tests::failure::{Failure, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("trace: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let file = args.next().ok_or_else(|| Failure::new("usage: trace FILE COMMAND..."))?;
    let command: Vec<CString> = args.map(|arg| CString::new(arg.into_vec())).collect::<std::result::Result<_, _>>()?;
    let program = command.first().ok_or_else(|| Failure::new("no command"))?;
    let (ready, tell) = pipe()?;
    let traced = getpid();
    // SAFETY: takes only numbers. It helps where only parents may trace, and fails elsewhere.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ready);
            let mut tracer = Tracer { names: HashMap::new(), processes: HashMap::new(), seen: HashSet::new() };
            tracer.seize(traced)?;
            drop(tell);
            tracer.follow(BufWriter::new(File::create(file)?))
        }
        ForkResult::Parent { .. } => {
            drop(tell);
            File::from(ready).read_to_end(&mut Vec::new())?;
            match execvp(program, &command)? {}
        }
    }
}

struct Tracer {
    /// Programs of processes that are under a policy; a policy is put on all threads of a process at once.
    names: HashMap<Pid, String>,
    /// Processes of threads.
    processes: HashMap<Pid, Pid>,
    seen: HashSet<Call>,
}

/// A program's name, a number, six arguments.
type Call = (String, u64, [u64; 6]);

impl Tracer {
    fn seize(&mut self, pid: Pid) -> Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(pid, options)?;
        Ok(ptrace::interrupt(pid)?)
    }

    /// Until none is left.
    fn follow(&mut self, mut out: impl Write) -> Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(nix::errno::Errno::ECHILD) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                // An error means that the thread was killed meanwhile.
                Ok(status) => drop(self.attend(status, &mut out)),
            }
        }
        writeln!(out, "end")?;
        Ok(out.flush()?)
    }

    fn attend(&mut self, status: WaitStatus, out: &mut impl Write) -> Result<()> {
        match status {
            WaitStatus::PtraceSyscall(pid) => {
                const ENTRY: u8 = 1;
                if ptrace::syscall_info(pid)?.op == ENTRY {
                    self.note(pid, out)?;
                }
                ptrace::syscall(pid, None)?;
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                self.names.remove(&pid);
                take_vdso_away(pid)?;
                ptrace::syscall(pid, None)?;
            }
            WaitStatus::PtraceEvent(pid, signal, libc::PTRACE_EVENT_STOP) if signal != Signal::SIGTRAP => {
                // It was stopped by SIGSTOP, and remains so until SIGCONT.
                // SAFETY: takes numbers alone.
                unsafe { libc::ptrace(libc::PTRACE_LISTEN, pid.as_raw(), 0, 0) };
            }
            WaitStatus::PtraceEvent(pid, ..) => ptrace::syscall(pid, None)?,
            WaitStatus::Stopped(pid, signal) => ptrace::syscall(pid, signal)?,
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.names.remove(&pid);
                self.processes.remove(&pid);
            }
            _ => {}
        }
        Ok(())
    }

    /// The process of a thread.
    fn process(&mut self, thread: Pid) -> Result<Pid> {
        if let Some(known) = self.processes.get(&thread) {
            return Ok(*known);
        }
        let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")).map_or("", str::trim).parse()?;
        self.processes.insert(thread, Pid::from_raw(process));
        Ok(Pid::from_raw(process))
    }

    fn note(&mut self, pid: Pid, out: &mut impl Write) -> Result<()> {
        let regs = ptrace::getregs(pid)?;
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let pid = self.process(pid)?;
        if let Some(name) = self.names.get(&pid) {
            let call = (name.clone(), regs.orig_rax, args);
            if !self.seen.contains(&call) {
                writeln!(out, "{name} {:x} {}", regs.orig_rax, args.map(|arg| format!("{arg:x}")).join(" "))?;
                self.seen.insert(call);
            }
        } else if (regs.orig_rax, regs.rdi) == (libc::SYS_seccomp as u64, libc::SECCOMP_SET_MODE_FILTER.into()) {
            let program = fs::read_link(format!("/proc/{pid}/exe"))?;
            let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            self.names.insert(pid, name);
        }
        Ok(())
    }
}

/// Makes a program that has just been executed overlook its vDSO.
fn take_vdso_away(pid: Pid) -> Result<()> {
    const AT_IGNORE: i64 = 1;
    let mut at = ptrace::getregs(pid)?.rsp;
    let mut next = || -> Result<(u64, i64)> {
        let word = (at, ptrace::read(pid, at as ptrace::AddressType)?);
        at += 8;
        Ok(word)
    };
    // argc, then pointers to arguments and to the environment, each ended by 0, then pairs, ended by AT_NULL.
    next()?;
    while next()?.1 != 0 {}
    while next()?.1 != 0 {}
    loop {
        match next()? {
            (_, 0) => return Ok(()),
            (at, kind) if kind == libc::AT_SYSINFO_EHDR as i64 => {
                return Ok(ptrace::write(pid, at as ptrace::AddressType, AT_IGNORE)?);
            }
            _ => drop(next()?),
        }
    }
}
