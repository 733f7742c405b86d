//! `sv3-supervisor`: the process that owns sockets, names and fds.
//!
//! It accepts clients, speaks vhost-user with them, and gives their memory and eventfds to a worker. It can replace the
//! worker at any moment, and clients do not notice. [`supervisor`] describes how it runs.

mod ancillary;
mod args;
mod clients;
mod confine;
mod doors;
mod fd_inventory;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod ports;
mod prove;
mod reactor;
mod signals;
mod supervisor;
mod telemetry;
mod timers;
mod token;
mod workers;

use std::path::Path;
use std::process::ExitCode;

use args::Args;
use clients::budget::Budget;
use doors::http::Http;
use doors::listener::Listener;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use supervisor::{Parts, Supervisor};
use sv3::timeslice::TimeSlice;
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
    workers::spawner::close_inherited()?;
    TimeSlice::SHORT.request();
    let signals = signals::taken();
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let fail = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail("cannot read RLIMIT_NOFILE"))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(fail("cannot raise RLIMIT_NOFILE"))?;
    if usize::try_from(most).is_ok_and(|most| most < Budget::LEAST_FILES) {
        return Err(too_few_files(most));
    }
    // A confined process cannot bind a TCP socket. The spawner inherits this one and closes it when it ends.
    let http = args.metrics.map(Http::bind).transpose()?;
    let achieved = confine::family()?.landlock_abi;
    if achieved < args.require_landlock {
        return Err(too_little_landlock(achieved, args.require_landlock));
    }
    let spawner = Spawner::clone(&args.worker, &args.of_worker(), args.log.as_deref())?;
    let log = args.log.as_deref().map(telemetry::event::open_log).transpose()?.zip(args.log.clone());
    let door = Listener::bind(&args.socket, args.force)?;
    let control = Listener::bind(&args.control, args.force).inspect_err(|_| door.remove())?;
    let announcement = announcement(&args.socket);
    let workers = WorkerConfig {
        settings: args.settings,
        path: args.worker.clone(),
        threads: args.threads,
        cpus: args.cpus.map(|cpus| cpus.to_string()),
        standby: args.standby,
        files: false,
        require_landlock: args.require_landlock,
    };
    let (blame, chaos) = (args.blame, args.chaos);
    let parts = Parts { door, control, http, signals, spawner, workers, chaos, blame, log, announcement };
    let remove_sockets = || [&args.socket, &args.control].map(std::fs::remove_file);
    let supervisor = Supervisor::new(parts).map_err(|error| format!("cannot start: {error}"));
    let supervisor = supervisor.inspect_err(|_| drop(remove_sockets()))?;
    let dirs: Vec<&Path> = [&args.socket, &args.control].into_iter().filter_map(|path| path.parent()).collect();
    let achieved = confine::supervisor(&dirs).inspect_err(|_| drop(remove_sockets()))?;
    supervisor.run(achieved.landlock_abi)
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
