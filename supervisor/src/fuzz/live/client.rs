//! Clients of target `live`, and the files that they send.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sv3::fuzz::{Fds, Input};
use sv3::wire::vhost_user::Code;

use crate::fuzz::session::client::request;

/// Octets of memory files.
const SIZE: i64 = 1 << 30;

/// The files that clients send. None may stay open.
pub struct Files {
    fds: Fds,
    /// The name of this run's memory files, by which leaks are found.
    name: String,
    /// Memory files of the clients that are not honest.
    memory: RefCell<Vec<OwnedFd>>,
}

impl Files {
    /// No files yet.
    pub fn new(fds: Fds) -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sv3-live-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        Files { fds, name, memory: RefCell::default() }
    }

    fn memory(&self) -> OwnedFd {
        let fd = memfd_create(self.name.as_str(), MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, SIZE).unwrap();
        fd
    }

    /// A file that can be no port.
    pub fn odd(&self) -> OwnedFd {
        self.fds.one()
    }

    fn eventfd(&self) -> OwnedFd {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap().into()
    }

    /// A file of the kind that the request wants, or of another kind.
    fn of(&self, code: Code, odd: bool) -> OwnedFd {
        match code {
            _ if odd => self.fds.one(),
            Code::SET_MEM_TABLE | Code::ADD_MEM_REG => {
                let fd = self.memory();
                self.memory.borrow_mut().push(fd.try_clone().unwrap());
                fd
            }
            _ => self.eventfd(),
        }
    }

    /// Truncates a memory file below its region's size.
    pub fn truncate(&self) {
        if let Some(fd) = self.memory.borrow_mut().pop() {
            nix::unistd::ftruncate(&fd, 0).unwrap();
        }
    }

    /// Panics unless the supervisor has closed all files.
    pub fn assert_closed(self) {
        drop(self.memory);
        self.fds.assert_closed();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
        let left = open.filter(|link| link.to_string_lossy().contains(&self.name)).count();
        assert_eq!(left, 0, "memory files are leaked");
    }
}

/// A client.
pub struct Client {
    socket: Option<UnixStream>,
    /// The rest of the current message: octets, and fds that go with the first of them.
    unsaid: Vec<u8>,
    fds: Vec<OwnedFd>,
    heard: Vec<u8>,
    /// Answers that it has still to get.
    asked: usize,
}

/// `VIRTIO_F_VERSION_1` and `VHOST_USER_F_PROTOCOL_FEATURES`; `VHOST_USER_PROTOCOL_F_REPLY_ACK`; the flag `need_reply`.
const FEATURES: u64 = 1 << 32 | 1 << 30;
const REPLY_ACK: u64 = 1 << 3;
const NEED_REPLY: u32 = 1 << 3;

impl Client {
    /// Connects a client to the front door.
    pub fn connect(door: &Path) -> Client {
        let socket = UnixStream::connect(door).unwrap();
        socket.set_nonblocking(true).unwrap();
        Client { socket: Some(socket), unsaid: Vec::new(), fds: Vec::new(), heard: Vec::new(), asked: 0 }
    }

    /// Begins a message, or continues one. Octets: how many are sent now (1), the message.
    pub fn speak(&mut self, input: &mut Input<'_>, files: &Files) {
        let cut = usize::from(input.u8());
        if self.unsaid.is_empty()
            && let Some((code, octets, count)) = request(input)
        {
            let odd = input.below(8) == 7;
            (self.unsaid, self.fds) = (octets, (0..count).map(|_| files.of(code, odd)).collect());
        }
        // Mostly the whole message.
        self.send_some(if cut < 0x80 { usize::MAX } else { cut & 0x3f });
    }

    /// Sends the rest of the message.
    pub fn send(&mut self) {
        self.read_replies();
        self.send_some(1);
    }

    fn send_some(&mut self, most: usize) {
        let most = most.min(self.unsaid.len());
        let Some(socket) = self.socket.as_ref().filter(|_| most > 0) else { return };
        let given: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); 256];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !given.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&given)));
        }
        let sent = sendmsg(socket, &[IoSlice::new(&self.unsaid[..most])], &mut ancillary, SendFlags::NOSIGNAL);
        if let Ok(sent) = sent {
            self.unsaid.drain(..sent);
            self.fds.clear();
        }
    }

    /// Reads replies.
    pub fn read_replies(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let mut octets = [0; 4096];
        match socket.read(&mut octets) {
            Ok(count) => self.heard.extend_from_slice(&octets[..count]),
            Err(error) => assert_ne!(error.kind(), ErrorKind::Interrupted),
        }
    }

    /// Disconnects.
    pub fn close(&mut self) {
        self.socket = None;
    }

    fn request(&mut self, code: Code, longs: &[u64], fds: Vec<OwnedFd>) {
        self.request_with(0, code, longs, fds);
    }

    fn request_with(&mut self, flags: u32, code: Code, longs: &[u64], fds: Vec<OwnedFd>) {
        let payload: Vec<u8> = longs.iter().flat_map(|long| long.to_ne_bytes()).collect();
        let words = [code.id(), 1 | flags, payload.len() as u32].map(u32::to_ne_bytes);
        (self.unsaid, self.fds) = ([words.as_flattened(), &payload].concat(), fds);
        self.send_some(usize::MAX);
        assert!(self.unsaid.is_empty(), "an honest client's message found no room");
    }

    /// Sends what an honest client sends until its first ring runs.
    pub fn start_ring(&mut self, files: &Files) {
        let user = 0x7000_0000_0000;
        self.request(Code::SET_OWNER, &[], vec![]);
        self.request(Code::SET_PROTOCOL_FEATURES, &[REPLY_ACK], vec![]);
        self.request(Code::SET_FEATURES, &[FEATURES], vec![]);
        let table = [1, 0, 1 << 20, user, 0];
        self.request(Code::SET_MEM_TABLE, &table, vec![files.memory()]);
        self.request(Code::SET_VRING_NUM, &[256 << 32], vec![]);
        self.request(Code::SET_VRING_ADDR, &[0, user, user + 0x2000, user + 0x1000, 0], vec![]);
        self.request(Code::SET_VRING_CALL, &[0], vec![files.eventfd()]);
    }

    /// Starts the ring, waits until that is done, and asks for the ring's base, which only the worker knows.
    pub fn ask(&mut self, files: &Files) {
        self.request(Code::SET_VRING_BASE, &[0], vec![]);
        self.request(Code::SET_VRING_KICK, &[0], vec![files.eventfd()]);
        self.request_with(NEED_REPLY, Code::SET_VRING_ENABLE, &[1 << 32], vec![]);
        self.request(Code::GET_VRING_BASE, &[0], vec![]);
        self.asked += 1;
    }

    /// Panics unless each answer came once.
    pub fn assert_answered(&mut self) {
        self.read_replies();
        let answers = self.heard.chunks(20).map(|answer| u32::from_ne_bytes(*answer.first_chunk().unwrap()));
        let answers: Vec<u32> = answers.collect();
        let wanted = [Code::SET_VRING_ENABLE.id(), Code::GET_VRING_BASE.id()].repeat(self.asked);
        assert!(answers == wanted && self.heard.len().is_multiple_of(20), "the honest client was answered {answers:?}");
    }
}
