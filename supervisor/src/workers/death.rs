//! Explains a worker's death from its exit status and the ledger. The ledger may be hostile: its numbers are compared
//! and shown, and never used as indices or sizes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::Value;
use sv3::ipc::{LOG_GUEST_ADDR, Settings};
use sv3::ledger::{THREADS, ThreadState, WorkerArea};
use sv3::status::{self, Burst, Fault, Serving};
use sv3::{MAX_PORTS, MAX_RINGS};

/// The evidence of a death.
#[derive(Clone, Copy)]
pub struct Evidence<'l> {
    area: &'l WorkerArea,
    thread: Option<usize>,
    state: &'l ThreadState,
    names: Option<&'l Names>,
}

/// The names of ports that have others than their slots', by slot.
pub type Names = BTreeMap<u16, String>;

impl<'l> Evidence<'l> {
    /// The evidence in a worker's area. The thread is `hung`, if the worker was killed because that thread hung;
    /// otherwise the thread that wrote the crash record; otherwise the first thread that was serving a ring.
    pub fn new(area: &'l WorkerArea, hung: Option<usize>) -> Evidence<'l> {
        let recorded = (area.crash.signal.load(Relaxed) != 0).then(|| area.crash.thread.load(Relaxed));
        let died = recorded.and_then(|thread| usize::try_from(thread).ok());
        let thread = hung.or(died).filter(|thread| *thread < THREADS);
        let at_work = || area.threads.iter().position(|thread| thread.port.load(Relaxed) != 0);
        // If no thread was serving a ring, takes the first one.
        let [first, ..] = &area.threads;
        let state = thread.or_else(at_work).and_then(|number| area.thread(number)).unwrap_or(first);
        Evidence { area, thread, state, names: None }
    }

    /// The same; ports have these names.
    pub fn with(self, names: &'l Names) -> Evidence<'l> {
        Evidence { names: Some(names), ..self }
    }

    fn name(&self, slot: u16) -> String {
        self.names.and_then(|names| names.get(&slot)).cloned().unwrap_or(format!("p{slot}"))
    }

    /// The ledger has slots plus one, and 0 for none.
    fn port_name(&self, slot_plus_one: u32) -> Option<String> {
        let slot = u16::try_from(slot_plus_one.checked_sub(1)?).ok()?;
        (usize::from(slot) < MAX_PORTS).then(|| self.name(slot))
    }
}

/// Why a worker died.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// The cause, in words for people.
    pub words: String,
    /// The syscall that the seccomp policy forbids, if that was it.
    pub violation: Option<String>,
    /// The signal, by name.
    pub signal: Option<&'static str>,
    /// The status that it exited with.
    pub exit_code: Option<i32>,
    /// The supervisor killed it.
    pub killed_by_us: bool,
    /// What it could not access.
    pub fault: Option<Fault>,
    /// Its panic message.
    pub panic: Option<String>,
    /// Number of the thread that died or hung; `None` if the worker was killed from outside.
    pub thread: Option<usize>,
    /// The ring that was being served.
    pub serving: Option<Serving>,
    /// The first octets of the current chain, in hexadecimal.
    pub frame: Option<String>,
    /// The last bursts, newest first.
    pub trace: Vec<Burst>,
}

impl Death {
    /// Reads a death from the exit status, the evidence, and the reason if the supervisor killed the worker.
    pub fn read(status: WaitStatus, evidence: Evidence<'_>, kill_reason: Option<&str>) -> Death {
        let Evidence { area, thread, state, .. } = evidence;
        let mut words = match (status, kill_reason) {
            (_, Some(kill_reason)) => format!("killed by the supervisor: {kill_reason}"),
            (WaitStatus::Exited(_, code), None) => format!("exited with status {code}"),
            (WaitStatus::Signaled(_, signal, _), None) => format!("killed by {}", first(signal, area)),
            (other, None) => format!("ended: {other:?}"),
        };
        let mut death = Death { killed_by_us: kill_reason.is_some(), thread, ..Death::default() };
        match status {
            WaitStatus::Exited(_, code) => death.exit_code = Some(code),
            WaitStatus::Signaled(_, signal, _) => death.signal = Some(first(signal, area).as_str()),
            _ => {}
        }
        if let WaitStatus::Signaled(_, signal, _) = status
            && area.crash.signal.load(Relaxed) == signal as i32
            && area.crash.code.load(Relaxed) > 0
        {
            match signal {
                Signal::SIGSYS => {
                    let name = syscall_name(area.crash.syscall.load(Relaxed));
                    words += &format!(" for the syscall {name}");
                    death.violation = Some(name);
                }
                Signal::SIGSEGV | Signal::SIGBUS => {
                    let fault = fault(evidence);
                    words += &fault_words(&fault, area.crash.ip.load(Relaxed));
                    death.fault = Some(fault);
                }
                _ => {}
            }
        }
        if let Some(port) = evidence.port_name(state.port.load(Relaxed)) {
            let ring = state.ring.load(Relaxed);
            words += &format!(", at work on ring {ring} of {port}");
            death.serving = Some(Serving { port, ring });
        }
        death.frame = area.crash.read_frame_head().map(|head| head.map(|octet| format!("{octet:02x}")).concat());
        death.trace = trace(evidence);
        let message = area.crash.read_message();
        if !message.is_empty() {
            words += &format!("; it said: {message}");
            death.panic = Some(message);
        }
        Death { words, ..death }
    }
}

/// The event of a crash: message and fields. Fields without a value are left out.
pub fn event(crash: &status::Crash) -> (String, Value) {
    let mut fields = serde_json::to_value(crash).unwrap_or_default();
    if let Value::Object(fields) = &mut fields {
        // The message has the cause, and the event has its own time.
        fields.retain(|name, value| !value.is_null() && name != "time" && name != "cause");
    }
    (format!("{} {}", subject(crash), crash.cause), fields)
}

/// The worker that crashed, for a message.
pub fn subject(crash: &status::Crash) -> String {
    crash.worker_pid.map_or("a worker".to_string(), |pid| format!("worker {pid}"))
}

/// The trace: the last bursts of a thread.
fn trace(evidence: Evidence<'_>) -> Vec<Burst> {
    let mut bursts = evidence.state.read_trace();
    // Entries that no correct worker writes are left out.
    bursts.retain(|(_, slot, ring, chains)| {
        usize::from(*slot) < MAX_PORTS && usize::from(*ring) < MAX_RINGS && *chains <= Settings::MAX_BATCH
    });
    let last = bursts.first().map_or(0, |(when_ns, ..)| *when_ns);
    let burst = |(when_ns, slot, ring, chains): (u64, u16, u16, u16)| Burst {
        earlier_us: last.saturating_sub(when_ns) / 1000,
        port: evidence.name(slot),
        ring,
        chains,
    };
    bursts.into_iter().map(burst).collect()
}

/// The signal that will end a worker, if the worker has written its crash record.
pub fn announced(area: &WorkerArea) -> Option<Signal> {
    let genuine = area.crash.code.load(Relaxed) > 0;
    match Signal::try_from(area.crash.signal.load(Acquire)).ok()? {
        signal @ (Signal::SIGSEGV | Signal::SIGBUS) if genuine => Some(signal),
        Signal::SIGSYS => Some(Signal::SIGSYS),
        Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGILL | Signal::SIGFPE | Signal::SIGABRT => Some(Signal::SIGILL),
        _ => None,
    }
}

/// The signal that caused the death. A worker that catches a signal or panics writes its crash record and then ends by
/// SIGILL.
fn first(signal: Signal, area: &WorkerArea) -> Signal {
    let recorded = Signal::try_from(area.crash.signal.load(Relaxed));
    if signal == Signal::SIGILL { recorded.unwrap_or(signal) } else { signal }
}

/// The slot of the client to blame. `None` if the worker was killed from outside, or if the client is not known. This
/// trusts the dying worker: a lying worker can get its clients blamed, one at a time and for a limited time, and
/// nothing more.
///
/// - A fault in a client's memory is blamed on that client, whatever ring was current: the sender of a frame does not
///   control the receiver's file.
/// - SIGBUS means a page that a mapped file does not have, or that the machine has lost. The worker maps no file of its
///   own except the ledger, which cannot shrink. So it was some client's memory. If the record does not say whose, no
///   client is blamed: the current ring is no evidence.
/// - Any other fault (SIGSEGV at an address of no client, SIGILL, SIGFPE, a forbidden syscall, a panic) is a bug in the
///   worker, and the client whose ring was current triggered it.
/// - A worker that hung was busy with the current ring.
pub fn client_to_blame(status: WaitStatus, Evidence { area, state, .. }: Evidence<'_>, hung: bool) -> Option<u16> {
    let record = &area.crash;
    let signal = record.signal.load(Relaxed);
    let fault = record.code.load(Relaxed) > 0 && signal != 0;
    let panicked = record.message_len.load(Relaxed) > 0;
    let own = matches!(status, WaitStatus::Signaled(..)) && (fault || panicked);
    let of_somebody = fault && signal == libc::SIGBUS;
    let serving = if own && !of_somebody || hung { state.port.load(Relaxed) } else { 0 };
    let of_fault = if own { record.fault_port.load(Relaxed) } else { 0 };
    let slot_plus_one = if of_fault != 0 { of_fault } else { serving };
    u16::try_from(slot_plus_one.checked_sub(1)?).ok().filter(|slot| usize::from(*slot) < MAX_PORTS)
}

fn fault(evidence: Evidence<'_>) -> Fault {
    let crash = &evidence.area.crash;
    let port = evidence.port_name(crash.fault_port.load(Relaxed));
    let region = port.as_ref().map(|_| crash.fault_region.load(Relaxed));
    Fault { addr: crash.addr.load(Relaxed), port, region }
}

fn fault_words(fault: &Fault, ip: u64) -> String {
    let region = match (&fault.port, fault.region) {
        (Some(port), Some(LOG_GUEST_ADDR)) => format!(", in the log of dirty pages of {port}"),
        (Some(port), Some(guest)) => format!(", in the memory of {port} (region at guest address {guest:#x})"),
        _ => String::new(),
    };
    format!(" at address {:#x} (instruction {ip:#x}){region}", fault.addr)
}

fn syscall_name(number: i32) -> String {
    sv3_policy::syscall_name(number).map_or_else(|| number.to_string(), str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;
    use sv3::ledger::LedgerMap;

    fn at(ledger: &LedgerMap) -> Evidence<'_> {
        let [area, _] = &ledger.workers;
        Evidence::new(area, None)
    }

    fn signaled(signal: Signal) -> WaitStatus {
        WaitStatus::Signaled(Pid::from_raw(1), signal, false)
    }

    #[test]
    fn a_bus_error_in_a_guest_names_the_guest() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        ledger.workers[0].crash.signal.store(libc::SIGBUS, Relaxed);
        ledger.workers[0].crash.code.store(libc::BUS_ADRERR, Relaxed);
        ledger.workers[0].crash.addr.store(0x7f00_0000, Relaxed);
        ledger.workers[0].crash.fault_port.store(4, Relaxed);
        ledger.workers[0].crash.fault_region.store(0x1_0000_0000, Relaxed);
        ledger.workers[0].threads[0].port.store(4, Relaxed);
        ledger.workers[0].threads[0].ring.store(1, Relaxed);
        let death = Death::read(signaled(Signal::SIGBUS), at(&ledger), None);
        let wanted = "killed by SIGBUS at address 0x7f000000 (instruction 0x0), in the memory of p3 (region at guest \
                      address 0x100000000), at work on ring 1 of p3";
        assert_eq!(death.words, wanted);
        let fault = Fault { addr: 0x7f00_0000, port: Some("p3".to_string()), region: Some(0x1_0000_0000) };
        assert_eq!((death.signal, death.fault), (Some("SIGBUS"), Some(fault)));
        assert_eq!(death.serving, Some(Serving { port: "p3".to_string(), ring: 1 }));
    }

    #[test]
    fn a_fault_in_memory_is_blamed_on_its_owner_if_that_is_known() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let record = &ledger.workers[0].crash;
        ledger.workers[0].threads[0].port.store(4, Relaxed);
        let blamed = |signal: Signal, code: i32, owner: u32| {
            record.signal.store(signal as i32, Relaxed);
            record.code.store(code, Relaxed);
            record.fault_port.store(owner, Relaxed);
            client_to_blame(signaled(signal), at(&ledger), false)
        };
        const SEGV_MAPERR: i32 = 1;
        const SI_KERNEL: i32 = 0x80;
        const ILL_ILLOPN: i32 = 2;
        assert_eq!(blamed(Signal::SIGBUS, libc::BUS_ADRERR, 8), Some(7));
        assert_eq!(blamed(Signal::SIGBUS, libc::BUS_ADRERR, 0), None);
        assert_eq!(blamed(Signal::SIGBUS, libc::BUS_MCEERR_AR, 0), None);
        assert_eq!(blamed(Signal::SIGSEGV, SEGV_MAPERR, 8), Some(7));
        assert_eq!(blamed(Signal::SIGSEGV, SEGV_MAPERR, 0), Some(3));
        assert_eq!(blamed(Signal::SIGSEGV, SI_KERNEL, 0), Some(3));
        assert_eq!(blamed(Signal::SIGILL, ILL_ILLOPN, 0), Some(3));
        assert_eq!(blamed(Signal::SIGBUS, 0, 0), None, "sent by somebody");
        assert_eq!(client_to_blame(signaled(Signal::SIGKILL), at(&ledger), true), Some(3), "hung");
    }

    #[test]
    fn a_violation_names_the_syscall() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        ledger.workers[0].crash.signal.store(libc::SIGSYS, Relaxed);
        ledger.workers[0].crash.code.store(1, Relaxed);
        ledger.workers[0].crash.syscall.store(libc::SYS_openat as i32, Relaxed);
        let death = Death::read(signaled(Signal::SIGSYS), at(&ledger), None);
        assert_eq!(death.violation.as_deref(), Some("openat"));
        assert_eq!(death.words, "killed by SIGSYS for the syscall openat");
    }

    #[test]
    fn a_signal_from_outside_is_named_though_the_worker_ended_by_another() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        ledger.workers[0].crash.signal.store(libc::SIGABRT, Relaxed);
        let words = Death::read(signaled(Signal::SIGILL), at(&ledger), None).words;
        assert_eq!(words, "killed by SIGABRT");
    }

    #[test]
    fn a_panic_is_quoted_and_a_record_of_another_signal_is_not_believed() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        ledger.workers[0].crash.signal.store(libc::SIGSEGV, Relaxed);
        ledger.workers[0].crash.write_message("index\nout of bounds");
        ledger.workers[0].threads[0].port.store(u32::MAX, Relaxed);
        let words = Death::read(signaled(Signal::SIGKILL), at(&ledger), None).words;
        assert_eq!(words, "killed by SIGKILL; it said: index out of bounds");
    }
}
