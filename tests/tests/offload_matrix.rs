//! Every sender with every receiver: what arrives is compared octet for octet, header included, with what the
//! specification says (virtio 1.3, 5.1.6), written down plainly in [`Kind::arrives`]. There are always two receivers,
//! which frames are for by turns; each gets its own and nothing else, and the senders get nothing.

use sv3_tests::failure::Result;
use sv3_tests::frames::{ACK, CWR, FIN, PSH, Packet, finish, frame, mac};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::{Config, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, Guest, NetHdr, Received, Shape};
use sv3_tests::switch::Switch;

/// What a sender can leave to the receiver.
const SENDER: [u64; 5] = [CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO];
/// What a receiver accepts to be left to do.
const RECEIVER: [u64; 6] = [GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6];

/// A frame with its header, and what may become of it.
struct Kind {
    sent: (NetHdr, Vec<u8>),
    v6: bool,
    /// In segments, or as one: with what a segment's header leaves to the receiver, and with all done.
    partial: Vec<(NetHdr, Vec<u8>)>,
    done: Vec<(NetHdr, Vec<u8>)>,
}

impl Kind {
    /// A receiver that accepts it gets it as it is; `partial`: in segments.
    fn new(v6: bool, sent: (NetHdr, Vec<u8>), partial: Vec<(NetHdr, Vec<u8>)>) -> Kind {
        let finished = partial.iter().map(|(hdr, frame)| (NetHdr::default(), finish(hdr, frame.clone())));
        Kind { v6, sent, done: finished.collect(), partial }
    }

    /// What no driver may send: a frame to be segmented whose checksum is done. Otherwise it has the header of a
    /// finished frame.
    fn refused(packet: &Packet) -> Kind {
        let hdr = NetHdr { gso_type: GSO_TCPV4, ..NetHdr::default() };
        Kind { v6: false, sent: (hdr, packet.on_the_wire()), partial: Vec::new(), done: Vec::new() }
    }

    /// What a receiver gets; none if the sender may not send it.
    fn arrives(&self, sender: u64, receiver: u64) -> &[(NetHdr, Vec<u8>)] {
        let hdr = &self.sent.0;
        let (host, guest) = match (hdr.gso_type & !GSO_ECN, self.v6) {
            (GSO_NONE, _) => (0, 0),
            (GSO_TCPV4, _) => (HOST_TSO4, GUEST_TSO4),
            (GSO_TCPV6, _) => (HOST_TSO6, GUEST_TSO6),
            (_, false) => (HOST_USO, GUEST_USO4),
            (_, true) => (HOST_USO, GUEST_USO6),
        };
        let reduced = hdr.gso_type & GSO_ECN != 0;
        let host = host | if hdr.flags != 0 { CSUM } else { 0 } | if reduced { HOST_ECN } else { 0 };
        let guest = guest | if hdr.flags != 0 { GUEST_CSUM } else { 0 } | if reduced { GUEST_ECN } else { 0 };
        if sender & host != host || hdr.flags == 0 && hdr.gso_type != GSO_NONE {
            &[]
        } else if receiver & guest == guest {
            std::slice::from_ref(&self.sent)
        } else if receiver & GUEST_CSUM != 0 {
            &self.partial
        } else {
            &self.done
        }
    }
}

/// TCP and UDP over both versions of IP, with and without VLAN tags, options and extension headers; of all of them,
/// frames that are finished, whose checksum is not, that are to be segmented: into one, into equal ones, with a short
/// one last, of odd sizes; and some that the switch refuses from any sender.
fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for (v6, tags, options) in [
        (false, 0, 0),
        (false, 1, 0),
        (false, 2, 40),
        (false, 0, 8),
        (true, 0, 0),
        (true, 1, 8),
        (true, 2, 24),
        (true, 0, 16),
    ] {
        let dress = |packet: Packet| packet.tagged(tags).optioned(options);
        let flagged = |flags: u8| move |payload: usize| Packet::tcp(v6, payload).flags(flags);
        for (packet, mss, payloads) in [
            (&flagged(ACK | PSH | FIN) as &dyn Fn(usize) -> Packet, 1001, [0, 1, 1001, 2500]),
            (&flagged(ACK | CWR | PSH), 536, [1, 536, 1608, 1609]),
            (&|payload| Packet::udp(v6, payload), 999, [0, 999, 1998, 2001]),
        ] {
            for payload in payloads {
                let packet = dress(packet(payload));
                let finished = (NetHdr::default(), packet.on_the_wire());
                kinds.push(Kind::new(v6, finished.clone(), vec![finished]));
                kinds.push(Kind::new(v6, packet.unfinished(), vec![packet.unfinished()]));
                kinds.push(Kind::new(v6, packet.unsegmented(mss), packet.parts(mss)));
                kinds.push(Kind::refused(&packet));
            }
        }
    }
    for v6 in [false, true] {
        for (packet, mss) in [(Packet::tcp(v6, 64_000), 1448), (Packet::udp(v6, 64_001), 1472)] {
            kinds.push(Kind::new(v6, packet.unsegmented(mss), packet.parts(mss)));
        }
    }
    kinds
}

fn subsets(features: &[u64]) -> impl Iterator<Item = u64> {
    (0..1u32 << features.len()).map(move |subset| {
        let chosen = features.iter().enumerate().filter(|(at, _)| subset & (1 << at) != 0);
        chosen.fold(VERSION_1 | MRG_RXBUF | EVENT_IDX, |all, (_, feature)| all | feature)
    })
}

/// The stations that frames are for: the one with the features that it is about, and one with all others.
const STATIONS: [u8; 2] = [2, 3];

/// Which of the two a frame is for: now this one, now some for the other, in one of several patterns.
fn station(frame: usize, pattern: usize) -> u8 {
    STATIONS[(frame * 5 + pattern * 3) / 7 % STATIONS.len()]
}

/// Compares what a receiver gets with what it should, up to the marker.
#[track_caller]
fn assert_arrives<'a>(station: u8, receiver: &mut Guest, expected: impl Iterator<Item = &'a (NetHdr, Vec<u8>)>) {
    for (index, (hdr, frame)) in expected.enumerate() {
        let Received { hdr: got, frame: octets, .. } = receiver.receive();
        assert_eq!(octets[..6], mac(station), "number {index} is another's");
        assert_eq!(NetHdr { num_buffers: 0, ..got }, *hdr, "number {index}");
        assert_eq!(octets.len(), frame.len(), "number {index}");
        let differs = octets[6..].iter().zip(&frame[6..]).position(|(got, wanted)| got != wanted);
        assert_eq!(differs, None, "number {index} of {} octets", octets.len());
    }
    assert!(receiver.receive().frame == marker(station), "more than was expected");
}

fn marker(station: u8) -> Vec<u8> {
    frame(mac(station), mac(1), b"that was it")
}

#[test]
fn every_sender_with_every_receiver() -> Result<()> {
    let switch = Switch::start()?;
    let mut kinds = kinds();
    let config = |features: u64| -> Config { Guest::config().features(features).ring_size(2048) };
    let mut senders: Vec<_> = subsets(&SENDER).map(|features| config(features).connect(switch.socket())).collect();
    let mut refused = vec![0u64; senders.len()];
    let all = subsets(&RECEIVER).fold(0, |all, features| all | features);
    let common = subsets(&RECEIVER).fold(all, |common, features| common & features);
    let last = subsets(&RECEIVER).count() - 1;
    for (round, features) in subsets(&RECEIVER).enumerate() {
        let mut receivers = [features, common | (all & !features)].map(|has| config(has).connect(switch.socket()));
        for (station, receiver) in STATIONS.into_iter().zip(&mut receivers) {
            // Announces its address; no other guest receives this.
            receiver.send(&frame(mac(station), mac(station), b"here"));
            receiver.await_sent();
        }
        for (number, (sender, refused)) in senders.iter_mut().zip(&mut refused).enumerate() {
            // The same when the receivers have changed places, so that in the end each has had all frames.
            let (from, pattern) = (sender.features(), round.min(last - round) + number);
            for (index, Kind { sent: (hdr, frame), .. }) in kinds.iter_mut().enumerate() {
                frame[..6].copy_from_slice(&mac(station(index, pattern)));
                assert!(sender.try_send_on(0, hdr, frame, Shape::default()), "its ring has room for all");
            }
            // All frames at once, so that bursts are long.
            sender.publish(1);
            *refused += kinds.iter().filter(|kind| kind.arrives(from, features).is_empty()).count() as u64;
            for (station_here, receiver) in STATIONS.into_iter().zip(&mut receivers) {
                sender.send(&marker(station_here));
                let to = receiver.features();
                let own = kinds.iter().enumerate().filter(|(index, _)| station(*index, pattern) == station_here);
                assert_arrives(station_here, receiver, own.flat_map(|(_, kind)| kind.arrives(from, to)));
            }
        }
        for mut receiver in receivers {
            assert!(receiver.try_receive().is_none(), "something behind the end");
            receiver.vanish();
        }
        switch.await_ports(senders.len())?;
    }
    for ((port, refused), sender) in switch.status()?.ports.iter().zip(refused).zip(&mut senders) {
        let expected = (refused > 0).then(|| ("bad_offload".to_string(), refused));
        assert_eq!(port.drops.clone().into_iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        assert!(sender.try_receive().is_none(), "a sender got something");
    }
    Ok(())
}
