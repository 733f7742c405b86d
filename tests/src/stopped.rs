//! Keeps processes from running, and makes threads spin.
//!
//! A worker is not dumpable, so only root may stop it. Other users can only give it the lowest priority and keep its
//! processor busy; then it runs for some milliseconds in a second.

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

/// Makes one thread of a process spin at the first instruction of its program, which no other thread reaches. For root.
pub fn spin(thread: u32) -> Result<()> {
    let entry = entry(thread)?;
    let thread = stop(thread)?;
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

/// Stops a thread; only the tracer, this process, sees that. For root.
pub fn stop(thread: u32) -> Result<Pid> {
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

/// A process that can be kept from running, by the best means that the machine offers.
pub struct Freezer {
    pid: u32,
    means: Means,
}

enum Means {
    ControlGroup(ControlGroup),
    /// This process stops its threads by ptrace.
    Stop(Vec<Pid>),
    /// It has the lowest priority, and a child of the test takes its processor.
    Starve(Option<Child>),
}

/// A control group with one process.
struct ControlGroup {
    folder: PathBuf,
    /// The file that freezes it, and what to write there to freeze and to thaw.
    switch: &'static str,
    words: [&'static str; 2],
    /// The file that tells whether it is frozen, and by what.
    tells: (&'static str, &'static str),
}

impl Freezer {
    /// For this process.
    pub fn around(pid: u32) -> Result<Freezer> {
        let means = match (nix::unistd::geteuid().is_root(), ControlGroup::around(pid)?) {
            (true, Some(group)) => Means::ControlGroup(group),
            (true, None) => Means::Stop(Vec::new()),
            (false, _) => {
                run("chrt", &["--idle", "--all-tasks", "--pid", "0", &pid.to_string()])?;
                run("taskset", &["--all-tasks", "--cpu-list", "--pid", "0", &pid.to_string()])?;
                Means::Starve(None)
            }
        };
        Ok(Freezer { pid, means })
    }

    /// Whether it does not run at all while it is frozen.
    pub fn is_tight(&self) -> bool {
        !matches!(self.means, Means::Starve(_))
    }

    /// Stops it.
    pub fn freeze(&mut self) -> Result<()> {
        match &mut self.means {
            Means::ControlGroup(group) => group.freeze(),
            Means::Stop(stopped) => {
                for thread in threads(self.pid)? {
                    stopped.push(stop(thread)?);
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
            Means::ControlGroup(group) => group.thaw(),
            Means::Stop(stopped) => {
                for thread in stopped.drain(..) {
                    match ptrace::detach(thread, None) {
                        // It was killed meanwhile; its parent sees that after its tracer.
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

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.thaw();
    }
}

impl ControlGroup {
    /// One of either version, if the machine has one that the test may use.
    fn around(pid: u32) -> Result<Option<ControlGroup>> {
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
            let group = ControlGroup { folder, switch, words, tells };
            if fs::write(group.folder.join("cgroup.procs"), pid.to_string()).is_ok()
                && group.folder.join(switch).exists()
            {
                return Ok(Some(group));
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

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = self.thaw();
        // It can be removed when it is empty: a process that lives goes back to the group above.
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
