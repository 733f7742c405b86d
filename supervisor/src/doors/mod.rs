//! The listening sockets: the front door for clients, the control socket, and the HTTP socket for metrics.
//!
//! [`Doors`] owns all three. It decides when connections are accepted, and lets the control socket and the HTTP socket
//! each give one answer a turn.

pub mod control;
pub mod front;
pub mod http;
pub mod listener;

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::fd_inventory::OpenFile;
use crate::reactor::Reactor;
use crate::timers::Timers;
use crate::token::Token;
use control::{Control, Request, Ticket};
use front::FrontDoor;
use http::{Ask, Http};
use listener::{Listener, PAUSE};

/// The doors.
pub struct Doors {
    /// The front door.
    pub front: FrontDoor,
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
            front: FrontDoor::new(front),
            control: Control::new(control),
            http,
            answered: Answered::default(),
            listened: Listened { control: true, http: true },
        }
    }

    /// Watches the control socket from now on.
    pub fn open_control(&self, reactor: &Reactor) -> io::Result<()> {
        reactor.watch(&self.control.listener, Token::ControlDoor, EpollFlags::EPOLLIN)
    }

    /// Watches the front door from now on.
    pub fn open_front(&self, reactor: &Reactor) -> io::Result<()> {
        reactor.watch(self.front.listener(), Token::FrontDoor, EpollFlags::EPOLLIN)
    }

    /// Serves metrics over HTTP from now on, if `--metrics` was given. Returns the address.
    pub fn open_http(&self, reactor: &Reactor) -> Option<(SocketAddr, io::Result<()>)> {
        let http = self.http.as_ref()?;
        Some((http.address(), reactor.watch(http.door(), Token::HttpDoor, EpollFlags::EPOLLIN)))
    }

    /// Removes the names of the sockets.
    pub fn remove(&self) {
        self.front.listener().remove();
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
                Timer::Front => self.front.open(reactor),
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
        let askers = (0..control::EXCHANGES_MAX).filter_map(|place| self.control.fd(place));
        let asker = |fd| OpenFile::borrowed(fd, "socket", "a connection to the control socket, such as this audit's");
        sockets.into_iter().chain(http).chain(askers.map(asker))
    }
}

impl Timers for Doors {
    type Timer = Timer;
    const TIMERS: &'static [Timer] = &[Timer::Control, Timer::Http, Timer::Front];

    fn when(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Control => self.control.due(),
            Timer::Http => self.http.as_ref().and_then(Http::due),
            Timer::Front => self.front.opens(),
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
        doors.open_front(&reactor).unwrap();
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
