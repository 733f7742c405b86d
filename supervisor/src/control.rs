//! The control socket: one line asks, one line of JSON answers (see [`sv3::status`]).

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use crate::ancillary;
use crate::listener::{Caller, Listener, Peer};

/// Most conversations at a time.
pub const CONVERSATIONS_MAX: usize = 16;
/// Most octets of a request.
const REQUEST_MAX: usize = 256;
/// How long a conversation may last.
const TIME: Duration = Duration::from_secs(5);
/// How long one may last whose answer takes its time.
const DEFERRED_TIME: Duration = Duration::from_secs(20);

/// The socket and its conversations, each at its own place.
pub struct Control {
    /// Where people knock.
    pub listener: Listener,
    conversations: [Option<Conversation>; CONVERSATIONS_MAX],
    /// Conversations so far.
    count: u64,
}

/// A request: a line, and the fd that came with it.
type Request = (String, Option<OwnedFd>);

/// A conversation whose answer comes later.
#[derive(Debug)]
pub struct Ticket {
    index: usize,
    number: u64,
}

impl Ticket {
    /// Its place.
    pub fn index(&self) -> usize {
        self.index
    }
}

struct Conversation {
    peer: Peer,
    number: u64,
    heard: Vec<u8>,
    fd: Option<OwnedFd>,
    /// The answer comes later, and until then there is nothing to be said.
    deferred: bool,
    answer: Option<Vec<u8>>,
    due: Instant,
}

impl Control {
    /// No conversations yet.
    pub fn new(listener: Listener) -> Control {
        Control { listener, conversations: [const { None }; CONVERSATIONS_MAX], count: 0 }
    }

    /// Takes in the next caller; returns its place. Strangers and whoever finds no place are turned away.
    pub fn accept(&mut self) -> Option<usize> {
        loop {
            let peer = match self.listener.accept() {
                Caller::Peer(peer) => peer,
                Caller::TurnedAway(_) => continue,
                Caller::Nobody => return None,
            };
            if let Some(index) = self.admit(peer) {
                return Some(index);
            }
        }
    }

    /// Gives a caller a place, if he is no stranger and there is one.
    pub fn admit(&mut self, peer: Peer) -> Option<usize> {
        let known = self.listener.knows(&peer);
        let (index, place) = self.conversations.iter_mut().enumerate().find(|(_, place)| known && place.is_none())?;
        let due = Instant::now() + TIME;
        self.count += 1;
        let (number, heard) = (self.count, Vec::new());
        *place = Some(Conversation { peer, number, heard, fd: None, deferred: false, answer: None, due });
        Some(index)
    }

    /// The socket at a place, for epoll.
    pub fn fd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.conversations.get(index)?.as_ref()?.peer.stream.as_fd())
    }

    /// Goes on with a conversation. Returns a request that has just become complete, to be answered by
    /// [`Control::answer`].
    pub fn proceed(&mut self, index: usize) -> Option<Request> {
        let place = self.conversations.get_mut(index)?;
        let outcome = place.as_mut()?.proceed();
        if outcome.is_err() {
            *place = None;
        }
        outcome.ok().flatten()
    }

    /// Puts the answer to a request off.
    pub fn defer(&mut self, index: usize) -> Option<Ticket> {
        let conversation = self.conversations.get_mut(index)?.as_mut()?;
        conversation.deferred = true;
        conversation.due = Instant::now() + DEFERRED_TIME;
        Some(Ticket { index, number: conversation.number })
    }

    /// Whether somebody still waits for the answer.
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        let conversation = self.conversations.get(ticket.index).and_then(Option::as_ref);
        conversation.is_some_and(|conversation| conversation.number == ticket.number)
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
    fn proceed(&mut self) -> Result<Option<Request>, Over> {
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

    /// More fds than one end the conversation; all that nobody takes are closed.
    fn listen(&mut self) -> Result<Option<Request>, Over> {
        let mut octets = [0; REQUEST_MAX];
        let received = match ancillary::receive(&self.peer.stream, &mut octets) {
            Ok(received) if received.count == 0 || received.truncated || self.deferred => return Err(Over),
            Ok(received) => received,
            Err(error) => return passing(error),
        };
        self.heard.extend_from_slice(octets.get(..received.count).unwrap_or_default());
        for fd in received.fds {
            if self.fd.replace(fd).is_some() {
                return Err(Over);
            }
        }
        match self.heard.iter().position(|octet| *octet == b'\n') {
            Some(end) => {
                let line = self.heard.get(..end).map(|line| String::from_utf8_lossy(line).trim().to_string());
                Ok(line.map(|line| (line, self.fd.take())))
            }
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
