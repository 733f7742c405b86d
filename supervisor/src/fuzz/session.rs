//! Target `session`: a client that says anything in any order, octet by octet as the decoder takes it, and a worker
//! that is late, dies, or lies. Each request that asks for an answer is answered once, the worker's memory table is
//! sound at any time, and a new worker that is told the replay stands where one stands that was told everything live.

pub(super) mod client;
mod worker;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::SealFlag;
use sv3::fuzz::{Fds, Input};
use sv3::ipc::{Command, RingFault};
use sv3::virtio::OFFERED;
use sv3::wire::vhost_user::{Code, Message, Reply, VHOST_USER_PROTOCOL_F_REPLY_ACK};

use crate::clients::vhost_user::session::Session;
use crate::ports::kernel::{Extent, FileId, Inspect, MemoryFile};
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use worker::Model;

/// Commands that may wait for a worker: those that need no fence, and the largest request's.
const COMMANDS_MAX: usize = 64 + 4 * 32 + 512;

/// Octets: whether the worker is honest (1), then steps; see [`Fixture::step`].
pub fn session(octets: &[u8]) {
    let mut input = Input::new(octets);
    let fds = Fds::default();
    let honest = input.below(4) != 0;
    let mut fixture = Fixture::new(honest);
    while !input.is_empty() {
        if !fixture.step(&mut input, &fds) {
            // The client was turned away; here is the next one.
            fixture = Fixture::new(honest);
        }
    }
    fixture.end();
    drop(fixture);
    fds.assert_closed();
}

struct Fixture {
    session: Session,
    kernel: FakeKernel,
    worker: Model,
    /// For the worker, which has not taken them yet.
    commands: VecDeque<WorkerCommand>,
    /// The client waits for an answer to this.
    owed: Option<Code>,
    /// The worker has not lied.
    honest: bool,
    may_lie: bool,
}

impl Fixture {
    fn new(honest: bool) -> Fixture {
        let session = Session::new(7);
        let kernel = FakeKernel { size: Cell::new(Some(1 << 30)), eventfd: Cell::new(true) };
        let commands = session.replay().into();
        Fixture { session, kernel, worker: Model::default(), commands, owed: None, honest: true, may_lie: !honest }
    }

    /// Octets: kind (1), then its particulars. False: the client is turned away.
    fn step(&mut self, input: &mut Input<'_>, fds: &Fds) -> bool {
        match input.below(16) {
            kind @ 0..9 => {
                while self.session.is_waiting() && !self.commands.is_empty() {
                    self.execute(0x100 + kind as u16);
                }
                if self.session.is_waiting() {
                    // Only a worker that lies leaves a client waiting.
                    assert!(!self.honest);
                    self.die();
                    return !self.session.is_waiting() || !self.honest;
                }
                self.request(input, fds)
            }
            9..12 => {
                for _ in 0..input.below(8) {
                    let base = input.u16();
                    self.execute(base);
                }
                true
            }
            12 => {
                self.die();
                true
            }
            13 => {
                let (ring, fault) = (input.u8().into(), input.u8().into());
                if let Some(fault) = RingFault::from_value(fault) {
                    self.session.ring_faulted(ring, fault);
                }
                true
            }
            14 => {
                let size = input.u8();
                self.kernel.size.set((size != 0xff).then_some(u64::from(size) << 16));
                self.kernel.eventfd.set(input.below(8) != 0);
                // What a client has acknowledged is always among what is offered.
                self.session.offer(OFFERED & (input.u64() | self.session.device().features));
                true
            }
            _ if self.may_lie => self.lie(input),
            _ => true,
        }
    }

    fn request(&mut self, input: &mut Input<'_>, fds: &Fds) -> bool {
        let Some(Message { request, need_reply }) = client::message(input, fds) else { return false };
        let code = request.code();
        let acks = need_reply && VHOST_USER_PROTOCOL_F_REPLY_ACK.of(self.session.protocol_features());
        let gets = code.to_string().starts_with("GET_");
        match self.session.request(Message { request, need_reply }, &self.kernel) {
            Ok(step) => {
                assert!(self.owed.is_none());
                let ends_in_barrier = step.commands.last().is_some_and(|last| last.command == Command::Barrier);
                assert_eq!(ends_in_barrier, self.session.is_waiting());
                assert!(!(step.reply.is_some() && self.session.is_waiting()));
                self.commands.extend(step.commands);
                match step.reply {
                    Some(reply) => check_reply(reply, code),
                    None if self.session.is_waiting() => self.owed = (acks || gets).then_some(code),
                    // SET_PROTOCOL_FEATURES itself is the first that is acknowledged, or the last.
                    None => assert!(!acks && !gets || code == Code::SET_PROTOCOL_FEATURES, "{code} was not answered"),
                }
                assert!(self.commands.len() <= COMMANDS_MAX, "{} commands", self.commands.len());
                true
            }
            Err(refused) => {
                assert!(refused.close || acks);
                assert_eq!(refused.reply.is_some(), acks);
                refused.reply.inspect(|reply| check_reply(*reply, code));
                !refused.close
            }
        }
    }

    /// The worker does what one command says.
    fn execute(&mut self, base: u16) {
        let Some(next) = self.commands.pop_front() else { return };
        self.worker.execute(&next);
        let heard = match next.command {
            Command::Barrier => self.session.fence().map(|reply| self.answered(reply)),
            Command::RingStop { ring, .. } => self.session.ring_stopped(ring, base.into()),
            _ => Ok(()),
        };
        assert!(heard.is_ok() || !self.honest, "{heard:?}");
    }

    fn answered(&mut self, reply: Option<Reply>) {
        if self.honest {
            assert_eq!(reply.is_some(), self.owed.is_some());
        }
        if let (Some(reply), Some(code)) = (reply, self.owed.take()) {
            check_reply(reply, code);
        }
    }

    /// The worker dies, and another one is told the replay.
    fn die(&mut self) {
        let waited = self.session.is_waiting();
        let reply = self.session.worker_died(|ring| ring.wrapping_mul(3));
        if waited && !self.session.is_waiting() {
            self.answered(reply);
        } else {
            assert!(reply.is_none());
        }
        self.commands = self.session.replay().into();
        self.worker = Model::default();
    }

    /// The worker says what it was not asked for. It is killed for what cannot be.
    fn lie(&mut self, input: &mut Input<'_>) -> bool {
        self.honest = false;
        let (what, ring, value) = (input.below(4), u16::from(input.u8()), input.u64());
        let heard = match what {
            0 => self.session.fence().map(|reply| self.answered(reply)),
            1 => self.session.ring_stopped(ring, value & 0x1_ffff),
            2 => self.session.ring_stopped(ring, value),
            _ => match self.session.command_failed("it says so".to_string()) {
                Some(refused) => return !refused.close,
                None => Ok(()),
            },
        };
        if let Err(Breach(why)) = heard {
            assert!(!why.is_empty());
            self.die();
        }
        true
    }

    fn end(&mut self) {
        while !self.commands.is_empty() {
            self.execute(9);
        }
        if !self.honest {
            return;
        }
        assert!(!self.session.is_waiting() && self.owed.is_none());
        let mut fresh = Model::default();
        self.session.replay().iter().for_each(|next| fresh.execute(next));
        assert_eq!(self.worker.where_it_stands(), fresh.where_it_stands());
    }
}

fn check_reply(reply: Reply, code: Code) {
    match reply {
        Reply::U64(of, _) => assert_eq!(of, code),
        Reply::VringBase { .. } => assert_eq!(code, Code::GET_VRING_BASE),
    }
}

/// Answers as told, whatever the fd.
struct FakeKernel {
    /// Of every file; none: not memory.
    size: Cell<Option<u64>>,
    eventfd: Cell<bool>,
}

impl Inspect for FakeKernel {
    fn memory(&self, fd: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>> {
        // Each fd is a file of its own.
        let file = FileId(0, fd.as_raw_fd().unsigned_abs().into());
        let file = |size| MemoryFile {
            file,
            extent: Extent { size, present: 0 },
            block: 4096,
            seals: SealFlag::empty(),
            writable: true,
        };
        Ok(self.size.get().map(file))
    }

    fn extent(&self, _: BorrowedFd<'_>) -> io::Result<Extent> {
        Ok(Extent { size: self.size.get().unwrap_or(0), present: 0 })
    }

    fn claim_eventfd(&self, _: BorrowedFd<'_>) -> bool {
        self.eventfd.get()
    }
}
