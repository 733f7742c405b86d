//! The control socket: one line asks, one line of JSON answers (see [`sv3::status`]).

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use crate::listener::{Caller, Listener, Peer};

/// Most conversations at a time.
pub const CONVERSATIONS_MAX: usize = 16;
/// Most octets of a request.
const REQUEST_MAX: usize = 256;
/// How long a conversation may last.
const TIME: Duration = Duration::from_secs(5);

/// The socket and its conversations, each at its own place.
pub struct Control {
    /// Where people knock.
    pub listener: Listener,
    owner: u32,
    conversations: [Option<Conversation>; CONVERSATIONS_MAX],
}

struct Conversation {
    peer: Peer,
    heard: Vec<u8>,
    answer: Option<Vec<u8>>,
    due: Instant,
}

impl Control {
    /// No conversations yet.
    pub fn new(listener: Listener) -> Control {
        let owner = nix::unistd::geteuid().as_raw();
        Control { listener, owner, conversations: [const { None }; CONVERSATIONS_MAX] }
    }

    /// Takes in the next caller; returns its place. Strangers and whoever finds no place are turned away.
    pub fn accept(&mut self) -> Option<usize> {
        loop {
            let peer = match self.listener.accept() {
                Caller::Peer(peer) => peer,
                Caller::TurnedAway(_) => continue,
                Caller::Nobody => return None,
            };
            let known = peer.uid == 0 || peer.uid == self.owner;
            let place = self.conversations.iter_mut().enumerate().find(|(_, place)| place.is_none());
            if let (true, Some((index, place))) = (known, place) {
                let due = Instant::now() + TIME;
                *place = Some(Conversation { peer, heard: Vec::new(), answer: None, due });
                return Some(index);
            }
        }
    }

    /// The socket at a place, for epoll.
    pub fn fd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.conversations.get(index)?.as_ref()?.peer.stream.as_fd())
    }

    /// Goes on with a conversation. Returns a request that has just become complete, to be answered by
    /// [`Control::answer`].
    pub fn proceed(&mut self, index: usize) -> Option<String> {
        let place = self.conversations.get_mut(index)?;
        let outcome = place.as_mut()?.proceed();
        if outcome.is_err() {
            *place = None;
        }
        outcome.ok().flatten()
    }

    /// Answers a request. Returns the events to wait for, if the conversation goes on.
    pub fn answer(&mut self, index: usize, mut answer: Vec<u8>) -> Option<EpollFlags> {
        let place = self.conversations.get_mut(index)?;
        answer.push(b'\n');
        place.as_mut()?.answer = Some(answer);
        self.proceed(index);
        self.fd(index).map(|_| EpollFlags::EPOLLOUT)
    }

    /// When the next conversation has lasted too long.
    pub fn due(&self) -> Option<Instant> {
        self.conversations.iter().flatten().map(|conversation| conversation.due).min()
    }

    /// Ends conversations that have lasted too long.
    pub fn expire(&mut self, now: Instant) {
        for place in &mut self.conversations {
            if place.as_ref().is_some_and(|conversation| conversation.due <= now) {
                *place = None;
            }
        }
    }
}

/// The conversation is over.
struct Over;

impl Conversation {
    fn proceed(&mut self) -> Result<Option<String>, Over> {
        match &mut self.answer {
            Some(answer) => match self.peer.stream.write(answer) {
                Ok(sent) if sent >= answer.len() => Err(Over),
                Ok(sent) => {
                    answer.drain(..sent);
                    Ok(None)
                }
                Err(error) => passing(error),
            },
            None => self.listen(),
        }
    }

    fn listen(&mut self) -> Result<Option<String>, Over> {
        let mut octets = [0; REQUEST_MAX];
        match self.peer.stream.read(&mut octets) {
            Ok(0) => return Err(Over),
            Ok(count) => self.heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(error) => return passing(error),
        }
        match self.heard.iter().position(|octet| *octet == b'\n') {
            Some(end) => Ok(self.heard.get(..end).map(|line| String::from_utf8_lossy(line).trim().to_string())),
            None if self.heard.len() > REQUEST_MAX => Err(Over),
            None => Ok(None),
        }
    }
}

fn passing<T>(error: std::io::Error) -> Result<Option<T>, Over> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
        _ => Err(Over),
    }
}
