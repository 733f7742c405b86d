//! Commands about open files.

use std::os::fd::AsRawFd;

use passfd::FdPassingExt;
use sv3::attachment::{FrameForm, Transport};
use sv3::ipc::FileSettings;

use super::*;

const FRAME: [u8; 18] = [0, 0, 0, 14, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0];

fn settings(input: u16) -> FileSettings {
    let (transport, form) = (Transport::Stream, FrameForm::Plain);
    FileSettings { transport, form, mtu: 1500, send_buffer: 212_992, input, run: 1 }
}

impl Worker {
    /// Adds a port with one stream and returns the other end.
    fn attach(&mut self, port: u16) -> (Option<i32>, UnixStream) {
        assert_eq!(self.tell(Command::PortAdd { port, kind: PortKind::Files, learning: Learning::Free }), None);
        self.open(port)
    }

    fn open(&mut self, port: u16) -> (Option<i32>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let command = Command::FileOpen { port, pair: 0, settings: settings(port) };
        self.seq += 1;
        let envelope = Envelope { seq: self.seq, command, inherited: None };
        self.supervisor.write_all(&envelope.encode().unwrap()).unwrap();
        self.supervisor.send_fd(ours.as_raw_fd()).unwrap();
        (self.tell(Command::Barrier), theirs)
    }

    /// Runs the loop until `socket` has something, and returns it.
    fn await_octets(&mut self, socket: &mut UnixStream) -> Vec<u8> {
        let mut octets = vec![0; 1000];
        for _ in 0..1000 {
            assert_eq!(self.tell(Command::Barrier), None);
            if let Ok(len) = socket.read(&mut octets) {
                octets.truncate(len);
                return octets;
            }
        }
        panic!("nothing came");
    }

    /// The faults that were reported until the next barrier: port, ring and reason.
    fn faults(&mut self) -> Vec<(u16, u16, u64)> {
        let mut faults = Vec::new();
        for _ in 0..20 {
            self.thread.poller.begin_turn();
            self.thread.look_once();
            self.thread.poller.turn();
            while let Some((queue, fault)) = self.thread.poller.forwarder.next_fault() {
                self.thread.fault(queue, fault);
            }
            while let Some(report) = self.hear() {
                if report.kind == ReportKind::RingFault {
                    faults.push((report.port, report.ring, report.value));
                }
            }
        }
        faults
    }
}

impl ControlThread {
    /// Looks without blocking.
    fn look_once(&mut self) {
        self.link.flush().unwrap();
        self.poller.look(false).unwrap();
    }
}

#[test]
fn a_file_is_served_from_its_command_on_and_its_end_is_told_once() {
    let mut worker = Worker::new(false);
    let ((first, mut a), (second, mut b)) = (worker.attach(3), worker.attach(4));
    assert_eq!((first, second), (None, None));
    a.write_all(&FRAME).unwrap();
    assert_eq!(worker.await_octets(&mut b), FRAME);
    // In the place of an earlier file.
    let (third, mut c) = worker.open(4);
    assert_eq!((third, b.read(&mut [0]).unwrap()), (None, 0), "the earlier one is closed");
    a.write_all(&FRAME).unwrap();
    assert_eq!(worker.await_octets(&mut c), FRAME);
    drop(c);
    assert_eq!(worker.faults(), [(4, 1, RingFault::Gone as u64)]);
    assert_eq!(worker.faults(), []);
    assert_eq!(worker.tell(Command::FileClose { port: 3, pair: 0 }), None);
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
    assert_eq!(worker.tell(Command::PortRemove { port: 3 }), None);
}

#[test]
fn a_standby_reads_nothing_before_it_is_promoted() {
    let mut worker = Worker::new(true);
    let ((_, mut a), (_, mut b)) = (worker.attach(3), worker.attach(4));
    a.write_all(&FRAME).unwrap();
    assert_eq!(worker.tell(Command::Barrier), None);
    assert!(b.read(&mut [0]).is_err(), "it serves already");
    assert_eq!(worker.tell(Command::Promote), None);
    assert_eq!(worker.await_octets(&mut b), FRAME);
}

#[test]
fn a_worker_without_the_policy_for_files_refuses_them() {
    let mut worker = Worker::new(false);
    worker.thread.may_use_files = false;
    assert_eq!(worker.attach(3).0, Some(nix::errno::Errno::EPERM as i32));
}

#[test]
fn an_idle_stream_lets_the_loop_sleep_and_a_begun_frame_for_a_time_only() {
    let mut worker = Worker::new(false);
    let (_, mut a) = worker.attach(3);
    for _ in 0..3 {
        worker.thread.poller.begin_turn();
        worker.thread.look_once();
        worker.thread.poller.turn();
    }
    assert!(worker.thread.poller.may_sleep().is_some_and(|timeout| timeout.is_none()), "it polls an idle stream");
    a.write_all(&FRAME[..7]).unwrap();
    for _ in 0..3 {
        worker.thread.poller.begin_turn();
        worker.thread.look_once();
        worker.thread.poller.turn();
    }
    let left = worker.thread.poller.may_sleep().unwrap().unwrap();
    assert!((4_000..=5_000).contains(&left), "{left} ms");
}
