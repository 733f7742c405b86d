//! What the supervisor tells of itself beyond its status: crashes as events, and metrics.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use serde_json::json;
use sv3::status::Crash;

use super::Supervisor;
use super::token::Token;
use crate::doors::http::Http;
use crate::workers::death;

/// Fewer ports than this are worth a word at the start.
const PORTS_FEW: usize = 64;

impl Supervisor {
    /// The event of a crash.
    pub(super) fn say_crash(&mut self, crash: &Crash) {
        if let Some(syscall) = &crash.syscall {
            let subject = death::subject(crash);
            let message = format!("{subject} made the syscall {syscall}, which its policy forbids");
            let fields = json!({ "worker_pid": crash.worker_pid, "syscall": syscall });
            self.events.say_with("policy_violation", message, fields);
        }
        let (message, fields) = death::event(crash);
        self.events.say_with("crash", message, fields);
    }

    /// Asks for the log once more: somebody has renamed it. This process can open nothing itself.
    pub(super) fn reopen_log(&mut self) {
        if let Err(error) = self.spawner.reopen() {
            self.events.say("log", format!("the log cannot be opened anew, and goes on in the old file: {error}"));
        }
    }

    /// The log is here, or will not come.
    pub(super) fn take_log(&mut self, log: Result<File, Errno>) {
        let message = match log {
            Ok(file) => {
                self.events.replace_log(file);
                "the log was opened anew, after SIGHUP".to_string()
            }
            Err(errno) => format!("the log cannot be opened anew, and goes on in the old file: {}", errno.desc()),
        };
        self.events.say("log", message);
    }

    /// Says how few clients the limit of open files is good for.
    pub(super) fn say_few_files(&mut self) {
        let (files, ports) = (self.budget.files(), self.budget.ports());
        if ports < PORTS_FEW {
            let message = format!(
                "{files} open files are good for some {ports} ports: raise the hard limit (`ulimit -Hn`, LimitNOFILE= of a unit)"
            );
            self.events.say_with("few_files", message, json!({ "files": files, "ports": ports }));
        }
    }

    /// The switch in numbers.
    pub(super) fn metrics(&self) -> String {
        crate::telemetry::metrics::render(&self.status(), &self.chronicle, self.events.lost_ever())
    }

    /// Serves metrics over HTTP from now on, if that is wanted.
    pub(super) fn open_http(&mut self) {
        let Some(http) = &self.http else { return };
        let address = http.address();
        if let Err(error) = self.reactor.watch(http.door(), Token::HttpDoor, EpollFlags::EPOLLIN) {
            self.over = Some(Err(format!("{address} cannot be watched: {error}")));
        }
        let message = format!("metrics are served at http://{address}/metrics");
        self.events.say_with("metrics", message, json!({ "address": address.to_string() }));
    }

    /// Lets callers in at the door of the metrics.
    pub(super) fn accept_http(&mut self) {
        let Some(http) = &mut self.http else { return };
        for index in http.accept(Instant::now()) {
            if let Some(fd) = http.fd(index) {
                let _ = self.reactor.watch(fd, Token::Http(index), EpollFlags::EPOLLIN);
            }
        }
        if !http.is_open() {
            self.mind_http_door();
        }
    }

    /// Something happened at a place behind the door of the metrics.
    pub(super) fn serve_http(&mut self, index: usize) {
        let Some(http) = &mut self.http else { return };
        if self.answered.http {
            return http.put_off(index, Instant::now());
        }
        let Some(ask) = http.proceed(index) else { return };
        self.answered.http = true;
        let metrics = self.metrics();
        let Some(http) = &mut self.http else { return };
        if let Some(flags) = http.answer(index, ask, metrics)
            && let Some(fd) = http.fd(index)
        {
            self.reactor.change(fd, Token::Http(index), flags);
        }
    }

    pub(super) fn http_due(&self) -> Option<Instant> {
        self.http.as_ref().and_then(Http::due)
    }

    pub(super) fn expire_http(&mut self, now: Instant) {
        if self.http.as_mut().is_some_and(|http| http.expire(now)) {
            self.mind_http_door();
        }
    }

    /// Listens at the door only while callers can be let in.
    pub(super) fn mind_http_door(&self) {
        let Some(http) = &self.http else { return };
        let (door, open): (BorrowedFd<'_>, bool) = (http.door(), http.is_open());
        let flags = if open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        self.reactor.change(door, Token::HttpDoor, flags);
    }
}
