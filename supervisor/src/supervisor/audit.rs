//! The supervisor's part of `sv3 audit`: the files that it and its workers have open, and their confinement.
//!
//! Each owner of files lists them. A file that is open and not listed is a leak; `sv3 audit` finds it when root runs
//! it. A worker's list has the files that it was given and was not told to close.

use std::os::fd::AsFd;

use sv3::audit::{AuditAnswer, Fd, ProcessInventory};
use sv3_policy::WorkerRole;

use super::Supervisor;
use crate::clients::client::Client;
use crate::fd_inventory::OpenFile;
use crate::ports::card::CardPort;
use crate::workers::worker::Worker;

impl Supervisor {
    /// The answer to `audit`.
    pub(super) fn audit(&self) -> AuditAnswer {
        let number = |pid: nix::unistd::Pid| u32::try_from(pid.as_raw()).unwrap_or(0);
        let own = ProcessInventory {
            role: "supervisor".to_string(),
            pid: std::process::id(),
            landlock_abi: self.telemetry.landlock_abi,
            policy: digest(sv3_policy::supervisor().digest()),
            threads: 1,
            files: false,
            cards: false,
            fds: self.own_fds(),
        };
        let workers = [("worker", &self.workers.serving), ("standby", &self.workers.standby)];
        let workers = workers.into_iter().filter_map(|(role, worker)| {
            let worker = worker.as_ref()?;
            Some(ProcessInventory {
                role: role.to_string(),
                pid: worker.ready_pid()?,
                landlock_abi: worker.ready?,
                policy: digest(worker.policy),
                // One more thread maps memory.
                threads: usize::from(self.workers.config.threads) + 1,
                files: worker.role == WorkerRole::Files,
                cards: worker.role == WorkerRole::Cards,
                fds: self.fds_of(worker),
            })
        });
        let closer_pids = self.workers.closers.pids().iter().copied().map(number).collect();
        AuditAnswer {
            processes: [own].into_iter().chain(workers).collect(),
            spawner_pid: number(self.workers.spawner.pid()),
            closer_pids,
            cards: self.clients.slots.all_cards().filter_map(CardPort::reach).collect(),
        }
    }

    fn own_fds(&self) -> Vec<Fd> {
        let standard = [(0, "stdin, never read"), (1, "stdout: the announcement"), (2, "stderr: events")];
        let standard =
            standard.map(|(fd, is)| Fd { fd: Some(fd), kind: "inherited".to_string(), purpose: is.to_string() });
        let own = [
            OpenFile::new(&self.reactor, "eventpoll", "the loop"),
            OpenFile::borrowed(self.signals.as_fd(), "signalfd", "signals"),
        ];
        let doors = self.doors.files().chain(self.telemetry.files());
        let heirs = self.handing_over.iter().flat_map(|handing| handing.files());
        let own = own
            .into_iter()
            .chain(heirs)
            .chain(self.service.file())
            .chain(self.taking_over.iter().map(|taking| taking.file()));
        let files =
            own.chain(self.workers.files()).chain(doors).chain(self.clients.files()).chain(self.captures.files());
        standard.into_iter().chain(files.map(Fd::from)).collect()
    }

    /// A worker's open files. It may have fewer, because it closes some when a ring stops.
    fn fds_of(&self, worker: &Worker) -> Vec<Fd> {
        let mut fds = Vec::new();
        let mut add = |kind: &str, purpose: String| fds.push(Fd { fd: None, kind: kind.to_string(), purpose });
        add("socket", "stdin: the link to the supervisor".to_string());
        add("socket", "the same, for reading and writing".to_string());
        add("null", "stdout".to_string());
        add("pipe", "stderr, to the supervisor".to_string());
        for number in 0..self.workers.config.threads {
            add("eventpoll", format!("the loop of thread {number}"));
            add("eventpoll", format!("the loop of thread {number} on standby"));
            add("eventfd", format!("wake-ups of thread {number} by the others"));
        }
        add("eventpoll", "the loop of the thread that maps and unmaps".to_string());
        add("eventpoll", "a second one of that thread, not in use".to_string());
        add("eventfd", "wake-ups of that thread by the others".to_string());
        let known = |client: &&Client| worker.lacks(client.id.slot).is_none();
        for client in self.clients.served().filter(known) {
            let name = &client.device().port;
            for (index, ring) in client.device().rings() {
                if ring.started || ring.stopping {
                    add("eventfd", format!("kicks of {name}, ring {index}"));
                }
                if ring.call.is_some() {
                    add("eventfd", format!("calls of {name}, ring {index}"));
                }
            }
        }
        let files = self.clients.slots.all_files().filter(|port| port.runs() && worker.role >= WorkerRole::Files);
        for port in files.filter(|port| worker.lacks(port.slot).is_none()) {
            port.files().for_each(|_| add(port.kind_of_files(), format!("frames of {}", port.name())));
        }
        let cards = self.clients.slots.all_cards().filter(|port| port.runs() && worker.lacks(port.slot).is_none());
        for port in cards {
            port.events().for_each(|_| add("eventfd", format!("interrupts of {}", port.name())));
            if worker.serving.is_none() {
                add("file", format!("the card {}, until the worker serves", port.name()));
            }
            if port.attachment.zero_copy && worker.role == WorkerRole::Cards {
                add("file", format!("the container of {}, in which guests' memory is mapped", port.name()));
            }
        }
        let waits = if worker.serving.is_some() { "a command" } else { "its promotion" };
        if let Some(first) = fds.first_mut() {
            first.purpose += &format!("; it waits there for {waits}");
        }
        fds
    }
}

fn digest(digest: u32) -> String {
    format!("{digest:08x}")
}
