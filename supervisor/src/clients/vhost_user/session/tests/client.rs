//! A front-end and a worker for the tests of exchanges, without I/O.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::SealFlag;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command as C, RingAddr};
use sv3::virtio::{OFFERED, VHOST_F_LOG_ALL, VIRTIO_F_RING_PACKED};

/// All offered features except the log of dirty pages, which front-ends acknowledge when they migrate.
pub const ALL: u64 = OFFERED & !VHOST_F_LOG_ALL.mask();
/// The same without packed rings.
pub const SPLIT: u64 = ALL & !VIRTIO_F_RING_PACKED.mask();

use super::super::*;
use crate::ports::kernel::{Extent, FileId, MemoryFile};

/// A kernel that answers as the test says, whatever the fd.
pub struct FakeKernel {
    pub file_size: Cell<u64>,
    pub eventfd: Cell<bool>,
}

impl Inspect for FakeKernel {
    fn memory(&self, fd: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>> {
        // Each fd counts as a different file.
        let file = FileId(0, fd.as_raw_fd().unsigned_abs().into());
        let size = self.file_size.get();
        Ok(Some(MemoryFile {
            file,
            extent: Extent { size, present: 0 },
            block: 4096,
            seals: SealFlag::empty(),
            writable: true,
        }))
    }

    fn extent(&self, _: BorrowedFd<'_>) -> io::Result<Extent> {
        Ok(Extent { size: self.file_size.get(), present: 0 })
    }

    fn claim_eventfd(&self, _: BorrowedFd<'_>) -> bool {
        self.eventfd.get()
    }
}

/// A front-end, and a worker that executes commands at once.
pub struct Client {
    pub session: Session,
    pub kernel: FakeKernel,
    pub commands: Vec<C>,
}

impl Client {
    pub fn new() -> Client {
        let kernel = FakeKernel { file_size: Cell::new(1 << 30), eventfd: Cell::new(true) };
        Client { session: Session::new(7), kernel, commands: Vec::new() }
    }

    /// A client like QEMU that has acknowledged every feature.
    pub fn negotiated() -> Client {
        let mut client = Client::new();
        client.ask(Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES));
        client.ask(Request::SetOwner);
        client.ask(Request::SetFeatures(SPLIT));
        client.commands.clear();
        client
    }

    /// A client with two rings that are started and enabled.
    pub fn running() -> Client {
        let mut client = Client::negotiated();
        client.ask(table());
        for ring in 0..2 {
            client.start(ring);
            client.ask(Request::SetVringEnable { ring, num: 1 });
        }
        client.commands.clear();
        client
    }

    pub fn send(&mut self, request: Request, need_reply: bool) -> Result<Step, Refused> {
        self.session.request(Message { request, need_reply }, &self.kernel)
    }

    /// Sends a request, lets the worker execute the commands, and returns the reply.
    pub fn ask(&mut self, request: Request) -> Option<Reply> {
        self.ask_with(request, false).unwrap()
    }

    pub fn ask_with(&mut self, request: Request, need_reply: bool) -> Result<Option<Reply>, Refused> {
        let step = self.send(request, need_reply)?;
        assert_eq!(step.commands.last().is_some_and(|told| told.command == C::Barrier), self.session.is_waiting());
        let mut reply = step.reply;
        for told in step.commands {
            assert_eq!(told.fd.is_some(), told.command.fds() == 1);
            match told.command {
                C::Barrier => reply = self.session.barrier_reached().unwrap(),
                C::RingStop { ring, .. } => self.session.ring_stopped(ring, 40 + u64::from(ring)).unwrap(),
                _ => {}
            }
            self.commands.push(told.command);
        }
        Ok(reply)
    }

    pub fn refused(&mut self, request: Request) -> String {
        let refused = self.send(request, true).unwrap_err();
        assert!(refused.close);
        refused.reason.0
    }

    pub fn start(&mut self, ring: u16) {
        self.ask(Request::SetVringNum { ring, num: 256 });
        self.ask(Request::SetVringBase { ring, base: 0 });
        self.ask(addr(ring, 0x1000));
        self.ask(Request::SetVringKick { ring, fd: Some(fd()) });
        self.ask(Request::SetVringCall { ring, fd: Some(fd()) });
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.commands.iter().map(name).collect()
    }
}

pub fn name(command: &C) -> &'static str {
    match command {
        C::Start { .. } => "Start",
        C::Promote => "Promote",
        C::PortAdd { .. } => "PortAdd",
        C::RulesStage { .. } => "RulesStage",
        C::RulesCommit => "RulesCommit",
        C::CaptureOpen { .. } => "CaptureOpen",
        C::CapturePorts { .. } => "CapturePorts",
        C::CaptureClose { .. } => "CaptureClose",
        C::MirrorSet { .. } => "MirrorSet",
        C::MirrorEnd { .. } => "MirrorEnd",
        C::AddressAdd { .. } => "AddressAdd",
        C::AddressRemove { .. } => "AddressRemove",
        C::AddressFlush { .. } => "AddressFlush",
        C::PortRemove { .. } => "PortRemove",
        C::PortFeatures { .. } => "PortFeatures",
        C::RegionStage { .. } => "RegionStage",
        C::MemoryCommit { .. } => "MemoryCommit",
        C::RegionAdd { .. } => "RegionAdd",
        C::RegionRemove { .. } => "RegionRemove",
        C::RingStart { .. } => "RingStart",
        C::RingStop { .. } => "RingStop",
        C::RingEnable { enable: true, .. } => "RingEnable",
        C::RingEnable { enable: false, .. } => "RingDisable",
        C::RingCall { .. } => "RingCall",
        C::FileOpen { .. } => "FileOpen",
        C::FileClose { .. } => "FileClose",
        C::CardMemory { .. } => "CardMemory",
        C::CardInterrupt { .. } => "CardInterrupt",
        C::CardContainer { .. } => "CardContainer",
        C::CardOpen { .. } => "CardOpen",
        C::CardStart { .. } => "CardStart",
        C::LoopProbe { .. } => "LoopProbe",
        C::SendRarp { .. } => "SendRarp",
        C::Trace { .. } => "Trace",
        C::LogOpen { .. } => "LogOpen",
        C::LogClose { .. } => "LogClose",
        C::RingLog { .. } => "RingLog",
        C::Barrier => "Barrier",
        C::Snoop { .. } => "Snoop",
    }
}

pub fn fd() -> ForeignFd {
    std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into()
}

pub fn region(guest_addr: u64) -> MemoryRegion {
    MemoryRegion { guest_addr, size: 0x10_0000, user_addr: 0x7000_0000_0000 + guest_addr, offset: 0 }
}

pub fn table() -> Request {
    Request::SetMemTable(vec![(region(0), fd())])
}

pub fn addr(ring: u16, desc: u64) -> Request {
    let addr = RingAddr { desc, avail: desc + 0x1000, used: desc + 0x2000 };
    Request::SetVringAddr { ring, flags: 0, addr, log: 0 }
}
