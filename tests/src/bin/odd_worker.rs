//! A worker without a data path, for the scenarios of `sv3 upgrade`. It obeys and says so; what is odd about it is told by
//! the name of its file, since a worker gets neither arguments nor environment:
//!
//! - `short-lived` dies a second after it took over,
//! - `fewer-features` does not serve what a Linux guest uses,
//! - `other-version` speaks another version of the protocol, and has said more than is read at once before anybody can
//!   stop it,
//! - `mute` never says a word.
#![allow(unsafe_code)] // fd hand-over

use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use passfd::FdPassingExt;
use sv3::ipc::{Command, Envelope, FRAME_PREFIX, Report, ReportKind, VERSION};
use sv3::virtio::{OFFERED, VIRTIO_RING_F_EVENT_IDX};

fn main() -> std::io::Result<()> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(false)?;
    loop {
        let mut prefix = [0; FRAME_PREFIX];
        if socket.read_exact(&mut prefix).is_err() {
            return Ok(());
        }
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        socket.read_exact(&mut body)?;
        let envelope = Envelope::decode(&body).map_err(std::io::Error::other)?;
        // SAFETY: this process was born with it, and it is named once.
        let inherited = envelope.inherited.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        drop(inherited);
        for _ in 0..envelope.fds() {
            // SAFETY: received just now and held by nobody else.
            drop(socket.recv_fd().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })?);
        }
        let Envelope { seq, command, .. } = envelope;
        let done = Report::new(ReportKind::Done, seq);
        let report = match command {
            Command::Start { .. } if name == "other-version" => continue,
            Command::Barrier if name == "other-version" => {
                let mut reports = vec![Report { detail: u64::from(VERSION + 1), ..Report::ready(0, OFFERED) }];
                reports.resize(256, Report::new(ReportKind::RingStopped, seq));
                reports.push(done);
                socket.write_all(&reports.into_iter().flat_map(Report::to_bytes).collect::<Vec<_>>())?;
                continue;
            }
            Command::Start { .. } => ready(&name),
            Command::Barrier => done,
            Command::RingStop { port, ring } => Report { port, ring, ..Report::new(ReportKind::RingStopped, seq) },
            Command::Promote if name == "short-lived" => {
                std::thread::spawn(|| {
                    std::thread::sleep(Duration::from_secs(1));
                    std::process::abort();
                });
                continue;
            }
            _ => continue,
        };
        if name != "mute" {
            socket.write_all(&report.to_bytes())?;
        }
    }
}

fn ready(name: &str) -> Report {
    match name {
        "fewer-features" => Report::ready(0, OFFERED & !VIRTIO_RING_F_EVENT_IDX.mask()),
        _ => Report::ready(0, OFFERED),
    }
}
