//! A client's socket: the message that is incomplete so far, and the replies that the client has not read.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use sv3::wire::Refuse;
use sv3::wire::vhost_user::{Decoder, Message, Reply};

use crate::ancillary;
use crate::doors::listener::Peer;
use crate::estate::record::ConnectionRecord;
use crate::estate::{Clock, Files, Heirlooms, Unfit};

/// Most octets of replies that a client may leave unread.
const UNREAD_MAX: usize = 64 << 10;
/// Most writes at a time, however fast the client reads.
const WRITES: usize = 16;
/// A message must be complete this long after it began.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// A client must begin its first message this long after it connected. QEMU sends one at once, but another front-end
/// may connect before it prepares its guest's memory, which takes some seconds for each 10 GiB.
const SILENCE_TIME: Duration = Duration::from_secs(600);

/// The supervisor's end.
pub struct Connection {
    peer: Peer,
    opened: Instant,
    decoder: Decoder,
    message_due: Option<Instant>,
    /// The client has sent a message.
    spoke: bool,
    replies: Vec<u8>,
}

/// The result of one read.
pub enum Input {
    /// A request.
    Message(Message),
    /// A part of a request; the socket may have more.
    Part,
    /// Nothing for now.
    Nothing,
    /// The client has closed its end.
    End,
}

impl Connection {
    /// The connection to a client that has just connected.
    pub fn new(peer: Peer) -> Connection {
        Connection {
            peer,
            opened: Instant::now(),
            decoder: Decoder::new(),
            message_due: None,
            spoke: false,
            replies: Vec::new(),
        }
    }

    /// When the client connected.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether the client begins with the length of a frame and not with a request: its first octet is 0. A length
    /// below 2^24 begins so, because it is big-endian, and no request does, because their numbers are little-endian and
    /// begin at 1. The octet stays where it is.
    pub fn begins_stream(&self) -> bool {
        let is_silent = !self.spoke && !self.decoder.is_amid_message();
        is_silent && ancillary::first_octet(&*self.peer.stream) == Some(0)
    }

    /// The connection itself, for another protocol.
    pub fn into_peer(self) -> Peer {
        self.peer
    }

    /// Reads once. A request takes two reads; from a client that sends octet by octet it takes as many as it has
    /// octets.
    pub fn receive(&mut self) -> Result<Input, Refuse> {
        let received = match ancillary::receive(&*self.peer.stream, self.decoder.space()) {
            Ok(received) if received.truncated => {
                return Err(Refuse(
                    "a message brought more fds than may be open; raise the limit of open files (`ulimit -n`)".into(),
                ));
            }
            Ok(received) if received.count == 0 => {
                self.peer.has_ended();
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

    /// When the current message must be complete, or the first message must begin.
    pub fn message_due(&self) -> Option<Instant> {
        self.message_due.or_else(|| (!self.spoke).then(|| self.opened + SILENCE_TIME))
    }

    /// Why a client is refused when [`Connection::message_due`] has passed.
    pub fn lateness(&self) -> Refuse {
        let why = match self.message_due {
            Some(_) => "the client did not finish a message within 10 s",
            None => "the client sent no message for ten minutes",
        };
        Refuse(why.to_string())
    }

    /// Sends a reply, now or when the socket has room.
    pub fn reply(&mut self, reply: Reply) -> Result<(), Refuse> {
        self.replies.extend_from_slice(&reply.to_bytes());
        self.flush()?;
        match self.replies.len() {
            0..=UNREAD_MAX => Ok(()),
            unread => Err(Refuse(format!("the client does not read its replies: {unread} octets wait"))),
        }
    }

    /// Sends waiting replies: as much as the socket takes, in at most [`WRITES`] writes.
    pub fn flush(&mut self) -> Result<(), Refuse> {
        for _ in 0..WRITES {
            if self.replies.is_empty() {
                break;
            }
            match ancillary::send(&*self.peer.stream, &self.replies) {
                Ok(sent) => drop(self.replies.drain(..sent.min(self.replies.len()))),
                Err(error) if ancillary::is_later(&error) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Refuse(format!("a reply cannot be sent: {error}"))),
            }
        }
        Ok(())
    }

    /// What the next supervisor must know.
    pub fn record<'c>(&'c self, files: &mut Files<'c>, clock: Clock) -> ConnectionRecord {
        let (octets, fds) = self.decoder.part();
        ConnectionRecord {
            socket: files.add(&self.peer.stream),
            opened: clock.number(self.opened),
            message_due: self.message_due.map(|due| clock.number(due)),
            spoke: self.spoke,
            part: (octets.to_vec(), fds.iter().map(|fd| files.add(fd)).collect()),
            replies: self.replies.clone(),
        }
    }

    /// Goes on where the last supervisor was, with the connection of a record.
    pub fn restore(&mut self, record: ConnectionRecord, files: &mut Heirlooms, clock: Clock) -> Result<(), Unfit> {
        let (octets, fds) = record.part;
        let fds: Vec<_> = fds.into_iter().map(|fd| files.take(fd)).collect::<Result<_, _>>()?;
        self.decoder = Decoder::amid(&octets, fds).map_err(|refuse| Unfit(refuse.0))?;
        self.opened = clock.time(record.opened);
        self.message_due = record.message_due.map(|due| clock.time(due));
        self.spoke = record.spoke;
        self.replies = record.replies;
        Ok(())
    }

    /// The connection is this supervisor's, no longer that of the one which lent it.
    pub fn own(&mut self) {
        self.peer.is_lent = false;
    }

    /// Whether replies wait for room.
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use sv3::wire::vhost_user::Code;

    use super::*;

    fn connection() -> (Connection, UnixStream) {
        let (client, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        (
            Connection::new(Peer {
                stream: std::rc::Rc::new(OwnedFd::from(stream).into()),
                pid: 1,
                uid: 1,
                is_lent: false,
            }),
            client,
        )
    }

    #[test]
    fn a_silent_client_has_ten_minutes_for_its_first_message() {
        let (mut connection, mut client) = connection();
        assert_eq!(connection.message_due(), Some(connection.opened() + SILENCE_TIME));
        assert!(connection.lateness().0.contains("sent no message"));
        let question = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
        client.write_all(&question).unwrap();
        while !matches!(connection.receive().unwrap(), Input::Message(_)) {}
        assert_eq!(connection.message_due(), None, "a client that has asked something may take its time");
    }

    #[test]
    fn a_message_in_pieces_takes_a_read_for_each_and_is_due() {
        let (mut connection, mut client) = connection();
        // GET_FEATURES, version 1, no payload.
        let message: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (last, first) = message.split_last().unwrap();
        for octet in first {
            client.write_all(&[*octet]).unwrap();
            assert!(matches!(connection.receive(), Ok(Input::Part)));
            assert!(connection.message_due().is_some());
        }
        assert!(matches!(connection.receive(), Ok(Input::Nothing)));
        client.write_all(&[*last]).unwrap();
        assert!(matches!(connection.receive(), Ok(Input::Message(_))));
        assert_eq!(connection.message_due(), None);
        drop(client);
        assert!(matches!(connection.receive(), Ok(Input::End)));
    }

    #[test]
    fn replies_that_are_not_read_wait_for_room_up_to_a_bound() {
        let (mut connection, mut client) = connection();
        let reply = || Reply::U64(Code::GET_FEATURES, 7);
        let sent = (1..).take_while(|_| connection.reply(reply()).is_ok()).last().unwrap();
        assert!(connection.replies.len() > UNREAD_MAX && connection.has_replies());
        let mut octets = vec![0; (sent + 1) * reply().to_bytes().len()];
        client.set_nonblocking(true).unwrap();
        let (mut read, mut turns) = (0, 0);
        while read < octets.len() {
            connection.flush().unwrap();
            read += client.read(&mut octets[read..]).unwrap();
            turns += 1;
        }
        assert!(turns > 1 && !connection.has_replies());
        assert!(octets.chunks(reply().to_bytes().len()).all(|octets| octets == reply().to_bytes()));
    }
}
