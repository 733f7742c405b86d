//! The control thread with in-memory ports: commands as the supervisor sends them, and no guest.

mod cards;
mod rules;
mod trace;
mod uplinks;
mod vrings;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use sv3::attachment::Learning;
use sv3::ipc::{Envelope, Settings, VERSION};
use sv3::ledger::LedgerMap;

use super::*;
use crate::port::in_memory::InMemory;

/// The supervisor's end, and the worker's only thread.
struct Worker {
    supervisor: UnixStream,
    seq: u64,
    thread: ControlThread,
    /// What it reported of itself.
    heard: Vec<Report>,
    /// The mapper opens cards.
    opens: bool,
}

impl Worker {
    fn new(standby: bool) -> Worker {
        Worker::with_threads(standby, 1)
    }

    fn with_threads(standby: bool, threads: usize) -> Worker {
        let (supervisor, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let settings = Settings { version: VERSION, poll_us: 0, batch: 64, snooping: None };
        let start = Start { settings, ledger, area: &ledger.workers[0], standby, role: WorkerRole::Cards };
        let (threads, link) = (Threads::new(threads).unwrap(), Link::new(socket));
        threads.first().watch_control(&link).unwrap();
        let thread = ControlThread::new(threads, &start, link, Buffers::new());
        Worker { supervisor, seq: 0, thread, heard: Vec::new(), opens: true }
    }

    /// Sends a command, runs the loop, and returns the errno if the worker reported a failure.
    fn tell(&mut self, command: Command) -> Option<i32> {
        for command in [command, Command::Barrier] {
            self.seq += 1;
            let envelope = Envelope { seq: self.seq, command, inherited: None };
            self.supervisor.write_all(&envelope.encode().unwrap()).unwrap();
        }
        let mut failed = None;
        loop {
            self.turn();
            while let Some(report) = self.hear() {
                match (report.kind, report.seq, report.value) {
                    (ReportKind::Done, seq, _) if seq == self.seq => return failed,
                    (ReportKind::Failed, _, errno) => failed = Some(errno as i32),
                    _ => self.heard.push(report),
                }
            }
        }
    }

    /// One turn of the loop, as in [`ControlThread::run`], but with a look.
    fn turn(&mut self) {
        if self.opens && self.thread.threads.mapper.opener.open_next() {
            self.thread.threads.first().nudge();
        }
        self.thread.poller.begin_turn();
        self.thread.look().unwrap();
        self.thread.poller.turn();
        while let Some((queue, fault)) = self.thread.poller.forwarder.next_fault() {
            self.thread.fault(queue, fault);
        }
        if self.thread.poller.forwarder.take_noted() {
            self.thread.take_notes();
        }
    }

    fn hear(&mut self) -> Option<Report> {
        self.supervisor.set_nonblocking(true).unwrap();
        let mut octets = [0; Report::SIZE];
        let heard = self.supervisor.read_exact(&mut octets);
        self.supervisor.set_nonblocking(false).unwrap();
        heard.ok().and_then(|()| Report::from_bytes(&octets))
    }

    fn with<T>(&self, queue: QueueId, look: impl FnOnce(&mut InMemory) -> T) -> T {
        match self.thread.queue(queue).unwrap().endpoint() {
            Endpoint::InMemory(queue) => look(queue),
            _ => panic!("another kind"),
        }
    }

    /// Gives port `slot` a frame for all ports, to be sent.
    fn send(&self, slot: u16) {
        let frame = [&[0; 12][..], &[0xff; 6], &[2, 0, 0, 0, 0, slot as u8], &[8, 0, 1, 2, 3]].concat();
        self.with(QueueId::transmit(slot, 0), |queue| queue.to_send.push(frame));
    }

    /// How many frames port `slot` has received since the last call.
    fn received(&self, slot: u16) -> usize {
        self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received).len())
    }
}

fn add(port: u16) -> Command {
    Command::PortAdd { port, kind: PortKind::Memory, learning: Learning::Free }
}

#[test]
fn a_port_of_another_kind_is_served_from_the_moment_it_is_added() {
    let mut worker = Worker::new(false);
    for slot in 0..3 {
        assert_eq!(worker.tell(add(slot)), None);
    }
    worker.send(1);
    // A change of any port makes the loop look again.
    worker.thread.poll(QueueId::transmit(1, 0));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!([0, 1, 2].map(|slot| worker.received(slot)), [1, 0, 1]);

    assert_eq!(worker.tell(Command::PortRemove { port: 2 }), None);
    worker.send(1);
    worker.thread.poll(QueueId::transmit(1, 0));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.received(0), 1);
    // The slot has a guest's port again.
    assert_eq!(worker.tell(Command::PortAdd { port: 2, kind: PortKind::Vrings, learning: Learning::Free }), None);
    assert!(worker.thread.queue(QueueId::receive(2, 0)).unwrap().vring().is_some());
}

#[test]
fn a_standby_serves_a_port_of_another_kind_when_it_is_promoted() {
    let mut worker = Worker::new(true);
    for slot in [4, 5] {
        assert_eq!(worker.tell(add(slot)), None);
    }
    worker.send(4);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.received(5), 0, "it serves already");
    assert_eq!(worker.tell(Command::Promote), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.received(5), 1);
}

#[test]
fn commands_about_vrings_are_refused_for_a_port_that_has_none() {
    let mut worker = Worker::new(false);
    assert_eq!(worker.tell(add(0)), None);
    let no_port = Some(NO_PORT as i32);
    assert_eq!(worker.tell(Command::RingEnable { port: 0, ring: 0, enable: false }), no_port);
    assert_eq!(worker.tell(Command::RingCall { port: 0, ring: 1, call: false }), no_port);
    worker.send(0);
    assert_eq!(worker.tell(add(1)), None);
    worker.thread.poll(QueueId::transmit(0, 0));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.received(1), 1, "it is served on");
}

mod files;
mod questions;
