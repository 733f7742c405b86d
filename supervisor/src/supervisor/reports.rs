//! Handles reports of workers. Each report is checked: a worker may be hostile.

use std::os::fd::AsFd;

use nix::errno::Errno;
use sv3::ipc::{Report, ReportKind, RingFault, VERSION};

use super::Supervisor;
use crate::ports::kernel::Kernel;
use crate::telemetry::event::Named;
use crate::workers::breach::Breach;
use crate::workers::cpu_time::Moment;
use crate::workers::worker::{Waiter, Worker};

impl Supervisor {
    /// Reads some reports. For the rest, epoll reports the link again.
    pub(super) fn read_reports(&mut self, area: u8) {
        let Some(worker) = self.workers.in_area(area) else { return };
        match worker.link.reports() {
            Ok(reports) => self.handle_reports(area, reports),
            Err(_) => {
                worker.hang_up();
                self.workers.deafen(area, |worker| worker.link.as_fd(), &self.reactor);
                self.handle_announced_death(area);
            }
        }
    }

    /// Reads the reports that a dead worker left, at most one socket buffer of them.
    pub(super) fn drain_reports(&mut self) {
        for _ in 0..64 {
            match self.workers.serving.as_mut().map(|worker| (worker.area, worker.link.reports())) {
                Some((area, Ok(reports))) if !reports.is_empty() => self.handle_reports(area, reports),
                _ => break,
            }
        }
    }

    /// Ignores reports of a killed worker: recovery does not need them after any death.
    fn handle_reports(&mut self, area: u8, reports: Vec<Option<Report>>) {
        for report in reports {
            if self.workers.in_area(area).is_none_or(|worker| worker.kill_reason().is_some()) {
                return;
            }
            let serves = self.workers.serves(area);
            let heard = match report {
                Some(report) if serves => self.handle_report(report),
                Some(report) => self.handle_standby_report(report),
                None => Err(Breach("it sent a report of unknown kind")),
            };
            if let (Err(Breach(what)), Some(worker)) = (heard, self.workers.in_area(area)) {
                worker.kill(what);
            }
        }
    }

    /// Handles a report of the serving worker.
    fn handle_report(&mut self, report: Report) -> Result<(), Breach> {
        let Some(worker) = &mut self.workers.serving else { return Ok(()) };
        handle_any_report(worker, report, self.workers.config.require_landlock)?;
        match report.kind {
            ReportKind::Ready | ReportKind::Unmapped => Ok(()),
            ReportKind::Done => match worker.reached(report.seq) {
                Some(Waiter::Session(slot)) => self.end_wait(slot),
                Some(Waiter::Leaving(slot)) => {
                    self.clients.slots.release(slot);
                    Ok(())
                }
                Some(Waiter::Retired(slot)) => {
                    if let Some(port) = self.clients.slots.card(slot) {
                        port.is_forgotten();
                    }
                    Ok(())
                }
                Some(Waiter::TakeOver) => {
                    worker.took_over = true;
                    self.worker_took_over();
                    Ok(())
                }
                Some(Waiter::Obeyed) => {
                    self.answer_obeyed();
                    Ok(())
                }
                Some(Waiter::Trace) => {
                    self.end_trace();
                    Ok(())
                }
                Some(Waiter::Nobody | Waiter::Planned) => Ok(()),
                None => Err(Breach("it reported a barrier that was not the next one")),
            },
            ReportKind::RingStopped if !worker.is_under_way(report.seq) => {
                Err(Breach("it reported that a ring stopped which it was not told to stop"))
            }
            ReportKind::RingStopped if report.seq < worker.promoted => Ok(()),
            ReportKind::RingStopped => match self.clients.slots.client(report.port) {
                Some(client) => client.session.ring_stopped(report.ring, report.value),
                None => Ok(()),
            },
            ReportKind::RingFault => self.ring_fault(report),
            ReportKind::Busy => {
                let area = self.workers.ledger.workers.get(usize::from(worker.area));
                if !area.is_some_and(|area| self.workers.watch.dog.wake(area, Moment::of(worker.pid))) {
                    worker.count_idle_report();
                }
                Ok(())
            }
            ReportKind::Failed => {
                self.command_failed(report);
                Ok(())
            }
            ReportKind::LoopFound => {
                self.loop_found(report.port, report.value);
                Ok(())
            }
            ReportKind::AddressConflict => {
                self.address_conflict(report);
                Ok(())
            }
            ReportKind::Traced => self.traced(report),
            ReportKind::AddressFlaps => self.address_flaps(report),
            ReportKind::CardReady => self.card_ready(report.port),
            ReportKind::CardLink => self.card_link(report.port, report.value),
            ReportKind::NotPinned => self.not_pinned(report.port, report.value),
        }
    }

    /// Handles a report of the standby. Only reports about its readiness are valid.
    fn handle_standby_report(&mut self, report: Report) -> Result<(), Breach> {
        let Some(worker) = &mut self.workers.standby else { return Ok(()) };
        handle_any_report(worker, report, self.workers.config.require_landlock)?;
        match report.kind {
            ReportKind::Ready => {
                self.ensure_role();
                Ok(())
            }
            ReportKind::Unmapped => Ok(()),
            ReportKind::Done => match worker.reached(report.seq) {
                Some(Waiter::Planned) => {
                    self.successor_is_ready();
                    Ok(())
                }
                Some(_) => Ok(()),
                None => Err(Breach("it reported a barrier that was not the next one")),
            },
            ReportKind::RingStopped => {
                worker.count_idle_report();
                Ok(())
            }
            ReportKind::RingFault
            | ReportKind::Busy
            | ReportKind::LoopFound
            | ReportKind::AddressConflict
            | ReportKind::Traced
            | ReportKind::AddressFlaps
            | ReportKind::CardReady
            | ReportKind::CardLink
            | ReportKind::NotPinned => Err(Breach("it reported work on rings while on standby")),
            ReportKind::Failed => {
                self.standby_failed(report);
                Ok(())
            }
        }
    }

    fn end_wait(&mut self, slot: u16) -> Result<(), Breach> {
        let Some(client) = self.clients.slots.client(slot) else { return Ok(()) };
        let reply = client.session.barrier_reached()?;
        self.tell_of_migration(slot);
        self.reply(slot, reply);
        Ok(())
    }

    fn ring_fault(&mut self, report: Report) -> Result<(), Breach> {
        let fault = RingFault::from_value(report.value).ok_or(Breach("it reported an unknown fault of a ring"))?;
        let (slot, ring) = (report.port, report.ring);
        if self.file_fault(slot, fault) || self.card_fault(slot, fault, report.detail) {
            return Ok(());
        }
        let news = self.clients.slots.client(slot);
        let news = news.map(|client| (client.id, client.name(), client.session.ring_faulted(ring, fault)));
        match news {
            Some((id, name, true)) => {
                let message = format!("{name} ring {ring} stopped: {}", fault.words());
                self.telemetry.events.say_of_with(id, "ring_fault", message, serde_json::json!({ "ring": ring }));
            }
            _ => self.count_idle_report(),
        }
        Ok(())
    }

    fn command_failed(&mut self, report: Report) {
        self.count_idle_report();
        let (slot, why) = (report.port, why_it_failed(report));
        if !self.workers.serving.as_ref().is_some_and(|worker| worker.is_about(slot, report.seq))
            || self.disconnect_spoiler(slot)
            || self.file_command_failed(slot, &why)
            || self.card_command_failed(slot, &why)
        {
            return;
        }
        let Some(client) = self.clients.slots.client(slot) else { return };
        let (id, name) = (client.id, client.name());
        match client.session.command_failed(why.clone()) {
            Some(refused) => self.refuse(slot, refused),
            None => self.telemetry.events.say_of(id, "command_failed", format!("{name} {why}")),
        }
    }

    /// The standby could not execute a command about a port. If the kernel says that the client's file is the cause,
    /// the client loses its port. Otherwise the standby goes on without the port, which is served as before, and is
    /// told of it again before it serves. So neither a client nor a worker can close another client's session by this,
    /// or deny the switch its standby.
    fn standby_failed(&mut self, report: Report) {
        let Some(worker) = &mut self.workers.standby else { return };
        worker.count_idle_report();
        let (slot, why) = (report.port, why_it_failed(report));
        if !worker.is_about(slot, report.seq) || self.disconnect_spoiler(slot) {
            return;
        }
        let client = self.clients.slots.client(slot);
        let named = client.map(|client| Named { name: client.device().port.to_string(), client: Some(client.id) });
        let named = named.or_else(|| self.clients.slots.named(slot));
        let (Some(worker), Some(named)) = (&mut self.workers.standby, named) else { return };
        worker.leave_out(slot, why.clone());
        let message = format!("{}: the standby goes on without it until it is to serve: {why}", named.name);
        self.telemetry.events.say_of_port(&named, "standby_lacks", message, serde_json::json!({}));
    }

    /// Disconnects a client that has made its memory unusable since it was admitted. Returns whether it has.
    fn disconnect_spoiler(&mut self, slot: u16) -> bool {
        let Some(client) = self.clients.slots.client(slot) else { return false };
        let unusable = client.device().unusable(&Kernel);
        let Some(reason) = unusable else { return false };
        let refused = client.session.command_failed(reason.0.clone()).unwrap_or_else(|| reason.into());
        self.refuse(slot, refused);
        true
    }

    pub(super) fn count_idle_report(&mut self) {
        if let Some(worker) = &mut self.workers.serving {
            worker.count_idle_report();
        }
    }

    /// Turns lines that a worker wrote to stderr into events.
    pub(super) fn read_stderr(&mut self, area: u8) {
        let Some(worker) = self.workers.in_area(area) else { return };
        match worker.lines() {
            Ok(lines) => {
                for line in lines {
                    self.telemetry.events.say("worker", line);
                }
            }
            Err(_) => {
                self.workers.deafen(area, |worker| worker.stderr.as_fd(), &self.reactor);
            }
        }
    }
}

fn why_it_failed(report: Report) -> String {
    let errno = i32::try_from(report.value).map_or(Errno::UnknownErrno, Errno::from_raw);
    format!("the worker could not execute a command: {}", errno.desc())
}

/// Handles what is the same for reports of every worker.
fn handle_any_report(worker: &mut Worker, report: Report, require_landlock: u32) -> Result<(), Breach> {
    match report.kind {
        ReportKind::Ready if report.version() != VERSION => Err(Breach("it speaks another version of the protocol")),
        ReportKind::Ready => became_ready(worker, report, require_landlock),
        _ if worker.ready.is_none() => Err(Breach("it reported before it was ready")),
        ReportKind::Unmapped => worker.unmapped(report.seq),
        ReportKind::Failed if !worker.is_under_way(report.seq) => {
            Err(Breach("it reported the failure of a command that it was not sent"))
        }
        _ => Ok(()),
    }
}

fn became_ready(worker: &mut Worker, report: Report, require_landlock: u32) -> Result<(), Breach> {
    if !worker.became_ready(report.landlock_abi(), report.value) {
        return Err(Breach("it reported twice that it was ready"));
    }
    worker.policy = report.policy();
    match report.landlock_abi() >= require_landlock {
        true => Ok(()),
        false => Err(Breach("its landlock ABI is lower than --require-landlock asks for")),
    }
}
