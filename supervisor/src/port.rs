//! One connected client: its socket, what it is in the midst of saying, its session, and the replies it has not read.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::wire::Refuse;
use sv3::wire::vhost_user::{Decoder, Message, Reply};

use crate::ancillary;
use crate::budget::Holdings;
use crate::crowd::Crowd;
use crate::event::Who;
use crate::listener::Peer;
use crate::session::Session;
use crate::slots::{Holder, is_caller};

/// Most octets of replies that a client may leave unread.
const UNREAD_MAX: usize = 64 << 10;
/// How long a message that has begun may take to be complete.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// How long a client may be connected and say nothing.
const SILENCE_TIME: Duration = Duration::from_secs(10);

/// A client.
pub struct Port {
    /// For events.
    pub who: Who,
    /// User of the client.
    pub uid: u32,
    /// What it said.
    pub session: Session,
    /// The events that epoll is asked for now.
    pub interest: EpollFlags,
    /// What it holds, as it was counted last.
    pub held: Holdings,
    /// Until when the worker is not told of it.
    pub quarantine: Option<Instant>,
    /// It is in quarantine as one of these.
    pub suspect: Option<Crowd>,
    /// What it is like, and since when it has had memory and been so.
    pub since: Option<(Crowd, Instant)>,
    /// When it connected.
    pub came: Instant,
    /// No other connection has this number.
    pub serial: u64,
    /// It gives files that are closed without use.
    pub litters: bool,
    peer: Peer,
    decoder: Decoder,
    message_due: Option<Instant>,
    /// It has said something, if only a question.
    spoke: bool,
    replies: Vec<u8>,
}

/// What reading brought.
pub enum Input {
    /// A request.
    Message(Message),
    /// Nothing more for now.
    Nothing,
    /// The client has closed its end.
    End,
}

impl Port {
    /// A client that has just connected, with a caller's number and a serial one.
    pub fn new(slot: u16, serial: u64, peer: Peer) -> Port {
        Port {
            who: Who { slot, pid: peer.pid },
            uid: peer.uid,
            session: Session::new(slot),
            interest: EpollFlags::EPOLLIN,
            held: Holdings::NONE,
            quarantine: None,
            suspect: None,
            since: None,
            came: Instant::now(),
            serial,
            litters: false,
            peer,
            decoder: Decoder::new(),
            message_due: None,
            spoke: false,
            replies: Vec::new(),
        }
    }

    /// The next request, if it is here.
    pub fn receive(&mut self) -> Result<Input, Refuse> {
        loop {
            let received = match ancillary::receive(&self.peer.stream, self.decoder.space()) {
                Ok(received) if received.truncated => {
                    return Err(Refuse(
                        "more fds came than may be open; raise the limit of open files (`ulimit -n`)".into(),
                    ));
                }
                Ok(received) if received.count == 0 => return Ok(Input::End),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Input::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Ok(Input::End),
            };
            let message = self.decoder.advance(received.count, received.fds)?;
            self.message_due = match self.decoder.is_amid_message() {
                true => self.message_due.or_else(|| Some(Instant::now() + MESSAGE_TIME)),
                false => None,
            };
            if let Some(message) = message {
                self.spoke = true;
                return Ok(Input::Message(message));
            }
        }
    }

    /// What is known of the client that it cannot change.
    pub fn holder(&self) -> Holder {
        Holder { pid: self.who.pid, crowd: Crowd { uid: self.uid, kind: self.session.record().kind() } }
    }

    /// When the message that has begun must be complete, or the first one must have begun.
    pub fn message_due(&self) -> Option<Instant> {
        self.message_due.or_else(|| (!self.spoke).then(|| self.came + SILENCE_TIME))
    }

    /// Why it is late.
    pub fn lateness(&self) -> Refuse {
        let why = match self.message_due {
            Some(_) => "a message that was begun was not finished in 10 s",
            None => "it was connected for 10 s and said nothing",
        };
        Refuse(why.to_string())
    }

    /// How it is called in events: by the name of its port, if it has one.
    pub fn name(&self) -> String {
        match is_caller(self.who.slot) {
            true => format!("process {}, which has no port,", self.who.pid),
            false => format!("p{}:", self.who.slot),
        }
    }

    /// Sends a reply, now or when there is room.
    pub fn reply(&mut self, reply: Reply) -> Result<(), Refuse> {
        self.replies.extend_from_slice(&reply.to_bytes());
        self.flush()?;
        match self.replies.len() {
            0..=UNREAD_MAX => Ok(()),
            unread => Err(Refuse(format!("{unread} octets of replies are not being read"))),
        }
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) -> Result<(), Refuse> {
        while !self.replies.is_empty() {
            match ancillary::send(&self.peer.stream, &self.replies) {
                Ok(sent) => drop(self.replies.drain(..sent.min(self.replies.len()))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Refuse(format!("a reply cannot be sent: {error}"))),
            }
        }
        Ok(())
    }

    /// The events that matter now: no requests while the worker has to answer first.
    pub fn wanted(&self) -> EpollFlags {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, !self.session.is_waiting());
        wanted.set(EpollFlags::EPOLLOUT, !self.replies.is_empty());
        wanted
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.stream.as_fd()
    }
}
