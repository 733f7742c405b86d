//! Rules that the supervisor tells, and changes while frames pass.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sv3::drop_reason::DropReason;
use sv3::rules::{Bucket, Guard, Limits, PortRules, Sources, TagType, Unit, Vid, VidRange, Vids, Vlan};
use sv3::virtio::NET_HDR_LEN;

use super::*;
use crate::forward::fdb::Address;

fn access(vid: Vid) -> PortRules {
    PortRules { vlan: Vlan::Access { vid }, ..PortRules::default() }
}

fn trunk(vids: &[Vid]) -> PortRules {
    let allowed = Vids(vids.iter().map(|vid| VidRange { first: *vid, last: *vid }).collect());
    PortRules { vlan: Vlan::Trunk { native: None, allowed, tag: TagType::Customer }, ..PortRules::default() }
}

impl Worker {
    fn stage(&mut self, port: u16, rules: PortRules) -> Option<i32> {
        self.tell(Command::RulesStage { port, rules: Box::new(rules) })
    }

    /// Changes the rules of ports at once.
    fn rule(&mut self, changes: &[(u16, PortRules)]) {
        for (port, rules) in changes {
            assert_eq!(self.stage(*port, rules.clone()), None);
        }
        assert_eq!(self.tell(Command::RulesCommit), None);
    }

    /// A port sends a frame: to and from addresses that end so.
    fn pass(&mut self, from: u16, (dst, src): (u8, u8)) {
        let frame = [&[0; 12][..], &[2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 8, 0, 1, 2, 3]].concat();
        self.with(QueueId::transmit(from, 0), |queue| queue.to_send.push(frame));
        self.thread.poll(QueueId::transmit(from, 0));
        assert_eq!(self.tell(Command::Barrier), None);
    }

    /// Ports that get a broadcast of this one.
    fn reached(&mut self, from: u16, ports: u16) -> Vec<u16> {
        self.send(from);
        self.thread.poll(QueueId::transmit(from, 0));
        assert_eq!(self.tell(Command::Barrier), None);
        (0..ports).filter(|slot| self.received(*slot) > 0).collect()
    }
}

#[test]
fn rules_hold_from_the_commit_on_until_others_do_or_the_port_ends() {
    let mut worker = Worker::new(false);
    (0..4).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    assert_eq!(worker.stage(0, access(10)), None);
    assert_eq!(worker.reached(0, 4), [1, 2, 3], "staged, and not committed");
    assert_eq!(worker.stage(1, access(10)), None);
    assert_eq!(worker.tell(Command::RulesCommit), None);
    assert_eq!((worker.reached(0, 4), worker.reached(2, 4)), (vec![1], vec![3]));
    // What cannot be is refused, and changes nothing.
    assert_eq!(worker.stage(0, access(0)), Some(nix::errno::Errno::EINVAL as i32));
    assert_eq!(worker.stage(9, access(1)), Some(NO_PORT as i32));
    assert_eq!(worker.tell(Command::RulesCommit), None);
    assert_eq!(worker.reached(0, 4), [1]);
    // The last ones that are staged count.
    worker.rule(&[(0, access(20)), (0, PortRules::default()), (3, access(10))]);
    assert_eq!((worker.reached(0, 4), worker.reached(3, 4)), (vec![2], vec![1]));
    // Another port in the slot is open, and so is what was staged for the earlier one.
    assert_eq!(worker.stage(1, access(30)), None);
    assert_eq!(worker.tell(Command::PortRemove { port: 1 }), None);
    assert_eq!(worker.tell(add(1)), None);
    assert_eq!(worker.tell(Command::RulesCommit), None);
    assert_eq!((worker.reached(0, 4), worker.reached(1, 4), worker.reached(3, 4)), (vec![1, 2], vec![0, 2], vec![]));
}

/// The frames of a sender that is held back stay where they are, and the loop sleeps meanwhile: no longer than a bound that
/// may have changed.
#[test]
fn a_sender_that_is_held_back_keeps_nobody_awake() {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut worker = Worker::new(false);
    (0..2).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    // Two frames of 17 octets; the third one would take 17 s.
    let from_port = Some(Bucket { rate: 1, burst: 34, unit: Unit::Octets });
    let limits = Limits { from_port, to_port: None };
    worker.rule(&[(0, PortRules { limits, ..PortRules::default() })]);
    (0..5).for_each(|_| worker.send(0));
    worker.thread.poll(QueueId::transmit(0, 0));
    assert_eq!(worker.tell(Command::Barrier), None);
    let begin = Instant::now();
    while worker.thread.poller.may_sleep().is_none() && begin.elapsed() < PATIENCE {
        worker.turn();
    }
    assert!(worker.thread.poller.may_sleep().is_some_and(|ms| ms.is_some_and(|ms| ms <= 100)));
    assert_eq!(worker.received(1), 2);
    worker.rule(&[(0, PortRules::default())]);
    let (begin, mut received) = (Instant::now(), 0);
    while received < 3 && begin.elapsed() < PATIENCE {
        worker.turn();
        received += worker.received(1);
    }
    assert_eq!(received, 3);
}

#[test]
fn a_queue_pair_that_comes_later_has_its_port_s_rules() {
    let mut worker = Worker::new(false);
    assert_eq!(worker.tell(Command::PortAdd { port: 0, kind: PortKind::Vrings, learning: Learning::Free }), None);
    worker.rule(&[(0, access(10))]);
    for ring in 0..8 {
        assert_eq!(worker.tell(Command::RingEnable { port: 0, ring, enable: true }), None);
    }
    let rules = |worker: &Worker, vid| {
        let all = (0..8).map(|ring| worker.thread.queue(QueueId::new(0, ring)).unwrap().rules().clone());
        all.map(|rules| rules.is_some_and(|rules| rules.vlan.contains(vid))).collect::<Vec<_>>()
    };
    assert_eq!(rules(&worker, 10), [true; 8]);
    worker.rule(&[(0, access(20))]);
    assert_eq!((rules(&worker, 10), rules(&worker, 20)), (vec![false; 8], vec![true; 8]));
    assert_eq!(worker.tell(Command::PortRemove { port: 0 }), None);
    assert_eq!(worker.tell(Command::PortAdd { port: 0, kind: PortKind::Vrings, learning: Learning::Free }), None);
    assert!((0..8).all(|ring| worker.thread.queue(QueueId::new(0, ring)).unwrap().rules().is_none()));
}

#[test]
fn a_standby_serves_by_the_rules_that_it_was_told() {
    let mut worker = Worker::new(true);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    worker.rule(&[(0, access(10)), (1, access(10)), (2, access(20))]);
    worker.send(0);
    assert_eq!(worker.tell(Command::Promote), None);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!([0, 1, 2].map(|slot| worker.received(slot)), [0, 1, 0]);
}

/// What was learnt of a port in its old VLAN is not looked for in the new one.
#[test]
fn a_port_that_changes_its_vlan_is_forgotten_and_others_are_not() {
    let mut worker = Worker::new(false);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    (0..3).for_each(|slot| drop(worker.reached(slot, 3)));
    let known = |worker: &Worker| {
        let find = |last| worker.thread.poller.forwarder.find(sv3::frame::MacAddr::new([2, 0, 0, 0, 0, last]));
        [0, 1, 2].map(find)
    };
    assert_eq!(known(&worker), [Some(0), Some(1), Some(2)]);
    worker.rule(&[(1, PortRules { flood: false, ..PortRules::default() }), (2, access(10))]);
    assert_eq!(known(&worker), [Some(0), Some(1), None]);
}

/// A guest has spoken as its neighbour, and then the operator says who it is. Frames for the neighbour must not go on to it.
#[test]
fn addresses_that_new_rules_forbid_are_forgotten() {
    let address = |last| [2, 0, 0, 0, 0, last];
    let listed = |last| Guard { macs: Sources::Listed(vec![address(last)]), ..Guard::default() };
    let guarded = |guard| PortRules { guard, ..PortRules::default() };
    let known = |worker: &Worker| [0, 1, 2].map(|last| find(worker, 0, last));
    let mut worker = Worker::new(false);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    (0..3).for_each(|slot| drop(worker.reached(slot, 3)));
    worker.rule(&[(0, guarded(listed(0))), (1, guarded(listed(2)))]);
    assert_eq!(known(&worker), [Some(0), None, Some(2)]);
    worker.rule(&[
        (0, guarded(Guard { no_router: true, ..listed(0) })),
        (2, PortRules { flood: false, ..guarded(listed(2)) }),
    ]);
    assert_eq!(known(&worker), [Some(0), None, Some(2)]);
    worker.rule(&[(2, PortRules { learning: false, ..PortRules::default() })]);
    assert_eq!(known(&worker), [Some(0), None, None]);
    // Its first address is the next one that it uses.
    worker.rule(&[(0, guarded(Guard { macs: Sources::First(1), ..Guard::default() }))]);
    assert_eq!((known(&worker), worker.reached(0, 3)), ([None; 3], vec![1, 2]));
    assert_eq!(known(&worker), [Some(0), None, None]);
}

/// Ports 1 and 2, each of a thread of its own, change their VLANs with each other all the time, and are never in the same
/// one. Port 3 is in both. Who asks for the leases of one port, changes it, and then asks for the next one's fails this.
#[test]
fn no_frame_passes_between_a_port_of_old_rules_and_one_of_new_rules() {
    const COMMITS: usize = 400;
    let mut worker = Worker::with_threads(false, 3);
    (1..4).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    let (threads, ledger) = (worker.thread.threads, worker.thread.ledger);
    assert_eq!([1, 2].map(|slot| threads.owner(QueueId::transmit(slot, 0))), [1, 2]);
    worker.rule(&[(1, access(10)), (2, access(20)), (3, trunk(&[10, 20]))]);
    let (over, bursts) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    std::thread::scope(|scope| {
        for (slot, bursts) in [1u16, 2].into_iter().zip(&bursts) {
            let over = &over;
            scope.spawn(move || {
                let settings = Settings { version: VERSION, poll_us: 0, batch: 8, snooping: None };
                let start =
                    Start { settings, ledger, area: &ledger.workers[0], standby: false, role: WorkerRole::Cards };
                let mut poller = Poller::new(threads, slot.into(), Buffers::new(), &start);
                let queue = QueueId::transmit(slot, 0);
                // To all, and to the other port's address in turn.
                let frame = |dst: [u8; 6]| {
                    [&[0; NET_HDR_LEN][..], &dst, &[2, 0, 0, 0, 0, slot as u8], &[8, 0], &[slot as u8; 46]].concat()
                };
                let frames = [frame([0xff; 6]), frame([2, 0, 0, 0, 0, 3 - slot as u8])];
                while !over.load(Relaxed) {
                    match threads.ports.get(slot).unwrap().seize(queue, || ()).unwrap().endpoint() {
                        Endpoint::InMemory(queue) if queue.to_send.is_empty() => {
                            queue.to_send.extend(frames.iter().cycle().take(8).cloned())
                        }
                        _ => {}
                    }
                    poller.poll(queue);
                    poller.begin_turn();
                    poller.look(false).unwrap();
                    poller.turn();
                    bursts.fetch_add(1, Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        let mut wrong = Vec::new();
        let mut tags = [0; 4];
        for commit in 0..COMMITS {
            let (one, other) = if commit % 2 == 0 { (20, 10) } else { (10, 20) };
            worker.rule(&[(1, access(one)), (2, access(other))]);
            // Frames pass between two commits.
            let before = bursts.each_ref().map(|bursts| bursts.load(Relaxed));
            while bursts.iter().zip(before).any(|(bursts, before)| bursts.load(Relaxed) < before + 2) {
                std::thread::yield_now();
            }
            for slot in 1..4 {
                let received = worker.with(QueueId::receive(slot, 0), |queue| {
                    queue.room = 1024;
                    std::mem::take(&mut queue.received)
                });
                for frame in received {
                    let from = frame[NET_HDR_LEN + 11];
                    let behind: [u8; 4] = *frame[NET_HDR_LEN + 12..].first_chunk().unwrap();
                    match (slot, behind) {
                        (3, [0x81, 0, 0, vid]) => tags[usize::from(from - 1) * 2 + usize::from(vid / 10 - 1)] += 1,
                        (slot, octets) => wrong.push((slot, from, octets)),
                    }
                }
            }
        }
        over.store(true, Relaxed);
        assert_eq!(wrong, [], "frames of ports 1 and 2 reached each other");
        assert!(tags.iter().all(|count| *count > 0), "both were seen in both VLANs: {tags:?}");
    });
    let dropped = |slot: usize, reason: DropReason| ledger.ports[slot].drops[reason as usize].load(Relaxed);
    assert_eq!([1, 2].map(|slot| dropped(slot, DropReason::VlanTag)), [0, 0]);
}

fn at(port: u16, vid: Vid, last: u8) -> Command {
    Command::AddressAdd { port, vid, mac: [2, 0, 0, 0, 0, last] }
}

fn find(worker: &Worker, vid: Vid, last: u8) -> Option<u16> {
    worker.thread.poller.forwarder.find(Address::new(sv3::frame::MacAddr::new([2, 0, 0, 0, 0, last]), vid))
}

#[test]
fn addresses_are_added_removed_and_flushed_as_told() {
    let mut worker = Worker::new(false);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    (0..3).for_each(|slot| drop(worker.reached(slot, 3)));
    let error = |errno: nix::errno::Errno| Some(errno as i32);
    assert_eq!((worker.tell(at(0, 0, 50)), worker.tell(at(1, 7, 50)), worker.tell(at(1, 0, 2))), (None, None, None));
    assert_eq!(
        [(0, 50), (7, 50), (0, 2), (0, 1)].map(|(vid, last)| find(&worker, vid, last)),
        [Some(0), Some(1), Some(1), Some(1)]
    );
    for (wrong, errno) in [
        (Command::AddressAdd { port: 1024, vid: 0, mac: [2; 6] }, NO_PORT),
        (Command::AddressAdd { port: 0, vid: 0, mac: [3; 6] }, nix::errno::Errno::EINVAL),
        (Command::AddressAdd { port: 0, vid: 4095, mac: [2; 6] }, nix::errno::Errno::EINVAL),
        (Command::AddressRemove { port: 1, vid: 0, mac: [2, 0, 0, 0, 0, 50] }, nix::errno::Errno::ENOENT),
    ] {
        assert_eq!(worker.tell(wrong), error(errno));
    }
    let flush =
        |port, vid, last: Option<u8>| Command::AddressFlush { port, vid, mac: last.map(|last| [2, 0, 0, 0, 0, last]) };
    for (command, left) in [
        (flush(Some(1), Some(7), None), [Some(0), Some(1), Some(1)]),
        (flush(None, None, Some(1)), [Some(0), None, Some(1)]),
        (flush(None, None, None), [None, None, Some(1)]),
    ] {
        assert_eq!(worker.tell(command), None);
        assert_eq!([0, 1, 2].map(|last| find(&worker, 0, last)), left);
    }
    assert_eq!(worker.tell(Command::AddressRemove { port: 0, vid: 0, mac: [2, 0, 0, 0, 0, 50] }), None);
    // A slot has its addresses, with a port or without.
    assert_eq!(worker.tell(Command::PortRemove { port: 1 }), None);
    assert_eq!([(0, 50), (7, 50), (0, 2)].map(|(vid, last)| find(&worker, vid, last)), [None, Some(1), Some(1)]);
    assert_eq!((worker.tell(add(1)), worker.tell(at(9, 7, 51))), (None, None));
    assert_eq!([50, 51].map(|last| find(&worker, 7, last)), [Some(1), Some(9)]);
    assert_eq!(worker.tell(Command::AddressRemove { port: 1, vid: 7, mac: [2, 0, 0, 0, 0, 50] }), None);
    // One that moves is never nowhere.
    assert_eq!((worker.tell(at(2, 7, 51)), find(&worker, 7, 51)), (None, Some(2)));
}

/// Frames to an address of a slot without a port are dropped, and charged to their sender. Frames from it are not learnt.
#[test]
fn the_address_of_an_absent_port_draws_no_flood() {
    let mut worker = Worker::new(false);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    (0..3).for_each(|slot| drop(worker.reached(slot, 3)));
    assert_eq!((worker.tell(at(1, 0, 50)), worker.tell(at(9, 0, 51))), (None, None));
    assert_eq!(worker.tell(Command::PortRemove { port: 1 }), None);
    let counted = |worker: &Worker, slot: usize, reason: DropReason| {
        worker.thread.ledger.ports[slot].drops[reason as usize].load(Relaxed)
    };
    for (count, last) in [(1, 50), (2, 51)] {
        worker.pass(0, (last, 1));
        assert_eq!(counted(&worker, 0, DropReason::PortAbsent), count);
        worker.pass(2, (1, last));
        assert_eq!(counted(&worker, 2, DropReason::AddressConflict), count);
        assert_eq!([0, 2].map(|slot| worker.received(slot)), [0, 0]);
    }
    assert_eq!([50, 51].map(|last| find(&worker, 0, last)), [Some(1), Some(9)]);
    assert_eq!(counted(&worker, 1, DropReason::RxDown), 0);
}

/// The serving worker died before it did what both were told: an address that is gone is still there, another one is not,
/// and a port is in another VLAN now.
#[test]
fn a_take_over_corrects_the_static_addresses_and_the_vlans_of_others() {
    let mut worker = Worker::new(true);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    let guard = Guard { macs: Sources::Listed(vec![[2, 0, 0, 0, 0, 7]]), ..Guard::default() };
    worker.rule(&[(1, access(10)), (0, PortRules { guard, ..PortRules::default() })]);
    assert_eq!((worker.tell(at(0, 0, 1)), worker.tell(at(0, 0, 2)), worker.tell(at(1, 10, 3))), (None, None, None));
    assert_eq!(worker.tell(Command::AddressRemove { port: 0, vid: 0, mac: [2, 0, 0, 0, 0, 2] }), None);
    let forwarder = &mut worker.thread.poller.forwarder;
    forwarder.now_s = clock::now_ns() / 1_000_000_000;
    let address = |last, vid| Address::new(sv3::frame::MacAddr::new([2, 0, 0, 0, 0, last]), vid);
    assert!(forwarder.add(address(1, 0), 0) && forwarder.add(address(2, 0), 0) && forwarder.add(address(8, 0), 2));
    forwarder.learn(address(4, 0).mac(), 1);
    forwarder.learn(address(5, 0).mac(), 2);
    [6, 7].into_iter().for_each(|last| forwarder.learn(address(last, 0).mac(), 0));
    assert_eq!(worker.tell(Command::Promote), None);
    let found = [(0, 1), (0, 2), (0, 8), (10, 3), (0, 4), (0, 5), (0, 6), (0, 7)];
    let found = found.map(|(vid, last)| find(&worker, vid, last));
    assert_eq!(found, [Some(0), None, None, Some(1), None, Some(2), None, Some(0)]);
}
