//! Rules that the supervisor tells, and changes while frames pass.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use sv3::drop_reason::DropReason;
use sv3::rules::{PortRules, TagType, Vid, VidRange, Vids, Vlan};
use sv3::virtio::NET_HDR_LEN;

use super::*;

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
                let settings = Settings { version: VERSION, poll_us: 0, batch: 8 };
                let start = Start { settings, ledger, area: &ledger.workers[0], standby: false, files: true };
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
