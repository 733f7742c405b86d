//! Answers requests at the control socket and over HTTP.

use nix::unistd::Pid;
use serde::Serialize;
use serde_json::json;
use sv3::MAX_QUEUE_PAIRS;
use sv3::control::ControlRequest;
use sv3::foreign::ForeignFd;
use sv3::status::{PortStatus, Status, WorkerStatus};

use super::Supervisor;
use crate::clients::client::Client;
use crate::doors::control::FDS_MAX;
use crate::workers::cpu_time::of_process;
use crate::workers::worker::Worker;

impl Supervisor {
    /// Accepts connections at the control socket. Each takes an fd, and fds are short while many files wait to be
    /// closed: then these connections wait before clients do.
    pub(super) fn accept_control(&mut self) {
        let is_short = self.clients.budget.is_short(2 * self.workers.closers.backlog());
        self.doors.accept_control(is_short, &self.reactor);
    }

    /// Continues an exchange at the control socket.
    pub(super) fn serve_control(&mut self, place: usize) {
        let Some((line, fds)) = self.doors.continue_control(place, &self.reactor) else { return };
        if let Some(answer) = self.answer(place, &line, fds) {
            self.doors.answer_control(place, answer, &self.reactor);
        }
    }

    /// The answer to a request; `None` if it comes later.
    fn answer(&mut self, place: usize, line: &str, mut fds: Vec<ForeignFd>) -> Option<Vec<u8>> {
        let Some(request) = ControlRequest::parse(line) else {
            let other: String = line.chars().take(40).collect();
            return Some(error(format!("unknown request {other:?}")));
        };
        let asks = matches!(
            request,
            ControlRequest::Status
                | ControlRequest::Crashes
                | ControlRequest::Metrics
                | ControlRequest::Audit
                | ControlRequest::Groups
                | ControlRequest::Config
                | ControlRequest::Fdb
        );
        if !asks && self.is_frozen() {
            return Some(error("another process is taking over the switch; try again".to_string()));
        }
        let wanted = match request {
            ControlRequest::Upgrade => 1..=1,
            ControlRequest::Attach(_) => 1..=MAX_QUEUE_PAIRS,
            ControlRequest::Configure(_) => 1..=FDS_MAX,
            ControlRequest::AttachCard(ref card) => card.files()..=card.files(),
            ControlRequest::Capture(_) => 1..=1,
            ControlRequest::Restart | ControlRequest::Detach(_) => 0..=0,
            // What comes with a question is closed.
            _ => 0..=FDS_MAX,
        };
        if !wanted.contains(&fds.len()) {
            let (least, most) = wanted.into_inner();
            return Some(error(format!(
                "{} open files came with the request, which takes {least} to {most}",
                fds.len()
            )));
        }
        Some(match request {
            ControlRequest::Status => to_json(&self.status()),
            ControlRequest::Crashes => to_json(&self.telemetry.crash_log.crashes()),
            ControlRequest::Metrics => self.metrics().trim_end().into(),
            ControlRequest::Audit => to_json(&self.audit()),
            ControlRequest::Groups => to_json(&self.groups()),
            ControlRequest::Snoop(setting) => self.set_snooping(setting).map_or_else(error, |()| to_json(&json!({}))),
            ControlRequest::Release(name) => to_json(&self.release_by_name(&name)),
            ControlRequest::Attach(attachment) => {
                let owner = self.doors.control_asker(place)?;
                self.attach(attachment, fds, owner).map_or_else(error, |answer| to_json(&answer))
            }
            ControlRequest::AttachCard(card) => {
                let owner = self.doors.control_asker(place)?;
                self.attach_card(card, fds, owner).map_or_else(error, |answer| to_json(&answer))
            }
            ControlRequest::Detach(name) => self.detach_files(&name).map_or_else(error, |answer| to_json(&answer)),
            ControlRequest::Restart | ControlRequest::Upgrade => error(self.plan_handover(place, fds.pop()).err()?),
            ControlRequest::Config => to_json(&self.in_force()),
            ControlRequest::Configure(generation) => error(self.configure(place, generation, fds).err()?),
            ControlRequest::Trace { port, frame } => error(self.begin_trace(place, port, frame).err()?),
            ControlRequest::Fdb => to_json(&self.known_addresses()),
            ControlRequest::FdbFlush(which) => error(self.begin_flush(place, &which).err()?),
            ControlRequest::Capture(request) => {
                let file = fds.pop()?;
                error(self.begin_capture(place, request, file).err()?)
            }
            ControlRequest::MirrorAdd(mirror) => error(self.begin_mirror(place, mirror).err()?),
            ControlRequest::MirrorRemove(name) => {
                self.remove_mirror(&name).map_or_else(error, |answer| to_json(&answer))
            }
            ControlRequest::Succeed(version) => {
                self.begin_handing_over(place, version);
                return None;
            }
        })
    }

    /// Continues an exchange at the HTTP socket.
    pub(super) fn serve_http(&mut self, place: usize) {
        let Some(ask) = self.doors.continue_http(place, &self.reactor) else { return };
        let metrics = self.metrics();
        self.doors.answer_http(place, (ask, metrics), &self.reactor);
    }

    /// Serves metrics over HTTP from now on, if `--metrics` was given.
    pub(super) fn open_http(&mut self) {
        let Some((address, watched)) = self.doors.open_http(&self.reactor) else { return };
        if let Err(error) = watched {
            self.over = Some(Err(format!("{address} cannot be watched: {error}")));
        }
        let message = format!("metrics are served at http://{address}/metrics");
        self.telemetry.events.say_with("metrics", message, json!({ "address": address.to_string() }));
    }

    fn metrics(&self) -> String {
        self.telemetry.metrics(&self.status())
    }

    fn status(&self) -> Status {
        let worker = self.workers.serving.as_ref();
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            protocol: sv3::control::PROTOCOL,
            supervisor: self.telemetry.status(),
            worker: WorkerStatus {
                pid: worker.and_then(|worker| worker.pid).and_then(|pid| u32::try_from(pid.as_raw()).ok()),
                standby_pid: self.workers.standby.as_ref().and_then(Worker::ready_pid),
                uptime_s: worker.map_or(0, |worker| worker.asked.elapsed().as_secs()),
                restarts: self.workers.succession.restarts(),
                last_death: self.workers.succession.last_death.clone(),
                landlock_abi: worker.and_then(|worker| worker.ready).unwrap_or(0),
                threads: self.workers.config.threads,
                cpus: self.workers.config.cpus.clone(),
                cpu_ms: worker.and_then(|worker| worker.pid).map(cpu_ms),
            },
            socket: self.doors.front.listener().path().display().to_string(),
            ports: self.port_statuses(),
            declared: self.declared_statuses(),
            captures: self.captures.status(),
            mirrors: self.mirrors.all().cloned().collect(),
            flaps: self.flaps.status(),
            pending_clients: self.clients.slots.pending().count(),
        }
    }

    /// All ports, by slot.
    pub(super) fn port_statuses(&self) -> Vec<PortStatus> {
        let clients = self.clients.slots.clients().filter_map(|client| self.port_status(client));
        let files = self.clients.slots.all_files().filter_map(|port| {
            let lacks = self.workers.standby.as_ref().and_then(|standby| standby.lacks(port.slot));
            let status = crate::telemetry::status::files(port, &self.workers.ledger)?;
            Some(PortStatus { standby_lacks: lacks.map(str::to_string), ..status })
        });
        let cards = self.clients.slots.all_cards().filter_map(|port| {
            let lacks = self.workers.standby.as_ref().and_then(|standby| standby.lacks(port.slot));
            let status = crate::telemetry::status::card(port, &self.workers.ledger)?;
            Some(PortStatus { standby_lacks: lacks.map(str::to_string), ..status })
        });
        let mut ports: Vec<PortStatus> = clients.chain(files).chain(cards).collect();
        ports.sort_by_key(|port| port.slot);
        ports
    }

    fn port_status(&self, client: &Client) -> Option<PortStatus> {
        let lacks = self.workers.standby.as_ref().and_then(|standby| standby.lacks(client.id.slot));
        let status = crate::telemetry::status::port(client, &self.workers.ledger)?;
        Some(PortStatus { standby_lacks: lacks.map(str::to_string), ..status })
    }
}

/// Processor time that a worker has used.
fn cpu_ms(worker: Pid) -> u64 {
    u64::try_from(of_process(Some(worker)).as_millis()).unwrap_or(u64::MAX)
}

/// The answer as a line of JSON.
pub(super) fn to_json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}

/// An answer that says why there is none.
pub(super) fn error(why: String) -> Vec<u8> {
    to_json(&json!({ "error": why }))
}
