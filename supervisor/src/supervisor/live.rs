//! Runs the supervisor turn by turn inside a fuzzer. All of it is real except the spawner: the target `live` of
//! [`crate::fuzz`] plays it. Workers' pids are numbers that no process has.
#![allow(clippy::unwrap_used, reason = "a target panics when something is wrong")]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use sv3::control::ControlRequest;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Settings, VERSION};
use sv3::ledger::{LedgerMap, WorkerArea};

use crate::doors::listener::Listener;
use crate::doors::stream::StreamForm;
use crate::ports::holdings::Holdings;
use crate::service::Service;
use crate::supervisor::{Parts, Supervisor};
use crate::telemetry::event::Events;
use crate::workers::WorkerConfig;
use crate::workers::spawner::Spawner;

/// Above PID_MAX_LIMIT of linux/threads.h: no process has such a pid, so signals reach none.
const NOBODY: i32 = 1 << 23;

/// A supervisor.
pub struct Live {
    supervisor: Supervisor,
    /// The spawner's end.
    spawner: OwnedFd,
    door: PathBuf,
    stream_door: PathBuf,
    /// Pid of the next worker.
    pid: i32,
}

/// What the supervisor asked the spawner for.
pub enum Asked {
    /// A worker, with its end of the link.
    Worker(OwnedFd),
    /// A closer.
    Closer,
}

impl Live {
    /// A supervisor that has asked for its first worker.
    pub fn new() -> Live {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let place = |what: &str| {
            let name = format!("sv3-live-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Relaxed));
            std::env::temp_dir().join(name)
        };
        let bind = |what| Listener::bind(&place(what), true).unwrap();
        let (spawner, theirs) = Spawner::without_process(Pid::from_raw(NOBODY)).unwrap();
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut supervisor = Supervisor::new(Parts {
            door: bind("door"),
            streams: vec![(bind("stream"), StreamForm::PLAIN)],
            control: bind("control"),
            spawner,
            workers: WorkerConfig {
                settings: Settings { version: VERSION, poll_us: 0, batch: 64, snooping: None },
                path: "/nowhere".into(),
                threads: 1,
                cpus: None,
                standby: true,
                role: sv3_policy::WorkerRole::Plain,
                require_landlock: 0,
            },
            blame: 3,
            chaos: None,
            // With SV3_FUZZ_LOG, events go to stderr.
            events: Events::new(std::env::var_os("SV3_FUZZ_LOG").is_none().then(|| (null, "/dev/null".into()))),
            http: None,
            announcement: None,
            signals: SigSet::empty(),
            ledger: LedgerMap::create().map(|(fd, map)| (fd.into(), map)).unwrap(),
            inherited: None,
            given: None,
            lent: Vec::new(),
            service: Service::default(),
        })
        .unwrap();
        supervisor.start_worker();
        let door = supervisor.doors.front.listener().path().to_path_buf();
        let streams = supervisor.doors.of_clients().find(|door| door.form().is_some());
        let stream_door = streams.unwrap().listener().path().to_path_buf();
        Live { supervisor, spawner: theirs, door, stream_door, pid: NOBODY }
    }

    /// Path of the front door.
    pub fn door(&self) -> &Path {
        &self.door
    }

    /// Path of the door for streams.
    pub fn stream_door(&self) -> &Path {
        &self.stream_door
    }

    /// Attaches a port of open files, in the words of the control socket. Returns whether it has.
    pub fn attach(&mut self, words: &str, fds: Vec<OwnedFd>) -> bool {
        let fds = fds.into_iter().map(ForeignFd::from).collect();
        let Some(ControlRequest::Attach(attachment)) = ControlRequest::parse(words) else { return false };
        self.supervisor.attach(attachment, fds, (NOBODY, 0)).is_ok()
    }

    /// Detaches a port.
    pub fn detach(&mut self, name: &str) {
        let _ = self.supervisor.detach_files(name);
    }

    /// Much time passes for ports whose other side has hung up.
    pub fn end_hung_up(&mut self) {
        self.supervisor.end_hung_up(Instant::now() + Duration::from_secs(3600));
    }

    /// One turn of its loop, without a wait.
    pub fn turn(&mut self) {
        self.supervisor.turn(false).unwrap();
        let over = self.supervisor.over.take();
        assert!(over.is_none(), "it gave up: {over:?}");
    }

    /// The next request that the spawner has not answered.
    pub fn asked(&mut self) -> Option<Asked> {
        // Discards the packets: they say the same.
        let _ = rustix::net::recv(&self.spawner, &mut [0; 1 << 16], rustix::net::RecvFlags::DONTWAIT);
        Some(match self.supervisor.workers.children.next_asked()? {
            Some(socket) => Asked::Worker(socket.try_clone_to_owned().unwrap()),
            None => Asked::Closer,
        })
    }

    /// Answers for the spawner: a new worker's pid, or that it could not be started.
    pub fn answer(&mut self, born: bool) -> i32 {
        self.pid += 1;
        let answer = if born { self.pid } else { -libc::EAGAIN };
        nix::unistd::write(&self.spawner, &answer.to_ne_bytes()).unwrap();
        self.supervisor.read_spawner();
        self.pid
    }

    /// The kernel reports that a worker is dead.
    pub fn died(&mut self, pid: i32, signal: Signal) {
        let pid = Pid::from_raw(pid);
        self.supervisor.lost(pid, WaitStatus::Signaled(pid, signal, false));
    }

    /// Whether the supervisor has killed a worker.
    pub fn is_to_be_dead(&self, pid: i32) -> bool {
        let own = self.supervisor.workers.both().find(|worker| worker.pid == Some(Pid::from_raw(pid)));
        own.is_none_or(|worker| worker.kill_reason().is_some())
    }

    /// The part of the ledger that a worker writes.
    pub fn area(&self, area: u8) -> Option<&WorkerArea> {
        self.supervisor.workers.area(area)
    }

    /// The slots that clients have.
    pub fn taken(&self) -> Vec<u16> {
        self.supervisor.clients.slots.taken()
    }

    /// Panics unless all slots are free and nothing is held.
    pub fn assert_empty(&self) {
        let slots = &self.supervisor.clients.slots;
        assert!(slots.count() == 0 && slots.leaving() == 0, "slots are lost");
        assert_eq!(slots.pending().count(), 0, "pending clients are left");
        assert_eq!(slots.free_slot(), Some(0));
        let budget = &self.supervisor.clients.budget;
        assert_eq!((budget.held(), budget.pending_unmaps.all()), (Holdings::NONE, 0), "the budget is wrong");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.supervisor.doors.remove();
    }
}
