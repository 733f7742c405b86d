//! Frames to a multicast group with one member at the only other port, in a switch that snoops and in one that floods.

use sv3::groups::Family;
use sv3::snooping::{Snooping, SnoopingRun};

use super::super::tests::{DATA, SIZE, fixture, run_split};
use super::{BURST, now, serve};
use crate::forward::snooping::message::{parse, write};

const GROUP: &str = "239.1.2.3";
const ROUTERS: &str = "224.0.0.22";

pub fn measure(octets: u32, bursts: u32, snoops: bool) -> Vec<u64> {
    let (mut fixture, mut sender) = fixture(1, 2048);
    let mut receiver = fixture.receivers.pop().unwrap();
    let table = fixture.forwarder.snooping.table;
    if snoops {
        table.set(Some(&SnoopingRun::begin(Snooping::default())));
        table.has_asked(0, Family::V4, 0);
        let report = write::igmp("10.0.0.2", ROUTERS, &write::igmp3_report(&[(4, GROUP, &[])]));
        table.hear((1, 0), Family::V4, &parse(write::group_mac(ROUTERS), Family::V4, &report, true), 0);
        fixture.forwarder.now_ns = 20_000_000_000;
    }
    let packet = write::ipv4("10.0.0.1", GROUP, 17, &vec![0; octets as usize - 14 - 24]);
    let frame = [&write::group_mac(GROUP).octets()[..], &[2, 0, 0, 0, 0, 1, 8, 0], &packet].concat();
    for head in 0..SIZE {
        let at = DATA + u64::from(head) * 2176;
        receiver.describe(head, (at, 2048, sv3::virtio::VIRTQ_DESC_F_WRITE, 0));
        sender.write(at + 12, &frame);
        sender.describe(head, (at, 12 + octets, 0, 0));
        sender.offer(head);
    }
    run_split(&fixture, 0, 1, &sender);
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
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
