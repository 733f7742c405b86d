//! The control socket: a request is one line, and the answer is one line of JSON (see [`sv3::status`]).
//!
//! Only the switch's own user and root may connect, but with any number of processes. So the supervisor accepts at most
//! [`TURN`] connections before it serves others. When all places are taken, a new connection gets the place of the
//! oldest one, once that one has had [`STAY`] to send something. Until then the new connection waits in the socket's
//! queue.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::control::LINE_MAX;
use sv3::foreign::ForeignFd;

use crate::ancillary;
use crate::doors::listener::{Incoming, Listener, PAUSE, Peer};

/// Most exchanges at a time.
pub const EXCHANGES_MAX: usize = 16;
/// Most fds of a request: a configuration, with a door for each port.
pub const FDS_MAX: usize = sv3::MAX_PORTS + 1;
/// Octets that are read at a time.
const PART: usize = 256;
/// Most fds of any other request: what one message brings (net/scm.h: `SCM_MAX_FD`).
const FEW_FDS: usize = 253;
/// How a request begins that may bring [`FDS_MAX`].
const BRINGS_MANY: &[u8] = b"configure ";
/// How long an exchange may last.
const TIME: Duration = Duration::from_secs(5);
/// How long an exchange may last if its answer is deferred.
const DEFERRED_TIME: Duration = Duration::from_secs(20);
/// Most connections that are accepted in one turn, including those that are turned away.
pub const TURN: usize = 8;
/// For this long a connection keeps its place even if others wait. So 128 waiting connections, 16 at a time, are served
/// within 160 ms.
pub const STAY: Duration = Duration::from_millis(20);

/// The socket and its exchanges, each at its own place.
pub struct Control {
    /// The listening socket.
    pub listener: Listener,
    exchanges: [Option<Exchange>; EXCHANGES_MAX],
    /// Exchanges so far.
    count: u64,
    /// No connection is accepted before.
    paused: Option<Instant>,
}

/// A request: a line, and the fds that came with it, at most [`FDS_MAX`] or [`FEW_FDS`].
pub type Request = (String, Vec<ForeignFd>);

/// An exchange whose answer comes later.
#[derive(Debug)]
pub struct Ticket {
    index: usize,
    number: u64,
}

impl Ticket {
    /// A ticket of no exchange.
    #[cfg(test)]
    pub fn of_no_exchange() -> Ticket {
        Ticket { index: usize::MAX, number: 0 }
    }

    /// Its place.
    pub fn index(&self) -> usize {
        self.index
    }
}

struct Exchange {
    peer: Peer,
    number: u64,
    heard: Vec<u8>,
    fds: Vec<ForeignFd>,
    /// The answer comes later; until then nothing is read.
    deferred: bool,
    answer: Option<Vec<u8>>,
    /// When it could last send something, or was given an answer.
    since: Instant,
    due: Instant,
}

impl Control {
    /// Starts without exchanges.
    pub fn new(listener: Listener) -> Control {
        Control { listener, exchanges: [const { None }; EXCHANGES_MAX], count: 0, paused: None }
    }

    /// Accepts connections and returns their places. Other users' connections are closed.
    pub fn accept(&mut self, now: Instant) -> Vec<usize> {
        let mut places = Vec::new();
        for _ in 0..TURN {
            if let Some(until) = self.crowded_until(now) {
                self.pause(until);
                break;
            }
            match self.listener.accept() {
                Incoming::Peer(peer) => places.extend(self.admit(peer)),
                Incoming::TurnedAway(_) | Incoming::Gone => {}
                Incoming::Later(_) => {
                    self.pause(now + PAUSE);
                    break;
                }
                Incoming::Nobody => break,
            }
        }
        places
    }

    /// When a place becomes available; `None`: now.
    fn crowded_until(&self, now: Instant) -> Option<Instant> {
        let full = self.exchanges.iter().all(Option::is_some);
        let taken = self.exchanges.iter().flatten().filter(|taken| !taken.deferred);
        let next = taken.map(|taken| taken.since + STAY).min().unwrap_or(now + PAUSE);
        (full && next > now).then_some(next)
    }

    /// Accepts no connection until then. They wait in the socket's queue.
    pub fn pause(&mut self, until: Instant) {
        self.paused = Some(until);
    }

    /// Whether connections are accepted.
    pub fn is_open(&self) -> bool {
        self.paused.is_none()
    }

    /// Gives a connection a place, if it is of the switch's own user or of root.
    pub fn admit(&mut self, peer: Peer) -> Option<usize> {
        if !self.listener.permits(&peer) {
            return None;
        }
        // A free one, or the one of the oldest exchange whose answer is not deferred.
        let waits = |place: &&mut Option<Exchange>| place.as_ref().is_some_and(|taken| taken.deferred);
        let oldest = |place: &(usize, &mut Option<Exchange>)| place.1.as_ref().map(|taken| taken.since);
        let places = self.exchanges.iter_mut().enumerate().filter(|(_, place)| !waits(place));
        let (index, place) = places.min_by_key(oldest)?;
        let since = Instant::now();
        let due = since + TIME;
        self.count += 1;
        let (number, heard) = (self.count, Vec::new());
        *place = Some(Exchange { peer, number, heard, fds: Vec::new(), deferred: false, answer: None, since, due });
        Some(index)
    }

    /// Process and user at a place.
    pub fn asker(&self, index: usize) -> Option<(i32, u32)> {
        let peer = &self.exchanges.get(index)?.as_ref()?.peer;
        Some((peer.pid, peer.uid))
    }

    /// The socket at a place, for epoll.
    pub fn fd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.exchanges.get(index)?.as_ref()?.peer.stream.as_fd())
    }

    /// Reads from an exchange in a later turn.
    pub fn put_off(&mut self, index: usize) {
        if let Some(Some(exchange)) = self.exchanges.get_mut(index) {
            exchange.since = Instant::now();
        }
    }

    /// Continues an exchange. Returns a request that has just become complete, which [`Control::answer`] must answer.
    /// If the exchange ends, its place is free.
    pub fn proceed(&mut self, index: usize) -> Option<Request> {
        let place = self.exchanges.get_mut(index)?;
        let outcome = place.as_mut()?.proceed();
        if outcome.is_err() {
            (*place, self.paused) = (None, None);
        }
        outcome.ok().flatten()
    }

    /// Defers the answer to a request.
    pub fn defer(&mut self, index: usize) -> Option<Ticket> {
        let exchange = self.exchanges.get_mut(index)?.as_mut()?;
        exchange.deferred = true;
        exchange.due = Instant::now() + DEFERRED_TIME;
        Some(Ticket { index, number: exchange.number })
    }

    /// Ends an exchange whose connection goes on as something else.
    pub fn take(&mut self, index: usize) -> Option<Peer> {
        self.exchanges.get_mut(index)?.take().map(|exchange| exchange.peer)
    }

    /// Whether the peer still waits for the answer.
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        let exchange = self.exchanges.get(ticket.index).and_then(Option::as_ref);
        exchange.is_some_and(|exchange| exchange.number == ticket.number)
    }

    /// Answers a request. Returns the events to wait for, if the exchange goes on.
    pub fn answer(&mut self, index: usize, mut answer: Vec<u8>) -> Option<EpollFlags> {
        let place = self.exchanges.get_mut(index)?;
        answer.push(b'\n');
        let exchange = place.as_mut()?;
        (exchange.answer, exchange.since) = (Some(answer), Instant::now());
        self.proceed(index);
        self.fd(index).map(|_| EpollFlags::EPOLLOUT)
    }

    /// When the next exchange has lasted too long, or connections are accepted again.
    pub fn due(&self) -> Option<Instant> {
        self.exchanges.iter().flatten().map(|exchange| exchange.due).chain(self.paused).min()
    }

    /// Ends exchanges that have lasted too long, and a pause in accepting.
    pub fn expire(&mut self, now: Instant) {
        for place in &mut self.exchanges {
            if place.as_ref().is_some_and(|exchange| exchange.due <= now) {
                *place = None;
            }
        }
        self.paused.take_if(|until| *until <= now);
    }
}

/// The exchange is over.
struct Over;

impl Exchange {
    fn proceed(&mut self) -> Result<Option<Request>, Over> {
        match &mut self.answer {
            Some(answer) => match ancillary::send(&*self.peer.stream, answer) {
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

    /// Reads a part of the request. Too many fds end the exchange. Fds that the request does not need are closed.
    fn listen(&mut self) -> Result<Option<Request>, Over> {
        let mut octets = [0; PART];
        let received = match ancillary::receive(&*self.peer.stream, &mut octets) {
            Ok(received) if received.count == 0 => {
                self.peer.has_ended();
                return Err(Over);
            }
            Ok(received) if received.truncated || self.deferred => return Err(Over),
            Ok(received) => received,
            Err(error) => return passing(error),
        };
        self.heard.extend_from_slice(octets.get(..received.count).unwrap_or_default());
        self.fds.extend(received.fds);
        // What was heard so far may be less than that.
        let brings_many = self.heard.iter().zip(BRINGS_MANY).all(|(heard, wanted)| heard == wanted);
        if self.fds.len() > if brings_many { FDS_MAX } else { FEW_FDS } {
            return Err(Over);
        }
        match self.heard.iter().position(|octet| *octet == b'\n') {
            Some(end) => {
                let line = self.heard.get(..end).map(|line| String::from_utf8_lossy(line).trim().to_string());
                Ok(line.map(|line| (line, std::mem::take(&mut self.fds))))
            }
            None if self.heard.len() >= LINE_MAX => Err(Over),
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

    fn client(control: &Control) -> UnixStream {
        let client = UnixStream::connect(control.listener.path()).unwrap();
        client.set_read_timeout(Some(TIME)).unwrap();
        client
    }

    #[test]
    fn a_turn_ends_although_more_connections_wait() {
        let (mut control, _folder) = control();
        let clients: Vec<UnixStream> = (0..TURN + 3).map(|_| client(&control)).collect();
        assert_eq!(control.accept(Instant::now()).len(), TURN);
        assert_eq!(control.accept(Instant::now()).len(), 3);
        // Connections that are closed already count as well.
        drop(clients);
        (0..TURN + 3).for_each(|index| assert!(control.proceed(index).is_none() && control.fd(index).is_none()));
        (0..TURN + 1).for_each(|_| drop(client(&control)));
        let _behind = client(&control);
        assert_eq!((control.accept(Instant::now()).len(), control.accept(Instant::now()).len()), (0, 1));
    }

    /// Sends octets with so many files, in messages of at most 200.
    fn hand(client: &UnixStream, line: &str, files: usize) -> bool {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        let (null, mut rest, mut left) = (std::fs::File::open("/dev/null").unwrap(), line.as_bytes(), files);
        while !rest.is_empty() {
            let fds = vec![null.as_raw_fd(); left.min(200)];
            left -= fds.len();
            let (now, later) = rest.split_at(if left > 0 { 1 } else { rest.len() });
            let rights = [ControlMessage::ScmRights(&fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights };
            let told = [std::io::IoSlice::new(now)];
            if sendmsg::<()>(client.as_raw_fd(), &told, rights, MsgFlags::MSG_NOSIGNAL, None).is_err() {
                return false;
            }
            rest = later;
        }
        true
    }

    #[test]
    fn only_a_configuration_may_bring_many_files() {
        let (mut control, _folder) = control();
        for (line, files, is_heard) in [
            ("configure 7\n", FDS_MAX, true),
            ("configure 7\n", FDS_MAX + 1, false),
            ("status\n", 200, true),
            ("status\n", FEW_FDS + 1, false),
            ("config\n", FEW_FDS + 1, false),
        ] {
            let client = client(&control);
            let place = control.accept(Instant::now())[0];
            let mut heard = None;
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| hand(&client, line, files));
                while heard.is_none() && control.fd(place).is_some() {
                    heard = control.proceed(place);
                }
                let _ = sender.join();
            });
            let heard = heard.map(|(line, fds)| (line, fds.len()));
            assert_eq!(heard, is_heard.then(|| (line.trim().to_string(), files)), "{line} with {files}");
            if is_heard {
                control.answer(place, b"{}".to_vec());
            }
        }
    }

    #[test]
    fn a_request_may_be_as_long_as_it_is_told_and_no_longer() {
        let (mut control, _folder) = control();
        for (len, is_taken) in [(LINE_MAX - 1, true), (LINE_MAX, false)] {
            let mut asker = client(&control);
            let place = control.accept(Instant::now())[0];
            asker.write_all(&[&vec![b'x'; len][..], b"\n"].concat()).unwrap();
            let heard = (0..LINE_MAX / PART + 1).find_map(|_| control.proceed(place));
            assert_eq!(heard.map(|(line, _)| line.len()), is_taken.then_some(len));
            assert_eq!(control.fd(place).is_some(), is_taken);
        }
    }

    #[test]
    fn silent_clients_lose_their_places_and_a_deferred_exchange_keeps_its_own() {
        let (mut control, _folder) = control();
        let mut clients: Vec<UnixStream> = (0..EXCHANGES_MAX).map(|_| client(&control)).collect();
        let places: Vec<usize> = (0..2).flat_map(|_| control.accept(Instant::now())).collect();
        assert_eq!(places.len(), EXCHANGES_MAX);
        let ticket = control.defer(places[0]).unwrap();
        let mut asker = client(&control);
        let now = control.exchanges[2].as_ref().unwrap().since;
        assert!(control.accept(now).is_empty() && !control.is_open(), "all have just come");
        control.expire(now + STAY);
        assert!(control.is_open());
        let place = control.accept(now + STAY);
        assert_eq!(place, places[1..2], "that of the second one");
        assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
        assert!(control.awaits(&ticket));
        asker.write_all(b"status\n").unwrap();
        assert_eq!(control.proceed(place[0]).unwrap().0, "status");
        clients[0].set_nonblocking(true).unwrap();
        assert_eq!(clients[0].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
