//! The worker: maps guests' memory, moves their frames, opens nothing.
//!
//! Started by the supervisor with its control socket as stdin. Before the first command it confines itself; the first
//! command brings the ledger; all else is the loop in [`switch`].
#![cfg_attr(test, allow(clippy::duplicate_mod, reason = "models look at files that are modules already"))]

mod affinity;
mod args;
mod bits;
mod burst;
mod checksum;
mod clock;
mod confine;
mod control;
mod copy;
mod cost;
mod crash;
mod deliver;
mod fabric;
mod fdb;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod guest;
mod head;
mod hold;
mod lease;
#[path = "lease/tests.rs"]
mod lease_tests;
mod mapper;
#[cfg(test)]
mod models;
mod notify;
mod offload;
mod points;
mod poller;
mod port;
mod prove;
mod rarp;
mod spin;
mod switch;
mod sync;
mod tally;
mod team;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use sv3::ipc::{Command, Report, VERSION};
use sv3::ledger::LedgerMap;
use sv3::timeslice::TimeSlice;
use sv3::virtio::OFFERED;

use args::Args;
use control::{Control, Over};
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use notify::MAX_EVENTS;
use poller::Room;
use switch::{Start, Switch};
use team::Team;

/// Runs the worker, with the supervisor's socket as stdin; never returns.
pub fn main() -> ! {
    let outcome = match std::env::args_os().nth(1) {
        Some(option) if option == "--prove" => prove::run().map(|()| Over::Closed),
        _ => Args::parse(std::env::args_os().skip(1)).and_then(run),
    };
    match outcome {
        Ok(Over::Closed) => crash::end(0),
        Ok(Over::Broken(reason)) | Err(reason) => last_words(&reason),
    }
}

/// Ends the worker, which cannot go on.
fn last_words(reason: &str) -> ! {
    // A supervisor that ends has closed that, too, which is no reason to panic.
    let _ = writeln!(std::io::stderr(), "sv3-worker: {reason}");
    crash::end(1)
}

fn run(args: Args) -> Result<Over, String> {
    let words = |what: &'static str| move |e: nix::errno::Errno| format!("{what}: {e}");
    if let Some(cpus) = args.cpus.as_ref().filter(|_| args.threads == 1) {
        affinity::bind(cpus.numbers())?;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|e| format!("stdin: {e}"))?;
    socket.set_nonblocking(true).map_err(|e| format!("stdin must be the supervisor's socket: {e}"))?;
    crash::handle_signals().map_err(words("signal handlers"))?;
    let mut control = Control::new(socket);
    let team = Team::new(args.threads).map_err(words("epoll"))?;
    team.notify(0).watch_control(&control).map_err(words("epoll"))?;
    TimeSlice::SHORT.request();
    let achieved = confine::worker(confine::memory(args.threads), || team.muster(args.cpus.as_ref()))?;
    let room = Room::new();

    let start = match first(&mut control, team) {
        Ok(start) => start,
        Err(over) => return Ok(over),
    };
    crash::record_in(start.area);
    if team.threads() == 1 {
        crash::hang_up_after_record(control.as_fd());
    }
    if let Err(over) =
        control.report(Report::ready(achieved.landlock_abi, OFFERED).with_policy(sv3_policy::worker().digest()))
    {
        return Ok(over);
    }
    let start = *team.start.get_or_init(|| start);
    (1..team.threads()).for_each(|number| team.notify(number).nudge());
    Ok(Switch::new(team, &start, control, room).run())
}

/// Waits for the first command, which must be `Start`.
fn first(control: &mut Control, team: &Team) -> Result<Start, Over> {
    let mut events = [EpollEvent::empty(); MAX_EVENTS];
    loop {
        if let Some((envelope, fds)) = control.receive()? {
            let (Command::Start { settings, area, standby }, Some(fd)) = (envelope.command, fds.into_iter().next())
            else {
                return Err(Over::Broken("the first command is not Start".to_string()));
            };
            if settings.version != VERSION {
                return Err(Over::Broken(format!("supervisor speaks version {}, I {VERSION}", settings.version)));
            }
            let map = LedgerMap::map(&fd).map_err(|e| Over::Broken(format!("ledger: {e}")))?;
            let ledger: &LedgerMap = Box::leak(Box::new(map));
            let area = ledger.workers.get(usize::from(area)).ok_or_else(|| Over::Broken(format!("area {area}")))?;
            return Ok(Start { settings, ledger, area, standby });
        }
        // Whatever woke us, the next `receive` says what it was.
        let woken = team.notify(0).wait(&mut events, EpollTimeout::NONE);
        woken.map_err(|errno| Over::Broken(format!("epoll_wait: {errno}")))?.for_each(drop);
    }
}
