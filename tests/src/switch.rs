//! A real switch: `sv3 run` by an unprivileged user in a folder of its own.
//!
//! Tests run as root in CI, and root would hide a missing permission. So the switch never runs as root: it gets another
//! user id, no capability and no way to new ones. Its binaries are those of the target folder that this test was built
//! to.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sv3::attachment::Attachment;
use sv3::audit::AuditAnswer;
use sv3::config::{Change, Config, InForce};
use sv3::control::ControlRequest;
use sv3::fdb::{FdbAnswer, FlushAnswer, Which};
use sv3::group_status::GroupsStatus;
use sv3::snooping::Snooping;
use sv3::status::{AttachAnswer, PortStatus, Status};
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::patience::{PATIENCE, until};

/// The user that runs the switch when root tests it: `nobody`.
pub const USER: u32 = 65534;

/// Names a folder with binaries of another build, for the same scenarios.
const OTHER_BINARIES: &str = "SV3_TEST_BINARIES";

/// Names a worker with crash points that is built already.
const CRASH_POINTS: &str = "SV3_TEST_CRASH_POINTS";

/// More options of `sv3 run`, for the same scenarios in another setting, such as `--threads 2`.
const OPTIONS: &str = "SV3_TEST_OPTIONS";

const BINARIES: [&str; 3] = ["sv3", "sv3-supervisor", "sv3-worker"];

/// The folder of an unprivileged user, with sv3's binaries in it. Switches can be started in it one after the other.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// A fresh folder.
    pub fn new() -> Result<Rc<Home>> {
        let folder = tempfile::Builder::new().prefix("sv3-switch-").tempdir()?;
        let home = Home { folder };
        let binaries = home.path("bin");
        fs::create_dir(&binaries)?;
        fs::set_permissions(&binaries, fs::Permissions::from_mode(0o755))?;
        let built = std::env::var_os(OTHER_BINARIES).map_or_else(target_folder, |folder| Ok(folder.into()))?;
        for name in BINARIES {
            let (from, to) = (built.join(name), binaries.join(name));
            // A link is as good as a copy and costs nothing, but does not cross file systems.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|error| {
                Failure::new(format!("{}: {error}; run `cargo build --workspace` first", from.display()))
            })?;
        }
        if is_root() {
            chown(home.folder.path(), Some(USER), Some(USER))?;
        }
        Ok(Rc::new(home))
    }

    /// A fresh folder with a worker that is built with crash points: it dies by itself at one of them.
    pub fn with_crash_points() -> Result<Rc<Home>> {
        let home = Home::new()?;
        let worker = std::env::var_os(CRASH_POINTS).map_or_else(build_with_crash_points, |worker| Ok(worker.into()))?;
        fs::remove_file(home.path("bin/sv3-worker"))?;
        fs::copy(&worker, home.path("bin/sv3-worker"))
            .map_err(|error| Failure::new(format!("{}: {error}", worker.display())))?;
        Ok(home)
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command `sv3` with arguments, by the unprivileged user. It dies with the thread that starts it.
    pub fn sv3(&self, arguments: &[&str]) -> Command {
        let mut command = self.by_user(&self.path("bin/sv3"));
        command.args(arguments);
        self.with_signals(&[], &command)
    }

    /// A program of the tests, copied to where the unprivileged user may run it, by that user.
    pub fn attacker(&self, program: &str) -> Result<Command> {
        let copy = self.path("attacker");
        if !copy.exists() {
            fs::copy(program, &copy)?;
        }
        Ok(self.by_user(&copy))
    }

    /// The command behind others, with signals as a shell in the foreground has them: a shell that runs the tests in
    /// the background may ignore some, and sv3 would inherit that.
    fn with_signals(&self, behind: &[String], command: &Command) -> Command {
        let mut all = Command::new("env");
        all.arg("--default-signal=HUP,INT,QUIT").args(behind).arg(command.get_program()).args(command.get_args());
        all.env_remove("XDG_RUNTIME_DIR").current_dir(self.folder.path()).stdin(Stdio::null());
        all
    }

    fn by_user(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--no-new-privs"]);
        if is_root() {
            command.args([format!("--reuid={USER}"), format!("--regid={USER}")]);
            command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        }
        command.arg("--").arg(program);
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs `sv3` with arguments to its end; what it printed.
    pub fn sv3_output(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.sv3(arguments).output()?)
    }

    /// `sv3 run` with these options beside `--socket` and `--control`; waits until it serves.
    pub fn start(self: &Rc<Home>, options: &[&str]) -> Result<Switch> {
        self.start_by(self.sv3(&["run"]), options)
    }

    /// As [`Home::start`], by a user who may have no more than so many files open in a process.
    pub fn start_limited(self: &Rc<Home>, options: &[&str], files: u32) -> Result<Switch> {
        let unlimited = self.sv3(&["run"]);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(unlimited.get_program()).args(unlimited.get_args());
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.folder.path()).stdin(Stdio::null());
        self.start_by(command, options)
    }

    /// As [`Home::start`], behind a command: a tracer, or one that changes its environment.
    pub fn start_behind(self: &Rc<Home>, command: &[String], options: &[&str]) -> Result<Switch> {
        let mut alone = self.by_user(&self.path("bin/sv3"));
        alone.arg("run");
        let command = self.with_signals(command, &alone);
        self.start_by(command, options)
    }

    fn start_by(self: &Rc<Home>, mut command: Command, options: &[&str]) -> Result<Switch> {
        let (socket, control) = (self.path("vhost-user.sock"), self.path("control.sock"));
        command.arg("--socket").arg(&socket).arg("--control").arg(&control).args(options);
        if let Ok(more) = std::env::var(OPTIONS) {
            command.args(more.split_whitespace());
        }
        // Appended, since the next supervisor writes to the same file.
        let output = |name: &str| {
            fs::File::create(self.path(name))?;
            Ok::<_, Failure>(Stdio::from(fs::File::options().append(true).open(self.path(name))?))
        };
        command.stdout(output("stdout")?).stderr(output("stderr")?);
        let process = command.spawn()?;
        let mut switch = Switch { home: self.clone(), process, ended: None, socket, control };
        switch.await_ready()?;
        Ok(switch)
    }
}

/// A running switch. It is ended by SIGTERM when dropped, which must be a clean end.
pub struct Switch {
    home: Rc<Home>,
    process: Child,
    ended: Option<ExitStatus>,
    socket: PathBuf,
    control: PathBuf,
}

impl Switch {
    /// A switch in a home of its own.
    pub fn start() -> Result<Switch> {
        Switch::with(&[])
    }

    /// A switch in a home of its own, with these options of `sv3 run`.
    pub fn with(options: &[&str]) -> Result<Switch> {
        Home::new()?.start(options)
    }

    /// Its folder.
    pub fn home(&self) -> &Rc<Home> {
        &self.home
    }

    /// The vhost-user socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// What `sv3 status --json` prints, asked from the control socket.
    pub fn status(&self) -> Result<Status> {
        let status = self.ask("status").and_then(|text| Ok(serde_json::from_str(&text)?));
        status.map_err(|failure| self.explain("status", &failure))
    }

    /// What the supervisor tells of files and cards for `sv3 audit`.
    pub fn audit(&self) -> Result<AuditAnswer> {
        let answer = self.ask("audit").and_then(|text| Ok(serde_json::from_str(&text)?));
        answer.map_err(|failure| self.explain("audit", &failure))
    }

    fn ask(&self, request: &str) -> Result<String> {
        let mut control = UnixStream::connect(&self.control)?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        control.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Attaches open files, as `sv3 attach` does. An error: why the switch refuses them.
    pub fn attach(&self, attachment: &Attachment, files: &[BorrowedFd<'_>]) -> Result<AttachAnswer> {
        self.request(&ControlRequest::Attach(attachment.clone()), files)
    }

    /// Ends a port of open files.
    pub fn detach(&self, name: &str) -> Result<Value> {
        self.request(&ControlRequest::Detach(name.to_string()), &[])
    }

    /// Switches snooping on or off, as `sv3 snooping` does.
    pub fn snoop(&self, setting: Option<Snooping>) -> Result<()> {
        self.request::<Value>(&ControlRequest::Snoop(setting), &[]).map(drop)
    }

    /// What `sv3 groups --json` prints.
    pub fn groups(&self) -> Result<GroupsStatus> {
        self.request(&ControlRequest::Groups, &[])
    }

    /// Waits until the groups are as wanted.
    pub fn await_groups(&self, what: &str, wanted: impl Fn(&GroupsStatus) -> bool) -> Result<()> {
        let mut last = GroupsStatus::default();
        let found = until(what, || {
            last = self.groups()?;
            Ok(wanted(&last).then_some(()))
        });
        found.map_err(|failure| Failure::new(format!("{failure}\n{last:?}")))
    }

    /// What is declared.
    pub fn declared(&self) -> Result<InForce> {
        self.request(&ControlRequest::Config, &[])
    }

    /// Declares all this, as `sv3 reload` does. No port may be new.
    pub fn declare(&self, config: &Config) -> Result<()> {
        let generation = self.declared()?.generation;
        let change = Change { config: config.clone(), ..Change::default() };
        let mut file = fs::File::from(memfd_create(c"sv3-config", MFdFlags::MFD_ALLOW_SEALING)?);
        file.write_all(&serde_json::to_vec(&change)?)?;
        file.rewind()?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let _: Value = self.request(&ControlRequest::Configure(generation), &[file.as_fd()])?;
        Ok(())
    }

    /// Which addresses are where, as `sv3 fdb` shows it: port and address.
    pub fn addresses(&self) -> Result<Vec<(String, String)>> {
        let FdbAnswer { addresses } = self.request(&ControlRequest::Fdb, &[])?;
        Ok(addresses.into_iter().map(|known| (known.port, known.address)).collect())
    }

    /// Forgets addresses that were learnt, as `sv3 fdb flush` does. Returns how many.
    pub fn flush(&self, which: &Which) -> Result<usize> {
        let FlushAnswer { flushed } = self.request(&ControlRequest::FdbFlush(which.clone()), &[])?;
        Ok(flushed)
    }

    fn request<T: DeserializeOwned>(&self, request: &ControlRequest, files: &[BorrowedFd<'_>]) -> Result<T> {
        let mut control = UnixStream::connect(&self.control)?;
        control.set_read_timeout(Some(PATIENCE))?;
        let (line, files) = (format!("{request}\n"), files.iter().map(|file| file.as_raw_fd()).collect::<Vec<_>>());
        let rights = [ControlMessage::ScmRights(&files)];
        let rights = if files.is_empty() { &[] } else { rights.as_slice() };
        sendmsg::<()>(control.as_raw_fd(), &[IoSlice::new(line.as_bytes())], rights, MsgFlags::empty(), None)?;
        let mut text = String::new();
        control.read_to_string(&mut text)?;
        let answer: Value =
            serde_json::from_str(&text).map_err(|error| Failure::new(format!("{request}: {text:?}: {error}")))?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::new(error)),
            None => Ok(serde_json::from_value(answer)?),
        }
    }

    /// The port of that name (`p0`, `p1`, ... in the order of connecting).
    pub fn port(&self, name: &str) -> Result<PortStatus> {
        let missing = || Failure::new(format!("there is no port {name}"));
        self.status()?.ports.into_iter().find(|port| port.name == name).ok_or_else(missing)
    }

    /// How many frames the port of that name dropped for a reason.
    pub fn drops(&self, name: &str, reason: &str) -> Result<u64> {
        Ok(self.port(name)?.drops.get(reason).copied().unwrap_or(0))
    }

    /// Waits until the port of that name has dropped that many frames for a reason. Counters are not ordered with what
    /// guests see, so a scenario that has seen the effect must wait for the figure.
    pub fn await_drops(&self, name: &str, reason: &str, count: u64) -> Result<()> {
        self.await_status(&format!("{count} drops of {name} for {reason}"), |status| {
            let port = status.ports.iter().find(|port| port.name == name);
            port.is_some_and(|port| port.drops.get(reason).copied().unwrap_or(0) == count)
        })
    }

    /// Waits until the status is as wanted.
    pub fn await_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<()> {
        let mut last = None;
        let mut look = || {
            let status = self.status()?;
            let good = wanted(&status);
            last = Some(status);
            Ok(good.then_some(()))
        };
        until(what, &mut look).map_err(|failure| {
            let status = last.and_then(|status| serde_json::to_string(&status).ok()).unwrap_or_default();
            self.explain("await_status", &Failure::new(format!("{failure}\n{status}")))
        })
    }

    /// Waits until that many clients are connected.
    pub fn await_ports(&self, count: usize) -> Result<()> {
        self.await_status(&format!("{count} ports"), |status| status.ports.len() == count)
    }

    /// The supervisor's process id.
    pub fn supervisor_pid(&self) -> Result<u32> {
        Ok(self.status()?.supervisor.pid)
    }

    /// The worker's process id, once there is one.
    pub fn worker_pid(&self) -> Result<u32> {
        until("a worker", || Ok(self.status()?.worker.pid))
    }

    /// Kills the worker by a signal, such as `KILL`, and waits until another one has taken over.
    pub fn kill_worker(&self, signal: &str) -> Result<()> {
        let shot = self.shoot_worker(signal)?;
        self.await_restart(shot)
    }

    /// Sends the worker a signal and returns at once.
    pub fn shoot_worker(&self, signal: &str) -> Result<Shot> {
        let pid = self.worker_pid()?;
        let shot = Shot { pid, restarts: self.status()?.worker.restarts };
        send(pid, signal)?;
        Ok(shot)
    }

    /// Waits until another worker has taken over from one that was sent a signal.
    pub fn await_restart(&self, shot: Shot) -> Result<()> {
        self.await_status(&format!("a worker in place of {}", shot.pid), |status| {
            status.worker.restarts > shot.restarts && status.worker.pid.is_some_and(|pid| pid != shot.pid)
        })
    }

    /// All events so far, one JSON object each; a line that is not JSON is kept as a string.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.home.path("stderr"))?;
        // The last line may still be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        Ok(whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect())
    }

    /// Waits for an event whose JSON contains all these texts.
    pub fn await_event(&self, texts: &[&str]) -> Result<Value> {
        let matches = |event: &Value| {
            let text = event.to_string();
            texts.iter().all(|wanted| text.contains(wanted))
        };
        until(&format!("an event with {texts:?}"), || Ok(self.events()?.into_iter().find(matches)))
            .map_err(|failure| self.explain("await_event", &failure))
    }

    /// What it printed to standard output.
    pub fn output(&self) -> Result<String> {
        Ok(fs::read_to_string(self.home.path("stdout"))?)
    }

    /// Starts `sv3 run --take-over` with these options. It writes to the same files.
    pub fn start_successor(&self, options: &[&str]) -> Result<Child> {
        let mut command = self.home.sv3(&["run", "--take-over"]);
        command.arg("--socket").arg(&self.socket).arg("--control").arg(&self.control).args(options);
        // An option may be given once.
        if let Ok(more) = std::env::var(OPTIONS)
            && !options.iter().any(|option| more.contains(option))
        {
            command.args(more.split_whitespace());
        }
        let output =
            |name: &str| -> Result<Stdio> { Ok(fs::File::options().append(true).open(self.home.path(name))?.into()) };
        Ok(command.stdout(output("stdout")?).stderr(output("stderr")?).spawn()?)
    }

    /// How it ended, if it has ended by itself.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.ended = self.process.try_wait()?;
        Ok(self.ended)
    }

    /// From now on, the process that took over is the switch.
    pub fn adopt(&mut self, successor: Child) {
        (self.process, self.ended) = (successor, None);
    }

    /// Lets a successor take over, and waits until the old supervisor has ended.
    pub fn hand_over(&mut self, options: &[&str]) -> Result<()> {
        let mut successor = self.start_successor(options)?;
        let status = until("the end of the old supervisor", || match (self.has_ended()?, successor.try_wait()?) {
            (None, Some(status)) => Err(Failure::new(format!("the successor: {status}"))),
            (ended, _) => Ok(ended),
        });
        let status = status.map_err(|failure| self.explain("hand_over", &failure))?;
        self.adopt(successor);
        match status.success() {
            true => Ok(()),
            false => Err(self.explain("hand_over", &Failure::new(format!("the old supervisor: {status}")))),
        }
    }

    /// Ends it by a signal; how it ended.
    pub fn end(mut self, signal: &str) -> Result<ExitStatus> {
        self.finish(signal)
    }

    fn finish(&mut self, signal: &str) -> Result<ExitStatus> {
        send(self.process.id(), signal)?;
        let status = until("the end of sv3", || Ok(self.process.try_wait()?))?;
        self.ended = Some(status);
        Ok(status)
    }

    fn await_ready(&mut self) -> Result<()> {
        until("sv3 to serve", || {
            if let Some(status) = self.process.try_wait()? {
                self.ended = Some(status);
                return Err(Failure::new(format!("it ended: {status}")));
            }
            // It says so when its worker is ready.
            Ok(self.output()?.ends_with('\n').then_some(()))
        })
        .map_err(|failure| self.explain("run", &failure))
    }

    /// What failed, with what the switch last said.
    fn explain(&self, what: &str, failure: &Failure) -> Failure {
        Failure::new(format!("sv3: {what}: {failure}\n{}", self.last_events()))
    }

    fn last_events(&self) -> String {
        let text = fs::read_to_string(self.home.path("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("-- events --\n{}", lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n"))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let end = match self.ended {
            Some(_) => None,
            None => Some(self.finish("TERM")),
        };
        // The test harness shows it for scenarios that fail.
        if std::thread::current().name() != Some("main") {
            eprintln!("{}", self.last_events());
        }
        if self.ended.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        let clean = end.is_none_or(|end| end.is_ok_and(|status| status.success()));
        assert!(clean || std::thread::panicking(), "sv3 did not end cleanly at SIGTERM: {:?}", self.ended);
    }
}

/// A worker that was sent a signal.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    /// Its process id.
    pub pid: u32,
    restarts: u64,
}

/// The open fds of a process.
pub fn fds(pid: u32) -> Result<BTreeSet<u32>> {
    by_root("ls", &format!("/proc/{pid}/fd"))?.split_whitespace().map(|name| Ok(name.parse()?)).collect()
}

/// How many mappings a process has.
pub fn mappings(pid: u32) -> Result<usize> {
    Ok(by_root("cat", &format!("/proc/{pid}/maps"))?.lines().count())
}

/// What a program prints of a file that only root may read, as those of processes that are not dumpable; other users
/// use sudo.
fn by_root(program: &str, path: &str) -> Result<String> {
    let words: &[&str] = if is_root() { &[program, path] } else { &["sudo", "-n", program, path] };
    let (command, arguments) = words.split_first().unwrap_or((&program, &[]));
    let output = Command::new(command).args(arguments).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Failure::new(format!("{path} cannot be seen: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Resident memory of a process, in octets.
pub fn rss(pid: u32) -> Result<u64> {
    Ok(status_field::<u64>(pid, "VmRSS")? * 1024)
}

/// Private memory of a process, in octets: where leaks are. Guest memory and the ledger are not in it.
pub fn private_memory(pid: u32) -> Result<u64> {
    Ok(status_field::<u64>(pid, "RssAnon")? * 1024)
}

/// How often a process has gone to sleep or was preempted, and the clock ticks that it ran.
pub fn activity(pid: u32) -> Result<[u64; 3]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets; utime and stime are the 14th and 15th.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let ticks =
        behind.split(' ').skip(11).take(2).map(|field| Ok::<u64, Failure>(field.parse()?)).sum::<Result<u64>>()?;
    Ok([status_field(pid, "voluntary_ctxt_switches")?, status_field(pid, "nonvoluntary_ctxt_switches")?, ticks])
}

fn status_field<T: FromStr>(pid: u32, name: &str) -> Result<T> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = field.and_then(|field| field.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::new(format!("process {pid} shows no {name}")))
}

/// Sends a signal, such as `TERM`, to a process.
pub fn send(pid: u32, signal: &str) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::from_str(&format!("SIG{signal}"))?)?)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `target/debug` or `target/release`: tests are built to `deps` in it.
pub fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().find(|folder| folder.ends_with("debug") || folder.ends_with("release"));
    folder.map(Path::to_path_buf).ok_or_else(|| Failure::new(format!("{} is in no target folder", program.display())))
}

/// Builds a worker with crash points, in a folder of its own: the usual one keeps its place.
fn build_with_crash_points() -> Result<PathBuf> {
    let built = target_folder()?.join("crash-points");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package=sv3-worker", "--features=crash-points", "--target-dir"]).arg(&built);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cargo.status()?.success() {
        return Err(Failure::new("the worker with crash points cannot be built"));
    }
    Ok(built.join("debug/sv3-worker"))
}

/// Time that passes while `f` runs.
pub fn timed<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed(), value)
}
