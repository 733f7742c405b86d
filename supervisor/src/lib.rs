//! `sv3-supervisor`: the process that owns sockets, names and fds.
//!
//! It accepts clients, speaks vhost-user with them, and gives their memory and eventfds to a worker. It can replace the
//! worker at any moment, and clients do not notice. [`supervisor`] describes how it runs.

mod ancillary;
mod args;
mod clients;
mod confine;
mod doors;
mod estate;
mod fd_inventory;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod given;
mod ports;
mod prove;
mod reactor;
mod service;
mod signals;
mod supervisor;
mod telemetry;
mod timers;
mod token;
mod workers;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::Args;
use clients::budget::Budget;
use doors::http::Http;
use doors::listener::Listener;
use doors::passed::PassedSockets;
use doors::stream::StreamForm;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use service::Service;
use supervisor::taking_over::{Inherited, Sockets};
use supervisor::{Parts, Supervisor};
use sv3::foreign::ForeignFd;
use sv3::ledger::LedgerMap;
use sv3::timeslice::TimeSlice;
use sv3_policy::WorkerRole;
use telemetry::event::{self, Events};
use telemetry::form::{self, Verbosity};
use workers::WorkerConfig;
use workers::spawner::Spawner;

/// Exit code for wrong arguments, the same as `sv3`'s.
const WRONG_ARGUMENTS: u8 = 2;

/// Runs the supervisor until it is told to end.
pub fn main() -> ExitCode {
    let outcome = match std::env::args_os().nth(1) {
        Some(option) if option == "--prove" => prove::run(),
        _ => match Args::parse(std::env::args_os().skip(1)) {
            Ok(args) => run(args),
            Err(why) => {
                tell(&format!("error: {why}\n\nFor more information, try 'sv3 run --help'."));
                return ExitCode::from(WRONG_ARGUMENTS);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tell(&format!("sv3: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stderr, if that is possible.
fn tell(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}

/// The order matters. Signals are blocked and the first stage of confinement is done before the spawner is cloned, so
/// that it inherits both. The spawner is cloned while nothing is open. The second stage comes before the first client.
fn run(args: Args) -> Result<(), String> {
    let mut passed = PassedSockets::new(workers::spawner::take_inherited()?);
    let service = Service::of_environment()?;
    TimeSlice::SHORT.request();
    let signals = signals::taken();
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let fail = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail("cannot read RLIMIT_NOFILE"))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(fail("cannot raise RLIMIT_NOFILE"))?;
    ports::vfio::may_lock()?;
    if usize::try_from(most).is_ok_and(|most| most < Budget::LEAST_FILES) {
        return Err(too_few_files(most));
    }
    // A confined process cannot bind a TCP socket. The spawner inherits this one and closes it when it ends.
    // With --take-over, the running switch may have it.
    let http = args.metrics.map(|address| passed.take_http(address).map_or_else(|| Http::bind(address), Ok));
    if let (Some(Err(why)), false) = (&http, args.take_over) {
        return Err(why.clone());
    }
    let achieved = confine::family()?.landlock_abi;
    if achieved < args.require_landlock {
        return Err(too_little_landlock(achieved, args.require_landlock));
    }
    let spawner = Spawner::clone(&args.worker, &args.of_worker(), args.log.as_deref())?;
    let events = events(&args)?;
    let mut inherited = if args.take_over { Some(Inherited::ask(&args.control)?) } else { None };
    let Sockets { door, streams, control, http } = sockets(&args, inherited.as_mut(), http, &mut passed)?;
    let lent = passed.of_ports(&args.ports_folder()).inspect_err(|_| remove_all(&door, &streams, &control))?;
    let ledger = match &mut inherited {
        Some(inherited) => inherited.ledger()?,
        None => new_ledger().map_err(no_ledger)?,
    };
    let given = args.given.then(given::receive).transpose()?;
    let announcement = (args.verbosity != Verbosity::Quiet).then(|| announcement(&args.socket));
    let workers = WorkerConfig {
        settings: args.settings,
        path: args.worker.clone(),
        threads: args.threads,
        cpus: args.cpus.as_ref().map(ToString::to_string),
        standby: args.standby,
        role: if args.streams.is_empty() { WorkerRole::Plain } else { WorkerRole::Files },
        require_landlock: args.require_landlock,
    };
    let (blame, chaos) = (args.blame, args.chaos);
    let parts = Parts {
        door,
        streams,
        control,
        http,
        signals,
        spawner,
        workers,
        chaos,
        blame,
        events,
        announcement,
        ledger,
        inherited,
        given,
        lent,
        service,
    };
    let paths: Vec<&Path> = args.sockets().collect();
    let own: Vec<PathBuf> = parts.own_names().map(Path::to_path_buf).collect();
    let remove_sockets = || {
        if !args.take_over {
            own.iter().map(std::fs::remove_file).for_each(drop);
        }
    };
    let supervisor = Supervisor::new(parts).map_err(|error| format!("cannot start: {error}"));
    let supervisor = supervisor.inspect_err(|_| remove_sockets())?;
    let dirs: Vec<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
    let achieved = confine::supervisor(&dirs).inspect_err(|_| remove_sockets())?;
    supervisor.run(achieved.landlock_abi)
}

/// The listening sockets: those of the running switch, or what the service manager passed, or new ones.
fn sockets(
    args: &Args,
    inherited: Option<&mut Inherited>,
    http: Option<Result<Http, String>>,
    passed: &mut PassedSockets,
) -> Result<Sockets, String> {
    if let Some(inherited) = inherited {
        return inherited.sockets((&args.socket, &args.control), &args.streams, args.metrics.zip(http));
    }
    let http = http.transpose()?;
    let mut bind =
        |path: &Path, serves_all| passed.take(path, serves_all).unwrap_or_else(|| Listener::bind(path, args.force));
    let door = bind(&args.socket, true)?;
    // Whatever its permissions say: who may ask here may do everything with the switch.
    let control = bind(&args.control, false).inspect_err(|_| door.remove())?;
    let streams = bind_streams(args, bind).inspect_err(|_| [&door, &control].into_iter().for_each(Listener::remove))?;
    Ok(Sockets { door, streams, control, http })
}

/// The event log, in the form that was asked for.
fn events(args: &Args) -> Result<Events, String> {
    let file = args.log.as_deref().map(event::open_log).transpose()?.zip(args.log.clone());
    let (form, journal) = args.log_format.settle(file.is_some())?;
    let journal = journal.map(|socket| (socket, form::JOURNAL.into()));
    Ok(Events::new(file.or(journal)).written(form, args.verbosity))
}

fn new_ledger() -> std::io::Result<(ForeignFd, LedgerMap)> {
    LedgerMap::create().map(|(fd, map)| (fd.into(), map))
}

fn no_ledger(error: std::io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => {
            "; it is a memory file, so the container or unit that sv3 runs in must allow memfd_create"
        }
        _ => "",
    };
    format!("cannot make the ledger: {error}{why}")
}

/// Binds the doors for streams: all of them, or none.
fn bind_streams(
    args: &Args,
    mut bind: impl FnMut(&Path, bool) -> Result<Listener, String>,
) -> Result<Vec<(Listener, StreamForm)>, String> {
    let mut bound: Vec<(Listener, StreamForm)> = Vec::new();
    for door in &args.streams {
        let remove_all = |_: &String| bound.iter().for_each(|(listener, _)| listener.remove());
        let listener = bind(&door.path, true).inspect_err(remove_all)?;
        bound.push((listener, door.form));
    }
    Ok(bound)
}

fn remove_all(door: &Listener, streams: &[(Listener, StreamForm)], control: &Listener) {
    [door, control].into_iter().chain(streams.iter().map(|(listener, _)| listener)).for_each(Listener::remove);
}

fn too_few_files(most: u64) -> String {
    let least = Budget::LEAST_FILES;
    format!(
        "a limit of {most} open files (`ulimit -Hn`) is too low: sv3 needs {least}, and some 10 more for each port; \
         raise the hard limit (LimitNOFILE= of a unit)"
    )
}

fn too_little_landlock(achieved: u32, wanted: u32) -> String {
    let has = if achieved == 0 { "no landlock".to_string() } else { format!("landlock ABI {achieved}") };
    format!(
        "this kernel has {has}, and --require-landlock asks for ABI {wanted}: boot a newer kernel with landlock \
         enabled (`lsm=landlock,...`), or ask for less"
    )
}

fn announcement(socket: &Path) -> String {
    format!(
        "sv3 is ready. Attach a guest to it with\n  \
         qemu-system-x86_64 ... -m 512M \\\n    \
         -object memory-backend-memfd,id=mem0,size=512M,share=on -machine q35,memory-backend=mem0 \\\n    \
         -chardev socket,id=chr0,path={},reconnect-ms=100 \\\n    \
         -netdev vhost-user,id=net0,chardev=chr0 -device virtio-net-pci,netdev=net0\n\
         (QEMU older than 9.2: reconnect=1 in place of reconnect-ms=100.)\n",
        socket.display()
    )
}
