//! `sv3 uplink`: the world for guests, without root.
//!
//! # Theory of operation
//!
//! A program in user space (slirp4netns, gvproxy, passt) talks to guests like a router and to the world by ordinary
//! sockets of its user. This process starts the program, gives the switch the other end of its socket as a port, and
//! stays the program's parent. If the program ends, it is started again and the same port gets the new socket: guests
//! keep their port and talk to each other meanwhile.
//!
//! The program ends with this process, however that ends, since the kernel kills it with its parent. This process ends
//! when it is told to, when somebody detaches the port, and when the switch ends. `sv3 run --take-over` is no such end:
//! the next supervisor has the port, with the same socket. So when the supervisor ends, this process looks for one that
//! answers at the control socket and has the port, and watches that one. The end of a pair of sockets that the program
//! has is open here as well, since it tells by hanging up that no switch has the other end.

mod folder;
mod process;
mod program;
mod publish;
mod tied;
pub mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use sv3::attachment::{Attachment, FrameForm, Learning};
use sv3::control::ControlRequest;
use sv3::status::{PortStatus, Status};

use crate::attach::{SWITCH_TIME, give};
use crate::control::{Control, Running};
use crate::output::complain;
use folder::Folder;
use process::Process;
pub use program::{Program, choose, reason};
pub use publish::Publish;
pub use tied::Tied;
use watch::{Over, Signals};

/// How long the switch may take to notice that the last program is gone.
const GONE_TIME: Duration = Duration::from_secs(3);
/// The pause before the program is started again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the next supervisor may take to answer, where the last one has ended.
const SUCCESSION_TIME: Duration = Duration::from_secs(5);
/// How often a switch is looked for.
const LOOK: Duration = Duration::from_millis(250);
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
    /// Wait for a switch, and for the next one when it ends
    #[arg(long)]
    wait: bool,
    /// Wait for the switch with this process id to start, and end with it
    #[arg(long, hide = true, value_name = "PID", conflicts_with = "wait")]
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

/// A program with its port.
struct Upkeep<'a> {
    uplink: &'a Uplink,
    program: Program,
    path: &'a Path,
    folder: &'a Path,
    signals: Signals,
    switch: Running,
}

impl Uplink {
    /// Runs until the switch ends, or until a signal.
    pub fn exec(&self) -> Result<(), String> {
        let mut signals = Signals::block()?;
        let (program, path) = choose(self.program, self.options.path.as_deref())?;
        let switch = match (self.of, self.wait) {
            (Some(pid), _) => match self.control.wait_for(pid, SWITCH_TIME)? {
                // `sv3 run --take-over --internet`: who keeps the port up, goes on with the next supervisor.
                (_, status) if status.port(&self.options.name).is_some() => return Ok(()),
                (switch, _) => switch,
            },
            (None, false) => self.control.running()?.0,
            (None, true) => match self.await_switch(&mut signals)? {
                Some(switch) => switch,
                None => return Ok(()),
            },
        };
        if self.program.is_none() && self.options.path.is_none() {
            complain(&reason(program));
        }
        let folder = Folder::new()?;
        Upkeep { uplink: self, program, path: &path, folder: folder.path(), signals, switch }.keep_up()
    }

    /// A switch that answers. None: this process is told to end.
    fn await_switch(&self, signals: &mut Signals) -> Result<Option<Running>, String> {
        loop {
            if let Ok((switch, _)) = self.control.running() {
                return Ok(Some(switch));
            }
            if !signals.pause(LOOK, None)? {
                return Ok(None);
            }
        }
    }
}

impl Upkeep<'_> {
    fn keep_up(&mut self) -> Result<(), String> {
        let mut pause = PAUSES.0;
        let mut process = self.start(true)?;
        let mut first = true;
        loop {
            let over = self.watch(&mut process)?;
            let (age, failed) = (process.age(), first && process.failed_at_once());
            let end = process.end();
            first = false;
            match over {
                Over::Told => {
                    let _ = self.uplink.control.ask(&ControlRequest::Detach(self.name().to_string()));
                    return Ok(());
                }
                Over::Switch if !self.uplink.wait => return Ok(()),
                Over::Switch => {
                    complain("the switch has ended; the next one is waited for");
                    let Some(next) = self.uplink.await_switch(&mut self.signals)? else { return Ok(()) };
                    (self.switch, pause) = (next, PAUSES.0);
                }
                // After `sv3 detach`, the program is of no use.
                Over::CutOff | Over::Program if self.port().is_ok_and(|port| port.is_none()) => {
                    complain(&format!("the port {} was detached", self.name()));
                    return Ok(());
                }
                Over::Program if failed => {
                    let _ = self.uplink.control.ask(&ControlRequest::Detach(self.name().to_string()));
                    return Err(format!("{} has ended at once{end}", self.program));
                }
                Over::Program => {
                    complain(&format!("{} has ended{end}; it is started again", self.program));
                    pause = if age >= HEALTHY { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
                }
                Over::CutOff => {
                    complain(&format!("the switch has closed the port {}{}", self.name(), self.why()));
                    pause = if age >= HEALTHY { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
                }
            }
            match self.start_again(&mut pause)? {
                Some(next) => process = next,
                None => return Ok(()),
            }
        }
    }

    /// Watches the program. A supervisor that has taken over from the switch is the switch from then on.
    fn watch(&mut self, process: &mut Process) -> Result<Over, String> {
        loop {
            let over = self.signals.watch(&self.switch, process)?;
            match over {
                Over::Told => return Ok(over),
                Over::Program if self.port().is_err() => {
                    // gvproxy ends with the switch, and may be seen to end first.
                    self.signals.pause(LOOK, Some(&self.switch))?;
                    return Ok(if self.switch.has_ended() { Over::Switch } else { Over::Program });
                }
                Over::CutOff | Over::Program if self.port().is_ok() => return Ok(over),
                Over::CutOff | Over::Program | Over::Switch => match self.successor(process)? {
                    Some(next) => self.switch = next,
                    None if self.signals.told() => return Ok(Over::Told),
                    None => return Ok(Over::Switch),
                },
            }
        }
    }

    /// The supervisor that has taken over from the last one, and so has the port.
    fn successor(&mut self, process: &mut Process) -> Result<Option<Running>, String> {
        let until = Instant::now() + SUCCESSION_TIME;
        while Instant::now() < until && !process.is_cut_off() && process.ended().is_none() {
            if let Ok((next, status)) = self.uplink.control.running() {
                return Ok(self.is_in(&status).then_some(next));
            }
            if !self.signals.pause(LOOK, None)? {
                break;
            }
        }
        Ok(None)
    }

    /// Starts the program again after a pause, until it runs. None: there is no need any more.
    fn start_again(&mut self, pause: &mut Duration) -> Result<Option<Process>, String> {
        loop {
            if !self.signals.pause(*pause, Some(&self.switch))? && self.signals.told() {
                return Ok(None);
            }
            if self.switch.has_ended() {
                let next = self.uplink.control.running().ok();
                let next = next.filter(|(_, status)| self.uplink.wait || self.is_in(status)).map(|(next, _)| next);
                let next = match next {
                    None if self.uplink.wait => self.uplink.await_switch(&mut self.signals)?,
                    next => next,
                };
                let Some(next) = next else { return Ok(None) };
                self.switch = next;
            }
            match self.start(false) {
                Ok(process) => return Ok(Some(process)),
                Err(why) => complain(&why),
            }
            *pause = (*pause * 2).min(PAUSES.1);
        }
    }

    /// Starts the program and attaches it. If the switch refuses, or a port cannot be published at first, ends it.
    fn start(&mut self, first: bool) -> Result<Process, String> {
        let Options { mtu, publish, .. } = &self.uplink.options;
        let (mut process, socket) = program::start(self.program, self.path, *mtu, self.folder)?;
        let attachment = Attachment {
            transport: self.program.transport(),
            name: self.name().to_string(),
            form: FrameForm::Plain,
            mtu: *mtu,
            learning: Learning::Uplink,
        };
        let until = Instant::now() + if first { Duration::ZERO } else { GONE_TIME };
        // The switch may not have noticed yet that the last program is gone.
        while let Err(why) = give(&self.uplink.control, attachment.clone(), std::slice::from_ref(&socket)) {
            if Instant::now() >= until || !self.signals.pause(Duration::from_millis(50), Some(&self.switch))? {
                process.end();
                return Err(why);
            }
        }
        drop(socket);
        let published = publish.iter().try_for_each(|one| publish::publish(self.program, self.folder, one));
        match published {
            Err(why) if first => {
                let ended = process.ended().is_some();
                let end = process.end();
                let _ = self.uplink.control.ask(&ControlRequest::Detach(self.name().to_string()));
                return Err(if ended { format!("{why}; {} has ended{end}", self.program) } else { why });
            }
            Err(why) => complain(&why),
            Ok(()) => {}
        }
        if first {
            complain(&format!("{}; the port is {}", self.program.words(), self.name()));
            for Publish { host_port, guest, guest_port } in publish {
                complain(&format!("127.0.0.1:{host_port} leads to {guest}:{guest_port}"));
            }
        }
        Ok(process)
    }

    fn name(&self) -> &str {
        &self.uplink.options.name
    }

    fn is_in(&self, status: &Status) -> bool {
        status.port(self.name()).is_some()
    }

    /// The port, as the switch has it now. An error if no switch answers.
    fn port(&self) -> Result<Option<PortStatus>, String> {
        let (_, status) = self.uplink.control.running()?;
        Ok(status.port(self.name()).cloned())
    }

    /// Why the switch has stopped the port, in words.
    fn why(&self) -> String {
        let files = self.port().ok().flatten().and_then(|port| port.files);
        files.and_then(|files| files.stopped).map_or(String::new(), |why| format!(": {why}"))
    }
}
