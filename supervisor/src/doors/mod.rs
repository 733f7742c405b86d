//! The listening sockets: the front door and the doors for streams, the control socket, and the HTTP socket for metrics.
//!
//! [`Doors`] owns them all. It decides when connections are accepted, and lets the control socket and the HTTP socket
//! each give one answer a turn.

pub mod control;
pub mod front;
pub mod http;
pub mod listener;
pub mod passed;
pub mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use sv3::config::FOLDER;

use crate::estate::record::{DoorRecord, DoorsRecord};
use crate::estate::{Files, Unfit};
use crate::fd_inventory::OpenFile;
use crate::reactor::Reactor;
use crate::timers::Timers;
use crate::token::Token;
use control::{Control, Request, Ticket};
use front::FrontDoor;
use http::{Ask, Http};
use listener::{Listener, PAUSE, Peer};
use stream::StreamForm;

/// The doors.
pub struct Doors {
    /// The front door.
    pub front: FrontDoor,
    /// The doors for streams.
    streams: Vec<FrontDoor>,
    /// The doors of declared ports, by slot.
    declared: BTreeMap<u16, FrontDoor>,
    control: Control,
    http: Option<Http>,
    answered: Answered,
    listened: Listened,
}

/// Which sockets gave an answer in this turn. An answer about a thousand ports takes milliseconds, so each socket gives
/// one a turn, and the next request waits for a later turn.
#[derive(Default)]
struct Answered {
    control: bool,
    http: bool,
}

/// The sockets that epoll watches for connections now.
struct Listened {
    control: bool,
    http: bool,
}

/// A door that clients connect to.
#[derive(Clone, Copy, Debug)]
pub enum DoorAt {
    /// The front door.
    Front,
    /// The door for streams at this place.
    Stream(u16),
    /// The door of the declared port that this slot belongs to.
    Declared(u16),
}

/// The deadlines of the doors.
#[derive(Clone, Copy)]
pub enum Timer {
    /// An exchange at the control socket, or a pause in accepting.
    Control,
    /// The same at the HTTP socket.
    Http,
    /// A pause in accepting clients.
    Front,
}

impl Doors {
    /// The doors. No connection is accepted yet.
    pub fn new(front: Listener, control: Listener, http: Option<Http>) -> Doors {
        Doors {
            front: FrontDoor::new(front, Token::FrontDoor, None),
            streams: Vec::new(),
            declared: BTreeMap::new(),
            control: Control::new(control),
            http,
            answered: Answered::default(),
            listened: Listened { control: true, http: true },
        }
    }

    /// Adds doors for streams, each with what the frames of its clients are like.
    pub fn add_streams(&mut self, streams: Vec<(Listener, StreamForm)>) {
        let door = |(at, (listener, form))| FrontDoor::new(listener, Token::StreamDoor(at), Some(form));
        self.streams.extend((0..).zip(streams).map(door));
    }

    /// The doors that clients connect to: the front door, then the doors for streams and of declared ports.
    pub fn of_clients(&self) -> impl Iterator<Item = &FrontDoor> {
        [&self.front].into_iter().chain(&self.streams).chain(self.declared.values())
    }

    /// One of them.
    pub fn of_clients_at(&mut self, at: DoorAt) -> Option<&mut FrontDoor> {
        match at {
            DoorAt::Front => Some(&mut self.front),
            DoorAt::Stream(at) => self.streams.get_mut(usize::from(at)),
            DoorAt::Declared(slot) => self.declared.get_mut(&slot),
        }
    }

    /// Where the socket of a declared port is: in a folder beside the control socket.
    pub fn place_of(&self, name: &str) -> PathBuf {
        let folder = self.control.listener.path().parent().unwrap_or(Path::new("/"));
        folder.join(FOLDER).join(format!("{name}.sock"))
    }

    /// Adds the door of a declared port, or changes what the frames of its clients are like.
    pub fn declare(&mut self, slot: u16, listener: Listener, form: Option<StreamForm>) {
        self.declared.insert(slot, FrontDoor::new(listener, Token::DeclaredDoor(slot), form));
    }

    /// The service manager keeps the names of these doors of declared ports.
    pub fn lend(&mut self, paths: &[PathBuf]) {
        let lent = |door: &&mut FrontDoor| paths.iter().any(|path| path == door.listener().path());
        self.declared.values_mut().filter(lent).for_each(FrontDoor::lend);
    }

    /// The door of a declared port.
    pub fn declared(&self, slot: u16) -> Option<&FrontDoor> {
        self.declared.get(&slot)
    }

    /// Removes the door of a declared port, and its name.
    pub fn undeclare(&mut self, slot: u16, reactor: &Reactor) {
        if let Some(door) = self.declared.remove(&slot) {
            reactor.forget(door.listener());
            door.listener().remove();
        }
    }

    /// Watches the control socket from now on.
    pub fn open_control(&self, reactor: &Reactor) -> io::Result<()> {
        reactor.watch(&self.control.listener, Token::ControlDoor, EpollFlags::EPOLLIN)
    }

    /// Watches the doors that clients connect to from now on.
    pub fn open_clients(&self, reactor: &Reactor) -> io::Result<()> {
        self.of_clients().try_for_each(|door| door.watch(reactor))
    }

    /// Stops watching them.
    pub fn close_clients(&self, reactor: &Reactor) {
        self.of_clients().for_each(|door| reactor.forget(door.listener()));
    }

    /// Serves metrics over HTTP from now on, if `--metrics` was given. Returns the address.
    pub fn open_http(&self, reactor: &Reactor) -> Option<(SocketAddr, io::Result<()>)> {
        let http = self.http.as_ref()?;
        Some((http.address(), reactor.watch(http.door(), Token::HttpDoor, EpollFlags::EPOLLIN)))
    }

    /// Removes the names of the sockets.
    pub fn remove(&self) {
        self.of_clients().for_each(|door| door.listener().remove());
        self.control.listener.remove();
    }

    /// A new turn of the loop: each door may answer once more.
    pub fn begin_turn(&mut self) {
        self.answered = Answered::default();
    }

    /// Accepts connections at the control socket, unless the process is short of fds.
    pub fn accept_control(&mut self, is_short: bool, reactor: &Reactor) {
        let now = Instant::now();
        match is_short {
            true => self.control.pause(now + PAUSE),
            false => {
                for place in self.control.accept(now) {
                    if let Some(fd) = self.control.fd(place) {
                        let _ = reactor.watch(fd, Token::Control(place), EpollFlags::EPOLLIN);
                    }
                }
            }
        }
        self.listen(reactor);
    }

    /// Continues an exchange at the control socket. Returns a request that must be answered.
    pub fn continue_control(&mut self, place: usize, reactor: &Reactor) -> Option<Request> {
        if self.answered.control {
            self.control.put_off(place);
            return None;
        }
        let request = self.control.proceed(place);
        self.answered.control |= request.is_some();
        self.listen(reactor);
        request
    }

    /// Process and user of the control socket's connection at a place.
    pub fn control_asker(&self, place: usize) -> Option<(i32, u32)> {
        self.control.asker(place)
    }

    /// Answers a request.
    pub fn answer_control(&mut self, place: usize, answer: Vec<u8>, reactor: &Reactor) {
        if let Some(flags) = self.control.answer(place, answer)
            && let Some(fd) = self.control.fd(place)
        {
            reactor.change(fd, Token::Control(place), flags);
        }
        self.listen(reactor);
    }

    /// The answer to a request comes later.
    pub fn defer_control(&mut self, place: usize, reactor: &Reactor) -> Option<Ticket> {
        let ticket = self.control.defer(place)?;
        if let Some(fd) = self.control.fd(place) {
            reactor.change(fd, Token::Control(place), EpollFlags::empty());
        }
        Some(ticket)
    }

    /// Ends an exchange whose connection goes on as something else.
    pub fn take_control(&mut self, place: usize, reactor: &Reactor) -> Option<Peer> {
        let peer = self.control.take(place)?;
        reactor.forget(&peer.stream);
        Some(peer)
    }

    /// Accepts no connections any more at the Unix sockets, until [`Doors::thaw`].
    pub fn freeze(&self, reactor: &Reactor) {
        self.close_clients(reactor);
        reactor.forget(&self.control.listener);
    }

    /// Accepts connections again at the Unix sockets.
    pub fn thaw(&self, reactor: &Reactor) -> io::Result<()> {
        let flags = |open: bool| if open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        for door in self.of_clients() {
            reactor.watch(door.listener(), door.token(), flags(door.opens().is_none()))?;
        }
        reactor.watch(&self.control.listener, Token::ControlDoor, flags(self.listened.control))
    }

    /// What the next supervisor must know.
    pub fn record<'d>(&'d self, files: &mut Files<'d>) -> Result<DoorsRecord, Unfit> {
        let http = self.http.as_ref().map(|http| {
            let (file, place) = (files.add_borrowed(http.door()), http.address().to_string());
            DoorRecord { file, place, lent: false }
        });
        let mut door = |listener: &'d Listener| {
            let place = listener.path().to_str().map(str::to_string);
            let place = place.ok_or_else(|| Unfit("the path of a socket is not UTF-8 text".to_string()))?;
            Ok(DoorRecord { file: files.add(listener), place, lent: listener.is_lent() })
        };
        Ok(DoorsRecord {
            front: door(self.front.listener())?,
            control: door(&self.control.listener)?,
            http,
            streams: self.streams.iter().map(|stream| door(stream.listener())).collect::<Result<_, _>>()?,
            declared: self
                .declared
                .iter()
                .map(|(slot, declared)| Ok((*slot, door(declared.listener())?)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Gives a deferred answer, if the peer still waits for it.
    pub fn answer_deferred(&mut self, ticket: &Ticket, answer: Vec<u8>, reactor: &Reactor) {
        if self.control.awaits(ticket) {
            self.answer_control(ticket.index(), answer, reactor);
        }
    }

    /// Accepts connections at the HTTP socket.
    pub fn accept_http(&mut self, reactor: &Reactor) {
        let Some(http) = &mut self.http else { return };
        for place in http.accept(Instant::now()) {
            if let Some(fd) = http.fd(place) {
                let _ = reactor.watch(fd, Token::Http(place), EpollFlags::EPOLLIN);
            }
        }
        self.listen(reactor);
    }

    /// Continues an exchange at the HTTP socket. Returns a request that must be answered.
    pub fn continue_http(&mut self, place: usize, reactor: &Reactor) -> Option<Ask> {
        let http = self.http.as_mut()?;
        if self.answered.http {
            http.put_off(place, Instant::now());
            return None;
        }
        let ask = http.proceed(place);
        self.answered.http |= ask.is_some();
        self.listen(reactor);
        ask
    }

    /// Answers a request for metrics.
    pub fn answer_http(&mut self, place: usize, (ask, metrics): (Ask, String), reactor: &Reactor) {
        let Some(http) = &mut self.http else { return };
        if let Some(flags) = http.answer(place, ask, metrics)
            && let Some(fd) = http.fd(place)
        {
            reactor.change(fd, Token::Http(place), flags);
        }
        self.listen(reactor);
    }

    /// Watches each socket only while its connections can be accepted.
    fn listen(&mut self, reactor: &Reactor) {
        let flags = |open: bool| if open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let open = self.control.is_open();
        if std::mem::replace(&mut self.listened.control, open) != open {
            reactor.change(&self.control.listener, Token::ControlDoor, flags(open));
        }
        let Some(http) = &self.http else { return };
        if std::mem::replace(&mut self.listened.http, http.is_open()) != http.is_open() {
            reactor.change(http.door(), Token::HttpDoor, flags(http.is_open()));
        }
    }

    /// Ends exchanges and pauses that are due.
    pub fn expire(&mut self, now: Instant, reactor: &Reactor) {
        for timer in Doors::TIMERS {
            if !self.is_due(*timer, now) {
                continue;
            }
            match timer {
                Timer::Control => self.control.expire(now),
                Timer::Http => {
                    if let Some(http) = &mut self.http {
                        http.expire(now);
                    }
                }
                Timer::Front => {
                    self.front.expire(now, reactor);
                    let others = self.streams.iter_mut().chain(self.declared.values_mut());
                    others.for_each(|door| door.expire(now, reactor));
                }
            }
        }
        self.listen(reactor);
    }

    /// The files that the doors own.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let sockets = [
            OpenFile::new(self.front.listener(), "socket", "the front door"),
            OpenFile::new(&self.control.listener, "socket", "the control socket"),
        ];
        let http = self.http.iter().flat_map(|http| {
            let door = OpenFile::borrowed(http.door(), "socket", "the HTTP socket of --metrics");
            let asker = |fd| OpenFile::borrowed(fd, "socket", "a connection for metrics");
            [door].into_iter().chain((0..http::PLACES).filter_map(|place| http.fd(place)).map(asker))
        });
        let streams =
            self.streams.iter().map(|door| OpenFile::new(door.listener(), "socket", "a door for streams, by --stream"));
        let declared =
            self.declared.values().map(|door| OpenFile::new(door.listener(), "socket", "the door of a declared port"));
        let askers = (0..control::EXCHANGES_MAX).filter_map(|place| self.control.fd(place));
        let asker = |fd| OpenFile::borrowed(fd, "socket", "a connection to the control socket, such as this audit's");
        sockets.into_iter().chain(streams).chain(declared).chain(http).chain(askers.map(asker))
    }
}

impl Timers for Doors {
    type Timer = Timer;
    const TIMERS: &'static [Timer] = &[Timer::Control, Timer::Http, Timer::Front];

    fn when(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Control => self.control.due(),
            Timer::Http => self.http.as_ref().and_then(Http::due),
            Timer::Front => self.of_clients().filter_map(FrontDoor::opens).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::reactor::Wait;

    fn doors() -> (tempfile::TempDir, Doors, Reactor) {
        let folder = tempfile::tempdir().unwrap();
        let bind = |name: &str| Listener::bind(&folder.path().join(name), false).unwrap();
        let doors = Doors::new(bind("front"), bind("control"), None);
        let reactor = Reactor::new().unwrap();
        doors.open_control(&reactor).unwrap();
        doors.open_clients(&reactor).unwrap();
        (folder, doors, reactor)
    }

    fn tokens(reactor: &Reactor) -> Vec<Token> {
        reactor.wait(Wait::Not).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn one_request_is_answered_in_a_turn_and_the_next_one_in_the_next() {
        let (folder, mut doors, reactor) = doors();
        let mut askers = [0, 1].map(|_| UnixStream::connect(folder.path().join("control")).unwrap());
        doors.accept_control(false, &reactor);
        askers.iter_mut().for_each(|asker| asker.write_all(b"status\n").unwrap());
        let places = tokens(&reactor);
        let [Token::Control(first), Token::Control(second)] = places[..] else { panic!("{places:?}") };
        assert_eq!(doors.continue_control(first, &reactor).unwrap().0, "status");
        doors.answer_control(first, b"yes".to_vec(), &reactor);
        assert!(doors.continue_control(second, &reactor).is_none());
        doors.begin_turn();
        assert!(doors.continue_control(second, &reactor).is_some());
        doors.answer_control(second, b"yes".to_vec(), &reactor);
        for mut asker in askers {
            let mut answer = String::new();
            asker.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "yes\n");
        }
    }

    #[test]
    fn a_front_door_that_is_closed_opens_when_it_is_due() {
        let (folder, mut doors, reactor) = doors();
        let _client = UnixStream::connect(folder.path().join("front")).unwrap();
        assert_eq!(tokens(&reactor), [Token::FrontDoor]);
        let due = Instant::now() + Duration::from_secs(5);
        doors.front.close_until(due, &reactor);
        assert_eq!((tokens(&reactor), doors.deadline()), (vec![], Some(due)));
        doors.expire(due - Duration::from_secs(1), &reactor);
        assert_eq!(tokens(&reactor), []);
        doors.expire(due, &reactor);
        assert_eq!((tokens(&reactor), doors.deadline()), (vec![Token::FrontDoor], None));
    }
}
