//! Guarded senders that write to their frames as soon as the switch has read them.

use super::*;
use crate::fuzz::guard::{MACS, rules};
use crate::port::traffic_rules::TrafficRules;
use sv3::rules::PortRules;

const KNOWN: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// A frame of so many octets: UDP or ARP of the sender's own addresses.
fn frame(is_arp: bool, len: usize, n: u8) -> Vec<u8> {
    let (ip, arp) = ([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    let mut octets = [&KNOWN[..], &MACS[0]].concat();
    match is_arp {
        true => octets.extend(arp.into_iter().chain(MACS[0]).chain([10, 0, 0, 7])),
        false => octets.extend(ip.into_iter().chain([10, 0, 0, 7, 10, 0, 0, 8, 0x30, 0, 0x30, 0])),
    }
    octets.resize(len, n);
    octets
}

/// Frames that are usual and others, shorter than a window and longer than all that is checked; in one piece or in many;
/// into one buffer or merged.
#[test]
fn what_was_checked_is_what_is_delivered() {
    let cuts = [0u32, 9, 20, 40, 60];
    let cases = [false, true].into_iter().flat_map(|is_arp| [58, 60, 64, 250, 1600].map(|len| (is_arp, len)));
    for ((is_arp, len), buffer, cut) in
        cases.flat_map(|case| [2048, 100].into_iter().flat_map(move |buffer| cuts.map(|cut| (case, buffer, cut))))
    {
        let (mut fixture, mut sender) = fixture(1, buffer);
        fixture.forwarder.learn(MacAddr::new(KNOWN), 1);
        let mut lease = fixture.ports.get(1).unwrap().seize(QueueId::receive(1, 0), || ()).unwrap();
        lease.vring().unwrap().features |= VIRTIO_NET_F_MRG_RXBUF.mask();
        drop(lease);
        for head in 0..SIZE {
            let at = DATA + u64::from(head) * 2048;
            fixture.receivers[0].describe(head, (at, buffer, VIRTQ_DESC_F_WRITE, 0));
        }
        for n in 0..4u16 {
            let at = DATA + u64::from(n) * 2048;
            let octets = frame(is_arp, len, n as u8);
            sender.write(at + 12, &octets);
            let end = 12 + len as u32;
            match cut {
                0 => sender.describe(2 * n, (at, end, 0, 0)),
                cut => {
                    sender.describe(2 * n, (at, cut, VIRTQ_DESC_F_NEXT, 2 * n + 1));
                    sender.describe(2 * n + 1, (at + u64::from(cut), end - cut, 0, 0));
                }
            }
            sender.offer(2 * n);
        }
        run_split(&fixture, 0, 1, &sender);
        let guarded = PortRules { guard: rules(0b111_1101), ..PortRules::default() };
        *fixture.ports.get(0).unwrap().seize(QueueId::transmit(0, 0), || ()).unwrap().rules() =
            TrafficRules::of(&guarded);
        meddler::set(true);
        assert_eq!(fixture.serve(&sender).frames, 4);
        meddler::set(false);
        let receiver = &fixture.receivers[0];
        let mut got = (0..receiver.used_idx()).map(|at| {
            let (head, len) = receiver.used(at);
            receiver.read(DATA + u64::from(head) * 2048, len as usize)
        });
        for n in 0..4 {
            let mut octets = got.next().unwrap();
            for _ in 1..u16::from_le_bytes([octets[10], octets[11]]) {
                octets.extend(got.next().unwrap());
            }
            assert_eq!(octets[12..], frame(is_arp, len, n), "ARP: {is_arp}, {len} in {buffer}, cut at {cut}");
        }
        assert_eq!(got.next(), None);
    }
}
