//! The page server: a request a connection, and questions to the asker.
//!
//! Any local user may connect, so everything is bounded, as for the supervisor's metrics: the octets of a request, the
//! connections, the time. When all places are taken, a new connection gets the place of the oldest one, once that one
//! has had [`STAY`] to say something. The switch is asked twice a second at most, however many browsers look, and
//! however slow they read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use sv3::http::read_request;

use super::answers::{Answer, Todo, Told, of_switch, todo};
use super::asker::{ANSWER_MAX, HEAD, Question};
use super::token::Token;

/// Most exchanges at a time: two windows of a browser that opens six connections each, and some.
const PLACES: usize = 32;
/// How long an exchange may last.
const TIME: Duration = Duration::from_secs(8);
/// How long a connection keeps its place at least.
const STAY: Duration = Duration::from_millis(100);
/// After accept(2) has failed, mostly for lack of fds, no connection is accepted for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer of the switch is good for further requests.
const FRESH: Duration = Duration::from_millis(500);

/// The server.
pub struct Server {
    listener: TcpListener,
    token: Token,
    exchanges: [Option<Exchange>; PLACES],
    paused: Option<Instant>,
    news: News,
}

struct Exchange {
    stream: TcpStream,
    state: State,
    since: Instant,
    due: Instant,
}

enum State {
    /// The request as far as it was heard.
    Listens(Vec<u8>),
    /// The switch was asked.
    Waits(Question),
    /// The answer, and how many octets of it were sent.
    Answers(Answer, usize),
}

/// The exchange is over.
struct Over;

impl Server {
    /// A server at these sockets.
    pub fn new(listener: TcpListener, asker: UnixStream, token: Token) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        asker.set_nonblocking(true)?;
        let news = News { asker, told: [None, None], asked: None, heard: Vec::new() };
        Ok(Server { listener, token, exchanges: [const { None }; PLACES], paused: None, news })
    }

    /// Serves until the asker has gone.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let [asker, door] = self.wait()?;
            let now = Instant::now();
            if asker && !self.news.hear(now)? {
                return Ok(());
            }
            if door {
                self.accept(now);
            }
            for place in &mut self.exchanges {
                let over = place.as_mut().map(|exchange| exchange.proceed(&self.token, &mut self.news, now));
                if let Some(Err(Over)) = over {
                    (*place, self.paused) = (None, None);
                }
            }
        }
    }

    /// Waits until something can be done; whether the asker, and new connections, are part of it.
    fn wait(&mut self) -> Result<[bool; 2], String> {
        let now = Instant::now();
        self.expire(now);
        let due = self.exchanges.iter().flatten().map(|exchange| exchange.due).chain(self.paused).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up: not a moment too early, or the loop would spin.
            let left = due.saturating_duration_since(now).as_millis().saturating_add(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let door = if self.paused.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds =
            vec![PollFd::new(self.news.asker.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), door)];
        for exchange in self.exchanges.iter().flatten() {
            fds.push(PollFd::new(exchange.stream.as_fd(), exchange.interest()));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("poll: {errno}")),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        let at = |index: usize| ready.get(index).copied().unwrap_or(false);
        let both = [at(0), at(1)];
        let taken = self.exchanges.iter_mut().filter(|place| place.is_some());
        for (place, ready) in taken.zip(ready.iter().skip(2)) {
            // Nothing is expected of who waits, so it has gone.
            place.take_if(|exchange| *ready && matches!(exchange.state, State::Waits(_)));
        }
        Ok(both)
    }

    fn accept(&mut self, now: Instant) {
        let full = self.exchanges.iter().all(Option::is_some);
        let next = self.exchanges.iter().flatten().map(|taken| taken.since + STAY).min();
        if let Some(until) = next.filter(|next| full && *next > now) {
            self.paused = Some(until);
            return;
        }
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {
                self.paused = Some(now + PAUSE);
                return;
            }
        };
        let oldest = |place: &&mut Option<Exchange>| place.as_ref().map(|taken| taken.since);
        if let (Ok(()), Some(place)) = (stream.set_nonblocking(true), self.exchanges.iter_mut().min_by_key(oldest)) {
            *place = Some(Exchange { stream, state: State::Listens(Vec::new()), since: now, due: now + TIME });
        }
    }

    fn expire(&mut self, now: Instant) {
        for place in &mut self.exchanges {
            place.take_if(|exchange| exchange.due <= now);
        }
        self.paused.take_if(|until| *until <= now);
    }
}

impl Exchange {
    fn interest(&self) -> PollFlags {
        match self.state {
            State::Listens(_) => PollFlags::POLLIN,
            // Only that the client has gone.
            State::Waits(_) => PollFlags::empty(),
            State::Answers(..) => PollFlags::POLLOUT,
        }
    }

    /// Does what can be done without waiting.
    fn proceed(&mut self, token: &Token, news: &mut News, now: Instant) -> Result<(), Over> {
        if let State::Listens(heard) = &mut self.state {
            let mut octets = [0; 1024];
            match self.stream.read(&mut octets) {
                Ok(0) => return Err(Over),
                Ok(count) => heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
                Err(error) => return passing(&error),
            }
            let Some(request) = read_request(heard) else { return Ok(()) };
            self.state = match todo(request, token) {
                Todo::Answer(answer) => State::Answers(answer, 0),
                Todo::Ask(question) => State::Waits(question),
            };
        }
        if let State::Waits(question) = self.state {
            let Some((at, told)) = news.of(question, now) else { return Ok(()) };
            self.state = State::Answers(of_switch(told, now.saturating_duration_since(*at)), 0);
        }
        match &mut self.state {
            State::Answers(answer, sent) => send_rest(&mut self.stream, answer, sent),
            _ => Ok(()),
        }
    }
}

/// Sends what of an answer was not sent yet. The exchange is over when all was.
fn send_rest(stream: &mut TcpStream, answer: &Answer, sent: &mut usize) -> Result<(), Over> {
    loop {
        let rest = match answer.head.get(*sent..) {
            Some(head) if !head.is_empty() => head,
            _ => answer.body.get(sent.saturating_sub(answer.head.len())..).unwrap_or_default(),
        };
        if rest.is_empty() {
            return Err(Over);
        }
        match stream.write(rest) {
            Ok(count) => *sent += count,
            Err(error) => return passing(&error),
        }
    }
}

fn passing(error: &io::Error) -> Result<(), Over> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
        _ => Err(Over),
    }
}

/// What the switch told last.
struct News {
    asker: UnixStream,
    /// When, and what, by question.
    told: [Option<(Instant, Told)>; 2],
    /// The question that was asked and is not answered.
    asked: Option<Question>,
    /// The beginning of an answer.
    heard: Vec<u8>,
}

impl News {
    /// The answer to a question, if it is fresh. Else asks.
    fn of(&mut self, question: Question, now: Instant) -> Option<&(Instant, Told)> {
        let is_fresh = |(at, _): &(Instant, Told)| now.saturating_duration_since(*at) < FRESH;
        let known = self.told.get(question as usize)?.as_ref().is_some_and(is_fresh);
        if !known {
            if self.asked.is_none()
                && send(self.asker.as_raw_fd(), &[question.octet()], MsgFlags::MSG_NOSIGNAL) == Ok(1)
            {
                self.asked = Some(question);
            }
            return None;
        }
        self.told.get(question as usize)?.as_ref()
    }

    /// Reads from the asker. Returns whether it is still there.
    fn hear(&mut self, now: Instant) -> Result<bool, String> {
        let mut octets = [0; 16384];
        match recv(self.asker.as_raw_fd(), &mut octets, MsgFlags::empty()) {
            Ok(0) => return Ok(false),
            Ok(count) => self.heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(format!("the asker has ended: {errno}")),
        }
        let Some((&[question, is_good, a, b, c, d], text)) = self.heard.split_first_chunk::<HEAD>() else {
            return Ok(true);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let question = Question::of(question).filter(|question| self.asked == Some(*question) && length <= ANSWER_MAX);
        let question = question.ok_or("the asker answers what was not asked")?;
        let Some(text) = text.get(..length as usize) else { return Ok(true) };
        let text = Rc::from(text);
        if let Some(told) = self.told.get_mut(question as usize) {
            *told = Some((now, if is_good == 1 { Ok(text) } else { Err(text) }));
        }
        (self.asked, self.heard) = (None, Vec::new());
        Ok(true)
    }
}
