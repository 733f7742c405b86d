//! A trace says what a burst then does, for frames of all kinds between ports of all kinds.

use sv3::drop_reason::DropReason;
use sv3::rules::{Guard, Isolation, PortRules, Sources, TagType, VidRange, Vids, Vlan};
use sv3::trace::Step;
use sv3::virtio::NET_HDR_LEN;

use super::*;

const PORTS: u16 = 9;

/// Rules of the ports; the ports from here on are open.
fn rules() -> Vec<PortRules> {
    let of = |vlan| PortRules { vlan, ..PortRules::default() };
    let trunk = |native, tag| {
        let allowed = Vids([10, 20].map(|vid| VidRange { first: vid, last: vid }).to_vec());
        of(Vlan::Trunk { native, allowed, tag })
    };
    let guard = Guard { macs: Sources::First(1), no_bridge: true, ..Guard::default() };
    vec![
        of(Vlan::Access { vid: 10 }),
        PortRules { isolation: Isolation::Isolated, ..of(Vlan::Access { vid: 10 }) },
        PortRules { isolation: Isolation::Isolated, mcast_flood: false, ..of(Vlan::Access { vid: 10 }) },
        of(Vlan::Tunnel { vid: 20 }),
        trunk(None, TagType::Customer),
        PortRules { flood: false, bcast_flood: false, ..trunk(Some(10), TagType::Service) },
        PortRules { learning: false, guard, ..PortRules::default() },
        PortRules { max_addresses: 1, ..PortRules::default() },
    ]
}

fn mac(slot: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0, slot as u8]
}

impl Worker {
    /// The steps of a frame.
    fn trace(&mut self, port: u16, frame: &[u8]) -> Vec<Step> {
        self.heard.clear();
        assert_eq!(self.tell(Command::Trace { port, frame: frame.to_vec() }), None);
        self.heard.iter().filter(|report| report.kind == ReportKind::Traced).filter_map(Step::of).collect()
    }

    /// Frames dropped at a port, by reason.
    fn drops(&self, slot: u16) -> Vec<u64> {
        let counters = &self.thread.ledger.ports[usize::from(slot)].drops;
        DropReason::ALL
            .iter()
            .zip(counters)
            .map(|(_, count)| count.load(std::sync::atomic::Ordering::Relaxed))
            .collect()
    }

    /// Sends a frame. Returns what each port gets, and the reasons for which it was dropped.
    fn really(&mut self, from: u16, frame: &[u8]) -> (Vec<(u16, Vec<u8>)>, Vec<DropReason>) {
        let before: Vec<Vec<u64>> = (0..PORTS).map(|slot| self.drops(slot)).collect();
        let whole = [&[0; NET_HDR_LEN], frame].concat();
        self.with(QueueId::transmit(from, 0), |queue| queue.to_send.push(whole));
        self.thread.poll(QueueId::transmit(from, 0));
        assert_eq!(self.tell(Command::Barrier), None);
        let mut got = Vec::new();
        for slot in (0..PORTS).filter(|slot| self.thread.port(*slot).is_some()).collect::<Vec<_>>() {
            let frames = self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
            got.extend(frames.into_iter().map(|frame| (slot, frame[NET_HDR_LEN..].to_vec())));
        }
        let after = (0..PORTS).map(|slot| self.drops(slot));
        let grew = before.into_iter().zip(after).flat_map(|(before, after)| {
            let both = before.into_iter().zip(after).zip(DropReason::ALL);
            both.filter(|((before, after), _)| before < after).map(|(_, reason)| reason).collect::<Vec<_>>()
        });
        (got, grew.collect())
    }
}

/// What stands behind the addresses: no tag, tags of all kinds, and two of them.
fn behind() -> Vec<Vec<u8>> {
    let tag = |kind: u16, tci: u16| [kind.to_be_bytes(), tci.to_be_bytes()].concat();
    let some = [
        vec![],
        tag(0x8100, 10),
        tag(0x8100, 20),
        tag(0x8100, 30),
        tag(0x8100, 0x6000),
        tag(0x88a8, 10),
        [tag(0x8100, 10), tag(0x8100, 20)].concat(),
        [tag(0x88a8, 10), tag(0x8100, 20)].concat(),
        tag(0x9100, 10),
    ];
    some.into_iter().map(|tags| [&tags[..], &[8, 0], &[0x45; 40]].concat()).collect()
}

/// The frame as it arrives.
fn edited(frame: &[u8], cut: bool, put: u32) -> Vec<u8> {
    let tag = if put == 0 { vec![] } else { put.to_be_bytes().to_vec() };
    [&frame[..12], &tag, &frame[if cut { 16 } else { 12 }..]].concat()
}

#[test]
fn what_is_traced_is_what_happens() {
    let mut worker = Worker::new(false);
    (0..PORTS).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    for (slot, rules) in rules().into_iter().enumerate() {
        assert_eq!(worker.tell(Command::RulesStage { port: slot as u16, rules: Box::new(rules) }), None);
    }
    assert_eq!(worker.tell(Command::RulesCommit), None);
    // One that nobody else may take.
    assert_eq!(worker.tell(Command::AddressAdd { port: 8, vid: 0, mac: mac(8) }), None);
    let groups = [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [1, 0x80, 0xc2, 0, 0, 0]];
    let all: Vec<[u8; 6]> = groups.into_iter().chain((0..=PORTS).map(mac)).collect();
    let (mut delivered, mut reasons) = (0, Vec::new());
    for (from, src) in (0..PORTS).flat_map(|from| [mac(from), mac(from + 100), mac(8)].map(|src| (from, src))) {
        for (dst, behind) in all.iter().flat_map(|dst| behind().into_iter().map(move |behind| (dst, behind))) {
            let frame = [&dst[..], &src, &behind].concat();
            let steps = worker.trace(from, &frame);
            assert_eq!(worker.trace(from, &frame), steps, "a trace changes nothing");
            let (got, dropped) = worker.really(from, &frame);
            let wanted: Vec<(u16, Vec<u8>)> = steps
                .iter()
                .filter_map(|step| match *step {
                    Step::Delivered { port, cut, put } => Some((port, edited(&frame, cut, put))),
                    _ => None,
                })
                .collect();
            assert_eq!(got, wanted, "{from}: {frame:02x?}: {steps:?}");
            let told = steps.iter().find_map(|step| match step {
                Step::Dropped(reason) => Some(*reason),
                _ => None,
            });
            assert_eq!(dropped, Vec::from_iter(told), "{from}: {frame:02x?}: {steps:?}");
            delivered += got.len();
            reasons.extend(told);
        }
    }
    assert!(delivered > 500, "{delivered}");
    use DropReason::*;
    for reason in [VlanTag, VlanHop, Isolated, LinkLocal, Hairpin, AddressLimit, AddressConflict, GuardMac] {
        assert!(reasons.contains(&reason), "no frame was dropped for {reason:?}");
    }
}

#[test]
fn frames_that_are_none_and_ports_that_are_none_do_no_harm() {
    let mut worker = Worker::new(false);
    (0..2).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    assert_eq!(worker.trace(0, &[]), [Step::Dropped(DropReason::ShortFrame)]);
    assert_eq!(worker.trace(0, &[2; 13]), [Step::Dropped(DropReason::ShortFrame)]);
    assert_eq!(worker.trace(0, &[1; 14]), [Step::Dropped(DropReason::BadSource)]);
    assert_eq!(worker.trace(0, &[0; 14]), [Step::Dropped(DropReason::BadSource)]);
    assert_eq!(worker.trace(7, &[2; 14]), []);
    assert_eq!(worker.trace(9999, &[2; 14]), []);
    let frame = [&[2; 12][..], &[8, 0], &[0; 2000]].concat();
    let steps = [Step::Admitted(0), Step::SourceNew, Step::Unknown, Step::Delivered { port: 1, cut: false, put: 0 }];
    assert_eq!(worker.trace(0, &frame), steps);
    assert_eq!((worker.received(0), worker.received(1)), (0, 0));
}

/// A port that may not take a guest's address is told so, as its frames are.
#[test]
fn addresses_that_a_port_may_not_take_are_told() {
    let mut worker = Worker::new(false);
    let add = |port, learning| Command::PortAdd { port, kind: PortKind::Memory, learning };
    for (slot, learning) in
        [Learning::Free, Learning::Guarded, Learning::Uplink, Learning::Free].into_iter().enumerate()
    {
        assert_eq!(worker.tell(add(slot as u16, learning)), None);
    }
    let frame = [&mac(9)[..], &mac(0), &[8, 0]].concat();
    assert_eq!(worker.really(0, &frame).1, []);
    for (port, step) in [
        (0, Step::SourceKnown),
        (1, Step::Dropped(DropReason::AddressConflict)),
        (2, Step::Dropped(DropReason::UplinkEcho)),
        (3, Step::SourceMoves(0)),
    ] {
        assert_eq!(worker.trace(port, &frame).get(1), Some(&step), "{port}");
    }
}
