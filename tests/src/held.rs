//! Processes that are kept from running, and threads that run for ever.
//!
//! A worker is not dumpable, so that only root may hold it. Others can but make it stand back behind somebody who takes all
//! of its processor; then it runs for some milliseconds in a second.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::failure::{Failure, Result};
use crate::patience::until;

/// A jump to itself.
const LOOP: [u8; 2] = [0xeb, 0xfe];
/// Where the first instruction of a program is, in its auxiliary vector.
const AT_ENTRY: u64 = 9;

/// Has one thread of a process run for ever and get nowhere, at the first instruction of its program, where no other one
/// comes by. For root.
pub fn spin(thread: u32) -> Result<()> {
    let entry = entry(thread)?;
    let thread = hold(thread)?;
    let address = entry as ptrace::AddressType;
    let mut word = ptrace::read(thread, address)?.to_ne_bytes();
    word[..2].copy_from_slice(&LOOP);
    ptrace::write(thread, address, i64::from_ne_bytes(word))?;
    let mut registers = ptrace::getregs(thread)?;
    // It may have been in a syscall, which is not to be made again there.
    (registers.rip, registers.orig_rax) = (entry, u64::MAX);
    ptrace::setregs(thread, registers)?;
    Ok(ptrace::detach(thread, None)?)
}

/// Stops a thread; who waits for it sees that, and nobody else. For root.
pub fn hold(thread: u32) -> Result<Pid> {
    let thread = Pid::from_raw(i32::try_from(thread)?);
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    Ok(thread)
}

fn entry(thread: u32) -> Result<u64> {
    let vector = fs::read(format!("/proc/{thread}/auxv"))?;
    let (words, _) = vector.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == AT_ENTRY {
            return Ok(value);
        }
    }
    Err(Failure::new(format!("thread {thread} shows no entry point")))
}

/// The threads of a process, in the order in which it made them.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let mut threads = Vec::new();
    for task in tasks {
        threads.push(task?.file_name().to_string_lossy().parse()?);
    }
    threads.sort_unstable();
    Ok(threads)
}

/// A process that can be kept from running, by the best means that there is here.
pub struct Cage {
    pid: u32,
    means: Means,
}

enum Means {
    Freezer(Freezer),
    /// Its threads are held, by us.
    Hold(Vec<Pid>),
    /// It gives way to all, and somebody takes its processor.
    Starve(Option<Child>),
}

/// A control group with one process.
struct Freezer {
    folder: PathBuf,
    /// The file that freezes it, and what to write there to freeze and to thaw.
    switch: &'static str,
    words: [&'static str; 2],
    /// The file that tells whether it is frozen, and by what.
    tells: (&'static str, &'static str),
}

impl Cage {
    /// Makes one.
    pub fn around(pid: u32) -> Result<Cage> {
        let means = match (nix::unistd::geteuid().is_root(), Freezer::around(pid)?) {
            (true, Some(freezer)) => Means::Freezer(freezer),
            (true, None) => Means::Hold(Vec::new()),
            (false, _) => {
                run("chrt", &["--idle", "--all-tasks", "--pid", "0", &pid.to_string()])?;
                run("taskset", &["--all-tasks", "--cpu-list", "--pid", "0", &pid.to_string()])?;
                Means::Starve(None)
            }
        };
        Ok(Cage { pid, means })
    }

    /// Whether nothing of it runs while it is frozen.
    pub fn is_tight(&self) -> bool {
        !matches!(self.means, Means::Starve(_))
    }

    /// Keeps it from running from now on.
    pub fn freeze(&mut self) -> Result<()> {
        match &mut self.means {
            Means::Freezer(freezer) => freezer.freeze(),
            Means::Hold(held) => {
                for thread in threads(self.pid)? {
                    held.push(hold(thread)?);
                }
                Ok(())
            }
            Means::Starve(by) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", "0", "sh", "-c", "while :; do :; done"]);
                *by = Some(command.stdin(Stdio::null()).spawn()?);
                Ok(())
            }
        }
    }

    /// Lets it run again.
    pub fn thaw(&mut self) -> Result<()> {
        match &mut self.means {
            Means::Freezer(freezer) => freezer.thaw(),
            Means::Hold(held) => {
                for thread in held.drain(..) {
                    match ptrace::detach(thread, None) {
                        // It was killed meanwhile; its parent sees it when we have.
                        Err(Errno::ESRCH) => drop(waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))),
                        detached => detached?,
                    }
                }
                Ok(())
            }
            Means::Starve(by) => {
                if let Some(mut by) = by.take() {
                    by.kill()?;
                    by.wait()?;
                }
                Ok(())
            }
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = self.thaw();
    }
}

impl Freezer {
    /// One of either version, if there is one that we may use.
    fn around(pid: u32) -> Result<Option<Freezer>> {
        for (kind, option, switch, words, tells) in [
            ("cgroup2", "", "cgroup.freeze", ["1", "0"], ("cgroup.events", "frozen 1")),
            ("cgroup", "freezer", "freezer.state", ["FROZEN", "THAWED"], ("freezer.state", "FROZEN")),
        ] {
            let Some(folder) = mount(kind, option)?.map(|mount| mount.join(format!("sv3-test-{pid}"))) else {
                continue;
            };
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let freezer = Freezer { folder, switch, words, tells };
            if fs::write(freezer.folder.join("cgroup.procs"), pid.to_string()).is_ok()
                && freezer.folder.join(switch).exists()
            {
                return Ok(Some(freezer));
            }
        }
        Ok(None)
    }

    fn freeze(&self) -> Result<()> {
        let ([freeze, _], (file, word)) = (self.words, self.tells);
        fs::write(self.folder.join(self.switch), freeze)?;
        let told = self.folder.join(file);
        until("a frozen worker", || Ok(fs::read_to_string(&told)?.contains(word).then_some(())))
    }

    fn thaw(&self) -> Result<()> {
        let [_, thaw] = self.words;
        Ok(fs::write(self.folder.join(self.switch), thaw)?)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.thaw();
        // It can go when nobody is in it: who lives goes back to where it came from.
        let inside = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        let above = self.folder.with_file_name("cgroup.procs");
        inside.lines().for_each(|pid| drop(fs::write(&above, pid)));
        let _ = until("an empty control group", || Ok(fs::remove_dir(&self.folder).is_ok().then_some(())));
    }
}

/// Where a kind of control groups is mounted.
fn mount(kind: &str, option: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let [_, at, is, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let fits = is == kind && (option.is_empty() || options.split(',').any(|one| one == option));
        fits.then(|| PathBuf::from(at))
    }))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}
