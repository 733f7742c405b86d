//! Metrics for a scraper: `GET /metrics` over HTTP/1.1 on a loopback address, one request a connection.
//!
//! Any local user may connect, so everything is bounded: the octets of a request, the connections, the time. When all
//! places are taken, a new connection gets the place of the oldest one, once that one has had [`STAY`] to send
//! something. Until then the new connection waits in the socket's queue. So slow connections keep no other out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::foreign::ForeignFd;
use sv3::http::{self, MISDIRECTED, NOT_FOUND, Request};

use crate::doors::control::STAY;

/// Most exchanges at a time.
pub const PLACES: usize = 16;
/// How long an exchange may last.
const TIME: Duration = Duration::from_secs(5);
/// After accept(2) has failed, mostly for lack of fds, no connection is accepted for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// Most connections that are accepted in one turn.
const TURN: usize = 8;
/// Content types of answers.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The listener and its exchanges, each at its own place.
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
    exchanges: [Option<Exchange>; PLACES],
    paused: Option<Instant>,
}

struct Exchange {
    stream: TcpStream,
    heard: Vec<u8>,
    answer: Option<Vec<u8>>,
    /// When it could last send something, or was given an answer.
    since: Instant,
    due: Instant,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// `/metrics`.
    Metrics,
    /// `/metrics` by `HEAD`: the answer without its body.
    Head,
    /// Something else; the status line of the answer.
    Other(&'static str),
}

impl Http {
    /// Listens. Must be called before confinement.
    pub fn bind(address: SocketAddr) -> Result<Http, String> {
        let bind = || -> io::Result<Http> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Http { listener, address, exchanges: [const { None }; PLACES], paused: None })
        };
        bind().map_err(|error| format!("cannot serve metrics at {address}: {error}; choose another port by --metrics"))
    }

    /// A listening socket of the last supervisor.
    pub fn inherited(socket: &ForeignFd) -> io::Result<Http> {
        let listener = TcpListener::from(socket.as_fd().try_clone_to_owned()?);
        let address = listener.local_addr()?;
        Ok(Http { listener, address, exchanges: [const { None }; PLACES], paused: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listening socket.
    pub fn door(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Whether connections are accepted.
    pub fn is_open(&self) -> bool {
        self.paused.is_none()
    }

    /// Accepts connections and returns their places.
    pub fn accept(&mut self, now: Instant) -> Vec<usize> {
        let mut places = Vec::new();
        for _ in 0..TURN {
            let full = self.exchanges.iter().all(Option::is_some);
            let next = self.exchanges.iter().flatten().map(|taken| taken.since + STAY).min();
            if let Some(until) = next.filter(|next| full && *next > now) {
                self.paused = Some(until);
                break;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.paused = Some(now + PAUSE);
                    break;
                }
            };
            let oldest = |place: &(usize, &mut Option<Exchange>)| place.1.as_ref().map(|taken| taken.since);
            let place = self.exchanges.iter_mut().enumerate().min_by_key(oldest);
            if let (Ok(()), Some((index, place))) = (stream.set_nonblocking(true), place) {
                *place = Some(Exchange { stream, heard: Vec::new(), answer: None, since: now, due: now + TIME });
                places.retain(|earlier| *earlier != index);
                places.push(index);
            }
        }
        places
    }

    /// The socket at a place, for epoll.
    pub fn fd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.exchanges.get(index)?.as_ref()?.stream.as_fd())
    }

    /// Reads from an exchange in a later turn.
    pub fn put_off(&mut self, index: usize, now: Instant) {
        if let Some(Some(exchange)) = self.exchanges.get_mut(index) {
            exchange.since = now;
        }
    }

    /// Continues an exchange. Returns a request that has just become complete, which [`Http::answer`] must answer. If
    /// the exchange ends, its place is free.
    pub fn proceed(&mut self, index: usize) -> Option<Ask> {
        let place = self.exchanges.get_mut(index)?;
        let outcome = place.as_mut()?.proceed();
        if outcome.is_err() {
            (*place, self.paused) = (None, None);
        }
        outcome.ok().flatten()
    }

    /// Answers a request. Returns the events to wait for, if the exchange goes on.
    pub fn answer(&mut self, index: usize, ask: Ask, metrics: String) -> Option<EpollFlags> {
        let exchange = self.exchanges.get_mut(index)?.as_mut()?;
        (exchange.answer, exchange.since) = (Some(response(ask, metrics)), Instant::now());
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
    fn proceed(&mut self) -> Result<Option<Ask>, Over> {
        let Some(answer) = &mut self.answer else { return self.listen() };
        match self.stream.write(answer) {
            Ok(sent) if sent >= answer.len() => Err(Over),
            Ok(sent) => {
                answer.drain(..sent);
                Ok(None)
            }
            Err(error) => passing(error),
        }
    }

    fn listen(&mut self) -> Result<Option<Ask>, Over> {
        let mut octets = [0; 1024];
        match self.stream.read(&mut octets) {
            Ok(0) => Err(Over),
            Ok(count) => {
                self.heard.extend_from_slice(octets.get(..count).unwrap_or_default());
                Ok(read_request(&self.heard))
            }
            Err(error) => passing(error),
        }
    }
}

fn passing<T>(error: io::Error) -> Result<Option<T>, Over> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
        _ => Err(Over),
    }
}

/// What is asked for, once the head of the request is complete.
pub fn read_request(heard: &[u8]) -> Option<Ask> {
    Some(match http::read_request(heard)? {
        Ok(Request { path, is_head }) if path == "/metrics" => {
            if is_head {
                Ask::Head
            } else {
                Ask::Metrics
            }
        }
        Ok(_) => Ask::Other(NOT_FOUND),
        Err(status) => Ask::Other(status),
    })
}

/// The whole answer.
pub fn response(ask: Ask, metrics: String) -> Vec<u8> {
    let (status, kind, body, whole) = match ask {
        Ask::Metrics => ("200 OK", OPEN_METRICS, metrics, true),
        Ask::Head => ("200 OK", OPEN_METRICS, metrics, false),
        Ask::Other(MISDIRECTED) => {
            (MISDIRECTED, TEXT, format!("{MISDIRECTED}; ask for localhost, 127.0.0.1 or [::1]\n"), true)
        }
        Ask::Other(status) => (status, TEXT, format!("{status}; the metrics are at /metrics\n"), true),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}");
    let body = if whole { body } else { String::new() };
    format!("{head}Connection: close\r\n\r\n{body}").into_bytes()
}

#[cfg(test)]
mod tests {
    use sv3::http::{REQUEST_MAX, parse_address};

    use super::*;

    #[test]
    fn requests_are_read_when_they_are_whole() {
        let ask = |text: &str| read_request(text.as_bytes());
        let of = |line: &str| read_request(format!("{line}\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n"), None);
        assert_eq!(of("GET /metrics HTTP/1.1"), Some(Ask::Metrics));
        assert_eq!(of("HEAD /metrics?x=1 HTTP/1.1"), Some(Ask::Head));
        assert_eq!(ask("GET /metrics?x=1 HTTP/1.0\n\n"), Some(Ask::Metrics));
        assert_eq!(of("GET /metricsx HTTP/1.1"), Some(Ask::Other("404 Not Found")));
        assert_eq!(of("GET http://localhost/metrics HTTP/1.1"), Some(Ask::Other("404 Not Found")));
        assert_eq!(of("POST /metrics HTTP/1.1"), Some(Ask::Other("405 Method Not Allowed")));
        for wrong in ["", "GET /metrics", "GET  /metrics HTTP/1.1", "GET / HTTP/2"] {
            assert_eq!(of(wrong), Some(Ask::Other("400 Bad Request")), "{wrong:?}");
        }
        assert_eq!(ask("\r\n\r\n"), Some(Ask::Other("400 Bad Request")));
        assert_eq!(ask("GET /metrics HTTP/1.1\r\n\r\n"), Some(Ask::Other("400 Bad Request")), "no host");
        let long = "x".repeat(REQUEST_MAX + 1);
        assert_eq!(ask(&long), Some(Ask::Other("431 Request Header Fields Too Large")));
    }

    #[test]
    fn a_turn_ends_although_more_connections_wait_and_each_has_its_time() {
        let mut http = Http::bind(parse_address("127.0.0.1:0").unwrap()).unwrap();
        let clients: Vec<TcpStream> = (0..=PLACES).map(|_| TcpStream::connect(http.address()).unwrap()).collect();
        let now = Instant::now();
        assert_eq!((http.accept(now).len(), http.accept(now).len()), (TURN, PLACES - TURN));
        assert!(http.accept(now).is_empty() && !http.is_open());
        http.put_off(0, now + STAY);
        http.expire(now + STAY);
        assert!(http.is_open());
        assert_eq!(http.accept(now + STAY), [1], "the oldest one that was not put off");
        drop(clients);
    }

    #[test]
    fn metrics_are_only_for_requests_that_name_a_loopback_host() {
        let ask = |fields: &str| read_request(format!("GET /metrics HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
        for own in [
            "localhost",
            "LocalHost:9109",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]:9109",
            "[::ffff:127.0.0.1]",
            " localhost ",
            "localhost:",
        ] {
            assert_eq!(ask(&format!("Accept: */*\r\nhOsT:{own}")), Some(Ask::Metrics), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:9109",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:evil",
            "192.168.1.1",
            "[::2]",
            "::1",
            "1",
            "",
            "localhost@evil.example",
        ] {
            assert_eq!(ask(&format!("Host: {other}")), Some(Ask::Other(MISDIRECTED)), "{other}");
        }
        assert_eq!(ask("Host: localhost\r\nHost: evil.example"), Some(Ask::Other("400 Bad Request")));
        assert_eq!(ask("Host:\r\n localhost"), Some(Ask::Other(MISDIRECTED)), "folded");
        let old = |fields: &str| read_request(format!("GET /metrics HTTP/1.0\r\n{fields}\r\n").as_bytes());
        assert_eq!(old(""), Some(Ask::Metrics));
        assert_eq!(old("Host: evil.example\r\n"), Some(Ask::Other(MISDIRECTED)));
    }

    #[test]
    fn the_head_alone_tells_how_long_the_metrics_are() {
        let text = String::from_utf8(response(Ask::Head, "12345".to_string())).unwrap();
        assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn slow_clients_lose_their_places_to_new_ones() {
        let mut http = Http::bind(parse_address("127.0.0.1:0").unwrap()).unwrap();
        let start = Instant::now();
        let clients: Vec<TcpStream> = (0..=PLACES as u64)
            .map(|n| {
                let client = TcpStream::connect(http.address()).unwrap();
                while http.accept(start + Duration::from_millis(30 * n)).is_empty() {}
                client
            })
            .collect();
        let mut evicted = &clients[0];
        evicted.set_read_timeout(Some(TIME)).unwrap();
        assert_eq!(evicted.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(http.exchanges.iter().flatten().count(), PLACES);
        http.expire(start + TIME + Duration::from_millis(30));
        assert_eq!(http.exchanges.iter().flatten().count(), PLACES - 1);
        http.expire(start + TIME + Duration::from_secs(1));
        assert_eq!(http.due(), None);
    }
}
