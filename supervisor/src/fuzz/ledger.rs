//! Target `ledger`: a hostile worker's ledger, and all code that reads it: deaths, blame, status, metrics, events.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use sv3::MAX_PORTS;
use sv3::fuzz::Input;
use sv3::ledger::{Crash, FRAME_HEAD, LedgerMap, PortCounters, WorkerArea};
use sv3::status::{Status, SupervisorStatus, WorkerStatus};

use crate::clients::client::Client;
use crate::doors::listener::Peer;
use crate::telemetry::crash_log::CrashLog;
use crate::telemetry::event::Events;
use crate::workers::cpu_time::Moment;
use crate::workers::death::{Death, Evidence, client_to_blame};
use crate::workers::watchdog::Watchdog;

/// Octets: how the worker died (2), the crash record (64 and its message), trace entries, the port's counters.
pub fn ledger(octets: &[u8]) {
    thread_local! {
        static LEDGER: LedgerMap = LedgerMap::create().unwrap().1;
    }
    LEDGER.with(|ledger| {
        let mut input = Input::new(octets);
        let status = status(&mut input);
        let [area, _] = &ledger.workers;
        write_lane(area, &mut input);
        write_line(&ledger.ports[0], &mut input);

        let kill_reason = (input.below(4) == 0).then_some("it did not execute a command in time");
        let at = Evidence::new(area, (input.below(4) == 0).then_some(input.below(100)));
        let death = Death::read(status, at, kill_reason);
        assert!(death.words.chars().count() < 2000 && !death.words.contains(char::is_control), "{:?}", death.words);
        assert!(death.frame.as_ref().is_none_or(|frame| frame.len() == 2 * FRAME_HEAD));
        assert!(
            [false, true]
                .iter()
                .all(|hung| client_to_blame(status, at, *hung).is_none_or(|slot| usize::from(slot) < MAX_PORTS))
        );
        watch(area);
        show(ledger, &death);
    });
}

fn status(input: &mut Input<'_>) -> WaitStatus {
    let (pid, code) = (Pid::from_raw(2), i32::from(input.u8()));
    match input.below(4) {
        0 => WaitStatus::Exited(pid, code),
        _ => WaitStatus::Signaled(pid, Signal::try_from(code).unwrap_or(Signal::SIGSEGV), code & 0x80 != 0),
    }
}

fn write_lane(area: &WorkerArea, input: &mut Input<'_>) {
    let Crash {
        signal,
        thread,
        code,
        addr,
        ip,
        syscall,
        fault_port,
        fault_region,
        has_frame,
        frame_head,
        message_len,
        message,
    } = &area.crash;
    for word in [signal, code, syscall] {
        word.store(input.u32() as i32, Relaxed);
    }
    let [first, other, ..] = &area.threads;
    for long in [addr, ip, fault_region, &first.heartbeat, &first.slept, &first.bursts] {
        long.store(input.u64(), Relaxed);
    }
    for word in [fault_port, has_frame, message_len, &first.port, &first.ring] {
        word.store(input.u32(), Relaxed);
    }
    for octet in frame_head {
        octet.store(input.u8(), Relaxed);
    }
    let count = input.below(256);
    let text = input.take(count);
    for (at, octet) in message.iter().enumerate() {
        octet.store(text.get(at % text.len().max(1)).copied().unwrap_or(0), Relaxed);
    }
    thread.store(input.u32(), Relaxed);
    for word in [&other.port, &other.ring] {
        word.store(input.u32(), Relaxed);
    }
    other.slept.store(input.u64(), Relaxed);
    for flight in first.trace.iter().take(4) {
        flight.when_ns.store(input.u64(), Relaxed);
        flight.what.store(input.u64(), Relaxed);
    }
}

fn write_line(line: &PortCounters, input: &mut Input<'_>) {
    let counters = [&line.from_guest_frames, &line.from_guest_bytes, &line.to_guest_frames, &line.to_guest_bytes];
    for counter in counters.into_iter().chain([&line.calls, &line.kicks, &line.paused.ns]).chain(&line.drops) {
        counter.store(input.u64(), Relaxed);
    }
    for ring in &line.rings {
        ring.used.store(input.u64(), Relaxed);
    }
}

/// Whatever the threads' clocks say, the watchdog finds a thread that is awake, runs and makes no progress.
fn watch(area: &WorkerArea) {
    let (mut watchdog, start) = (Watchdog::new(2), Instant::now());
    let awake = area.threads.iter().take(2).filter(|thread| thread.sleep_clock().is_awake()).count() as u32;
    let at = |step: u32| {
        let passed = Duration::from_millis(100) * step;
        Moment { now: start + passed, monotonic_ns: passed.as_nanos() as u64, cpu: passed * awake }
    };
    watchdog.wake(area, at(0));
    let hangs = (1..20).any(|step| watchdog.look(area, at(step)).is_some());
    assert_eq!(hangs, awake > 0);
}

/// Everything that is shown has the right form and a bounded length.
fn show(ledger: &LedgerMap, death: &Death) {
    let mut crash_log = CrashLog::default();
    let crash = crash_log.died(Instant::now(), (Some(2), Duration::from_secs(1)), death);
    crash_log.took_over(Instant::now(), 1);

    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    let mut events = Events::new(Some((File::from(write), "pipe".into())));
    let (message, fields) = crate::workers::death::event(&crash);
    events.say_with("crash", message, fields);
    assert_eq!(events.lost_ever(), 0, "no event of a worker's death was written");
    drop(events);
    let mut lines = String::new();
    File::from(read).read_to_string(&mut lines).unwrap();
    assert!(lines.ends_with('\n') && lines.lines().count() == 1);
    for line in lines.lines() {
        assert!(line.len() < 4096 && serde_json::from_str::<serde_json::Value>(line).unwrap().is_object());
    }

    let stream = UnixStream::pair().unwrap().0;
    let port = Client::new(
        0,
        0,
        Peer { stream: std::rc::Rc::new(std::os::fd::OwnedFd::from(stream).into()), pid: 3, uid: 4, is_lent: false },
    );
    let status = Status {
        protocol: sv3::control::PROTOCOL,
        declared: Vec::new(),
        pending_clients: 0,
        captures: Vec::new(),
        mirrors: Vec::new(),
        flaps: Vec::new(),
        version: String::new(),
        supervisor: SupervisorStatus { pid: 1, uptime_s: 0, landlock_abi: 7 },
        worker: WorkerStatus {
            pid: None,
            standby_pid: None,
            uptime_s: 0,
            restarts: 1,
            last_death: Some(death.words.clone()),
            landlock_abi: 7,
            threads: 1,
            cpus: None,
            cpu_ms: None,
        },
        socket: String::new(),
        ports: crate::telemetry::status::port(&port, ledger).into_iter().collect(),
    };
    serde_json::from_slice::<Status>(&serde_json::to_vec(&status).unwrap()).unwrap();
    let crashes = crash_log.crashes();
    let again: sv3::status::Crashes = serde_json::from_slice(&serde_json::to_vec(&crashes).unwrap()).unwrap();
    assert_eq!(again.crashes, crashes.crashes);
    let text = crate::telemetry::metrics::render(&status, &crash_log, 0);
    assert!(text.ends_with("# EOF\n"));
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = sample.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite() && sample.is_ascii(), "{sample}");
    }
}
