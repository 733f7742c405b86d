//! One client's exchange of requests and replies: a state machine without I/O.
//!
//! # Theory of operation
//!
//! [`Session::request`] takes one decoded request and returns a [`Step`]: commands for the worker and, unless it has to
//! wait, the reply. Some requests promise the front-end that the data path has taken them in before the answer comes.
//! Their commands end in a [`Command::Barrier`] and the session *waits*: no further request may be handed in until
//! [`Session::fence`] says that the worker has reached the barrier. A wait outlives the worker:
//!
//! - A dead worker touches nothing, and its successor is brought up from the device, which already has the change. So
//!   an acknowledgement is due at once when a worker dies ([`Session::worker_died`]).
//! - The base that `GET_VRING_BASE` asks for stands in guest memory, which only a worker reads. The successor starts
//!   the ring and is told again to stop it ([`Session::replay`]). If workers die of that again and again, the session
//!   takes the base from the ledger.
//!
//! What the worker reports is hostile: a report that answers nothing is a [`Breach`], and the worker is replaced.

use sv3::ipc::{Command, RingFault};
use sv3::virtio::VIRTIO_F_RING_PACKED;
use sv3::wire::Refuse;
use sv3::wire::vhost_user::*;

use super::frontend::Frontend;
use super::requests::{Refusal, Served};
use crate::ports::device::Device;
use crate::ports::holdings::Holdings;
use crate::ports::kernel::Inspect;
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;

/// Commands that a client may cause before it has to wait for the worker.
const UNFENCED_MAX: usize = 64;
/// Deaths after which the ledger is believed about a ring's base.
const DEATHS_MAX: u8 = 3;

/// What a request leads to. The commands end in a barrier exactly if the session waits now.
#[derive(Debug, Default)]
pub struct Step {
    /// For the worker, in order.
    pub commands: Vec<WorkerCommand>,
    /// For the client, at once.
    pub reply: Option<Reply>,
}

/// A request that is not served.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the log.
    pub reason: Refuse,
    /// For the client, if it asked for one.
    pub reply: Option<Reply>,
    /// The connection is to be closed.
    pub close: bool,
}

impl From<Refuse> for Refused {
    /// A client that is beyond answering.
    fn from(reason: Refuse) -> Refused {
        Refused { reason, reply: None, close: true }
    }
}

/// State of one client.
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

/// Requests whose effect the worker must have seen before the next request, whether or not the client asks.
fn is_ordered(code: Code) -> bool {
    [Code::SET_MEM_TABLE, Code::ADD_MEM_REG, Code::REM_MEM_REG].contains(&code)
        || [Code::GET_VRING_BASE, Code::RESET_DEVICE, Code::RESET_OWNER].contains(&code)
}

impl Session {
    /// A client that has said nothing, with its port in this slot.
    pub fn new(slot: u16) -> Session {
        Session { frontend: Frontend::new(slot), wait: None, unfenced: 0 }
    }

    /// Whether a request is for the supervisor alone: the worker never hears of it, and nothing is kept but a number.
    pub fn is_question(message: &Message) -> bool {
        let code = message.request.code();
        [Code::GET_FEATURES, Code::GET_PROTOCOL_FEATURES, Code::GET_QUEUE_NUM, Code::GET_MAX_MEM_SLOTS].contains(&code)
            || [Code::SET_OWNER, Code::SET_PROTOCOL_FEATURES, Code::NET_SET_MTU].contains(&code)
            || [Code::GET_STATUS, Code::SET_STATUS].contains(&code)
    }

    /// The client's port is in this slot from now on. No command may have been given before.
    pub fn take_slot(&mut self, slot: u16) {
        self.frontend.device.port.slot = slot;
    }

    /// The virtio features that the client is offered from now on; among them all that it has acknowledged.
    pub fn offer(&mut self, features: u64) {
        self.frontend.offers = features;
    }

    /// Counts what was taken away from the workers and is mapped still by this from now on.
    pub fn count_pending_unmaps(&mut self, pending: PendingUnmaps) {
        self.frontend.device.pending_unmaps = pending;
    }

    /// What the client may hold from now on.
    pub fn allow(&mut self, allowance: Holdings) {
        self.frontend.allowance = allowance;
    }

    /// The device, as the client has described it so far.
    pub fn device(&self) -> &Device {
        &self.frontend.device
    }

    /// What the client holds, its connection with it.
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
        let wants_ack = message.need_reply && VHOST_USER_PROTOCOL_F_REPLY_ACK.of(self.frontend.protocol_features);
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

    /// All commands for a worker that knows nothing of this client; end in a barrier if the session waits.
    pub fn replay(&self) -> Vec<WorkerCommand> {
        let mut commands = self.device().replay();
        if self.wait.is_some() {
            commands.push(Command::Barrier.into());
        }
        commands
    }

    /// The worker has reached the session's barrier. Returns the reply that was waited for.
    pub fn fence(&mut self) -> Result<Option<Reply>, Breach> {
        if self.device().is_stopping() {
            return Err(Breach("it passed a barrier without having stopped a ring"));
        }
        let wait = self.wait.take().ok_or(Breach("it reached a barrier that was not set"))?;
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

    /// The worker could not do what a command says. If the client waits for one, it is refused.
    pub fn command_failed(&mut self, why: String) -> Option<Refused> {
        let reply = match self.wait.take()?.answer {
            Answer::Ack(code) => Some(Reply::ack(code, false)),
            _ => None,
        };
        Some(Refused { reason: Refuse(why), reply, close: true })
    }

    /// The worker is dead. Returns the reply that is due by that; `ledger` tells where a ring stood.
    pub fn worker_died(&mut self, ledger: impl Fn(u16) -> u16) -> Option<Reply> {
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
        // Of a packed ring the used half goes above the available one.
        let used = if VIRTIO_F_RING_PACKED.of(self.device().features) { base << 16 } else { 0 };
        Reply::VringBase { ring, base: base | used }
    }
}

#[cfg(test)]
mod tests;
