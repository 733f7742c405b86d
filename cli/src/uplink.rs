//! `sv3 uplink`: the world for guests, without root.
//!
//! # Theory of operation
//!
//! A program in user space (slirp4netns, gvproxy, passt) talks to guests like a router and to the world by ordinary
//! sockets of its user. This process starts the program, gives the switch the other end of its socket as a port, and
//! stays the program's parent. If the program ends, it is started again and the same port gets the new socket: guests
//! keep their port and talk to each other meanwhile. When the switch ends, or this process is told to end, the program
//! ends too.

mod program;
mod publish;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sv3::attachment::{Attachment, FrameForm, Learning};

use crate::attach::{SWITCH_TIME, give};
use crate::control::{Control, Running};
use crate::output::complain;
use program::Started;
pub use program::{Program, choose};
pub use publish::Publish;

/// How long the switch may take to notice that the last program is gone.
const GONE_TIME: Duration = Duration::from_secs(3);
/// The pause before the program is started again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A program that ran for so long is started again without a long pause.
const HEALTHY: Duration = Duration::from_secs(10);
/// The largest MTU that all these programs take.
const MTU: u32 = Attachment::MTU_MAX;

/// Give guests the internet without root, by a program in user space.
///
/// Starts the program, attaches it to the switch as a port, watches it, and starts it again if it ends. Runs until the
/// switch ends, or until Ctrl-C. See docs/use/uplinks.md.
#[derive(Args)]
pub struct Uplink {
    /// The program [default: the first that is installed]
    #[arg(value_enum)]
    program: Option<Program>,
    #[command(flatten)]
    options: Options,
    /// Wait for the switch with this process id to start, and end with it
    #[arg(long, hide = true, value_name = "PID")]
    of: Option<i32>,
    #[command(flatten)]
    control: Control,
}

/// What the program shall do.
#[derive(Args, Clone)]
pub struct Options {
    /// The port's name
    #[arg(long, default_value = "internet")]
    name: String,
    /// The program's file [default: found in PATH]
    #[arg(long = "program", value_name = "PATH")]
    path: Option<PathBuf>,
    /// Most octets of a packet between guests and program
    #[arg(long, default_value_t = MTU, value_name = "OCTETS",
        value_parser = clap::value_parser!(u32).range(1280..=i64::from(MTU)))]
    mtu: u32,
    /// Make a guest's TCP port reachable at a port of this host's loopback: HOSTPORT:GUEST:PORT
    #[arg(long, value_name = "HOSTPORT:GUEST:PORT")]
    publish: Vec<Publish>,
}

/// Why the watch over a running program ended.
enum Over {
    /// The program has ended.
    Program,
    /// The switch has ended, or this process is told to end.
    All,
}

impl Uplink {
    /// Runs until the switch ends, or until a signal.
    pub fn exec(&self) -> Result<(), String> {
        let signals = blocked_signals()?;
        let switch = match self.of {
            Some(pid) => self.control.wait_for(pid, SWITCH_TIME)?,
            None => self.control.running()?,
        };
        let (program, path) = choose(self.program, self.options.path.as_deref())?;
        let folder = program::folder()?;
        let outcome = self.keep_up(&signals, &switch, program, &path, &folder);
        let _ = std::fs::remove_dir_all(&folder);
        outcome
    }

    fn keep_up(
        &self,
        signals: &SignalFd,
        switch: &Running,
        program: Program,
        path: &Path,
        folder: &Path,
    ) -> Result<(), String> {
        let mut pause = PAUSES.0;
        let mut first = true;
        loop {
            let began = Instant::now();
            let started = program::start(program, path, self.options.mtu, folder);
            let mut child = match started.and_then(|started| self.attach(program, started, first)) {
                Ok(child) => child,
                Err(why) if first => return Err(why),
                Err(why) => {
                    complain(&why);
                    if !wait_for(signals, switch, pause)? {
                        return Ok(());
                    }
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            };
            if let Err(why) = self.publish(program, folder, first) {
                complain(&why);
                if first {
                    end(&mut child);
                    return Err(self.death(program, folder, &mut child));
                }
            }
            first = false;
            match watch(signals, switch, &mut child)? {
                Over::All => {
                    end(&mut child);
                    let _ = self.control.ask(&sv3::control::ControlRequest::Detach(self.options.name.clone()));
                    return Ok(());
                }
                Over::Program => {
                    complain(&format!("{}; it is started again", self.death(program, folder, &mut child)));
                    pause = if began.elapsed() >= HEALTHY { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
                    if !wait_for(signals, switch, pause)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Attaches a program that was started. If the switch refuses, ends the program.
    fn attach(&self, program: Program, mut started: Started, first: bool) -> Result<Child, String> {
        let attachment = Attachment {
            transport: program.transport(),
            name: self.options.name.clone(),
            form: FrameForm::Plain,
            mtu: self.options.mtu,
            learning: Learning::Uplink,
        };
        let until = Instant::now() + if first { Duration::ZERO } else { GONE_TIME };
        loop {
            match give(&self.control, attachment.clone(), std::slice::from_ref(&started.socket)) {
                Ok(_) => break,
                // The switch has not noticed yet that the last program is gone.
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                Err(why) => {
                    end(&mut started.child);
                    return Err(why);
                }
            }
        }
        if first {
            complain(&format!("{}; the port is {}", program.words(), self.options.name));
        }
        Ok(started.child)
    }

    /// How a program ended, and what it wrote last.
    fn death(&self, program: Program, folder: &Path, child: &mut Child) -> String {
        let status = child.wait().map_or(String::new(), |status| format!(" ({status})"));
        let words = program::last_words(folder).map_or(String::new(), |words| format!(": {words}"));
        format!("{program} has ended{status}{words}")
    }

    fn publish(&self, program: Program, folder: &Path, first: bool) -> Result<(), String> {
        self.options.publish.iter().try_for_each(|one| {
            publish::publish(program, folder, one)?;
            if !first {
                return Ok(());
            }
            complain(&format!("127.0.0.1:{} leads to {}:{}", one.host_port, one.guest, one.guest_port));
            Ok(())
        })
    }
}

/// The signals by which this process is told to end, and the one that tells of the program's end.
fn blocked_signals() -> Result<SignalFd, String> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| format!("signalfd: {errno}"))
}

/// Waits until the program or the switch ends, or a signal comes.
fn watch(signals: &SignalFd, switch: &Running, child: &mut Child) -> Result<Over, String> {
    loop {
        if told_to_end(signals) || switch.has_ended() {
            return Ok(Over::All);
        }
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return Ok(Over::Program);
        }
        wait(signals, switch, None)?;
    }
}

/// Waits for a while. False: the switch has ended, or this process is told to end.
fn wait_for(signals: &SignalFd, switch: &Running, time: Duration) -> Result<bool, String> {
    let until = Instant::now() + time;
    loop {
        if told_to_end(signals) || switch.has_ended() {
            return Ok(false);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        wait(signals, switch, Some(left))?;
    }
}

fn wait(signals: &SignalFd, switch: &Running, most: Option<Duration>) -> Result<(), String> {
    let mut fds = [signals.as_fd(), switch.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let most = most.map_or(PollTimeout::NONE, |most| {
        PollTimeout::try_from(most.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, most) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("poll: {errno}")),
    }
}

/// Reads the signals that came. True: one of them ends this process.
fn told_to_end(signals: &SignalFd) -> bool {
    let mut ends = false;
    while let Ok(Some(info)) = signals.read_signal() {
        ends |= Signal::try_from(info.ssi_signo as i32) != Ok(Signal::SIGCHLD);
    }
    ends
}

/// Ends a program.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
