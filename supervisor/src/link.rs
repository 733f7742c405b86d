//! The wire to a worker: numbered commands with their fds down, reports up. Never blocks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passfd::FdPassingExt;
use sv3::ipc::{Envelope, Report};

use crate::record::Order;

/// Reports that are read at a time.
const REPORTS: usize = 128;

/// The supervisor's end.
pub struct Link {
    stream: UnixStream,
    queue: VecDeque<Item>,
    last_seq: u64,
    inbox: Vec<u8>,
}

enum Item {
    /// Frames that go out together, lest the worker wake up for the first of them and keep us from sending the next; and
    /// how much of them has been sent.
    Octets(Vec<u8>, usize),
    Fd(Rc<OwnedFd>),
}

impl Link {
    /// A link and the worker's end of it.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((Link { stream, queue: VecDeque::new(), last_seq: 0, inbox: Vec::new() }, theirs.into()))
    }

    /// Queues an order and returns its number.
    pub fn push(&mut self, order: Order) -> io::Result<u64> {
        self.last_seq += 1;
        let envelope = Envelope { seq: self.last_seq, command: order.command };
        let frame = envelope.encode().map_err(|error| io::Error::other(error.to_string()))?;
        match self.queue.back_mut() {
            // One of which some was sent would only grow as long as the worker is behind.
            Some(Item::Octets(frames, 0)) => frames.extend(frame),
            _ => self.queue.push_back(Item::Octets(frame, 0)),
        }
        self.queue.extend(order.fd.map(Item::Fd));
        Ok(self.last_seq)
    }

    /// Sends as much as fits. An error says that the worker is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(item) = self.queue.front_mut() {
            let sent = match item {
                Item::Octets(frames, sent) => match self.stream.write(frames.get(*sent..).unwrap_or_default()) {
                    Ok(count) => {
                        *sent += count;
                        Ok(*sent >= frames.len())
                    }
                    Err(error) => Err(error),
                },
                Item::Fd(fd) => self.stream.send_fd(fd.as_raw_fd()).map(|()| true),
            };
            match sent {
                Ok(true) => drop(self.queue.pop_front()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits for room.
    pub fn is_backed_up(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Number of the last order.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Some of the reports that are here; `None` in place of one that cannot be read. An error says that the worker is
    /// gone.
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
    use sv3::ipc::{Command, FRAME_PREFIX, ReportKind};

    fn receive(stream: &mut UnixStream) -> Envelope {
        let mut prefix = [0; FRAME_PREFIX];
        stream.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        stream.read_exact(&mut body).unwrap();
        Envelope::decode(&body).unwrap()
    }

    #[test]
    #[allow(unsafe_code)]
    fn more_orders_than_fit_arrive_in_order_with_their_fds() {
        let (mut link, theirs) = Link::pair().unwrap();
        let mut worker = UnixStream::from(theirs);
        worker.set_nonblocking(false).unwrap();
        let fd: Rc<OwnedFd> = Rc::new(std::fs::File::open("/dev/null").unwrap().into());
        for _ in 0..2000 {
            link.push(Order::with_fd(Command::RingCall { port: 1, ring: 2, call: true }, fd.clone())).unwrap();
        }
        link.flush().unwrap();
        assert!(link.is_backed_up());
        for seq in 1..=2000 {
            assert_eq!(receive(&mut worker).seq, seq);
            // SAFETY: received just now.
            drop(unsafe { OwnedFd::from_raw_fd(worker.recv_fd().unwrap()) });
            link.flush().unwrap();
        }
        assert!(!link.is_backed_up());
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
