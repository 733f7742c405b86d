//! Captures: requests at the control socket, and their connections. A capture lasts as long as its connection, which
//! tells the reader which ports it has. What workers are told is in [`crate::workers::observers`].
//!
//! A port is captured by its name, whoever is behind it. The supervisor looks at the ports before each turn, and tells
//! workers after they have forgotten a port that went: so a capture never sees the next port of a slot that it does not
//! name.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::SealFlag;
use nix::sys::epoll::EpollFlags;
use serde_json::json;
use sv3::capture::{CAPTURES_MAX, CaptureFile, CaptureRequest};
use sv3::foreign::ForeignFd;
use sv3::port_set::PortSet;
use sv3::status::{CaptureAnswer, CaptureStatus};

use super::Supervisor;
use super::answers::to_json;
use crate::ancillary;
use crate::clients::slots::Identity;
use crate::doors::listener::Peer;
use crate::fd_inventory::OpenFile;
use crate::ports::kernel::{Inspect, Kernel};
use crate::token::Token;
use crate::workers::worker::Waiter;

/// All captures, by number.
#[derive(Default)]
pub struct Captures {
    all: [Option<Capture>; CAPTURES_MAX],
}

/// A capture under way.
struct Capture {
    request: CaptureRequest,
    /// Its connection.
    peer: Peer,
    /// The reader knows its ports: the serving worker has begun.
    is_told: bool,
}

impl Captures {
    /// The connections.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let open = self.all.iter().flatten();
        open.map(|capture| OpenFile::new(&*capture.peer.stream, "socket", "the reader of a capture"))
    }

    /// For status.
    pub fn status(&self) -> Vec<CaptureStatus> {
        let status = |Capture { request, peer, .. }: &Capture| CaptureStatus {
            pid: peer.pid,
            uid: peer.uid,
            snaplen: request.snaplen,
            ports: request.ports.clone(),
        };
        self.all.iter().flatten().map(status).collect()
    }
}

impl Supervisor {
    /// `capture`: begins a capture, and answers at its connection. The error is for people.
    pub(super) fn begin_capture(
        &mut self,
        place: usize,
        request: CaptureRequest,
        file: ForeignFd,
    ) -> Result<(), String> {
        self.check_rings(&file)?;
        let unknown = |name: &&String| !self.clients.slots.identities().any(|port| self.is_named(port, name));
        if let Some(name) = request.ports.iter().find(unknown) {
            return Err(format!("no port is named {name}; `sv3 status` lists all ports"));
        }
        let (ports, _) = self.captured(&request);
        let opened = self.workers.observers.open(file, request.snaplen, ports);
        let (number, commands) = opened.ok_or(format!("there are {CAPTURES_MAX} captures already: end one"))?;
        self.workers.send(commands, Waiter::Nobody);
        let Some(peer) = self.doors.take_control(place, &self.reactor) else {
            let end = self.workers.observers.close(number);
            self.workers.send(end.into_iter().collect(), Waiter::Nobody);
            return Err("the exchange is over".to_string());
        };
        let (pid, uid, whose) = (peer.pid, peer.uid, names(&request));
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        let watched = self.reactor.watch(peer.stream.as_fd(), Token::Capture(number), flags);
        if let Some(place) = self.captures.all.get_mut(usize::from(number)) {
            *place = Some(Capture { request, peer, is_told: false });
        }
        let message = format!("process {pid} of user {uid} captures the frames of {whose}");
        self.telemetry.events.say_with("capture", message, json!({ "reader_pid": pid, "reader_uid": uid }));
        match watched {
            Ok(()) => self.send_and_answer(Vec::new()),
            Err(_) => self.end_capture(number),
        }
        Ok(())
    }

    /// Tells the readers of captures that have begun which ports they have.
    pub(super) fn tell_new_readers(&mut self) {
        for number in 0..CAPTURES_MAX as u8 {
            let Some(capture) = self.captures.all.get_mut(usize::from(number)).and_then(Option::as_mut) else {
                continue;
            };
            if std::mem::replace(&mut capture.is_told, true) {
                continue;
            }
            let request = capture.request.clone();
            let (_, answer) = self.captured(&request);
            if !self.tell_reader(number, &answer) {
                self.end_capture(number);
            }
        }
    }

    /// Errs unless a worker can write to the file and never fault: it is of the right size, sealed against shrinking, and
    /// of the same file system as the ledger. One of huge pages can run out of them.
    fn check_rings(&self, file: &ForeignFd) -> Result<(), String> {
        let look = |fd: BorrowedFd<'_>| Kernel.memory(fd).ok().flatten();
        let like = look(self.workers.ledger_fd()).map(|ledger| ledger.file.0);
        let is_good = look(file.as_fd()).is_some_and(|rings| {
            let size = size_of::<CaptureFile>() as u64;
            let is_sealed = rings.seals.contains(SealFlag::F_SEAL_SHRINK);
            rings.extent.size == size && is_sealed && rings.writable && Some(rings.file.0) == like
        });
        is_good.then_some(()).ok_or("the file that came with the request has no rings for a capture".to_string())
    }

    /// A capture's connection is over, or its reader says something that it has no reason to say.
    pub(super) fn end_capture(&mut self, number: u8) {
        let Some(capture) = self.captures.all.get_mut(usize::from(number)).and_then(Option::take) else { return };
        let Capture { request, peer, .. } = capture;
        self.reactor.forget(&*peer.stream);
        let end = self.workers.observers.close(number);
        self.workers.send(end.into_iter().collect(), Waiter::Nobody);
        let message = format!("process {} no longer captures the frames of {}", peer.pid, names(&request));
        self.telemetry.events.say_with("capture_end", message, json!({ "reader_pid": peer.pid }));
    }

    /// Looks whether ports came or went, for captures and mirrors.
    pub(super) fn tend_observers(&mut self) {
        let idle = self.captures.all.iter().all(Option::is_none) && self.mirrors.is_empty();
        if !self.workers.observers.ports_changed() || idle {
            return;
        }
        for number in 0..CAPTURES_MAX as u8 {
            let capture = self.captures.all.get(usize::from(number)).and_then(Option::as_ref);
            let known = capture.map(|capture| (capture.request.clone(), capture.is_told));
            let Some((request, is_told)) = known else { continue };
            let (ports, answer) = self.captured(&request);
            let told = self.workers.observers.set_ports(number, ports);
            self.workers.send(told.into_iter().collect(), Waiter::Nobody);
            if is_told && !self.tell_reader(number, &answer) {
                self.end_capture(number);
            }
        }
        self.tend_mirrors();
    }

    /// The ports of a capture, as the worker and as the reader are told.
    fn captured(&self, request: &CaptureRequest) -> (PortSet, CaptureAnswer) {
        let is_wanted = |name: &str| request.ports.is_empty() || request.ports.iter().any(|port| port == name);
        let named = self.clients.slots.identities().map(|port| (port.slot, self.name_of(port)));
        let ports: Vec<(u16, String)> = named.filter(|(_, name)| is_wanted(name)).collect();
        (ports.iter().map(|(slot, _)| *slot).collect(), CaptureAnswer { ports })
    }

    /// The name of a port.
    pub(super) fn name_of(&self, port: Identity) -> String {
        self.clients.slots.name(port.slot).unwrap_or_else(|| format!("p{}", port.slot))
    }

    fn is_named(&self, port: Identity, name: &str) -> bool {
        self.name_of(port) == name
    }

    /// Tells a reader its ports. False: it does not read.
    fn tell_reader(&self, number: u8, answer: &CaptureAnswer) -> bool {
        let capture = self.captures.all.get(usize::from(number)).and_then(Option::as_ref);
        let line = [to_json(answer), b"\n".to_vec()].concat();
        capture.is_some_and(
            |capture| matches!(ancillary::send(&*capture.peer.stream, &line), Ok(sent) if sent == line.len()),
        )
    }
}

fn names(request: &CaptureRequest) -> String {
    match request.ports.as_slice() {
        [] => "all ports".to_string(),
        names => names.join(", "),
    }
}
