//! A worker of target `live`: it reads commands and sends the reports that they need, and does nothing else.

use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;

use sv3::fuzz::Input;
use sv3::ipc::{Command, Envelope, FRAME_PREFIX, Report, ReportKind};
use sv3::ledger::WorkerArea;
use sv3::virtio::OFFERED;

use crate::ancillary;

/// A worker.
pub struct Fake {
    /// Its process, which does not exist.
    pub pid: i32,
    /// Its area of the ledger, once the command `Start` has come.
    pub area: u8,
    socket: UnixStream,
    frame: Vec<u8>,
    /// A command whose fd has not come yet.
    partial: Option<Envelope>,
    /// Number of the last command that removed memory, until the worker has reported it unmapped.
    unmaps: Option<u64>,
}

impl Fake {
    /// A worker at its end of the link.
    pub fn new(pid: i32, socket: OwnedFd) -> Fake {
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true).unwrap();
        Fake { pid, area: 0, socket, frame: Vec::new(), partial: None, unmaps: None }
    }

    /// Executes at most so many commands. Returns how many there were.
    pub fn execute(&mut self, most: usize) -> usize {
        let count = (0..most).map_while(|_| self.receive().map(|envelope| self.answer(&envelope))).count();
        if let Some(seq) = self.unmaps.take() {
            self.write(&Report::new(ReportKind::Unmapped, seq).to_bytes());
        }
        count
    }

    fn answer(&mut self, envelope: &Envelope) {
        let seq = envelope.seq;
        let report = match envelope.command {
            Command::Start { area, .. } => {
                self.area = area;
                Report::ready(7, OFFERED)
            }
            Command::Barrier => Report::new(ReportKind::Done, seq),
            Command::RingStop { port, ring } => {
                Report { port, ring, value: 7, ..Report::new(ReportKind::RingStopped, seq) }
            }
            Command::MemoryCommit { .. } | Command::RegionRemove { .. } | Command::PortRemove { .. } => {
                self.unmaps = Some(seq);
                return;
            }
            _ => return,
        };
        self.write(&report.to_bytes());
    }

    /// Sends a report that no command asked for.
    pub fn lie(&mut self, input: &mut Input<'_>) {
        let octets = input.take(Report::SIZE).to_vec();
        self.write(&octets);
    }

    fn write(&mut self, octets: &[u8]) {
        // The supervisor does not read from a worker that it killed.
        let _ = self.socket.write_all(octets);
    }

    /// The next command. Its fd is closed at once.
    fn receive(&mut self) -> Option<Envelope> {
        if self.partial.is_none() {
            self.fill(FRAME_PREFIX)?;
            let length = u32::from_le_bytes(*self.frame.first_chunk().unwrap()) as usize;
            self.fill(FRAME_PREFIX + length)?;
            self.partial = Some(Envelope::decode(&self.frame[FRAME_PREFIX..]).unwrap());
            self.frame.clear();
        }
        if self.partial.as_ref().unwrap().fds() > 0 {
            let received = ancillary::receive(&self.socket, &mut [0; 4]).ok().filter(|received| received.count > 0)?;
            assert_eq!(received.fds.len(), 1, "a command without its fd");
        }
        self.partial.take()
    }

    fn fill(&mut self, length: usize) -> Option<()> {
        while self.frame.len() < length {
            let have = self.frame.len();
            let mut octets = vec![0; length - have];
            match ancillary::receive(&self.socket, &mut octets) {
                Ok(received) if received.count > 0 => {
                    assert!(received.fds.is_empty(), "an fd that belongs to no command");
                    self.frame.extend_from_slice(&octets[..received.count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
        Some(())
    }
}

/// Writes that the worker was serving this port.
pub fn write_serving(area: &WorkerArea, port: u8) {
    area.threads[0].port.store(u32::from(port) + 1, Relaxed);
}
