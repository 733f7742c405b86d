//! Senders with rules that write to their frames as soon as the switch has read them.

use super::*;
use crate::forward::fdb::Address;
use crate::fuzz::guard::{MACS, rules};
use crate::port::traffic_rules::TrafficRules;
use sv3::rules::{PortRules, TagType, Vid, Vids, Vlan};

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

/// Sends frames in one burst, cut into two pieces at an octet of the chain or whole (0), and returns what arrives in buffers
/// of so many octets.
fn deliver(
    (of_sender, of_receiver, vid): (&PortRules, &PortRules, Vid),
    frames: &[Vec<u8>],
    (buffer, cut): (u32, u32),
) -> Vec<Vec<u8>> {
    let (mut fixture, mut sender) = fixture(1, buffer);
    assert!(fixture.forwarder.add(Address::new(MacAddr::new(KNOWN), vid), 1));
    let mut lease = fixture.ports.get(1).unwrap().seize(QueueId::receive(1, 0), || ()).unwrap();
    lease.vring().unwrap().features |= VIRTIO_NET_F_MRG_RXBUF.mask();
    *lease.rules() = TrafficRules::of(of_receiver);
    drop(lease);
    for head in 0..SIZE {
        let at = DATA + u64::from(head) * 2048;
        fixture.receivers[0].describe(head, (at, buffer, VIRTQ_DESC_F_WRITE, 0));
    }
    for (n, octets) in (0u16..).zip(frames) {
        let at = DATA + u64::from(n) * 2048;
        sender.write(at + 12, octets);
        let end = 12 + octets.len() as u32;
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
    *fixture.ports.get(0).unwrap().seize(QueueId::transmit(0, 0), || ()).unwrap().rules() = TrafficRules::of(of_sender);
    meddler::set(true);
    assert_eq!(fixture.serve(&sender).frames, frames.len());
    meddler::set(false);
    let receiver = &fixture.receivers[0];
    let mut got = (0..receiver.used_idx()).map(|at| {
        let (head, len) = receiver.used(at);
        receiver.read(DATA + u64::from(head) * 2048, len as usize)
    });
    let mut all = Vec::new();
    while let Some(mut octets) = got.next() {
        for _ in 1..u16::from_le_bytes([octets[10], octets[11]]) {
            octets.extend(got.next().unwrap());
        }
        all.push(octets.split_off(12));
    }
    all
}

/// Frames that are usual and others, shorter than a window and longer than all that is checked; in one piece or in many;
/// into one buffer or merged.
#[test]
fn what_was_checked_is_what_is_delivered() {
    let cuts = [0u32, 9, 20, 40, 60];
    let cases = [false, true].into_iter().flat_map(|is_arp| [58, 60, 64, 250, 1600].map(|len| (is_arp, len)));
    let guarded = PortRules { guard: rules(0b111_1101), ..PortRules::default() };
    for ((is_arp, len), buffer, cut) in
        cases.flat_map(|case| [2048, 100].into_iter().flat_map(move |buffer| cuts.map(|cut| (case, buffer, cut))))
    {
        let frames: Vec<_> = (0..4).map(|n| frame(is_arp, len, n)).collect();
        let got = deliver((&guarded, &PortRules::default(), 0), &frames, (buffer, cut));
        assert_eq!(got, frames, "ARP: {is_arp}, {len} in {buffer}, cut at {cut}");
    }
}

/// The same frames from port to port of VLAN 10, where their tag is put in, taken off or replaced; from a guarded sender
/// as well. Lengths around those of what is looked at, and of the copy that waits for the end of a burst.
#[test]
fn a_tag_changes_and_nothing_else_does() {
    let trunk = |tag| Vlan::Trunk { native: None, allowed: Vids::all(), tag };
    let access = || Vlan::Access { vid: 10 };
    let (customer, service) = (|| trunk(TagType::Customer), || trunk(TagType::Service));
    let ways: [(Vlan, Vlan, &[u8], &[u8]); 5] = [
        (access(), customer(), &[], &[0x81, 0, 0, 10]),
        (customer(), access(), &[0x81, 0, 0x60, 10], &[]),
        (customer(), service(), &[0x81, 0, 0x60, 10], &[0x88, 0xa8, 0x60, 10]),
        (service(), Vlan::Tunnel { vid: 10 }, &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 7], &[0x81, 0, 0, 7]),
        (customer(), customer(), &[0x81, 0, 0, 10], &[0x81, 0, 0, 10]),
    ];
    let with = |tag: &[u8], frame: &[u8]| [&frame[..12], tag, &frame[12..]].concat();
    for ((from, to, sent, arriving), is_guarded) in
        ways.iter().flat_map(|way| [false, true].map(|is_guarded| (way, is_guarded)))
    {
        let guard = if is_guarded { rules(0b111_1101) } else { sv3::rules::Guard::default() };
        let of_sender = PortRules { vlan: from.clone(), guard, ..PortRules::default() };
        let of_receiver = PortRules { vlan: to.clone(), ..PortRules::default() };
        for (len, buffer, cut) in [50usize, 56, 57, 60, 61, 64, 68, 69, 250, 1500, 1518, 1530]
            .into_iter()
            .flat_map(|len| [(2048, 0), (2048, 30), (100, 0)].map(|(buffer, cut)| (len, buffer, cut)))
        {
            let frames: Vec<_> = (0..4).map(|n| frame(false, len, n)).collect();
            let [to_send, wanted] =
                [*sent, *arriving].map(|tag| frames.iter().map(|frame| with(tag, frame)).collect::<Vec<_>>());
            let got = deliver((&of_sender, &of_receiver, 10), &to_send, (buffer, cut));
            assert_eq!(got, wanted, "{from:?} to {to:?}, guarded: {is_guarded}, {len} in {buffer}, cut at {cut}");
        }
    }
}
