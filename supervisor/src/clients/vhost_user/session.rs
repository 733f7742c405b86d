//! One client's exchange of requests and replies: a state machine without I/O.
//!
//! # Theory of operation
//!
//! [`Session::request`] takes one decoded request and returns a [`Step`]: commands for the worker and, unless it has to
//! wait, the reply. For some requests, the worker must have executed the commands before the front-end gets the reply.
//! Their commands end in a [`Command::Barrier`], and the session *waits*: it takes no further request until
//! [`Session::barrier_reached`] says that the worker has reached the barrier. A wait outlives the worker:
//!
//! - A dead worker touches nothing, and the next worker is told of the device, which already has the change. So when a
//!   worker dies, the session acknowledges at once ([`Session::worker_died`]).
//! - `GET_VRING_BASE` asks for a ring's base. It is in guest memory, which only a worker reads. So the next worker
//!   starts the ring and is told again to stop it ([`Session::replay`]). If [`DEATHS_MAX`] workers die meanwhile, the
//!   session takes the base from the ledger. If a packed ring's publication was under way, the ring's next start is the same
//!   run, so that a worker finishes it.
//!
//! The worker's reports may be hostile: a report that answers no command is a [`Breach`], and the worker is replaced.

use std::rc::Rc;

use sv3::ipc::{Command, RingFault};
use sv3::virtio::VIRTIO_F_RING_PACKED;
use sv3::wire::Refuse;
use sv3::wire::vhost_user::*;

use super::frontend::Frontend;
use super::requests::{Refusal, Served};
use crate::estate::record::{DeviceRecord, SessionRecord};
use crate::estate::{Heirlooms, Unfit};
use crate::ports::device::Device;
use crate::ports::holdings::Holdings;
use crate::ports::kernel::Inspect;
use crate::ports::terms::Terms;
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;

/// Most commands that a client may cause before it must wait for the worker.
const UNFENCED_MAX: usize = 64;
/// After this many deaths of workers, the session takes a ring's base from the ledger.
const DEATHS_MAX: u8 = 3;

/// The result of a request. The commands end in a barrier if and only if the session waits now.
#[derive(Debug, Default)]
pub struct Step {
    /// Commands for the worker, in order.
    pub commands: Vec<WorkerCommand>,
    /// The reply to the client, if it is due at once.
    pub reply: Option<Reply>,
}

/// A request that is not served.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason, for the event.
    pub reason: Refuse,
    /// The reply, if the client asked for one.
    pub reply: Option<Reply>,
    /// The connection must be closed.
    pub close: bool,
}

impl From<Refuse> for Refused {
    /// Closes the connection without a reply.
    fn from(reason: Refuse) -> Refused {
        Refused { reason, reply: None, close: true }
    }
}

/// The protocol state of one client.
#[derive(Debug)]
pub struct Session {
    frontend: Frontend,
    wait: Option<Wait>,
    unfenced: usize,
}

#[derive(Debug)]
struct Wait {
    answer: Answer,
    deaths: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Ack(Code),
    VringBase(u16),
}

/// Whether the worker must have executed this request's commands before the next request, even if the client asked for
/// no reply.
fn is_ordered(code: Code) -> bool {
    [Code::SET_MEM_TABLE, Code::ADD_MEM_REG, Code::REM_MEM_REG].contains(&code)
        || [Code::GET_VRING_BASE, Code::RESET_DEVICE, Code::RESET_OWNER].contains(&code)
}

impl Session {
    /// The session of a client that has said nothing; its port has this slot.
    pub fn new(slot: u16) -> Session {
        Session { frontend: Frontend::new(slot), wait: None, unfenced: 0 }
    }

    /// Whether the supervisor alone serves a request: no command goes to the worker, and the session keeps at most a
    /// number.
    pub fn is_question(message: &Message) -> bool {
        let code = message.request.code();
        [Code::GET_FEATURES, Code::GET_PROTOCOL_FEATURES, Code::GET_QUEUE_NUM, Code::GET_MAX_MEM_SLOTS].contains(&code)
            || [Code::SET_OWNER, Code::SET_PROTOCOL_FEATURES, Code::NET_SET_MTU].contains(&code)
            || [Code::GET_STATUS, Code::SET_STATUS].contains(&code)
    }

    /// From now on the client's port has this slot and these terms. The session must not have returned a command
    /// before.
    pub fn take_slot(&mut self, slot: u16, terms: Rc<Terms>) {
        (self.frontend.device.port.slot, self.frontend.device.port.terms) = (slot, terms);
    }

    /// An operator changed what the port may do. Returns what was in force before.
    pub fn change_terms(&mut self, terms: Rc<Terms>) -> Rc<Terms> {
        std::mem::replace(&mut self.frontend.device.port.terms, terms)
    }

    /// Sets the virtio features that the client is offered. They must include all that it has acknowledged.
    pub fn offer(&mut self, features: u64) {
        self.frontend.offers = features;
    }

    /// Sets the counter of removed regions that are still mapped.
    pub fn count_pending_unmaps(&mut self, pending: PendingUnmaps) {
        self.frontend.device.pending_unmaps = pending;
    }

    /// Sets what the client may hold.
    pub fn allow(&mut self, allowance: Holdings) {
        self.frontend.allowance = allowance;
    }

    /// The device as the client has described it so far.
    pub fn device(&self) -> &Device {
        &self.frontend.device
    }

    /// What the client holds, including its connection.
    pub fn holdings(&self) -> Holdings {
        self.frontend.holdings()
    }

    /// Protocol features that the client has acknowledged.
    pub fn protocol_features(&self) -> u64 {
        self.frontend.protocol_features
    }

    /// Their names, for status.
    pub fn protocol_feature_names(&self) -> Vec<String> {
        protocol_feature_names(self.protocol_features())
    }

    /// The MTU that the client told.
    pub fn mtu(&self) -> Option<u64> {
        self.frontend.mtu
    }

    /// Whether the worker must report before the next request.
    pub fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }

    /// Serves one request. Must not be called while the session waits.
    pub fn request(&mut self, message: Message, kernel: &dyn Inspect) -> Result<Step, Refused> {
        let code = message.request.code();
        let features = self.frontend.protocol_features;
        // "The back-end sends a reply to SET_LOG_BASE if LOG_SHMFD was negotiated", asked or not.
        let wants_ack = message.need_reply && VHOST_USER_PROTOCOL_F_REPLY_ACK.of(features)
            || code == Code::SET_LOG_BASE && VHOST_USER_PROTOCOL_F_LOG_SHMFD.of(features);
        let ack = |done: bool| wants_ack.then(|| Reply::ack(code, done));
        match self.frontend.serve(message.request, kernel) {
            Ok(Served::Value(value)) => Ok(Step { commands: Vec::new(), reply: Some(Reply::U64(code, value)) }),
            Ok(Served::Base(ring, commands)) if commands.is_empty() => {
                Ok(Step { commands, reply: Some(self.vring_base(ring)) })
            }
            Ok(Served::Base(ring, commands)) => Ok(self.wait_for(Answer::VringBase(ring), commands)),
            Ok(Served::Told(commands)) => {
                self.unfenced += commands.len();
                let fence = !commands.is_empty() && (wants_ack || is_ordered(code) || self.unfenced > UNFENCED_MAX);
                match fence {
                    true => Ok(self.wait_for(if wants_ack { Answer::Ack(code) } else { Answer::Nothing }, commands)),
                    false => Ok(Step { commands, reply: ack(true) }),
                }
            }
            Err(Refusal::Stay(why)) => Err(Refused { reason: Refuse(why), reply: ack(false), close: !wants_ack }),
            Err(Refusal::Close(why)) => Err(Refused { reason: Refuse(why), reply: ack(false), close: true }),
        }
    }

    /// What the next supervisor must know, beside the device. The session must not wait.
    pub fn record(&self) -> SessionRecord {
        let Frontend { protocol_features, mtu, status, .. } = self.frontend;
        SessionRecord { protocol_features, mtu, status, unfenced: self.unfenced }
    }

    /// Goes on where the last supervisor was.
    pub fn restore(&mut self, record: &SessionRecord) {
        self.frontend.protocol_features = record.protocol_features;
        self.frontend.mtu = record.mtu;
        self.frontend.status = record.status;
        self.unfenced = record.unfenced;
    }

    /// Makes the device that of a record.
    pub fn restore_device(
        &mut self,
        record: DeviceRecord,
        files: &mut Heirlooms,
        kernel: &dyn Inspect,
    ) -> Result<(), Unfit> {
        self.frontend.device.restore(record, files, kernel)
    }

    /// All commands for a worker that knows nothing of this client. They end in a barrier if the session waits.
    pub fn replay(&self) -> Vec<WorkerCommand> {
        let mut commands = self.device().replay();
        if self.wait.is_some() {
            commands.push(Command::Barrier.into());
        }
        commands
    }

    /// The worker has reached the session's barrier. Returns the reply that was waited for.
    pub fn barrier_reached(&mut self) -> Result<Option<Reply>, Breach> {
        if self.device().is_stopping() {
            return Err(Breach("it reported a barrier before it reported that the ring stopped"));
        }
        let wait = self.wait.take().ok_or(Breach("it reported a barrier that it was not sent"))?;
        Ok(self.answer(wait))
    }

    /// The worker has stopped a ring at `base`.
    pub fn ring_stopped(&mut self, index: u16, base: u64) -> Result<(), Breach> {
        self.frontend.device.stopped(index, base)
    }

    /// A ring has stopped by itself. Returns whether that is news.
    pub fn ring_faulted(&mut self, index: u16, fault: RingFault) -> bool {
        self.frontend.device.faulted(index, fault)
    }

    /// The worker could not execute a command. If the client waits, its request is refused.
    pub fn command_failed(&mut self, why: String) -> Option<Refused> {
        let reply = match self.wait.take()?.answer {
            Answer::Ack(code) => Some(Reply::ack(code, false)),
            _ => None,
        };
        Some(Refused { reason: Refuse(why), reply, close: true })
    }

    /// The worker is dead. Returns the reply that is due now. `ledger` returns a ring's position
    /// ([`sv3::ledger::RingPosition::used`]).
    pub fn worker_died(&mut self, ledger: impl Fn(u16) -> u64) -> Option<Reply> {
        self.unfenced = 0;
        let mut wait = self.wait.take()?;
        wait.deaths += 1;
        if matches!(wait.answer, Answer::VringBase(_)) && wait.deaths < DEATHS_MAX {
            self.wait = Some(wait);
            return None;
        }
        self.frontend.device.stopped_by(ledger);
        self.answer(wait)
    }

    fn wait_for(&mut self, answer: Answer, mut commands: Vec<WorkerCommand>) -> Step {
        commands.push(Command::Barrier.into());
        self.wait = Some(Wait { answer, deaths: 0 });
        Step { commands, reply: None }
    }

    fn answer(&mut self, wait: Wait) -> Option<Reply> {
        self.unfenced = 0;
        match wait.answer {
            Answer::Nothing => None,
            Answer::Ack(code) => Some(Reply::ack(code, true)),
            Answer::VringBase(ring) => Some(self.vring_base(ring)),
        }
    }

    fn vring_base(&self, ring: u16) -> Reply {
        let base = u32::from(self.device().known_ring(ring).map_or(0, |ring| ring.base));
        // A packed ring's reply has the used index in the upper half.
        let used = if VIRTIO_F_RING_PACKED.of(self.device().features) { base << 16 } else { 0 };
        Reply::VringBase { ring, base: base | used }
    }
}

#[cfg(test)]
mod tests;
