//! The succession of workers: a worker is started, gets the replay, serves, dies, and the next one follows.
//!
//! While one worker serves, another is on standby: it is confined, has executed the same commands, and has every
//! client's memory mapped. When the first dies, [`Command::Promote`] makes the second serve, and a third is started as
//! the next standby. Without a standby (`--no-standby`, or deaths that come faster than starts) the next worker is
//! started when it is needed and gets the same commands, which only takes longer. If a standby cannot execute a command
//! about a port, it goes on without the port, and is told of the port again before it serves.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use sv3::ipc::Command;

use crate::ports::port::Replay;
use crate::reactor::Reactor;
use crate::token::Token;
use crate::workers::Workers;
use crate::workers::command::WorkerCommand;
use crate::workers::cpu_time::Moment;
use crate::workers::observers::Observers;
use crate::workers::spawner::Program;
use crate::workers::starts::Starts;
use crate::workers::worker::{Waiter, Worker};

/// The next standby is started this long after a death. Its start takes a processor for a millisecond or two, and
/// frames that wait in the rings come first.
const BREATH: Duration = Duration::from_millis(10);
/// After a standby died or could not be started, no new one is started during this time.
const STANDBY_PAUSE: Duration = Duration::from_secs(1);

/// The state that outlives each worker.
pub struct Succession {
    /// No standby is started before.
    standby_pause: Option<Instant>,
    /// When the next serving worker may be started.
    next_start: Option<Instant>,
    restarts: u64,
    /// Why the last one died, for status.
    pub last_death: Option<String>,
    crashes_in_a_row: u32,
    starts: Starts,
    /// Since when no worker serves, and the pid of the worker that died then, if one had a process.
    gap: Option<(Instant, Option<Pid>)>,
    served: bool,
}

/// A completed take-over.
pub struct TakeOver {
    /// The new worker's pid.
    pub pid: Pid,
    /// The gap before, and the pid of the worker that died, if one had a process.
    pub gap: Option<(Duration, Option<Pid>)>,
    /// It is the first worker.
    pub is_first: bool,
}

/// How the next worker is found.
pub enum Next {
    /// The standby serves, or a worker was asked for, or one is started as soon as that is allowed.
    Found,
    /// A worker could not be started.
    CouldNotStart(io::Error),
}

impl Succession {
    /// No worker yet.
    pub fn new() -> Succession {
        Succession {
            standby_pause: None,
            next_start: None,
            restarts: 0,
            last_death: None,
            crashes_in_a_row: 0,
            starts: Starts::new(Instant::now()),
            gap: None,
            served: false,
        }
    }

    /// Workers that died and were replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Goes on with the counts of the last supervisor.
    pub fn inherit(&mut self, restarts: u64, last_death: Option<String>) {
        (self.restarts, self.last_death) = (restarts, last_death);
    }

    /// The last supervisor's worker has served.
    pub fn begin_to_serve(&mut self) {
        self.served = true;
    }

    /// Whether a worker has served since the supervisor started.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// When to start the next serving worker.
    pub fn next_start(&self) -> Option<Instant> {
        self.next_start
    }

    /// When to start the next standby.
    pub fn next_standby(&self) -> Option<Instant> {
        self.standby_pause
    }

    /// Ends the pause: the next standby may be started.
    pub fn end_standby_pause(&mut self) {
        self.standby_pause = None;
    }

    /// A standby is lost: starts no other one for a while.
    pub fn pause_standby(&mut self) {
        self.standby_pause = Some(Instant::now() + STANDBY_PAUSE);
    }

    /// The serving worker is dead. If a gap is open already, this worker never took over.
    pub fn worker_died(&mut self, when: Instant, pid: Option<Pid>) {
        if self.gap.replace(self.gap.unwrap_or((when, pid))).is_some() {
            self.starts.failed(when);
        }
    }

    /// No worker could be started.
    pub fn could_not_start(&mut self, now: Instant) {
        self.gap.get_or_insert((now, None));
        self.starts.failed(now);
    }

    /// Ends a row of crashes, because a worker served for long.
    pub fn end_crashes(&mut self) {
        self.crashes_in_a_row = 0;
    }

    /// Counts a death. Returns how many there were in a row, and the delay of the next start.
    pub fn count_crash(&mut self, now: Instant) -> (u32, Duration) {
        self.crashes_in_a_row = self.crashes_in_a_row.saturating_add(1);
        (self.crashes_in_a_row, self.starts.due(now).saturating_duration_since(now))
    }
}

impl Workers {
    /// Starts a worker to serve.
    pub fn start<'p>(
        &mut self,
        ports: impl Iterator<Item = &'p dyn Replay> + Clone,
        reactor: &Reactor,
    ) -> io::Result<()> {
        self.succession.next_start = None;
        let mut worker = self.bring_up(self.handover.program(), ports.clone(), reactor)?;
        promote(&mut worker, ports, &self.observers);
        self.serving = Some(worker);
        Ok(())
    }

    /// Starts a standby, if one is wanted, there is none, and one may be started.
    pub fn start_standby<'p>(
        &mut self,
        ports: impl Iterator<Item = &'p dyn Replay>,
        reactor: &Reactor,
    ) -> io::Result<()> {
        let serves = self.serving.as_ref().is_some_and(|worker| worker.ready.is_some() && !worker.has_hung_up());
        if !serves || !self.config.standby || self.standby.is_some() || self.succession.standby_pause.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let due = self.succession.starts.due(now);
        if due > now {
            self.succession.standby_pause = Some(due);
            return Ok(());
        }
        self.start_successor(self.handover.program(), ports, reactor)
    }

    /// Starts a standby that runs this program.
    pub fn start_successor<'p>(
        &mut self,
        program: Program,
        ports: impl Iterator<Item = &'p dyn Replay>,
        reactor: &Reactor,
    ) -> io::Result<()> {
        self.standby = Some(self.bring_up(program, ports, reactor)?);
        Ok(())
    }

    /// Asks for a worker, in the area of the ledger that the other worker does not use, and queues the replay for it.
    ///
    /// A worker that is to serve at once also starts on standby, until it has been told of all ports. Otherwise it
    /// might forward a frame from the first port before it knows the second.
    fn bring_up<'p>(
        &mut self,
        program: Program,
        ports: impl Iterator<Item = &'p dyn Replay>,
        reactor: &Reactor,
    ) -> io::Result<Worker> {
        self.succession.starts.take(Instant::now());
        let area = u8::from(self.spared == Some(0) || self.both().any(|worker| worker.area == 0));
        if let Some(own) = self.area(area) {
            own.clear(self.config.threads.into());
        }
        let (mut worker, mut starting) = Worker::not_started(program, area)?;
        worker.role = self.config.role;
        reactor.watch(&worker.link, Token::Link(area), worker.interest)?;
        reactor.watch(&worker.stderr, Token::Stderr(area), EpollFlags::EPOLLIN)?;
        let command = Command::Start { settings: self.config.settings, area, standby: true };
        worker.queue_inherited([WorkerCommand::with_fd(command, self.ledger_fd.clone())], &mut starting);
        for port in ports {
            worker.queue_inherited(port.replay(), &mut starting);
        }
        worker.queue_inherited(self.addresses.replay(), &mut starting);
        worker.queue_inherited(self.observers.replay(), &mut starting);
        self.closers.pause(true);
        starting.ask(&mut self.spawner, program, self.config.role)?;
        self.children.asked_for_worker(starting);
        Ok(worker)
    }

    /// Lets the standby serve. Without a standby, starts another worker as soon as that is allowed.
    pub fn replace<'p>(&mut self, ports: impl Iterator<Item = &'p dyn Replay> + Clone, reactor: &Reactor) -> Next {
        let standby = match self.dismiss_unproven() {
            true => None,
            false => self.standby.take().filter(|worker| worker.kill_reason().is_none() && !worker.has_hung_up()),
        };
        if let Some(mut worker) = standby {
            self.succession.next_start = None;
            promote(&mut worker, ports, &self.observers);
            self.serving = Some(worker);
            self.flush_links(reactor);
            return Next::Found;
        }
        let now = Instant::now();
        let due = self.succession.starts.due(now);
        if due > now {
            self.succession.next_start = Some(due);
            return Next::Found;
        }
        self.start(ports, reactor).map_or_else(Next::CouldNotStart, |()| Next::Found)
    }

    /// Completes the take-over, if the worker has reached the barrier after its promotion. The worker may have been
    /// faster than the spawner's answer; then this completes when the answer has come.
    pub fn take_over(&mut self) -> Option<TakeOver> {
        let worker = self.serving.as_mut().filter(|worker| worker.took_over)?;
        let pid = worker.pid?;
        worker.took_over = false;
        let number = worker.area;
        self.succession.starts.succeeded();
        // A worker reports when it wakes. But under traffic it may not have slept since its promotion, so the watch
        // begins here.
        if let Some(area) = self.ledger.workers.get(usize::from(number)) {
            self.watch.dog.watch(area, Moment::of(Some(pid)));
        }
        let gap = self.succession.gap.take().map(|(since, before)| (since.elapsed(), before));
        if gap.is_some() {
            self.succession.restarts += 1;
            self.succession.standby_pause.get_or_insert_with(|| Instant::now() + BREATH);
        }
        let is_first = !std::mem::replace(&mut self.succession.served, true);
        Some(TakeOver { pid, gap, is_first })
    }
}

/// Promotes a worker that has got the replay.
fn promote<'p>(worker: &mut Worker, ports: impl Iterator<Item = &'p dyn Replay> + Clone, observers: &Observers) {
    let mut forgot = false;
    // Ports that it went on without are told again, before it moves a frame.
    for port in ports.clone().filter(|port| !port.is_waiting()) {
        if worker.lacks(port.port().slot).is_some() {
            worker.send(port.replay(), Waiter::Nobody);
            forgot = true;
        }
    }
    // A port that is told again is in no capture and no mirror.
    if forgot {
        worker.send(observers.replay(), Waiter::Nobody);
    }
    worker.promote();
    // A client that waits for a ring's base now waits for this worker, which has to start the ring for that.
    for port in ports.filter(|port| port.is_waiting()) {
        worker.send([port.remove()], Waiter::Nobody);
        worker.send(port.replay(), Waiter::Session(port.port().slot));
        worker.send(observers.replay(), Waiter::Nobody);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use sv3::ipc::{Settings, VERSION};
    use sv3::ledger::LedgerMap;

    use super::*;
    use crate::ports::memory::MemoryPort;
    use crate::timers::Timers;
    use crate::workers::WorkerConfig;
    use crate::workers::children::News;
    use crate::workers::spawner::Spawner;

    /// No process has this pid (PID_MAX_LIMIT of linux/threads.h).
    const NOBODY: i32 = 1 << 23;

    fn ports(ports: &[MemoryPort]) -> impl Iterator<Item = &dyn Replay> + Clone {
        ports.iter().map(|port| port as &dyn Replay)
    }

    fn workers() -> (Workers, Reactor, OwnedFd) {
        let (spawner, theirs) = Spawner::without_process(Pid::from_raw(NOBODY)).unwrap();
        let config = WorkerConfig {
            settings: Settings { version: VERSION, poll_us: 0, batch: 64, snooping: None },
            path: "/nowhere".into(),
            threads: 1,
            cpus: None,
            standby: true,
            role: sv3_policy::WorkerRole::Plain,
            require_landlock: 0,
        };
        let ledger = LedgerMap::create().map(|(fd, map)| (fd.into(), map)).unwrap();
        (Workers::new(config, spawner, ledger, None).unwrap(), Reactor::new().unwrap(), theirs)
    }

    /// The spawner starts the worker that it was asked for. Returns the worker's end of its link.
    fn born(workers: &mut Workers, spawner: &OwnedFd, pid: i32) -> UnixStream {
        let socket = workers.children.next_asked().unwrap().unwrap().try_clone_to_owned().unwrap();
        nix::unistd::write(spawner, &pid.to_ne_bytes()).unwrap();
        assert!(matches!(workers.read_spawner(), News::Started(_, None)));
        UnixStream::from(socket)
    }

    #[test]
    fn the_standby_follows_the_worker_and_has_been_told_the_same() {
        let (mut workers, reactor, spawner) = workers();
        let told = [MemoryPort::new(3)];
        workers.start(ports(&told), &reactor).unwrap();
        born(&mut workers, &spawner, NOBODY + 1);
        assert!(workers.take_over().is_none());
        let first = workers.serving.as_mut().unwrap();
        assert!(first.became_ready(7, 0));
        first.took_over = true;
        let TakeOver { gap, is_first, .. } = workers.take_over().unwrap();
        assert!(gap.is_none() && is_first);

        workers.start_standby(ports(&told), &reactor).unwrap();
        let mut link = born(&mut workers, &spawner, NOBODY + 2);
        workers.flush_links(&reactor);
        let mut octets = [0; 4096];
        assert!(link.read(&mut octets).unwrap() > 0);
        let areas: Vec<u8> = workers.both().map(|worker| worker.area).collect();
        assert_eq!(areas, [0, 1]);

        let now = Instant::now();
        let dead = workers.serving.take().unwrap();
        workers.succession.worker_died(now, dead.pid);
        assert!(matches!(workers.replace(ports(&told), &reactor), Next::Found));
        let second = workers.serving.as_mut().unwrap();
        assert!(second.serving.is_some() && workers.standby.is_none());
        second.took_over = true;
        let TakeOver { pid, gap, is_first } = workers.take_over().unwrap();
        assert_eq!((pid.as_raw(), gap.unwrap().1, is_first), (NOBODY + 2, dead.pid, false));
        // The next standby is started after a pause.
        assert_eq!(workers.succession.restarts(), 1);
        assert!(workers.succession.next_standby().is_some_and(|due| due > now) && workers.deadline().is_some());
    }

    #[test]
    fn workers_that_die_in_a_row_are_followed_ever_later() {
        let (mut workers, reactor, _spawner) = workers();
        let starts = (0..30).map_while(|_| {
            workers.serving = None;
            match workers.replace(ports(&[MemoryPort::new(3)]), &reactor) {
                Next::Found => workers.serving.as_ref().map(|worker| worker.area),
                Next::CouldNotStart(error) => panic!("{error}"),
            }
        });
        let starts = starts.count();
        assert!((10..30).contains(&starts), "{starts} starts at once");
        assert!(workers.succession.next_start().is_some_and(|due| due > Instant::now()));
    }
}
