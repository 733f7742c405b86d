//! Guarded ports and uplinks: what the supervisor hears, probes, announcements, and the take-over.

use std::sync::atomic::Ordering::Relaxed;

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::virtio::NET_HDR_LEN;

use super::*;
use crate::forward::loop_probe;

const GUEST: u16 = 0;
const STREAM: u16 = 1;
const UPLINK: u16 = 2;
const SECOND_UPLINK: u16 = 3;
const PORTS: [(u16, Learning); 4] = [
    (GUEST, Learning::Free),
    (STREAM, Learning::Guarded),
    (UPLINK, Learning::Uplink),
    (SECOND_UPLINK, Learning::Uplink),
];

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 7, last]
}

fn of_kind((port, learning): (u16, Learning)) -> Command {
    Command::PortAdd { port, kind: PortKind::Memory, learning }
}

impl Worker {
    fn with_ports(standby: bool, threads: usize) -> Worker {
        let mut worker = Worker::with_threads(standby, threads);
        PORTS.into_iter().for_each(|port| assert_eq!(worker.tell(of_kind(port)), None));
        worker
    }

    /// Gives a port broadcasts with these sources, to be sent.
    fn speak(&mut self, slot: u16, sources: impl IntoIterator<Item = [u8; 6]>) {
        let frame = |source: [u8; 6]| [&[0; NET_HDR_LEN][..], &[0xff; 6], &source, &[8, 0], &[slot as u8; 46]].concat();
        self.with(QueueId::transmit(slot, 0), |queue| queue.to_send.extend(sources.into_iter().map(frame)));
        self.thread.poll(QueueId::transmit(slot, 0));
        assert_eq!(self.tell(Command::Barrier), None);
    }

    /// The frames that a port has received since the last call, without net headers.
    fn frames(&self, slot: u16) -> Vec<Vec<u8>> {
        let received = self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
        received.into_iter().map(|frame| frame[NET_HDR_LEN..].to_vec()).collect()
    }

    /// Runs the loop until a port has received as many RARP frames. Returns the addresses in whose names they are.
    fn announced(&mut self, slot: u16, count: usize) -> Vec<u8> {
        let mut announced = Vec::new();
        while announced.len() < count {
            assert_eq!(self.tell(Command::Barrier), None);
            let frames = self.frames(slot);
            announced.extend(frames.iter().filter(|frame| frame[12..14] == [0x80, 0x35]).map(|frame| frame[11]));
        }
        announced
    }

    fn dropped(&self, slot: u16, reason: DropReason) -> u64 {
        self.thread.ledger.ports[usize::from(slot)].drops[reason as usize].load(Relaxed)
    }

    /// The reports of this kind since the last call: port, ring and value.
    fn reports(&mut self, kind: ReportKind) -> Vec<(u16, u16, u64)> {
        let (these, others) = std::mem::take(&mut self.heard).into_iter().partition(|report| report.kind == kind);
        self.heard = others;
        let these: Vec<Report> = these;
        these.iter().map(|report| (report.port, report.ring, report.value)).collect()
    }
}

#[test]
fn a_conflict_is_reported_once_for_each_port_that_is_added() {
    let mut worker = Worker::with_ports(false, 1);
    worker.speak(GUEST, [mac(1)]);
    for _ in 0..2 {
        worker.speak(STREAM, [mac(1), mac(2), mac(1)]);
        worker.speak(STREAM, [mac(1)]);
        assert_eq!(worker.reports(ReportKind::AddressConflict), [(STREAM, GUEST, 0x0200_0000_0701)]);
        assert_eq!(worker.dropped(STREAM, DropReason::AddressConflict), 3);
        // It comes again, in the same slot.
        assert_eq!(worker.tell(Command::PortRemove { port: STREAM }), None);
        worker.thread.ledger.ports[usize::from(STREAM)].reset();
        assert_eq!(worker.tell(of_kind((STREAM, Learning::Guarded))), None);
    }
    // An uplink's frame is dropped without a report, until the guest has gone.
    worker.speak(UPLINK, [mac(1)]);
    assert_eq!(worker.dropped(UPLINK, DropReason::UplinkEcho), 1);
    assert_eq!(worker.tell(Command::PortRemove { port: GUEST }), None);
    worker.speak(UPLINK, [mac(1)]);
    assert_eq!(worker.dropped(UPLINK, DropReason::UplinkEcho), 1);
    assert_eq!(worker.reports(ReportKind::AddressConflict), []);
    // Free again in the same slot, if it is added so.
    assert_eq!(worker.tell(of_kind((UPLINK, Learning::Free))), None);
    worker.speak(STREAM, [mac(3)]);
    worker.speak(UPLINK, [mac(3)]);
    assert_eq!(worker.dropped(UPLINK, DropReason::UplinkEcho), 1);
}

#[test]
fn a_loop_is_found_and_reported() {
    let mut worker = Worker::with_ports(false, 1);
    let no_port = Some(NO_PORT as i32);
    assert_eq!(worker.tell(Command::LoopProbe { port: STREAM, token: 5 }), no_port);
    assert_eq!(worker.tell(Command::LoopProbe { port: 9, token: 5 }), no_port);
    assert_eq!(worker.tell(Command::LoopProbe { port: UPLINK, token: 5 }), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    let probes = worker.frames(UPLINK);
    assert_eq!((probes.len(), &probes[0][..6]), (1, &loop_probe::GROUP.octets()[..]));
    assert_eq!([GUEST, STREAM, SECOND_UPLINK].map(|slot| worker.frames(slot).len()), [0; 3]);
    // The network brings it to the other uplink, many times.
    let probe = [&[0; NET_HDR_LEN], &probes[0][..]].concat();
    worker.with(QueueId::transmit(SECOND_UPLINK, 0), |queue| queue.to_send = vec![probe; 40]);
    worker.thread.poll(QueueId::transmit(SECOND_UPLINK, 0));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.reports(ReportKind::LoopFound), [(SECOND_UPLINK, 0, 5)]);
    assert_eq!(worker.dropped(SECOND_UPLINK, DropReason::LoopProbe), 40);
    assert_eq!([GUEST, STREAM, UPLINK].map(|slot| worker.frames(slot).len()), [0; 3]);
}

#[test]
fn a_probe_waits_for_its_uplink_s_queue() {
    let mut worker = Worker::with_ports(false, 1);
    let lease = worker.thread.threads.ports.get(UPLINK).unwrap().receive(0).unwrap().lease(1).unwrap();
    assert_eq!(worker.tell(Command::LoopProbe { port: UPLINK, token: 5 }), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert!(worker.thread.tend_uplinks(), "it does not wait");
    drop(lease);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.frames(UPLINK).len(), 1);
    assert!(!worker.thread.tend_uplinks());
}

#[test]
fn a_guest_is_announced_at_once_when_it_is_first_seen_and_again_when_an_uplink_comes_back() {
    let mut worker = Worker::with_ports(false, 1);
    let begin = clock::now_ns();
    worker.speak(GUEST, [mac(1)]);
    assert_eq!((worker.announced(UPLINK, 1), worker.announced(SECOND_UPLINK, 1)), (vec![1], vec![1]));
    let took = clock::now_ns() - begin;
    assert!(took < 200_000_000, "{took} ns, on a machine that may be busy");
    worker.speak(STREAM, [mac(2)]);
    worker.speak(SECOND_UPLINK, [mac(3)]);
    assert_eq!(worker.announced(UPLINK, 1), [2]);
    // It comes back with nobody's mark left.
    assert_eq!(worker.tell(Command::PortRemove { port: UPLINK }), None);
    assert_eq!(worker.tell(of_kind((UPLINK, Learning::Uplink))), None);
    let mut again = worker.announced(UPLINK, 2);
    again.sort_unstable();
    assert_eq!(again, [1, 2]);
    // Guests get none.
    let is_rarp = |frame: &Vec<u8>| frame[12..14] == [0x80, 0x35];
    assert!([GUEST, STREAM].iter().all(|slot| !worker.frames(*slot).iter().any(is_rarp)));
}

/// The dead worker had learnt a guest's address and marked it. It had not forgotten the port of slot 8, and an echo of the
/// guest's frame waits in the uplink.
#[test]
fn a_take_over_keeps_guests_addresses_and_goes_on_with_announcements() {
    let mut worker = Worker::with_ports(true, 1);
    let ports = &worker.thread.threads.ports;
    let forwarder = &mut worker.thread.poller.forwarder;
    forwarder.now_s = clock::now_ns() / 1_000_000_000;
    for (last, slot) in [(1, GUEST), (2, STREAM), (8, 8)] {
        forwarder.learn(MacAddr::new(mac(last)), slot);
    }
    assert!(forwarder.mark_all(|slot| slot == STREAM));
    assert!(!ports.is_guest(GUEST), "its receive queue runs already");
    worker.with(QueueId::transmit(UPLINK, 0), |queue| {
        let frame = |last| [&[0; NET_HDR_LEN][..], &[0xff; 6], &mac(last), &[8, 0], &[0; 46]].concat();
        queue.to_send.extend([frame(1), frame(8)]);
    });
    assert_eq!(worker.tell(Command::Promote), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.dropped(UPLINK, DropReason::UplinkEcho), 1);
    let find = |last| worker.thread.poller.forwarder.find(MacAddr::new(mac(last)));
    assert_eq!([1, 2, 8].map(find), [Some(GUEST), Some(STREAM), Some(UPLINK)]);
    assert_eq!(worker.announced(UPLINK, 1), [2], "what was marked, and not all");
}

/// Another thread finds a conflict, a loop and a new address, and the control thread does what is to be done.
#[test]
fn what_another_thread_notes_the_control_thread_tells() {
    let mut worker = Worker::with_ports(false, 2);
    let threads = worker.thread.threads;
    let ledger = worker.thread.ledger;
    let settings = Settings { version: VERSION, poll_us: 0, batch: 64, snooping: None };
    let start = Start { settings, ledger, area: &ledger.workers[0], standby: false, role: WorkerRole::Cards };
    let mut other = Poller::new(threads, 1, Buffers::new(), &start);
    assert_eq!([GUEST, STREAM].map(|slot| threads.owner(QueueId::transmit(slot, 0))), [0, 1]);
    worker.speak(GUEST, [mac(1)]);
    worker.announced(UPLINK, 1);
    assert_eq!(worker.tell(Command::LoopProbe { port: UPLINK, token: 6 }), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    let probe = worker.frames(UPLINK).pop().unwrap();
    let mut serve = |worker: &mut Worker, slot: u16, frame: Vec<u8>| {
        worker.with(QueueId::transmit(slot, 0), |queue| queue.to_send.push([vec![0; NET_HDR_LEN], frame].concat()));
        worker.thread.poll(QueueId::transmit(slot, 0));
        other.begin_turn();
        other.look(false).unwrap();
        other.turn();
        other.tell_control();
        assert_eq!(worker.tell(Command::Barrier), None);
        assert_eq!(worker.tell(Command::Barrier), None);
    };
    let frame = |last| [&[0xff; 6], &mac(last)[..], &[8, 0], &[0; 46]].concat();
    serve(&mut worker, STREAM, frame(1));
    assert_eq!(worker.reports(ReportKind::AddressConflict), [(STREAM, GUEST, 0x0200_0000_0701)]);
    serve(&mut worker, SECOND_UPLINK, probe);
    assert_eq!(worker.reports(ReportKind::LoopFound), [(SECOND_UPLINK, 0, 6)]);
    serve(&mut worker, STREAM, frame(2));
    assert_eq!(worker.announced(UPLINK, 1), [2]);
}
