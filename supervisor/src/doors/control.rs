//! The control socket: one line asks, one line of JSON answers (see [`sv3::status`]).
//!
//! Callers are the switch's own user and root, but any number of their processes: so not more than [`TURN`] are let
//! in before others have their turn. Who finds all places taken gets that of whoever has been there longest, if that
//! one had [`STAY`] to say something, and waits outside until then.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::foreign::ForeignFd;

use crate::ancillary;
use crate::doors::listener::{Caller, Listener, PAUSE, Peer};

/// Most conversations at a time.
pub const CONVERSATIONS_MAX: usize = 16;
/// Most octets of a request.
const REQUEST_MAX: usize = 256;
/// How long a conversation may last.
const TIME: Duration = Duration::from_secs(5);
/// How long one may last whose answer takes its time.
const DEFERRED_TIME: Duration = Duration::from_secs(20);
/// Most callers heard at the door at a time, those who are turned away among them.
pub const TURN: usize = 8;
/// How long no caller loses its place to the next one: 128 of these, as many as wait outside, have it in turns of 16.
pub const STAY: Duration = Duration::from_millis(20);

/// The socket and its conversations, each at its own place.
pub struct Control {
    /// Where people knock.
    pub listener: Listener,
    conversations: [Option<Conversation>; CONVERSATIONS_MAX],
    /// Conversations so far.
    count: u64,
    /// Nobody is let in before.
    paused: Option<Instant>,
}

/// A request: a line, and the fd that came with it.
pub type Request = (String, Option<ForeignFd>);

/// A conversation whose answer comes later.
#[derive(Debug)]
pub struct Ticket {
    index: usize,
    number: u64,
}

impl Ticket {
    /// One that nobody has.
    #[cfg(test)]
    pub fn of_nobody() -> Ticket {
        Ticket { index: usize::MAX, number: 0 }
    }

    /// Its place.
    pub fn index(&self) -> usize {
        self.index
    }
}

struct Conversation {
    peer: Peer,
    number: u64,
    heard: Vec<u8>,
    fd: Option<ForeignFd>,
    /// The answer comes later, and until then there is nothing to be said.
    deferred: bool,
    answer: Option<Vec<u8>>,
    /// When it could say something last, or was given an answer.
    since: Instant,
    due: Instant,
}

impl Control {
    /// No conversations yet.
    pub fn new(listener: Listener) -> Control {
        Control { listener, conversations: [const { None }; CONVERSATIONS_MAX], count: 0, paused: None }
    }

    /// Takes callers in; their places. Strangers are turned away.
    pub fn accept(&mut self, now: Instant) -> Vec<usize> {
        let mut places = Vec::new();
        for _ in 0..TURN {
            if let Some(until) = self.crowded_until(now) {
                self.pause(until);
                break;
            }
            match self.listener.accept() {
                Caller::Peer(peer) => places.extend(self.admit(peer)),
                Caller::TurnedAway(_) | Caller::Gone => {}
                Caller::Later(_) => {
                    self.pause(now + PAUSE);
                    break;
                }
                Caller::Nobody => break,
            }
        }
        places
    }

    /// When the next caller finds a place; `None`: now.
    fn crowded_until(&self, now: Instant) -> Option<Instant> {
        let full = self.conversations.iter().all(Option::is_some);
        let taken = self.conversations.iter().flatten().filter(|taken| !taken.deferred);
        let next = taken.map(|taken| taken.since + STAY).min().unwrap_or(now + PAUSE);
        (full && next > now).then_some(next)
    }

    /// Takes nobody in for a while. They wait in the door's queue.
    pub fn pause(&mut self, until: Instant) {
        self.paused = Some(until);
    }

    /// Whether callers are welcome.
    pub fn is_open(&self) -> bool {
        self.paused.is_none()
    }

    /// Gives a caller a place, if it is the switch's own user, or root.
    pub fn admit(&mut self, peer: Peer) -> Option<usize> {
        if !self.listener.knows(&peer) {
            return None;
        }
        // A free one, or the oldest one whose holder was not promised an answer.
        let waits = |place: &&mut Option<Conversation>| place.as_ref().is_some_and(|taken| taken.deferred);
        let oldest = |place: &(usize, &mut Option<Conversation>)| place.1.as_ref().map(|taken| taken.since);
        let places = self.conversations.iter_mut().enumerate().filter(|(_, place)| !waits(place));
        let (index, place) = places.min_by_key(oldest)?;
        let since = Instant::now();
        let due = since + TIME;
        self.count += 1;
        let (number, heard) = (self.count, Vec::new());
        *place = Some(Conversation { peer, number, heard, fd: None, deferred: false, answer: None, since, due });
        Some(index)
    }

    /// The socket at a place, for epoll.
    pub fn fd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.conversations.get(index)?.as_ref()?.peer.stream.as_fd())
    }

    /// A conversation that has something to say is heard another time.
    pub fn put_off(&mut self, index: usize) {
        if let Some(Some(conversation)) = self.conversations.get_mut(index) {
            conversation.since = Instant::now();
        }
    }

    /// Goes on with a conversation. Returns a request that has just become complete, to be answered by
    /// [`Control::answer`]. Where it ends there is a place for the next caller.
    pub fn proceed(&mut self, index: usize) -> Option<Request> {
        let place = self.conversations.get_mut(index)?;
        let outcome = place.as_mut()?.proceed();
        if outcome.is_err() {
            (*place, self.paused) = (None, None);
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
        let conversation = place.as_mut()?;
        (conversation.answer, conversation.since) = (Some(answer), Instant::now());
        self.proceed(index);
        self.fd(index).map(|_| EpollFlags::EPOLLOUT)
    }

    /// When the next conversation has lasted too long, or callers are welcome again.
    pub fn due(&self) -> Option<Instant> {
        self.conversations.iter().flatten().map(|conversation| conversation.due).chain(self.paused).min()
    }

    /// Ends conversations that have lasted too long, and a time in which nobody is let in.
    pub fn expire(&mut self, now: Instant) {
        for place in &mut self.conversations {
            if place.as_ref().is_some_and(|conversation| conversation.due <= now) {
                *place = None;
            }
        }
        self.paused.take_if(|until| *until <= now);
    }
}

/// The conversation is over.
struct Over;

impl Conversation {
    fn proceed(&mut self) -> Result<Option<Request>, Over> {
        match &mut self.answer {
            Some(answer) => match ancillary::send(&self.peer.stream, answer) {
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
            Ok(received) if received.count == 0 => {
                self.peer.stream.has_ended();
                return Err(Over);
            }
            Ok(received) if received.truncated || self.deferred => return Err(Over),
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn control() -> (Control, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&folder.path().join("s"), false).unwrap();
        (Control::new(listener), folder)
    }

    fn caller(control: &Control) -> UnixStream {
        let caller = UnixStream::connect(control.listener.path()).unwrap();
        caller.set_read_timeout(Some(TIME)).unwrap();
        caller
    }

    #[test]
    fn a_turn_ends_though_more_knock() {
        let (mut control, _folder) = control();
        let callers: Vec<UnixStream> = (0..TURN + 3).map(|_| caller(&control)).collect();
        assert_eq!(control.accept(Instant::now()).len(), TURN);
        assert_eq!(control.accept(Instant::now()).len(), 3);
        // Gone again, they count as much.
        drop(callers);
        (0..TURN + 3).for_each(|index| assert!(control.proceed(index).is_none() && control.fd(index).is_none()));
        (0..TURN + 1).for_each(|_| drop(caller(&control)));
        let _behind = caller(&control);
        assert_eq!((control.accept(Instant::now()).len(), control.accept(Instant::now()).len()), (0, 1));
    }

    #[test]
    fn the_silent_lose_their_places_and_who_is_promised_an_answer_keeps_his() {
        let (mut control, _folder) = control();
        let mut callers: Vec<UnixStream> = (0..CONVERSATIONS_MAX).map(|_| caller(&control)).collect();
        let places: Vec<usize> = (0..2).flat_map(|_| control.accept(Instant::now())).collect();
        assert_eq!(places.len(), CONVERSATIONS_MAX);
        let ticket = control.defer(places[0]).unwrap();
        let mut asker = caller(&control);
        let now = control.conversations[2].as_ref().unwrap().since;
        assert!(control.accept(now).is_empty() && !control.is_open(), "all have just come");
        control.expire(now + STAY);
        assert!(control.is_open());
        let place = control.accept(now + STAY);
        assert_eq!(place, places[1..2], "that of the second one");
        assert_eq!(callers[1].read(&mut [0]).unwrap(), 0);
        assert!(control.awaits(&ticket));
        asker.write_all(b"status\n").unwrap();
        assert_eq!(control.proceed(place[0]).unwrap().0, "status");
        callers[0].set_nonblocking(true).unwrap();
        assert_eq!(callers[0].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
