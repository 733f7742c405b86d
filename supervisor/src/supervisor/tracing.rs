//! Traces: what the serving worker would do with a frame ([`sv3::trace`]).

use sv3::ipc::{Command, Report};
use sv3::trace::{STEPS_MAX, Step, TraceAnswer};

use super::{Supervisor, answers};
use crate::doors::control::Ticket;
use crate::workers::breach::Breach;
use crate::workers::worker::{Waiter, Worker};

/// A trace that the serving worker was asked for.
pub struct Tracing {
    asker: Ticket,
    /// Name of the port.
    port: String,
    steps: Vec<Step>,
}

impl Supervisor {
    /// Asks the serving worker. The answer comes later. The error is for people.
    pub(super) fn begin_trace(&mut self, place: usize, port: String, frame: Vec<u8>) -> Result<(), String> {
        let named = self.port_statuses().into_iter().find(|status| status.name == port);
        let slot = named.map(|status| status.slot);
        let slot = slot.ok_or_else(|| format!("there is no port {port:?}; `sv3 status` lists them"))?;
        if self.tracing.is_some() {
            return Err("another trace is under way; try again".to_string());
        }
        let serves = |worker: &&mut Worker| worker.ready.is_some() && worker.kill_reason().is_none();
        let Some(worker) = self.workers.serving.as_mut().filter(serves) else {
            return Err("no worker serves at the moment; try again".to_string());
        };
        let asker = self.doors.defer_control(place, &self.reactor).ok_or("the exchange is over")?;
        worker.send([Command::Trace { port: slot, frame }.into(), Command::Barrier.into()], Waiter::Trace);
        self.tracing = Some(Tracing { asker, port, steps: Vec::new() });
        Ok(())
    }

    /// The worker reports a step.
    pub(super) fn traced(&mut self, report: Report) -> Result<(), Breach> {
        let is_asked = self.workers.serving.as_ref().is_some_and(|worker| worker.is_under_way(report.seq));
        let tracing = self.tracing.as_mut().filter(|tracing| is_asked && tracing.steps.len() < STEPS_MAX);
        let tracing = tracing.ok_or(Breach("it reported a step of a trace that it was not asked for"))?;
        tracing.steps.push(Step::of(&report).ok_or(Breach("it reported an unknown step of a trace"))?);
        Ok(())
    }

    /// The worker has reported all steps.
    pub(super) fn end_trace(&mut self) {
        let Some(Tracing { asker, port, steps }) = self.tracing.take() else { return };
        let ports = self.port_statuses();
        let name = |slot: u16| {
            let port = ports.iter().find(|port| port.slot == slot);
            port.map_or_else(|| format!("p{slot}"), |port| port.name.clone())
        };
        let answer = match steps.is_empty() {
            true => answers::error(format!("the worker does not have the port {port}; try again")),
            false => {
                let steps =
                    steps.into_iter().map(|step| step.named(name, |number| self.mirrors.name(number))).collect();
                answers::to_json(&TraceAnswer { port, steps })
            }
        };
        self.doors.answer_deferred(&asker, answer, &self.reactor);
    }

    /// The worker that was asked has died.
    pub(super) fn give_up_trace(&mut self) {
        let Some(tracing) = self.tracing.take() else { return };
        let answer = answers::error("the worker died meanwhile; try again".to_string());
        self.doors.answer_deferred(&tracing.asker, answer, &self.reactor);
    }
}
