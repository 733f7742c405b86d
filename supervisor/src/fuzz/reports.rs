//! Target `reports`: what a hostile worker writes to its socket and to its stderr.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use sv3::fuzz::Input;
use sv3::ipc::{Command, Report, ReportKind};

use crate::workers::link::Link;
use crate::workers::spawner::Program;
use crate::workers::worker::{Waiter, Worker};

/// Octets: pieces, each its kind (1), its length (1) and its octets.
pub fn reports(octets: &[u8]) {
    let (link, theirs) = Link::pair().unwrap();
    let mut socket = UnixStream::from(theirs);
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    let mut stderr = std::fs::File::from(write);
    let mut worker = Worker::new(Program::default(), 0, link, read.into());
    let mut input = Input::new(octets);
    let (mut written, mut heard, mut ordered) = (Vec::new(), 0, 0);
    while !input.is_empty() {
        let (what, len) = (input.u8(), usize::from(input.u8()));
        match what % 4 {
            0 => {
                for _ in 0..len % 8 {
                    worker.send([Command::Barrier.into()], Waiter::Session(what.into()));
                    ordered += 1;
                }
            }
            1 => {
                let piece = input.take(len);
                if stderr.write(piece).is_err() {
                    continue;
                }
                for line in worker.lines().unwrap() {
                    assert!(line.chars().count() <= 400 && !line.contains(char::is_control), "{line:?}");
                }
            }
            _ => {
                let piece = input.take(len);
                let sent = socket.write(piece).unwrap();
                written.extend_from_slice(&piece[..sent]);
                for report in worker.link.reports().unwrap() {
                    let octets: &[u8; Report::SIZE] = written[heard * Report::SIZE..].first_chunk().unwrap();
                    assert_eq!(report, Report::from_bytes(octets));
                    heard += 1;
                    report.inspect(|report| handle(&mut worker, report, ordered));
                }
            }
        }
        assert!(worker.due().is_none_or(|due| due > worker.asked));
    }
    assert_eq!(written.len() / Report::SIZE, heard);
    assert!(worker.last_line().is_none_or(|line| line.len() <= 4 * 400));
}

fn handle(worker: &mut Worker, report: &Report, ordered: u64) {
    match report.kind {
        ReportKind::Ready => {
            worker.became_ready(report.landlock_abi(), report.value);
        }
        ReportKind::Done => {
            let under_way = worker.is_under_way(report.seq);
            let reached = worker.reached(report.seq);
            assert!(reached.is_none() || under_way && !worker.is_under_way(report.seq));
        }
        ReportKind::RingFault => {
            worker.hang_up();
            assert!(worker.has_hung_up());
        }
        ReportKind::Failed => worker.is_overdue(Instant::now() + Duration::from_secs(60)),
        ReportKind::Busy
        | ReportKind::LoopFound
        | ReportKind::AddressConflict
        | ReportKind::Traced
        | ReportKind::AddressFlaps
        | ReportKind::CardReady
        | ReportKind::CardLink
        | ReportKind::NotPinned => worker.count_idle_report(),
        ReportKind::Unmapped => drop(worker.unmapped(report.seq)),
        ReportKind::RingStopped => assert!(!worker.is_under_way(report.seq) || (1..=ordered).contains(&report.seq)),
    }
    let _ = (worker.ready_pid(), worker.kill_reason(), Instant::now());
}
