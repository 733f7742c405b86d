//! One connected client: its socket, what it is in the midst of saying, its session, and the replies it has not read.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::wire::Refuse;
use sv3::wire::vhost_user::{Decoder, Message, Reply};

use crate::clients::ancillary;
use crate::clients::budget::Holdings;
use crate::clients::crowd::Crowd;
use crate::clients::session::Session;
use crate::clients::slots::{Holder, is_caller};
use crate::doors::listener::Peer;
use crate::telemetry::event::Who;

/// Most octets of replies that a client may leave unread.
const UNREAD_MAX: usize = 64 << 10;
/// Most writes at a time, however fast the client reads.
const WRITES: usize = 16;
/// How long a message that has begun may take to be complete.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// How long a client may be connected and say nothing. QEMU asks its first question at once, but a front-end may as well
/// connect before it makes a guest's memory ready, which takes some seconds for each 10 GiB.
const SILENCE_TIME: Duration = Duration::from_secs(600);

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
    /// It was said that it has rings and no memory.
    pub told_of_memory: bool,
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
    /// The undertakers' round in which it last left a file to be closed.
    pub littered: Option<u64>,
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
    /// Some of one; there may be more.
    Part,
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
            told_of_memory: false,
            quarantine: None,
            suspect: None,
            since: None,
            came: Instant::now(),
            serial,
            littered: None,
            peer,
            decoder: Decoder::new(),
            message_due: None,
            spoke: false,
            replies: Vec::new(),
        }
    }

    /// Reads once: a request takes two reads, and as many as it has octets from a client that sends them one by one.
    pub fn receive(&mut self) -> Result<Input, Refuse> {
        let received = match ancillary::receive(&self.peer.stream, self.decoder.space()) {
            Ok(received) if received.truncated => {
                return Err(Refuse(
                    "more fds came than may be open; raise the limit of open files (`ulimit -n`)".into(),
                ));
            }
            Ok(received) if received.count == 0 => {
                self.peer.stream.has_ended();
                return Ok(Input::End);
            }
            Ok(received) => received,
            Err(error) if ancillary::is_later(&error) => return Ok(Input::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Input::Part),
            Err(_) => return Ok(Input::End),
        };
        let message = self.decoder.advance(received.count, received.fds)?;
        self.message_due = match self.decoder.is_amid_message() {
            true => self.message_due.or_else(|| Some(Instant::now() + MESSAGE_TIME)),
            false => None,
        };
        self.spoke |= message.is_some();
        Ok(message.map_or(Input::Part, Input::Message))
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
            None => "it was connected for ten minutes and said nothing",
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

    /// Sends what waits, as far as there is room and the turn goes.
    pub fn flush(&mut self) -> Result<(), Refuse> {
        for _ in 0..WRITES {
            if self.replies.is_empty() {
                break;
            }
            match ancillary::send(&self.peer.stream, &self.replies) {
                Ok(sent) => drop(self.replies.drain(..sent.min(self.replies.len()))),
                Err(error) if ancillary::is_later(&error) => break,
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use std::os::fd::OwnedFd;
    use sv3::wire::vhost_user::Code;

    use super::*;

    fn port() -> (Port, UnixStream) {
        let (client, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        (Port::new(0, 0, Peer { stream: OwnedFd::from(stream).into(), pid: 1, uid: 1 }), client)
    }

    #[test]
    fn who_says_nothing_is_waited_for_as_long_as_large_memory_takes_and_no_longer() {
        let (mut port, mut client) = port();
        assert_eq!(port.message_due(), Some(port.came + SILENCE_TIME));
        assert!(port.lateness().0.contains("said nothing"));
        let question = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
        client.write_all(&question).unwrap();
        while !matches!(port.receive().unwrap(), Input::Message(_)) {}
        assert_eq!(port.message_due(), None, "who has asked something may take its time");
    }

    #[test]
    fn a_message_in_pieces_takes_a_read_for_each_and_is_due() {
        let (mut port, mut client) = port();
        // GET_FEATURES, version 1, no payload.
        let message: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (last, first) = message.split_last().unwrap();
        for octet in first {
            client.write_all(&[*octet]).unwrap();
            assert!(matches!(port.receive(), Ok(Input::Part)));
            assert!(port.message_due().is_some());
        }
        assert!(matches!(port.receive(), Ok(Input::Nothing)));
        client.write_all(&[*last]).unwrap();
        assert!(matches!(port.receive(), Ok(Input::Message(_))));
        assert_eq!(port.message_due(), None);
        drop(client);
        assert!(matches!(port.receive(), Ok(Input::End)));
    }

    #[test]
    fn replies_that_are_not_read_wait_for_room_up_to_a_bound() {
        let (mut port, mut client) = port();
        let reply = || Reply::U64(Code::GET_FEATURES, 7);
        let sent = (1..).take_while(|_| port.reply(reply()).is_ok()).last().unwrap();
        assert!(port.replies.len() > UNREAD_MAX && port.wanted().contains(EpollFlags::EPOLLOUT));
        let mut octets = vec![0; (sent + 1) * reply().to_bytes().len()];
        client.set_nonblocking(true).unwrap();
        let (mut read, mut turns) = (0, 0);
        while read < octets.len() {
            port.flush().unwrap();
            read += client.read(&mut octets[read..]).unwrap();
            turns += 1;
        }
        assert!(turns > 1 && port.replies.is_empty());
        assert!(octets.chunks(reply().to_bytes().len()).all(|octets| octets == reply().to_bytes()));
    }
}
