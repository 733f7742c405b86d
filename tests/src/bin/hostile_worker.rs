//! A hijacked worker. It confirms commands, so that the supervisor keeps it. When the file `hostile` is next to its
//! binary, it writes random octets all over the ledger and sends random reports. The file has a seed.
#![allow(unsafe_code)] // fd hand-over

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use passfd::FdPassingExt;
use sv3::ipc::{Command, Envelope, FRAME_PREFIX, Report, ReportKind};
use sv3::ledger::Ledger;
use sv3::virtio::OFFERED;

fn main() -> std::io::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(false)?;
    let mut ledger = None;
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
        let mut fds: Vec<OwnedFd> = inherited.into_iter().collect();
        for _ in 0..envelope.fds() {
            // SAFETY: received just now and owned by nothing else.
            fds.push(socket.recv_fd().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })?);
        }
        let Envelope { seq, command, .. } = envelope;
        let report = match command {
            Command::Start { standby, .. } => {
                ledger = fds.pop().map(File::from);
                socket.write_all(&Report { seq, ..Report::ready(0, OFFERED) }.to_bytes())?;
                if !standby {
                    attack(&ledger, &socket)?;
                }
                continue;
            }
            Command::Promote => {
                attack(&ledger, &socket)?;
                continue;
            }
            Command::Barrier => Report::new(ReportKind::Done, seq),
            Command::RingStop { port, ring } => Report { port, ring, ..Report::new(ReportKind::RingStopped, seq) },
            _ => continue,
        };
        socket.write_all(&report.to_bytes())?;
    }
}

/// Turns hostile in a thread of its own, when it is told to.
fn attack(ledger: &Option<File>, socket: &UnixStream) -> std::io::Result<()> {
    let Some(ledger) = ledger else { return Ok(()) };
    let (ledger, mut socket) = (ledger.try_clone()?, socket.try_clone()?);
    let sign = std::env::current_exe()?.with_file_name("hostile");
    std::thread::spawn(move || {
        let mut text = String::new();
        while File::open(&sign).and_then(|mut file| file.read_to_string(&mut text)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let seed = text.trim().parse().unwrap_or(0u64) ^ u64::from(std::process::id()) << 20;
        // It becomes an event.
        eprintln!("a hostile worker with seed {seed}");
        let mut random = Random(seed | 1 << 63);
        loop {
            scribble(&ledger, &mut random);
            if random.next().is_multiple_of(4) {
                // The supervisor no longer reads from a worker that it has found out.
                let _ = socket.write_all(&report(&mut random));
            }
            std::thread::sleep(Duration::from_millis(random.next() % 10));
        }
    });
    Ok(())
}

/// Random octets, or all ones, somewhere in the ledger; mostly where the workers and the first ports are.
fn scribble(ledger: &File, random: &mut Random) {
    let whole = size_of::<Ledger>() as u64;
    let workers = whole - (size_of::<[sv3::ledger::PortCounters; sv3::MAX_PORTS]>() as u64);
    let begin = match random.next() % 3 {
        0 => random.next() % 8192,
        1 => workers + random.next() % 65536,
        _ => random.next() % whole,
    };
    let ones = random.next().is_multiple_of(3);
    let octets: Vec<u8> = (0..4096).map(|_| if ones { 0xff } else { (random.next() >> 24) as u8 }).collect();
    let count = octets.len().min((whole - begin) as usize);
    let _ = ledger.write_all_at(&octets[..count], begin);
}

/// A report of a valid kind with wrong values, mostly small ones; now and then mere noise.
fn report(random: &mut Random) -> [u8; Report::SIZE] {
    use ReportKind::*;
    let mut small = || random.next() % 70;
    let kinds = [Ready, Done, RingStopped, RingFault, Failed, Busy];
    let kind = kinds[(small() % 6) as usize];
    let (port, ring) = (small() as u16, small() as u16);
    let honest = Report { kind, port, ring, seq: small(), value: small(), detail: small() };
    match small() % 5 {
        0 => std::array::from_fn(|_| small() as u8),
        1 => Report { value: u64::MAX, port: u16::MAX, ring: u16::MAX, ..honest }.to_bytes(),
        _ => honest.to_bytes(),
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
