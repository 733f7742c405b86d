//! The link to a worker: sends numbered commands with their fds, and receives reports. Never blocks.
//!
//! Commands wait here while the worker is behind. They keep their fds open, so a client that causes many of them must
//! wait ([`Link::is_filled_by`]). Commands also wait while the kernel allows no more fds in flight (`ETOOMANYREFS`).
//! Any process of the same user can cause that; the worker is not at fault then.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use passfd::FdPassingExt;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, Envelope, Report};

use crate::ancillary;
use crate::workers::command::WorkerCommand;

/// Most reports that are read at a time.
const REPORTS: usize = 128;
/// Most writes at a time: the replay of some ten clients, in less than 1 ms.
const WRITES: usize = 256;

/// After the kernel had no room, the next try comes after this time.
const RETRY: Duration = Duration::from_millis(10);
/// While more items than this wait, clients that caused some of them must wait.
const FILLED: usize = 64;

/// The supervisor's end.
pub struct Link {
    stream: UnixStream,
    queue: VecDeque<Item>,
    last_seq: u64,
    /// Number of the last command that has been sent completely.
    sent_seq: u64,
    /// By slot: number of the last command about it.
    about: Vec<u64>,
    /// When to try again, if the kernel had no room.
    refused: Option<Instant>,
    inbox: Vec<u8>,
}

enum Item {
    /// Frames, how many of their octets have been sent, and the number of the last command. They are sent together:
    /// otherwise the worker wakes up for the first one and takes the processor from the supervisor.
    Octets(Vec<u8>, usize, u64),
    Fd(Rc<ForeignFd>),
}

impl Link {
    /// Makes a link. Returns it and the worker's end.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let link = Link {
            stream,
            queue: VecDeque::new(),
            last_seq: 0,
            sent_seq: 0,
            about: Vec::new(),
            refused: None,
            inbox: Vec::new(),
        };
        Ok((link, theirs.into()))
    }

    /// Queues a command and returns its number.
    pub fn push(&mut self, next: WorkerCommand) -> io::Result<u64> {
        let seq = self.push_frame(next.command, None)?;
        self.queue.extend(next.fd.map(Item::Fd));
        Ok(seq)
    }

    /// The same for a worker that is not started yet and will inherit the command's fd.
    pub fn push_inherited(&mut self, next: &WorkerCommand) -> io::Result<u64> {
        self.push_frame(next.command.clone(), next.fd.as_ref().map(|fd| fd.as_fd().as_raw_fd()))
    }

    fn push_frame(&mut self, command: Command, inherited: Option<i32>) -> io::Result<u64> {
        self.last_seq += 1;
        if let Some(slot) = command.port().map(usize::from) {
            self.about.resize(self.about.len().max(slot + 1), 0);
            self.about.iter_mut().skip(slot).take(1).for_each(|last| *last = self.last_seq);
        }
        let envelope = Envelope { seq: self.last_seq, command, inherited };
        let frame = envelope.encode().map_err(|error| io::Error::other(error.to_string()))?;
        match self.queue.back_mut() {
            // Only an item of which nothing was sent: another would grow for as long as the worker is behind.
            Some(Item::Octets(frames, 0, last)) => {
                frames.extend(frame);
                *last = self.last_seq;
            }
            _ => self.queue.push_back(Item::Octets(frame, 0, self.last_seq)),
        }
        Ok(self.last_seq)
    }

    /// Sends as much as the socket takes, in at most [`WRITES`] writes: otherwise thousands of commands for a new
    /// worker would delay everything else. An error means that the worker is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.refused.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.refused = None;
        for _ in 0..WRITES {
            let Some(item) = self.queue.front_mut() else { break };
            let sent = match item {
                Item::Octets(frames, sent, last) => match self.stream.write(frames.get(*sent..).unwrap_or_default()) {
                    Ok(count) => {
                        *sent += count;
                        let whole = *sent >= frames.len();
                        self.sent_seq = if whole { *last } else { self.sent_seq };
                        Ok(whole)
                    }
                    Err(error) => Err(error),
                },
                Item::Fd(fd) => self.stream.send_fd(fd.as_fd().as_raw_fd()).map(|()| true),
            };
            match sent {
                Ok(true) => drop(self.queue.pop_front()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if ancillary::is_shortage(&error) => {
                    self.refused = Some(Instant::now() + RETRY);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// When to try again, if the kernel had no room.
    pub fn refused_until(&self) -> Option<Instant> {
        self.refused
    }

    /// Whether many items wait, and some of them are about this slot.
    pub fn is_filled_by(&self, slot: u16) -> bool {
        let last = self.about.get(usize::from(slot));
        self.queue.len() > FILLED && last.is_some_and(|last| *last > self.sent_seq)
    }

    /// Whether items wait for room in the socket.
    pub fn is_backed_up(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Number of the last command.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Reads some reports; `None` stands for a report of unknown kind. An error means that the worker is gone.
    pub fn reports(&mut self) -> io::Result<Vec<Option<Report>>> {
        let mut octets = [0; REPORTS * Report::SIZE];
        let space = octets.len() - self.inbox.len().min(Report::SIZE);
        match self.stream.read(octets.get_mut(..space).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.inbox.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let (whole, rest) = self.inbox.as_chunks::<{ Report::SIZE }>();
        let reports = whole.iter().map(Report::from_bytes).collect();
        self.inbox = rest.to_vec();
        Ok(reports)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;
    use sv3::ipc::{FRAME_PREFIX, ReportKind};

    fn receive(stream: &mut UnixStream) -> Envelope {
        let mut prefix = [0; FRAME_PREFIX];
        stream.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        stream.read_exact(&mut body).unwrap();
        Envelope::decode(&body).unwrap()
    }

    #[test]
    #[allow(unsafe_code)]
    fn more_commands_than_fit_arrive_in_order_with_their_fds() {
        let (mut link, theirs) = Link::pair().unwrap();
        let mut worker = UnixStream::from(theirs);
        worker.set_nonblocking(false).unwrap();
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let fd = Rc::new(ForeignFd::from(fd));
        for _ in 0..2000 {
            link.push(WorkerCommand::with_fd(Command::RingCall { port: 1, ring: 2, call: true }, fd.clone())).unwrap();
        }
        link.flush().unwrap();
        assert!(link.is_backed_up());
        for seq in 1..=2000 {
            assert_eq!(receive(&mut worker).seq, seq);
            // SAFETY: the fd was received just now, and nothing else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(worker.recv_fd().unwrap()) });
            link.flush().unwrap();
        }
        assert!(!link.is_backed_up());
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_worker_that_reads_as_fast_as_is_written_gets_so_much_a_turn() {
        let (mut link, theirs) = Link::pair().unwrap();
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let fd = Rc::new(ForeignFd::from(fd));
        for _ in 0..2000 {
            link.push(WorkerCommand::with_fd(Command::RingCall { port: 1, ring: 2, call: true }, fd.clone())).unwrap();
        }
        let mut worker = UnixStream::from(theirs);
        worker.set_nonblocking(false).unwrap();
        let reader = std::thread::spawn(move || {
            for seq in 1..=2000 {
                assert_eq!(receive(&mut worker).seq, seq);
                // SAFETY: the fd was received just now, and nothing else owns it.
                drop(unsafe { OwnedFd::from_raw_fd(worker.recv_fd().unwrap()) });
            }
        });
        while link.is_backed_up() {
            let before = link.queue.len();
            link.flush().unwrap();
            assert!(before - link.queue.len() <= WRITES);
        }
        reader.join().unwrap();
    }

    #[test]
    fn reports_come_in_any_pieces_and_nonsense_is_seen() {
        let (mut link, theirs) = Link::pair().unwrap();
        let mut worker = UnixStream::from(theirs);
        let report = Report::new(ReportKind::Done, 5);
        let octets = [report.to_bytes(), [0xff; Report::SIZE]].concat();
        let mut got = Vec::new();
        for octet in octets {
            worker.write_all(&[octet]).unwrap();
            got.extend(link.reports().unwrap());
        }
        assert_eq!(got, [Some(report), None]);
        drop(worker);
        assert!(link.reports().is_err());
    }
}
