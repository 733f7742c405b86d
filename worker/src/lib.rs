//! The worker: it maps the memory of guests, moves their frames, and opens nothing.
//!
//! The supervisor starts the worker and gives it its end of the control socket as stdin. Before the first command the
//! worker confines itself. The first command brings the ledger. From then on the worker runs the loop of [`poll`].
#![cfg_attr(test, allow(clippy::duplicate_mod, reason = "models look at files that are modules already"))]

mod args;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod memory;
mod nic;
mod poll;
mod port;
mod process;
mod sync;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use sv3::ipc::{Command, Report, VERSION};
use sv3::ledger::LedgerMap;
use sv3::timeslice::TimeSlice;
use sv3::virtio::OFFERED;
use sv3_policy::WorkerRole;

use args::Args;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use poll::control_thread::ControlThread;
use poll::notify::MAX_EVENTS;
use poll::poller::{Buffers, Poller};
use poll::start::Start;
use poll::threads::Threads;
use process::link::{Link, LinkEnd};

/// Runs the worker with the supervisor's socket as stdin. Never returns.
pub fn main() -> ! {
    let outcome = match std::env::args_os().nth(1) {
        Some(option) if option == "--prove" => {
            let role = std::env::args_os().find_map(|option| WorkerRole::of_option(&option.to_string_lossy()));
            process::prove::run(role.unwrap_or_default()).map(|()| LinkEnd::Closed)
        }
        _ => Args::parse(std::env::args_os().skip(1)).and_then(run),
    };
    match outcome {
        Ok(LinkEnd::Closed) => process::crash::end(0),
        Ok(LinkEnd::Broken(reason)) | Err(reason) => process::crash::last_words(&reason),
    }
}

fn run(args: Args) -> Result<LinkEnd, String> {
    let words = |what: &'static str| move |e: nix::errno::Errno| format!("{what}: {e}");
    if let Some(cpus) = args.cpus.as_ref().filter(|_| args.threads == 1) {
        process::affinity::bind(cpus.numbers())?;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|e| format!("stdin: {e}"))?;
    socket.set_nonblocking(true).map_err(|e| format!("stdin must be the supervisor's socket: {e}"))?;
    process::crash::handle_signals().map_err(words("signal handlers"))?;
    let mut control = Link::new(socket);
    let threads = Threads::new(args.threads).map_err(words("epoll"))?;
    threads.first().watch_control(&control).map_err(words("epoll"))?;
    TimeSlice::SHORT.request();
    let achieved = process::confine::worker(process::confine::memory(args.threads), args.role, || {
        threads.spawn_all(args.cpus.as_ref(), Poller::live)
    })?;
    let buffers = Buffers::new();

    let start = match first(&mut control, threads, args.role) {
        Ok(start) => start,
        Err(over) => return Ok(over),
    };
    process::crash::record_in(start.area);
    if threads.count() == 1 {
        process::crash::hang_up_after_record(control.as_fd());
    }
    if let Err(over) = control
        .report(Report::ready(achieved.landlock_abi, OFFERED).with_policy(sv3_policy::worker(args.role).digest()))
    {
        return Ok(over);
    }
    let start = *threads.start.get_or_init(|| start);
    (1..threads.count()).for_each(|number| threads.notify(number).nudge());
    Ok(ControlThread::new(threads, &start, control, buffers).run())
}

/// Waits for the first command, which must be `Start`.
fn first(control: &mut Link, threads: &Threads, role: WorkerRole) -> Result<Start, LinkEnd> {
    let mut events = [EpollEvent::empty(); MAX_EVENTS];
    loop {
        if let Some((envelope, fds)) = control.receive()? {
            let (Command::Start { settings, area, standby }, Some(fd)) = (envelope.command, fds.into_iter().next())
            else {
                return Err(LinkEnd::Broken("the first command is not Start".to_string()));
            };
            if settings.version != VERSION {
                return Err(LinkEnd::Broken(format!(
                    "the supervisor has contract version {}, this worker {VERSION}",
                    settings.version
                )));
            }
            let map = LedgerMap::map(&fd).map_err(|e| LinkEnd::Broken(format!("ledger: {e}")))?;
            let ledger: &LedgerMap = Box::leak(Box::new(map));
            let area = ledger.workers.get(usize::from(area)).ok_or_else(|| LinkEnd::Broken(format!("area {area}")))?;
            return Ok(Start { settings, ledger, area, standby, role });
        }
        // The next `receive` finds out what woke the thread.
        let woken = threads.first().wait(&mut events, EpollTimeout::NONE);
        woken.map_err(|errno| LinkEnd::Broken(format!("epoll_wait: {errno}")))?.for_each(drop);
    }
}
