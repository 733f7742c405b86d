//! A worker without a data path, for the supervisor's tests. It executes commands and reports so. A client makes it
//! misbehave by `SEND_RARP`: the first octet of the MAC address says how.

use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use passfd::FdPassingExt;
use sv3::ipc::{Command, Envelope, FRAME_PREFIX, Report, ReportKind, RingFault};
use sv3::ledger::{LedgerMap, ThreadState};
use sv3::virtio::OFFERED;

/// The index at which every ring stops.
const BASE: u64 = 100;
/// Size in octets of a region that a worker on standby reports, once, as impossible to map.
const UNMAPPABLE: u64 = 0x5000;

fn main() -> std::io::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(false)?;
    let mut ledger = None;
    let (mut own_area, mut serves, mut has_failed) = (0, false, false);
    loop {
        let mut prefix = [0; FRAME_PREFIX];
        if socket.read_exact(&mut prefix).is_err() {
            return Ok(());
        }
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        socket.read_exact(&mut body)?;
        let envelope = Envelope::decode(&body).map_err(std::io::Error::other)?;
        let mut fds: Vec<OwnedFd> = envelope.inherited.map(owned).into_iter().collect();
        for _ in 0..envelope.fds() {
            fds.push(receive(&socket)?);
        }
        let Envelope { seq, command, .. } = envelope;
        let report = Report::new(ReportKind::Done, seq);
        let report = match command {
            Command::Start { area, standby, .. } => {
                ledger = fds.first().map(LedgerMap::map).transpose()?;
                (own_area, serves) = (usize::from(area), !standby);
                Report { seq, ..Report::ready(0, OFFERED) }
            }
            Command::Promote => {
                serves = true;
                continue;
            }
            Command::Barrier => report,
            Command::RegionStage { port, region } if region.size == UNMAPPABLE && !serves && !has_failed => {
                has_failed = true;
                Report { kind: ReportKind::Failed, port, value: 12, ..report }
            }
            Command::RingStop { port, ring } => {
                Report { kind: ReportKind::RingStopped, port, ring, value: BASE + u64::from(ring), ..report }
            }
            Command::SendRarp { port, mac: [how, ..] } if serves => {
                let Some(ledger) = &ledger else { continue };
                let thread = ledger.workers[own_area].threads.first().ok_or(std::io::ErrorKind::NotFound)?;
                thread.port.store(u32::from(port) + 1, Relaxed);
                misbehave(&mut socket, thread, how, port)?;
                continue;
            }
            _ => continue,
        };
        socket.write_all(&report.to_bytes())?;
    }
}

fn misbehave(socket: &mut UnixStream, thread: &ThreadState, how: u8, port: u16) -> std::io::Result<()> {
    let report = |kind, ring, value| Report { port, ring, value, ..Report::new(kind, 0) }.to_bytes();
    match how {
        1 => std::process::abort(),
        2 => socket.write_all(&[0xff; 64]),
        3 => loop {
            std::thread::park();
        },
        4 => loop {
            socket.write_all(&report(ReportKind::RingFault, 1, RingFault::Unmapped as u64))?;
        },
        5 => socket.write_all(&report(ReportKind::RingFault, 1, RingFault::AvailOverrun as u64)),
        6 => socket.write_all(&report(ReportKind::RingStopped, 1, 5)),
        7 => socket.write_all(&report(ReportKind::Done, 0, 0)),
        9 => socket.write_all(&report(ReportKind::Failed, 0, 12)),
        10..=12 => {
            thread.slept.store(1, Relaxed);
            socket.write_all(&report(ReportKind::Busy, 0, 0))?;
            match how {
                10 => loop {
                    std::hint::spin_loop();
                },
                // As if the kernel did not let the worker run.
                11 => std::thread::sleep(Duration::from_millis(750)),
                _ => loop {
                    std::thread::park();
                },
            }
            thread.heartbeat.fetch_add(1, Relaxed);
            thread.slept.store(0, Relaxed);
            Ok(())
        }
        8 => writeln!(std::io::stderr(), "a line\x1b[31m of the worker"),
        _ => Ok(()),
    }
}

fn receive(socket: &UnixStream) -> std::io::Result<OwnedFd> {
    socket.recv_fd().map(owned)
}

#[allow(unsafe_code)]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the fd was received just now, or was inherited and is named once. Nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
