//! What the supervisor tells an auditor: what it and its workers hold open, and what they say of their confinement.
//!
//! Its own fds are found by walking through all that owns some, so one that is missing here is a leak, or a lie of this
//! file; root can compare (`sv3 audit`). A worker's are what it was given and has not been told to let go.

use std::os::fd::{AsFd, AsRawFd};

use sv3::audit::{Fd, Testimony, Witness};

use super::Supervisor;
use crate::clients::client::Client;
use crate::clients::number::is_pending;
use crate::workers::worker::Worker;

impl Supervisor {
    /// The answer to `audit`.
    pub(super) fn testify(&self) -> Testimony {
        let number = |pid: nix::unistd::Pid| u32::try_from(pid.as_raw()).unwrap_or(0);
        let own = Witness {
            role: "supervisor".to_string(),
            pid: std::process::id(),
            landlock_abi: self.landlock_abi,
            policy: digest(sv3_policy::supervisor().digest()),
            threads: 1,
            fds: self.own_fds(),
        };
        let workers = [("worker", &self.worker), ("standby", &self.standby)];
        let workers = workers.into_iter().filter_map(|(role, worker)| {
            let worker = worker.as_ref()?;
            Some(Witness {
                role: role.to_string(),
                pid: worker.ready_pid()?,
                landlock_abi: worker.ready?,
                policy: digest(worker.policy),
                // One moves no frames.
                threads: usize::from(self.threads) + 1,
                fds: self.fds_of(worker),
            })
        });
        let undertaker_pids = self.undertaker.crew().iter().copied().map(number).collect();
        Testimony {
            processes: [own].into_iter().chain(workers).collect(),
            spawner_pid: number(self.spawner.pid()),
            undertaker_pids,
        }
    }

    fn own_fds(&self) -> Vec<Fd> {
        let standard = [(0, "stdin, never read"), (1, "stdout: the announcement"), (2, "stderr: events")];
        let mut fds: Vec<Fd> =
            standard.map(|(fd, is)| Fd { fd: Some(fd), kind: "inherited".to_string(), purpose: is.to_string() }).into();
        let mut add = |fd: &dyn AsRawFd, kind: &str, purpose: String| {
            fds.push(Fd { fd: Some(fd.as_raw_fd()), kind: kind.to_string(), purpose });
        };
        add(&self.reactor.as_fd(), "eventpoll", "the loop".to_string());
        add(&self.signals.as_fd(), "signalfd", "signals".to_string());
        for (fd, kind, of) in self.spawner.fds().chain(self.undertaker.fds()) {
            add(&fd, kind, of.to_string());
        }
        for fd in self.undertaker.files() {
            add(&fd, "file", "given by a client, to be closed".to_string());
        }
        for fd in self.life.cradles().flat_map(|cradle| cradle.fds()) {
            add(&fd, "pipe", "an end of the next worker's".to_string());
        }
        add(&self.ledger_fd.as_fd(), "memory", "the ledger".to_string());
        for (listener, of) in [(&self.door, "the front door"), (&self.control.listener, "the control socket")] {
            add(&listener.as_fd(), "socket", of.to_string());
        }
        if let Some(log) = self.events.log() {
            add(&log, "file", "events, by --log".to_string());
        }
        if let Some(http) = &self.http {
            add(&http.door(), "socket", "the door of --metrics".to_string());
            (0..crate::doors::http::PLACES).filter_map(|at| http.fd(at)).for_each(|fd| {
                add(&fd, "socket", "somebody who asks for metrics".to_string());
            });
        }
        for fd in (0..crate::doors::control::CONVERSATIONS_MAX).filter_map(|at| self.control.fd(at)) {
            add(&fd, "socket", "somebody who asks, as this audit does".to_string());
        }
        for worker in [&self.worker, &self.standby].into_iter().flatten() {
            let pid = worker.pid.map_or("that is being born".to_string(), |pid| pid.to_string());
            add(&worker.link.as_fd(), "socket", format!("worker {pid}"));
            add(&worker.stderr.as_fd(), "pipe", format!("stderr of worker {pid}"));
            for file in worker.taken_files() {
                add(
                    &file.as_fd(),
                    "memory",
                    format!("memory that was taken away from worker {pid} and is mapped there still"),
                );
            }
        }
        for port in self.slots.everybody() {
            fds_of_port(port, &mut add);
        }
        fds
    }

    /// At most these; a ring that was stopped takes some with it.
    fn fds_of(&self, worker: &Worker) -> Vec<Fd> {
        let mut fds = Vec::new();
        let mut add = |kind: &str, purpose: String| fds.push(Fd { fd: None, kind: kind.to_string(), purpose });
        add("socket", "stdin: the supervisor".to_string());
        add("socket", "the same, for reading and writing".to_string());
        add("null", "stdout".to_string());
        add("pipe", "stderr, to the supervisor".to_string());
        for number in 0..self.threads {
            add("eventpoll", format!("the loop of thread {number}"));
            add("eventpoll", format!("the loop of thread {number} on standby"));
            add("eventfd", format!("nudges of thread {number} by the others"));
        }
        add("eventpoll", "the loop of the thread that maps and unmaps".to_string());
        add("eventpoll", "a second one of it, not in use".to_string());
        add("eventfd", "nudges of that thread by the others".to_string());
        let known = |port: &&Client| port.quarantine.is_none() && worker.lacks(port.who.slot).is_none();
        for port in self.slots.ports().filter(known) {
            let slot = port.who.slot;
            for (index, ring) in port.device().rings() {
                if ring.started || ring.stopping {
                    add("eventfd", format!("kicks of p{slot}, ring {index}"));
                }
                if ring.call.is_some() {
                    add("eventfd", format!("calls of p{slot}, ring {index}"));
                }
            }
        }
        let waits = if worker.serving.is_some() { "a command" } else { "its promotion" };
        if let Some(first) = fds.first_mut() {
            first.purpose += &format!("; it waits there for {waits}");
        }
        fds
    }
}

fn fds_of_port(port: &Client, add: &mut impl FnMut(&dyn AsRawFd, &str, String)) {
    let slot = port.who.slot;
    add(
        &port.as_fd(),
        "socket",
        match is_pending(slot) {
            true => format!("process {}, which has no port", port.who.pid),
            false => format!("the client of p{slot}"),
        },
    );
    for memory in &port.device().memory {
        add(&memory.fd.as_fd(), "memory", format!("memory of p{slot} at {:#x}", memory.region.guest_addr));
    }
    for (index, ring) in port.device().rings() {
        for (fd, of) in [(&ring.kick, "kicks"), (&ring.call, "calls"), (&ring.err, "errors")] {
            if let Some(fd) = fd {
                add(&fd.as_fd(), "eventfd", format!("{of} of p{slot}, ring {index}"));
            }
        }
    }
}

fn digest(digest: u32) -> String {
    format!("{digest:08x}")
}
