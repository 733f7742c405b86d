//! Frames to several receivers in turn.

use sv3::frame::MacAddr;
use sv3::virtio::VIRTQ_DESC_F_WRITE;

use super::super::tests::{DATA, SIZE, fixture, run_split};
use super::{BURST, now, serve};
use crate::forward::fdb::Address;

pub fn measure(octets: u32, bursts: u32, receivers: u16) -> Vec<u64> {
    let (mut fixture, mut sender) = fixture(receivers, 2048);
    let mut drivers = std::mem::take(&mut fixture.receivers);
    let address = |slot: u16| [2, 0, 0, 0, 1, slot as u8];
    for head in 0..SIZE {
        let at = DATA + u64::from(head) * 2176;
        drivers.iter_mut().for_each(|driver| driver.describe(head, (at, 2048, VIRTQ_DESC_F_WRITE, 0)));
        sender.write(at + 12, &[address(1 + head % receivers), [2, 0, 0, 0, 0, 1]].concat());
        sender.describe(head, (at, 12 + octets, 0, 0));
        sender.offer(head);
    }
    run_split(&fixture, 0, 1, &sender);
    for slot in 1..=receivers {
        assert!(fixture.forwarder.add(Address::new(MacAddr::new(address(slot)), 0), slot));
    }
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    let mut offered = 0u16;
    let mut sample = || {
        offered = offered.wrapping_add(BURST);
        sender.claim(offered);
        drivers.iter_mut().for_each(|driver| driver.claim(driver.used_idx().wrapping_add(SIZE)));
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        cycles
    };
    (0..bursts).map(|_| sample()).collect()
}
