//! How much work one frame is for the worker, when no other processor uses the rings: cycles of the time stamp
//! counter, in bursts of 32 known unicast frames. This is a tool to make the data path faster, not a test. See
//! docs/develop/measuring.md.

mod card;
mod groups;
mod logs;
mod turns;

use sv3::frame::MacAddr;
use sv3::rules::{Bucket, Guard, Isolation, PortRules, Prefix4, Sources, TagType, Unit, Vid, Vids, Vlan};

use super::Served;
use super::tests::{DATA, Fixture, SIZE, fixture, run_at, run_split};
use crate::forward::fdb::Address;
use crate::poll::fair_share::TURN;
use crate::port::traffic_rules::TrafficRules;
use crate::port::vring::driver::PackedDriver;
use crate::port::vring::queue::Queue;
use crate::port::{Port, TransmitQueue};
use sv3::ids::QueueId;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_WRITE};

const BURST: u16 = 32;

/// `SV3_PACE=OCTETS` measures one size. `SV3_PACE=OCTETS,BURSTS` runs that many bursts of it, for a profiler.
/// `SV3_PACE=OCTETS,BURSTS,packed` uses packed rings, whose driver does several times the worker's work. `card-in`,
/// `card-out` and `card-card` in its place have a network card as sender, as receiver, and as both; with
/// `card-out-zero-copy` it reads the guest's memory. More than 1,518 octets to a card are a frame of TCP, in pieces of 4 KiB,
/// that the card segments. `group` and `group-snooped` send to a multicast group; `access`, `untag`, `tag`, `isolated`, `guard`,
/// `limit` and `strict` have ports with rules. `log` and `packed-log` mark pages in a log; `merge` and `merge-log` have
/// mergeable buffers of 2,048 octets. `turns-2`, `turns-4` and `turns-16` send to so many receivers in turn.
#[test]
#[ignore = "a measurement"]
fn pace() {
    let waiter = std::env::var("SV3_PACE").unwrap_or_default();
    let numbers: Vec<u32> = waiter.split(',').filter_map(|number| number.parse().ok()).collect();
    let bursts = numbers.get(1).copied().unwrap_or(20_000);
    let sizes = numbers.first().map_or(vec![64, 256, 512, 1518], |octets| vec![*octets]);
    for octets in sizes {
        let mut cycles = match waiter.rsplit_once(',') {
            Some((_, "packed")) => packed(octets, bursts, false),
            Some((_, "packed-log")) => packed(octets, bursts, true),
            Some((_, "card-in")) => card::comes_in(octets, bursts),
            Some((_, "card-out")) => card::goes_out(octets, bursts, false),
            Some((_, "card-out-zero-copy")) => card::goes_out(octets, bursts, true),
            Some((_, "card-card")) => card::passes(octets, bursts),
            Some((_, "group")) => groups::measure(octets, bursts, false),
            Some((_, "group-snooped")) => groups::measure(octets, bursts, true),
            Some((_, "turns-2")) => turns::measure(octets, bursts, 2),
            Some((_, "turns-4")) => turns::measure(octets, bursts, 4),
            Some((_, "turns-16")) => turns::measure(octets, bursts, 16),
            Some((_, rules)) => measure(octets, bursts, rules),
            _ => measure(octets, bursts, ""),
        };
        cycles.sort_unstable();
        let of_frame = |cycles: u64| cycles as f64 / f64::from(BURST);
        let (least, median) = (of_frame(cycles[0]), of_frame(cycles[cycles.len() / 2]));
        println!("{octets:5} B: {least:6.1} cycles a frame at best, {median:6.1} in the median");
    }
}

/// The rules of sender and receiver, the VLAN of the frames and what is behind their addresses.
fn rules(name: &str) -> (PortRules, PortRules, Vid, Vec<u8>) {
    let of = |vlan| PortRules { vlan, ..PortRules::default() };
    let access = || of(Vlan::Access { vid: 10 });
    let trunk = || of(Vlan::Trunk { native: None, allowed: Vids::all(), tag: TagType::Customer });
    let isolated = PortRules { isolation: Isolation::Group(1), ..PortRules::default() };
    let guard = Guard {
        macs: Sources::Listed(vec![[2, 0, 0, 0, 0, 1]]),
        ipv4: Some(vec![Prefix4 { address: [10, 0, 0, 7], len: 32 }]),
        ipv6: Some(vec![]),
        no_dhcp_server: true,
        no_router: true,
        no_bridge: true,
    };
    let mut limited = PortRules::default();
    limited.limits.from_port = Some(Bucket { rate: 1 << 40, burst: 1 << 40, unit: Unit::Octets });
    let guarded = |rules: PortRules| PortRules { guard: guard.clone(), ..rules };
    match name {
        "access" => (access(), access(), 10, vec![]),
        "untag" => (trunk(), access(), 10, vec![0x81, 0, 0, 10]),
        "tag" => (access(), trunk(), 10, vec![]),
        "isolated" => (isolated.clone(), isolated, 0, vec![]),
        "guard" => (guarded(PortRules::default()), guarded(PortRules::default()), 0, vec![]),
        "strict" => (guarded(access()), guarded(access()), 10, vec![]),
        "limit" => (limited.clone(), limited, 0, vec![]),
        _ => (PortRules::default(), PortRules::default(), 0, vec![]),
    }
}

fn measure(octets: u32, bursts: u32, name: &str) -> Vec<u64> {
    let (of_sender, of_receiver, vid, tag) = rules(name);
    let (mut fixture, mut sender) = fixture(1, 2048);
    let mut receiver = fixture.receivers.pop().unwrap();
    let (to, from) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]);
    for head in 0..SIZE {
        // As far apart as the buffers of a driver.
        let at = DATA + u64::from(head) * 2176;
        receiver.describe(head, (at, 2048, VIRTQ_DESC_F_WRITE, 0));
        // UDP from 10.0.0.7.
        let ip = [8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 7, 10, 0, 0, 8, 0x30, 0, 0x30, 0];
        sender.write(at + 12, &[&to[..], &from, &tag, &ip].concat());
        sender.describe(head, (at, 12 + octets, 0, 0));
        sender.offer(head);
    }
    run_split(&fixture, 0, 1, &sender);
    if name.starts_with("merge") {
        logs::merge(&fixture, &receiver);
    }
    if name.ends_with("log") {
        logs::begin(&fixture, (0, 1), &sender);
        logs::begin(&fixture, (1, 0), &receiver);
    }
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    queue.rules = TrafficRules::of(&of_sender);
    fixture.ports.get(1).unwrap().receive(0).unwrap().lease(0).unwrap().rules = TrafficRules::of(&of_receiver);
    assert!(fixture.forwarder.add(Address::new(MacAddr::new(to), vid), 1));
    let mut offered = 0u16;
    let mut sample = || {
        offered = offered.wrapping_add(BURST);
        sender.claim(offered);
        receiver.claim(receiver.used_idx().wrapping_add(SIZE));
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        cycles
    };
    (0..bursts).map(|_| sample()).collect()
}

#[inline(never)]
fn serve(fixture: &mut Fixture, port: &'static Port, queue: &mut TransmitQueue) -> Served {
    let id = QueueId::transmit(0, 0);
    fixture.burst.serve(&mut fixture.forwarder, (port, id), queue, 8 * TURN, false).unwrap()
}

fn packed(octets: u32, bursts: u32, logs: bool) -> Vec<u64> {
    let (mut fixture, _) = fixture(0, 0);
    let (to, from) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]);
    let (mut sender, mut receiver) = (PackedDriver::new(SIZE), PackedDriver::new(SIZE));
    let features = VIRTIO_F_VERSION_1.mask();
    for (slot, ring, driver) in [(0, 1, &sender), (1, 0, &receiver)] {
        run_at(&fixture, slot, ring, Queue::Packed(driver.ring(features)), &driver.guest.memory, features);
        if logs {
            logs::begin(&fixture, (slot, ring), &driver.guest);
        }
    }
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.ports.note_receiver(QueueId::receive(1, 0), true);
    fixture.forwarder.learn(MacAddr::new(to), 1);
    let place = |id: u16| DATA + u64::from(id) * 2176;
    (0..BURST).for_each(|id| sender.guest.write(place(id) + 12, &[to, from].concat()));
    let mut sample = || {
        for id in 0..BURST {
            assert!(sender.offer(id, &[(place(id), 12 + octets, 0)]));
            assert!(receiver.offer(id, &[(place(id), 2048, VIRTQ_DESC_F_WRITE)]));
        }
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        for driver in [&mut sender, &mut receiver] {
            assert_eq!(std::iter::from_fn(|| driver.take_used()).count(), usize::from(BURST));
        }
        cycles
    };
    (0..bursts).map(|_| sample()).collect()
}

#[allow(unsafe_code)]
fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}
