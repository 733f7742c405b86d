//! What an attacker tries, each by itself; and frames of many layers beside a plain reader ([`crate::fuzz`]).

use sv3::rules::LIST_MAX;

use super::*;
use crate::fuzz::guard::{MACS, guard as compare, rules};

const OWN: [u8; 6] = MACS[0];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OWN4: [u8; 4] = [10, 0, 0, 7];
const OTHER4: [u8; 4] = [10, 0, 1, 7];
const ALL: [u8; 6] = [0xff; 6];
const GROUP6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// The parts of a guard; see [`rules`].
const STRICT: u8 = 0b111_1101;
const LISTED: u8 = 1;
const FIRST: u8 = 2;
const V4: u8 = 4;
const V6: u8 = 8;
const DHCP: u8 = 16;
const ROUTER: u8 = 32;
const BRIDGE: u8 = 64;

type Said = Result<(), DropReason>;
const PASSES: Said = Ok(());
const MAC: Said = Err(DropReason::GuardMac);
const IP: Said = Err(DropReason::GuardIp);
const ROLE: Said = Err(DropReason::GuardRole);

fn own6() -> [u8; 16] {
    address6(&[0x20, 1, 0x0d, 0xb8], 7)
}

fn link_local() -> [u8; 16] {
    address6(&[0xfe, 0x80], 1)
}

fn other6() -> [u8; 16] {
    address6(&[0x20, 1, 0x0d, 0xb9], 7)
}

fn address6(begin: &[u8], last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[..begin.len()].copy_from_slice(begin);
    address[15] = last;
    address
}

/// What a guard of these parts says of a frame, and so does the plain reader.
fn said(parts: u8, frame: &[u8]) -> Said {
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let mut frame = frame.to_vec();
    frame.resize(frame.len().max(60), 0);
    compare(&[&[parts], &frame[..]].concat());
    let guard = Guard::of(&rules(parts)).unwrap();
    guard.check(&frame[..frame.len().min(WINDOW)], frame.len(), &claimed).map(drop)
}

fn ethernet(dst: [u8; 6], src: [u8; 6], kind: u16, rest: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), rest].concat()
}

fn arp(op: u8, sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, op][..], &sender.0, &sender.1, &[0; 6], &target].concat()
}

fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let (len, fragment) = (((20 + rest.len()) as u16).to_be_bytes(), fragment.to_be_bytes());
    [&[0x45, 0, len[0], len[1], 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0][..], &src, &dst, rest].concat()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0], &[0; 32]].concat()
}

/// `next`: the kinds of the headers behind the first one, and the octets of each.
fn ipv6(src: [u8; 16], next: &[(u8, &[u8])]) -> Vec<u8> {
    let rest: Vec<u8> = (0..next.len())
        .flat_map(|at| {
            let mut octets = next[at].1.to_vec();
            if let Some((after, _)) = next.get(at + 1) {
                octets[0] = *after;
            }
            octets
        })
        .collect();
    let len = (rest.len() as u16).to_be_bytes();
    let dst = address6(&[0xff, 2], 1);
    [&[0x60, 0, 0, 0, len[0], len[1], next[0].0, 255][..], &src, &dst, &rest].concat()
}

fn on4(rest: &[u8]) -> Vec<u8> {
    ethernet(ALL, OWN, 0x0800, rest)
}

fn on6(rest: &[u8]) -> Vec<u8> {
    ethernet(GROUP6, OWN, 0x86dd, rest)
}

fn neighbour(kind: u8, target: [u8; 16], option: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, &[option, 1], &mac].concat()
}

#[test]
fn an_honest_guest_notices_nothing() {
    let honest = [
        on4(&ipv4(OWN4, [8; 4], 6, 0, &[0; 40])),
        on4(&ipv4(OWN4, [8; 4], 17, 0x4000, &udp(40_000, 53))),
        on4(&ipv4(OWN4, [8; 4], 17, 0x2000, &udp(40_000, 53))),
        on4(&ipv4(OWN4, [8; 4], 17, 185, &[0, 67, 0, 68])),
        on4(&ipv4(OWN4, [8; 4], 1, 0, &[8, 0, 0, 0])),
        on4(&ipv4([0; 4], [255; 4], 17, 0, &udp(68, 67))),
        on4(&ipv4(OWN4, [10, 0, 0, 1], 17, 0, &udp(68, 67))),
        ethernet(ALL, OWN, 0x0806, &arp(1, (OWN, OWN4), [10, 0, 0, 1])),
        ethernet(ALL, OWN, 0x0806, &arp(1, (OWN, [0; 4]), OWN4)),
        ethernet(ALL, OWN, 0x0806, &arp(2, (OWN, OWN4), OWN4)),
        ethernet(ALL, OWN, 0x8035, &arp(3, (OWN, [0; 4]), [0; 4])),
        on6(&ipv6(own6(), &[(6, &[0; 20])])),
        on6(&ipv6(link_local(), &[(17, &udp(546, 547))])),
        on6(&ipv6(own6(), &[(58, &neighbour(135, other6(), 1, OWN))])),
        on6(&ipv6(own6(), &[(58, &neighbour(136, own6(), 2, OWN))])),
        on6(&ipv6([0; 16], &[(58, &neighbour(135, own6(), 14, [9; 6]))])),
        on6(&ipv6([0; 16], &[(58, &[133, 0, 0, 0, 0, 0, 0, 0])])),
        on6(&ipv6([0; 16], &[(0, &[58, 0, 5, 2, 0, 0, 1, 0]), (58, &[143, 0, 0, 0, 0, 0, 0, 0])])),
        on6(&ipv6(own6(), &[(44, &[0, 0, 0, 1, 0, 0, 0, 9]), (17, &udp(1, 2))])),
        on6(&ipv6(own6(), &[(44, &[0, 0, 1, 1, 0, 0, 0, 9]), (17, &[0, 1, 2, 3])])),
    ];
    for frame in &honest {
        assert_eq!(said(STRICT, frame), PASSES, "{frame:02x?}");
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        assert_eq!(said(STRICT, &tagged), PASSES, "tagged {frame:02x?}");
    }
}

#[test]
fn a_forged_source_of_ethernet_is_dropped_in_any_frame() {
    for kind in [0x0800, 0x0806, 0x86dd, 0x1234, 0x8100] {
        assert_eq!(said(LISTED, &ethernet(ALL, OTHER, kind, &[0; 46])), MAC);
    }
    // Any IPv4 passes, and what nobody knows.
    assert_eq!(said(LISTED, &on4(&ipv4(OTHER4, [8; 4], 6, 0, &[]))), PASSES);
    assert_eq!(said(LISTED, &ethernet(ALL, OWN, 0x1234, &[0; 46])), PASSES);
}

#[test]
fn the_first_addresses_are_the_ports_for_its_life() {
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let guard = Guard::of(&rules(FIRST)).unwrap();
    let send = |frame: &[u8]| {
        let said = guard.check(frame, frame.len(), &claimed).map(drop);
        let src = MacAddr::new(*frame[6..].first_chunk().unwrap());
        assert!(said.is_err() || claim(guard.claims(src, &claimed), src));
        said
    };
    let from = |src: [u8; 6]| send(&ethernet(ALL, src, 0x1234, &[0; 46]));
    let said = [MACS[0], MACS[0], OTHER, MACS[1], MACS[0], OTHER, [3; 6]].map(from);
    assert_eq!(said, [PASSES, PASSES, PASSES, MAC, PASSES, PASSES, MAC]);
    // The next worker has the same ledger.
    let guard = Guard::of(&rules(FIRST)).unwrap();
    let arp = |mac| ethernet(ALL, MACS[0], 0x0806, &arp(1, (mac, OWN4), OWN4));
    let said = [OTHER, MACS[1]].map(|mac| guard.check(&arp(mac), 42, &claimed).map(drop));
    assert_eq!(said, [PASSES, MAC]);
}

/// RFC 826, RFC 5227: gratuitous requests and replies, probes, and the router's address under one's own.
#[test]
fn arp_claims_no_others_address() {
    for (op, hardware, sender, wanted) in [
        (1, OWN, OTHER4, IP),
        (2, OWN, OTHER4, IP),
        (2, OTHER, OWN4, MAC),
        (1, OTHER, [0; 4], MAC),
        (2, OWN, [0; 4], IP),
        (8, OWN, OTHER4, IP),
        (1, OWN, [10, 0, 0, 255], PASSES),
    ] {
        let gratuitous = ethernet(ALL, OWN, 0x0806, &arp(op, (hardware, sender), sender));
        assert_eq!(said(LISTED | V4, &gratuitous), wanted, "{op} {sender:?}");
    }
    assert_eq!(said(V4, &ethernet(ALL, OTHER, 0x0806, &arp(2, (OTHER, OTHER4), OWN4))), IP);
    assert_eq!(said(LISTED, &ethernet(ALL, OWN, 0x0806, &arp(2, (OWN, OTHER4), OWN4))), PASSES);
    // In a form that some receiver may understand, or cut off.
    let mut odd = arp(2, (OWN, OTHER4), OWN4);
    for (at, octet) in [(1, 2), (2, 0x86), (4, 8), (5, 16)] {
        let before = std::mem::replace(&mut odd[at], octet);
        assert_eq!(said(LISTED | V4, &ethernet(ALL, OWN, 0x0806, &odd)), IP);
        odd[at] = before;
    }
    odd[1] = 6;
    assert_eq!(said(LISTED | V4, &ethernet(ALL, OWN, 0x0806, &odd)), IP, "IEEE 802 is read as Ethernet is");
    let short = ethernet(ALL, OWN, 0x0806, &arp(1, (OWN, OWN4), OWN4)[..27]);
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    assert_eq!(Guard::of(&rules(V4)).unwrap().check(&short, short.len(), &claimed).map(drop), IP);
    assert_eq!(said(DHCP, &ethernet(ALL, OWN, 0x8035, &arp(4, (OWN, OWN4), OWN4))), ROLE, "RARP answers");
}

#[test]
fn ipv4_has_the_ports_source() {
    for (src, dst, rest, wanted) in [
        (OTHER4, [8; 4], udp(1, 2), IP),
        ([127, 0, 0, 1], [8; 4], udp(1, 2), IP),
        ([0; 4], [8; 4], udp(68, 67), IP),
        ([0; 4], [255; 4], udp(69, 67), IP),
        ([0; 4], [255; 4], udp(68, 68), IP),
        ([192, 0, 2, 1], [8; 4], udp(1, 2), PASSES),
        ([192, 0, 2, 2], [8; 4], udp(1, 2), IP),
    ] {
        assert_eq!(said(V4, &on4(&ipv4(src, dst, 17, 0, &rest))), wanted, "{src:?}");
    }
    // Fragments of a request, headers that lie, another version.
    assert_eq!(said(V4, &on4(&ipv4([0; 4], [255; 4], 17, 0x2000, &udp(68, 67)))), IP);
    let good = ipv4(OWN4, [8; 4], 6, 0, &[0; 40]);
    for (at, octet) in [(0, 0x44), (0, 0x65), (0, 0x05)] {
        let mut bad = good.clone();
        bad[at] = octet;
        assert_eq!(said(V4, &on4(&bad)), IP);
        assert_eq!(said(DHCP, &on4(&bad)), ROLE);
    }
    assert_eq!(said(V4, &on4(&[0x4f; 20])), IP);
}

#[test]
fn behind_tags_and_in_other_wrappings_it_is_the_same() {
    let forged = [&[8u8, 0][..], &ipv4(OTHER4, [8; 4], 6, 0, &[0; 20])].concat();
    let tags: [&[u8]; 3] = [&[0x81, 0, 0x0f, 0xff], &[0x88, 0xa8, 0, 0], &[0x91, 0, 0, 7]];
    let snap = |oui: u8| vec![0, 50, 0xaa, 0xaa, 3, 0, 0, oui];
    let mut wrappings: Vec<Vec<u8>> = vec![snap(0), snap(0xf8), [tags[0].to_vec(), snap(0)].concat()];
    for one in tags {
        wrappings.push(one.to_vec());
        wrappings.extend(tags.map(|two| [one, two].concat()));
        wrappings.push([one, tags[1], one, tags[2]].concat());
        wrappings.push([one, tags[1], one, tags[2], one].concat());
        wrappings.push([&snap(0)[..], one].concat());
    }
    for wrapping in wrappings {
        let frame = [&ALL[..], &OWN, &wrapping, &forged].concat();
        assert_eq!(said(V4, &frame), IP, "{wrapping:02x?}");
    }
    // More tags than anybody takes off, whatever is behind them.
    let many = [&ALL[..], &OWN, &[0x81, 0, 0, 1].repeat(5), &[8, 0], &ipv4(OWN4, [8; 4], 6, 0, &[])].concat();
    assert_eq!((said(V4, &many), said(DHCP, &many), said(LISTED, &many)), (IP, ROLE, MAC));
    // If IP addresses are listed, nothing else passes: IPX, MPLS, PPPoE, MACsec, a made-up one.
    for kind in [0x8137, 0x8847, 0x8864, 0x88e5, 0x6666] {
        assert_eq!(said(V4, &ethernet(ALL, OWN, kind, &[0; 46])), IP);
        assert_eq!(said(V6, &ethernet(ALL, OWN, kind, &[0; 46])), IP);
        assert_eq!(said(DHCP, &ethernet(ALL, OWN, kind, &[0; 46])), PASSES);
    }
    // LLC without SNAP, SNAP in another form.
    for llc in [[6, 6, 3], [0xaa, 0xab, 3], [0xab, 0xaa, 3], [0xaa, 0xaa, 0x13]] {
        assert_eq!(said(DHCP, &ethernet(ALL, OWN, 50, &[&llc[..], &[0; 50]].concat())), ROLE);
    }
    // IPv4 is any if only IPv6 is listed.
    assert_eq!(said(V6, &[&ALL[..], &OWN, &forged].concat()), PASSES);
}

#[test]
fn nobody_answers_dhcp() {
    for (from, to) in [(67, 68), (67, 67), (1234, 68), (67, 1234)] {
        assert_eq!(said(DHCP, &on4(&ipv4(OWN4, [255; 4], 17, 0, &udp(from, to)))), ROLE);
        assert_eq!(said(DHCP, &on4(&ipv4(OWN4, [255; 4], 17, 0x2000, &udp(from, to)))), ROLE, "a first fragment");
    }
    let mut options = ipv4(OWN4, [255; 4], 17, 0, &[&[1; 12][..], &udp(67, 68)].concat());
    options[0] = 0x48;
    assert_eq!(said(DHCP, &on4(&options)), ROLE);
    for (from, to) in [(547, 546), (1, 546), (547, 1)] {
        assert_eq!(said(DHCP, &on6(&ipv6(own6(), &[(17, &udp(from, to))]))), ROLE);
    }
    assert_eq!(said(V4, &on4(&ipv4(OWN4, [255; 4], 17, 0, &udp(67, 68)))), PASSES);
}

/// RFC 7113: extension headers of all kinds, in any number; fragments; chains that do not end.
#[test]
fn nobody_is_a_router_behind_any_headers() {
    let advertisement = [&[134u8, 0, 0, 0][..], &[0; 12]].concat();
    let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let long: &[u8] = &[&[0, 2, 1, 20][..], &[0; 20]].concat();
    let authentication: &[u8] = &[&[0, 4][..], &[0; 22]].concat();
    let (first, atomic): (&[u8], &[u8]) = (&[0, 0, 0, 1, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 1]);
    let last: (u8, &[u8]) = (58, &advertisement);
    for chain in [
        vec![last],
        vec![(0, options), last],
        vec![(60, long), last],
        vec![(43, options), (60, options), last],
        vec![(0, options), (60, long), (51, authentication), (60, options), last],
        vec![(135, options), (139, options), (140, options), last],
        vec![(44, first), last],
        vec![(44, atomic), last],
        vec![(44, first), (60, options), last],
        vec![(44, atomic), (44, atomic), last],
    ] {
        assert_eq!(said(ROUTER, &on6(&ipv6(own6(), &chain))), ROLE, "{chain:?}");
    }
    // A first fragment without the whole chain (RFC 7112), and a chain that is longer than anybody's.
    for chain in [vec![(44, first), (60, &[58, 9, 0, 0, 0, 0, 0, 0][..])], vec![(44, first), (58, &[])]] {
        let frame = on6(&ipv6(own6(), &chain));
        let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
        assert_eq!(Guard::of(&rules(ROUTER)).unwrap().check(&frame, frame.len(), &claimed).map(drop), ROLE);
    }
    let many: Vec<(u8, &[u8])> = std::iter::repeat_n((60u8, options), 40).chain([last]).collect();
    assert_eq!(said(ROUTER, &on6(&ipv6(own6(), &many))), ROLE);
    // Later fragments pass; redirects do not, nor do those of IPv4.
    assert_eq!(said(ROUTER, &on6(&ipv6(own6(), &[(44, &[58, 0, 0, 8, 0, 0, 0, 1]), last]))), PASSES);
    assert_eq!(said(ROUTER, &on6(&ipv6(own6(), &[(58, &[137, 0, 0, 0, 0, 0, 0, 0])]))), ROLE);
    for kind in [5, 9] {
        assert_eq!(said(ROUTER, &on4(&ipv4(OWN4, [8; 4], 1, 0, &[kind, 0, 0, 0]))), ROLE);
    }
    assert_eq!(said(ROUTER, &on6(&ipv6(own6(), &[(58, &[128, 0, 0, 0])]))), PASSES);
}

#[test]
fn neighbour_discovery_claims_no_others_address() {
    let (own, other, none) = (own6(), other6(), [0; 16]);
    for (src, kind, target, (option, mac), wanted) in [
        (other, 135, own, (1, OWN), IP),
        (own, 136, other, (2, OWN), IP),
        (own, 136, own, (2, OTHER), MAC),
        (own, 135, other, (1, OTHER), MAC),
        (own, 136, own, (1, OTHER), MAC),
        (none, 135, other, (14, OWN), IP),
        (none, 136, own, (2, OWN), IP),
        (link_local(), 136, own, (2, OWN), PASSES),
        (address6(&[0xfe, 0x80], 2), 136, own, (2, OWN), IP),
    ] {
        let frame = on6(&ipv6(src, &[(58, &neighbour(kind, target, option, mac))]));
        assert_eq!(said(LISTED | V6, &frame), wanted, "{kind} {target:?}");
    }
    // Two options, of which the second one counts; one without a length; in a fragment; cut off.
    let mut two = neighbour(136, own, 14, OWN);
    two.extend([2, 1].iter().chain(&OTHER));
    assert_eq!(said(LISTED | V6, &on6(&ipv6(own, &[(58, &two)]))), MAC);
    two[25] = 0;
    assert_eq!(said(LISTED | V6, &on6(&ipv6(own, &[(58, &two)]))), IP);
    let good = neighbour(136, own, 2, OWN);
    assert_eq!(said(V6, &on6(&ipv6(own, &[(44, &[0, 0, 0, 1, 0, 0, 0, 1]), (58, &good)]))), IP);
    assert_eq!(said(V6, &on6(&ipv6(own, &[(58, &good[..16])]))[..70]), IP);
    // What has no address may ask and listen, and nothing else.
    for (kind, wanted) in [(128, IP), (130, IP), (131, PASSES), (134, IP), (133, PASSES), (143, PASSES), (151, IP)] {
        assert_eq!(said(V6, &on6(&ipv6(none, &[(58, &[&[kind][..], &[0; 23]].concat())]))), wanted, "{kind}");
    }
    assert_eq!(said(V6, &on6(&ipv6(none, &[(17, &udp(546, 547))]))), IP);
    assert_eq!(said(V6, &on6(&ipv6(none, &[(44, &[0, 0, 0, 8, 0, 0, 0, 1]), (58, &[0; 8])]))), IP);
}

/// What is behind a first fragment in its frame is padding: the receiver puts the next fragment's octets there.
#[test]
fn padding_is_no_part_of_a_first_fragment() {
    let shortened6 = |payload: u16, headers: &[(u8, &[u8])]| {
        let mut packet = ipv6(own6(), headers);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        on6(&packet)
    };
    // Destination options of 16 octets, of which the fragment has 8; then ports that a client has, and a ping.
    let (first, whole): (&[u8], &[u8]) = (&[0, 0, 0, 1, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 1]);
    let options = [&[0, 1, 1, 4, 0, 0, 0, 0][..], &[1, 6, 0, 0, 0, 0, 0, 0]].concat();
    for (next, upper, parts) in [(17, udp(1, 2), DHCP), (58, [&[128, 0][..], &[0; 30]].concat(), ROUTER)] {
        for (fragment, wanted) in [(first, ROLE), (whole, PASSES)] {
            let headers = [(44, fragment), (60, &options), (next, &upper)];
            assert_eq!(said(parts, &shortened6(16, &headers)), wanted, "options end behind it, {next}");
            assert_eq!(said(parts, &shortened6(24, &headers)), wanted, "nothing behind options, {next}");
            assert_eq!(said(parts, &shortened6(32, &headers)), PASSES);
        }
    }
    let ports = on4(&ipv4(OWN4, [8; 4], 17, 0x2000, &udp(1, 2)));
    let mut empty = ports.clone();
    empty[16..18].copy_from_slice(&20u16.to_be_bytes());
    assert_eq!((said(DHCP, &ports), said(DHCP, &empty), said(V4, &empty)), (PASSES, ROLE, PASSES));
    let mut ping = on4(&ipv4(OWN4, [8; 4], 1, 0x2000, &[8, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(said(ROUTER, &ping), PASSES);
    ping[16..18].copy_from_slice(&20u16.to_be_bytes());
    assert_eq!(said(ROUTER, &ping), ROLE);
}

/// While the port has used fewer addresses than it may, the zero address is none of them.
#[test]
fn the_zero_address_is_nobody_s() {
    let reply = ethernet(ALL, OWN, 0x0806, &arp(2, ([0; 6], OWN4), OWN4));
    assert_eq!((said(FIRST, &reply), said(LISTED, &reply)), (MAC, MAC));
    let advertisement = on6(&ipv6(own6(), &[(58, &neighbour(136, own6(), 2, [0; 6]))]));
    assert_eq!(said(FIRST, &advertisement), MAC);
}

#[test]
fn nobody_is_a_bridge() {
    for (dst, kind, rest) in [
        ([1, 0x80, 0xc2, 0, 0, 0x10], 38, &[0x42, 0x42, 3][..]),
        ([1, 0, 0x0c, 0xcc, 0xcc, 0xcd], 50, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b]),
        ([1, 0, 0x0c, 0xcc, 0xcc, 0xcc], 50, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0]),
        ([1, 0x80, 0xc2, 0, 0, 0x21], 0x88f5, &[0; 46]),
        (ALL, 0x88cc, &[0; 46]),
        (OTHER, 38, &[0x42, 0x42, 3]),
        (OTHER, 38, &[0x43, 0x42, 3]),
        (OTHER, 0x8809, &[3; 46]),
    ] {
        let frame = ethernet(dst, OWN, kind, &[rest, &[0; 46]].concat());
        assert_eq!(said(BRIDGE, &frame), ROLE, "{dst:?}");
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        assert_eq!(said(BRIDGE, &tagged), ROLE, "{dst:?} tagged");
        assert_eq!(said(LISTED, &frame), PASSES);
    }
    assert_eq!(said(BRIDGE, &on4(&ipv4(OWN4, [224, 0, 0, 1], 2, 0, &[0; 8]))), PASSES);
}

/// A sender may ask for a checksum anywhere in its frame (virtio 1.3, 5.1.6.2), also where its address is.
#[test]
fn a_checksum_overwrites_nothing_that_was_checked() {
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let guard = Guard::of(&rules(STRICT)).unwrap();
    for (frame, first, more) in [
        (on4(&ipv4(OWN4, [8; 4], 6, 0, &[0; 20])), 34, None),
        (on4(&ipv4(OWN4, [8; 4], 17, 0, &udp(1, 2))), 38, None),
        (on6(&ipv6(own6(), &[(6, &[0; 20])])), 54, None),
        (on6(&ipv6(own6(), &[(17, &udp(1, 2))])), 58, None),
        (on6(&ipv6(own6(), &[(58, &neighbour(136, own6(), 2, OWN))])), 86, Some(56)),
        (ethernet(ALL, OWN, 0x0806, &arp(1, (OWN, OWN4), OWN4)), 42, None),
    ] {
        let decided = guard.check(&frame, frame.len(), &claimed).unwrap();
        let free: Vec<usize> = (0..100).filter(|field| decided.spares(*field)).collect();
        assert_eq!(free, more.into_iter().chain(first..100).collect::<Vec<_>>());
    }
}

/// What is usual is what it should be: otherwise each frame would take the long way.
#[test]
fn usual_frames_are_usual() {
    use crate::memory::frame_head::{FrameHead, Window};
    use crate::memory::slice::GuestSlice;
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let guard = Guard::of(&rules(STRICT)).unwrap();
    let is_usual = |kind: u16, rest: &[u8]| {
        let mut chain = [&[0; 12][..], &ethernet(MACS[1], OWN, kind, rest)].concat();
        let slices = [GuestSlice::of_host(&mut chain)];
        guard.is_usual(&Window::read(&FrameHead::read(&slices), &slices), &claimed)
    };
    for (protocol, rest, wanted) in [(6, udp(80, 1), true), (17, udp(1, 2), true), (17, udp(68, 67), true)]
        .into_iter()
        .chain([(17, udp(67, 1), false), (17, udp(1, 68), false), (1, udp(1, 2), false)])
    {
        assert_eq!(is_usual(0x0800, &ipv4(OWN4, [8; 4], protocol, 0x4000, &rest)), wanted);
        assert!(!is_usual(0x0800, &ipv4(OTHER4, [8; 4], protocol, 0, &rest)));
        assert!(!is_usual(0x0800, &ipv4(OWN4, [8; 4], protocol, 0x2000, &rest)));
    }
    for (protocol, rest, wanted) in [(6, udp(80, 1), true), (17, udp(1, 2), true), (17, udp(1, 546), false)] {
        assert_eq!(is_usual(0x86dd, &ipv6(own6(), &[(protocol, &rest)])), wanted);
        assert!(!is_usual(0x86dd, &ipv6(other6(), &[(protocol, &rest)])));
    }
}

/// An example decides for a frame only what the guard would decide; and it decides for all frames of a flow.
#[test]
fn an_example_stands_for_frames_that_are_usual() {
    use crate::memory::frame_head::{WINDOW_LEN, Window};
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let frames = [
        (0x0800, ipv4(OWN4, [8; 4], 6, 0x4000, &udp(80, 1))),
        (0x0800, ipv4(OWN4, [8; 4], 17, 0, &udp(9, 68))),
        (0x86dd, ipv6(own6(), &[(17, &udp(1, 547))])),
        (0x86dd, ipv6(own6(), &[(6, &udp(1, 2))])),
    ];
    for parts in 0..128 {
        let Some(guard) = Guard::of(&rules(parts)) else { continue };
        for (kind, rest) in &frames {
            let mut octets = [0; WINDOW_LEN];
            let frame = [&[0; 12][..], &ethernet(MACS[1], OWN, *kind, rest)].concat();
            octets.iter_mut().zip(frame).for_each(|(to, octet)| *to = octet);
            let window = Window(octets);
            if !guard.is_usual(&window, &claimed) {
                continue;
            }
            let example = Example::of(&window);
            let mut decided = 0;
            // Behind the addresses, each change of one octet.
            for (at, change) in (24..WINDOW_LEN).flat_map(|at| (0..=255u8).map(move |change| (at, change))) {
                let mut other = octets;
                other[at] ^= change;
                let stands = example.stands_for(&Window(other));
                assert!(!stands || guard.is_usual(&Window(other), &claimed), "{parts} {kind:x} {at} {change}");
                decided += usize::from(stands);
            }
            // Length, number, time to live, checksum and receiver may differ.
            assert!(decided > 256 * 10, "{decided}");
        }
    }
}

/// Frames of pieces that are right in themselves, one behind the other.
mod any_frames {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn pieces() -> Vec<Vec<u8>> {
        let mut pieces: Vec<Vec<u8>> = vec![
            vec![0x81, 0, 0, 1],
            vec![0x88, 0xa8, 0, 1],
            vec![8, 0],
            vec![8, 6],
            vec![0x80, 0x35],
            vec![0x86, 0xdd],
            vec![0, 50, 0xaa, 0xaa, 3, 0, 0, 0],
            vec![0, 50, 0x42, 0x42, 3],
            vec![0x88, 0xcc],
            vec![0; 8],
            vec![58, 0, 0, 1, 0, 0, 0, 1],
            vec![17, 0, 0, 8, 0, 0, 0, 1],
            vec![44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![2, 1, 2, 0, 0, 0, 0, 9],
            vec![14, 40, 2, 0, 0, 0, 0, 9],
            vec![0; 240],
        ];
        for own in [OWN4, OTHER4, [0; 4]] {
            pieces.extend([1, 2, 4].map(|op| arp(op, (OWN, own), own)));
            let all = [1, 6, 17].into_iter().flat_map(|protocol| [0, 0x2000, 9].map(|fragment| (protocol, fragment)));
            pieces.extend(all.map(|(protocol, fragment)| ipv4(own, [255; 4], protocol, fragment, &[])));
        }
        for own in [own6(), other6(), [0; 16]] {
            pieces.extend([0, 6, 17, 44, 58, 60].map(|next| ipv6(own, &[(next, &[])])));
            pieces.extend([135, 136].map(|kind| neighbour(kind, own, 2, OWN)));
        }
        pieces.extend([133, 134, 137, 143, 5, 8].map(|kind| [&[kind][..], &[0; 15]].concat()));
        pieces.extend([(67, 68), (68, 67), (1, 2), (546, 547), (547, 546)].map(|(from, to)| udp(from, to)));
        pieces
    }

    proptest! {
        #[test]
        fn are_read_as_a_plain_reader_reads_them(
            parts in 0u8..128,
            src in select(vec![OWN, OTHER]),
            dst in select(vec![ALL, OTHER, [1, 0, 0x0c, 0xcc, 0xcc, 0xcd]]),
            chosen in proptest::collection::vec(select(pieces()), 1..7),
            changes in proptest::collection::vec((0usize..200, any::<u8>()), 0..3),
            cut in 0usize..400,
        ) {
            let mut frame = [&dst[..], &src, &chosen.concat()].concat();
            for (at, octet) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = octet;
                }
            }
            frame.truncate(cut.max(14));
            compare(&[&[parts], &frame[..]].concat());
        }
    }
}
