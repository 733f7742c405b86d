//! A worker without a data path, for the scenarios of `sv3 upgrade`. It confirms all commands. The name of its file
//! says what is odd about it, since a worker gets neither arguments nor environment:
//!
//! - `short-lived` dies a second after it took over,
//! - `fewer-features` lacks features that a Linux guest uses,
//! - `other-version` speaks another version of the protocol, and sends more than the supervisor reads at once,
//! - `mute` sends nothing.
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
        // SAFETY: the supervisor passes it at the start, and it is taken once.
        let inherited = envelope.inherited.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        drop(inherited);
        for _ in 0..envelope.fds() {
            // SAFETY: received just now and owned by nothing else.
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
