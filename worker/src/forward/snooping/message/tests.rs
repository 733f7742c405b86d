//! Each message of each RFC, and what must not be believed.

use sv3::groups::Family::{self, *};

use super::Change::*;
use super::write::*;
use super::*;

const HOST: &str = "10.0.0.2";
const ROUTER: &str = "10.0.0.1";
const HOST6: &str = "fe80::2";
const GROUP: &str = "239.1.2.3";
const GROUP6: &str = "ff15::1:2:3";
/// IGMPv3's and MLDv2's routers.
const V3: &str = "224.0.0.22";
const V2_6: &str = "ff02::16";

/// What a packet to this address says.
fn read<'a>(family: Family, to: &str, packet: &'a [u8]) -> Message<'a> {
    parse(group_mac(to), family, packet, true)
}

fn igmp_says(from: &str, to: &str, body: &[u8]) -> Result<Vec<(String, Change)>, String> {
    says(&read(V4, to, &igmp(from, to, body)))
}

fn mld_says(from: &str, to: &str, body: &[u8]) -> Result<Vec<(String, Change)>, String> {
    says(&read(V6, to, &icmpv6(from, to, body)))
}

fn says(message: &Message<'_>) -> Result<Vec<(String, Change)>, String> {
    let Message::Report(records) = message else { return Err(format!("{message:?}")) };
    let mut said = Vec::new();
    records.for_each(|group, change| said.push((group.to_string(), change)));
    Ok(said)
}

fn of(group: &str, change: Change) -> Result<Vec<(String, Change)>, String> {
    Ok(vec![(group_mac(group).to_string(), change)])
}

#[test]
fn reports_and_leaves_of_igmp() {
    // RFC 1112, 2236.
    assert_eq!(igmp_says(HOST, GROUP, &igmp2(0x12, 0, GROUP)), of(GROUP, Joined));
    assert_eq!(igmp_says(HOST, GROUP, &igmp2(0x16, 0, GROUP)), of(GROUP, Joined));
    assert_eq!(igmp_says(HOST, "224.0.0.2", &igmp2(0x17, 0, GROUP)), of(GROUP, Left));
    assert_eq!(igmp_says(HOST, GROUP, &igmp2(0x17, 0, GROUP)), of(GROUP, Left));
    // RFC 3376: a host without an address reports as well (4.2.13).
    let records: [(u8, &str, &[&str], Option<Change>); 10] = [
        (1, "239.0.1.1", &[], None),
        (1, "239.0.1.2", &["10.0.0.9"], Some(Joined)),
        (2, "239.0.1.3", &[], Some(Joined)),
        (3, "239.0.1.4", &[], Some(Left)),
        (3, "239.0.1.5", &["10.0.0.9", "10.0.0.8"], Some(Joined)),
        (4, "239.0.1.6", &["10.0.0.9"], Some(Joined)),
        (5, "239.0.1.7", &["10.0.0.9"], Some(Joined)),
        (6, "239.0.1.8", &["10.0.0.9"], Some(Left)),
        (7, "239.0.1.9", &["10.0.0.9"], None),
        (2, "10.0.1.9", &[], None),
    ];
    let wanted: Vec<_> =
        records.iter().filter_map(|(_, group, _, change)| Some((group_mac(group).to_string(), (*change)?))).collect();
    let report = igmp3_report(&records.map(|(kind, group, sources, _)| (kind, group, sources)));
    assert_eq!(igmp_says("0.0.0.0", V3, &report), Ok(wanted));
    // Other data behind a record, and padding behind the packet.
    let mut report = igmp3_report(&[(4, GROUP, &[])]);
    report[9] = 2;
    report.extend([1; 8]);
    let mut packet = igmp(HOST, V3, &report);
    packet.extend([7; 10]);
    assert_eq!(says(&read(V4, V3, &packet)), of(GROUP, Joined));
}

#[test]
fn reports_and_leaves_of_mld() {
    // RFC 2710; a host without an address reports as well (RFC 3590).
    for from in [HOST6, "::"] {
        assert_eq!(mld_says(from, GROUP6, &mld1(131, 0, GROUP6)), of(GROUP6, Joined));
        assert_eq!(mld_says(from, "ff02::2", &mld1(132, 0, GROUP6)), of(GROUP6, Left));
        let sources: &[&str] = &["2001:db8::9"];
        let report =
            mld2_report(&[(4, GROUP6, &[]), (1, "ff3e::1:1", sources), (3, "ff15::7", &[]), (1, "ff15::8", &[])]);
        let [joined, sources, left] =
            [(GROUP6, Joined), ("ff3e::1:1", Joined), ("ff15::7", Left)].map(|(g, c)| (group_mac(g).to_string(), c));
        assert_eq!(mld_says(from, V2_6, &report), Ok(vec![joined, sources, left]));
    }
}

#[test]
fn queries() {
    let ask = |to: &str, body: &[u8]| read(V4, to, &igmp(ROUTER, to, body)).query();
    let plain = Query { source: 0x0a00_0001, group: None, lowers: false, response_ns: 0, interval_s: 0, robustness: 0 };
    let about = Query { group: Some(group_mac(GROUP)), ..plain };
    let all = "224.0.0.1";
    assert_eq!(ask(all, &igmp2(0x11, 0, "0.0.0.0")), Some(Query { response_ns: 10_000_000_000, ..plain }));
    assert_eq!(ask(all, &igmp2(0x11, 25, "0.0.0.0")), Some(Query { response_ns: 2_500_000_000, ..plain }));
    let lowers = Query { response_ns: 1_000_000_000, lowers: true, ..about };
    assert_eq!(ask(GROUP, &igmp2(0x11, 10, GROUP)), Some(lowers));
    // RFC 3376, 4.1: a time of 16 times 8 tenths, an interval of 31 times 1024 seconds.
    let long = Query { response_ns: 12_800_000_000, interval_s: 31_744, robustness: 3, ..plain };
    assert_eq!(ask(all, &igmp3_query(128, "0.0.0.0", 3, 255, &[])), Some(long));
    let third = Query { robustness: 2, interval_s: 125, ..lowers };
    assert_eq!(ask(GROUP, &igmp3_query(10, GROUP, 2, 125, &[])), Some(third));
    for (flags, sources) in [(0xa, &[][..]), (2, &["10.0.0.9"][..])] {
        assert_eq!(ask(GROUP, &igmp3_query(10, GROUP, flags, 125, sources)), Some(Query { lowers: false, ..third }));
    }
    let ask = |to: &str, body: &[u8]| read(V6, to, &icmpv6("fe80::1", to, body)).query();
    let plain = Query { source: (0xfe80 << 112) | 1, ..plain };
    let about = Query { group: Some(group_mac(GROUP6)), response_ns: 1_000_000_000, lowers: true, ..plain };
    assert_eq!(ask("ff02::1", &mld1(130, 10_000, "::")), Some(Query { response_ns: 10_000_000_000, ..plain }));
    assert_eq!(ask(GROUP6, &mld1(130, 1000, GROUP6)), Some(about));
    // RFC 3810, 5.1.3: 0x1000 times 8 milliseconds.
    let long = Query { response_ns: 32_768_000_000, robustness: 2, interval_s: 125, ..plain };
    assert_eq!(ask("ff02::1", &mld2_query(0x8000, "::", 2, 125, &[])), Some(long));
    let second = Query { robustness: 2, interval_s: 125, ..about };
    assert_eq!(ask(GROUP6, &mld2_query(1000, GROUP6, 2, 125, &[])), Some(second));
    let sources = &["fe80::9"];
    assert_eq!(ask(GROUP6, &mld2_query(1000, GROUP6, 2, 125, sources)), Some(Query { lowers: false, ..second }));
}

impl Message<'_> {
    fn query(&self) -> Option<Query> {
        if let Message::Query(query) = self { Some(*query) } else { None }
    }
}

#[test]
fn routers() {
    let hello = [0x20, 0, 0, 0];
    assert_eq!(read(V4, "224.0.0.13", &ipv4(ROUTER, "224.0.0.13", 103, &hello)), Message::Router);
    assert_eq!(read(V4, "224.0.0.13", &ipv4(ROUTER, "224.0.0.13", 103, &[0x23, 0, 0, 0])), Message::Other);
    assert_eq!(read(V4, GROUP, &ipv4(ROUTER, GROUP, 103, &hello)), Message::Other);
    let snoopers = "224.0.0.106";
    for (kind, wanted) in [(0x30, Message::Router), (0x31, Message::Other), (0x32, Message::RouterGone)] {
        assert_eq!(read(V4, snoopers, &igmp(ROUTER, snoopers, &[kind, 20, 0, 0, 0, 20, 0, 2])), wanted);
    }
    assert_eq!(read(V6, "ff02::6a", &icmpv6("fe80::1", "ff02::6a", &[151, 20, 0, 0, 0, 20, 0, 2])), Message::Router);
    assert_eq!(read(V6, "ff02::6a", &icmpv6("fe80::1", "ff02::6a", &[153, 0, 0, 0])), Message::RouterGone);
    // A hello of PIM over IPv6 has no Router Alert.
    let mut packet = icmpv6("fe80::1", "ff02::d", &hello);
    packet.drain(40..48);
    (packet[5], packet[6]) = (4, 103);
    assert_eq!(read(V6, "ff02::d", &packet), Message::Router);
}

#[test]
fn what_is_not_understood_is_other() {
    assert_eq!(read(V4, GROUP, &igmp(HOST, GROUP, &[0x13, 0, 0, 0, 1, 2, 3, 4])), Message::Other);
    assert_eq!(read(V4, GROUP, &ipv4(HOST, GROUP, 17, &[0; 20])), Message::Other);
    // A fragment: the rest is elsewhere.
    let mut packet = ipv4(HOST, GROUP, 2, &[0; 20]);
    packet[6] = 0x20;
    packet[10..12].fill(0);
    let sum = (!crate::memory::checksum::sum(&packet[..24], 0)).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    assert_eq!(read(V4, GROUP, &packet), Message::Other);
    // A solicitation of neighbours.
    let to = "ff02::1:ff00:1";
    assert_eq!(read(V6, to, &icmpv6(HOST6, to, &[135, 0, 0, 0, 0, 0, 0, 0])), Message::Other);
}

#[test]
fn what_nobody_may_believe_is_malformed() {
    let igmp_cases: [(&str, &str, Vec<u8>); 11] = [
        (HOST, V3, igmp3_report(&[(4, GROUP, &[])])[..12].to_vec()),
        (HOST, GROUP, igmp2(0x16, 0, "239.9.9.9")),
        (HOST, "224.0.0.2", igmp2(0x17, 0, "10.0.0.1")),
        (HOST, "224.0.0.2", igmp2(0x11, 10, "0.0.0.0")),
        (HOST, "224.0.0.1", igmp2(0x11, 10, GROUP)),
        (HOST, "224.0.0.1", [igmp2(0x11, 10, "0.0.0.0"), vec![2, 125]].concat()),
        (HOST, "224.0.0.1", [igmp2(0x11, 10, "0.0.0.0"), vec![2, 125, 0, 1]].concat()),
        (GROUP, GROUP, igmp2(0x16, 0, GROUP)),
        ("255.255.255.255", "224.0.0.1", igmp2(0x11, 10, "0.0.0.0")),
        (HOST, GROUP, vec![0x16, 0, 0, 0]),
        (HOST, GROUP, vec![0x16, 0, 0, 0, 239, 1, 2]),
    ];
    for (from, to, body) in igmp_cases {
        assert_eq!(read(V4, to, &igmp(from, to, &body)), Message::Malformed, "from {from} to {to}: {body:x?}");
    }
    let mld_cases: [(&str, &str, Vec<u8>); 7] = [
        ("2001:db8::2", GROUP6, mld1(131, 0, GROUP6)),
        ("::", "ff02::1", mld1(130, 100, "::")),
        ("2001:db8::1", "ff02::1", mld2_query(100, "::", 2, 125, &[])),
        (HOST6, GROUP6, mld1(131, 0, "ff15::9")),
        (HOST6, "ff02::1", [mld1(130, 100, "::"), vec![2, 125]].concat()),
        (HOST6, V2_6, mld2_report(&[(4, GROUP6, &[])])[..27].to_vec()),
        (HOST6, GROUP6, mld1(131, 0, "fe80::7")),
    ];
    for (from, to, body) in mld_cases {
        assert_eq!(read(V6, to, &icmpv6(from, to, &body)), Message::Malformed, "from {from} to {to}: {body:x?}");
    }
    let good = icmpv6(HOST6, GROUP6, &mld1(131, 0, GROUP6));
    let change = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        read(V6, GROUP6, &packet) == Message::Malformed
    };
    assert!(change(7, 2), "the hop limit");
    assert!(change(42, 6), "no Router Alert");
    assert!(change(41, 1), "options beyond the packet");
    assert!(change(60, 1), "the checksum");
    // The sender leaves the checksum to the receiver.
    let mut packet = good.clone();
    packet[51] ^= 1;
    assert!(matches!(parse(group_mac(GROUP6), V6, &packet, false), Message::Report(_)));
    // The Ethernet address is another group's.
    assert_eq!(read(V6, "ff15::1", &good), Message::Malformed);
    assert_eq!(read(V4, "239.1.1.1", &igmp(HOST, GROUP, &igmp2(0x16, 0, GROUP))), Message::Malformed);
}

/// Each message, cut anywhere and with each bit turned.
#[test]
fn damaged_messages_say_nothing() {
    let all = [
        (V4, GROUP, igmp(HOST, GROUP, &igmp2(0x16, 0, GROUP))),
        (V4, "224.0.0.1", igmp(ROUTER, "224.0.0.1", &igmp3_query(100, "0.0.0.0", 2, 125, &["10.0.0.9"]))),
        (V4, V3, igmp(HOST, V3, &igmp3_report(&[(4, GROUP, &["10.0.0.9"]), (3, "239.7.7.7", &[])]))),
        (V6, GROUP6, icmpv6(HOST6, GROUP6, &mld1(131, 0, GROUP6))),
        (V6, "ff02::1", icmpv6("fe80::1", "ff02::1", &mld2_query(100, "::", 2, 125, &["fe80::9"]))),
        (V6, V2_6, icmpv6(HOST6, V2_6, &mld2_report(&[(4, GROUP6, &["fe80::9"]), (3, "ff15::7", &[])]))),
    ];
    for (family, to, packet) in all {
        assert!(!matches!(read(family, to, &packet), Message::Malformed | Message::Other));
        for len in 0..packet.len() {
            assert_eq!(read(family, to, &packet[..len]), Message::Malformed, "{len} octets of {packet:x?}");
        }
        for bit in 0..packet.len() * 8 {
            let mut damaged = packet.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let said = read(family, to, &damaged);
            // IPv6's header is not summed, but for the addresses; its first word and the options decide nothing here.
            let unsummed = family == V6 && (bit / 8 < 4 || (40..48).contains(&(bit / 8)));
            let is_harmless = matches!(said, Message::Malformed | Message::Other);
            assert!(is_harmless || unsummed, "bit {bit} of {packet:x?}: {said:?}");
        }
    }
}

#[test]
fn times_are_written_as_they_are_read() {
    for value in [0, 1, 127, 128, 135, 136, 1000, 31_744, u32::MAX] {
        let told = floating(to_floating(value));
        assert!(told <= value && (told >= value - value / 8 || value > 31_744), "{value} is {told}");
    }
}
