//! Target `session`: a client that sends any requests in any order, as octets that the decoder takes, and a worker that
//! is late, dies, or sends false reports. Each request that asks for an answer is answered once. The worker's memory
//! table is always valid. A new worker that gets the replay has the same state as one that got every live command.

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
use sv3::wire::vhost_user::{Code, Message, Reply, VHOST_USER_PROTOCOL_F_LOG_SHMFD, VHOST_USER_PROTOCOL_F_REPLY_ACK};

use crate::clients::vhost_user::session::Session;
use crate::estate::record::{DeviceRecord, SessionRecord};
use crate::estate::{Files, Heirlooms};
use crate::ports::kernel::{Extent, FileId, Inspect, MemoryFile};
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use worker::Model;

/// Most commands that may wait for a worker: those that need no barrier, and those of the largest request.
const COMMANDS_MAX: usize = 64 + 4 * 32 + 512;

/// Octets: whether the worker is honest (1), then steps; see [`Fixture::step`].
pub fn session(octets: &[u8]) {
    let mut input = Input::new(octets);
    let fds = Fds::default();
    let honest = input.below(4) != 0;
    let mut fixture = Fixture::new(honest);
    while !input.is_empty() {
        if !fixture.step(&mut input, &fds) {
            // The client was turned away: continue with a new one.
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
    /// Commands that the worker has not executed yet.
    commands: VecDeque<WorkerCommand>,
    /// The request whose answer the client waits for.
    owed: Option<Code>,
    /// The worker sends no false reports.
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

    /// Octets: kind (1), then its parameters. Returns false if the client is turned away.
    fn step(&mut self, input: &mut Input<'_>, fds: &Fds) -> bool {
        match input.below(16) {
            kind @ 0..9 => {
                while self.session.is_waiting() && !self.commands.is_empty() {
                    self.execute(0x100 + kind as u16);
                }
                if self.session.is_waiting() {
                    // Only after a false report may a client wait without end.
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
                // The offered features always include the acknowledged ones.
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
        let logs = VHOST_USER_PROTOCOL_F_LOG_SHMFD.of(self.session.protocol_features());
        let acks = acks || code == Code::SET_LOG_BASE && logs;
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
                    // SET_PROTOCOL_FEATURES itself switches acknowledgements on or off.
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

    /// The worker executes one command.
    fn execute(&mut self, base: u16) {
        let Some(next) = self.commands.pop_front() else { return };
        self.worker.execute(&next);
        let heard = match next.command {
            Command::Barrier => self.session.barrier_reached().map(|reply| self.answered(reply)),
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

    /// The next supervisor goes on with what this one left.
    fn hand_over(&mut self) {
        if !self.session.is_waiting() {
            self.session = handed_over(&self.session);
        }
    }

    /// The worker dies, and another one gets the replay. Then the supervisor is replaced as well.
    fn die(&mut self) {
        let waited = self.session.is_waiting();
        let reply = self.session.worker_died(|ring| u64::from(ring.wrapping_mul(3)) | u64::from(ring & 1) << 32);
        if waited && !self.session.is_waiting() {
            self.answered(reply);
        } else {
            assert!(reply.is_none());
        }
        self.hand_over();
        self.commands = self.session.replay().into();
        self.worker = Model::default();
    }

    /// The worker sends a report that no command asked for. It is killed if the report is impossible.
    fn lie(&mut self, input: &mut Input<'_>) -> bool {
        self.honest = false;
        let (what, ring, value) = (input.below(4), u16::from(input.u8()), input.u64());
        let heard = match what {
            0 => self.session.barrier_reached().map(|reply| self.answered(reply)),
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

/// The session that the next supervisor makes from the record of this one. It is the same in all that a worker or a
/// client can see.
pub(crate) fn handed_over(session: &Session) -> Session {
    let device = |session: &Session| {
        let mut files = Files::default();
        let record = session.device().record(&mut files);
        let copies = files.all().iter().map(|fd| fd.try_clone_to_owned().unwrap().into()).collect();
        (record, Heirlooms::new(copies))
    };
    let (wanted, mut files) = device(session);
    let text = serde_json::to_vec(&(session.record(), &wanted)).unwrap();
    let (said, record): (SessionRecord, DeviceRecord) = serde_json::from_slice(&text).unwrap();
    let mut next = Session::new(session.device().port.slot);
    next.restore(&said);
    let kernel = FakeKernel { size: Cell::new(Some(1 << 30)), eventfd: Cell::new(true) };
    next.restore_device(record, &mut files, &kernel).unwrap();
    assert_eq!((files.left(), next.record(), device(&next).0), (0, session.record(), wanted));
    let commands = |session: &Session| session.replay().into_iter().map(|told| told.command).collect::<Vec<_>>();
    assert_eq!(commands(&next), commands(session));
    let seen = |session: &Session| (session.holdings(), session.device().is_sealed(), session.device().is_running());
    assert_eq!(seen(&next), seen(session));
    next
}

fn check_reply(reply: Reply, code: Code) {
    match reply {
        Reply::U64(of, _) => assert_eq!(of, code),
        Reply::VringBase { .. } => assert_eq!(code, Code::GET_VRING_BASE),
    }
}

/// A kernel that answers as the input says, whatever the fd.
struct FakeKernel {
    /// Size of every file; none: the file is not memory.
    size: Cell<Option<u64>>,
    eventfd: Cell<bool>,
}

impl Inspect for FakeKernel {
    fn memory(&self, fd: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>> {
        // Each fd counts as a different file.
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
