//! A frame as one line for people.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use sv3::capture::{Passage, Record};
use sv3::frame::MacAddr;
use sv3::virtio::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};

/// Most VLAN tags that are shown.
const TAGS_MAX: usize = 2;

/// The line of a frame that passed `port` at a time of day (UTC), in nanoseconds since 1970.
pub fn of(record: &Record, frame: &[u8], port: &str, time: u64) -> String {
    let (seconds, micros) = (time / 1_000_000_000 % 86_400, time / 1_000 % 1_000_000);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let way = match record.passage {
        Passage::In => "in ",
        Passage::Out => "out",
    };
    let mut line = format!("{hours:02}:{minutes:02}:{rest:02}.{micros:06} {port} {way} {}", summary(frame));
    let _ = write!(line, ", {} octets", record.len);
    if let Some(offloads) = offloads(record) {
        let _ = write!(line, ", {offloads}");
    }
    if let Some(reason) = record.dropped {
        let _ = write!(line, ", dropped: {}", reason.name());
    }
    line.push('\n');
    line
}

/// What the receiver of the frame still has to do, in words. `None`: nothing.
pub fn offloads(record: &Record) -> Option<String> {
    let hdr = record.hdr;
    let sum = (hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0).then(|| {
        format!("partial checksum from {} at {}", hdr.csum_start, hdr.csum_start.saturating_add(hdr.csum_offset))
    });
    let kind = match hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
        VIRTIO_NET_HDR_GSO_NONE => None,
        VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_TCPV6 => Some("TCP"),
        VIRTIO_NET_HDR_GSO_UDP_L4 => Some("UDP"),
        _ => Some("unknown"),
    };
    let segments = kind.map(|kind| format!("{kind} segments of {} octets", hdr.gso_size));
    match (sum, segments) {
        (None, None) => None,
        (sum, segments) => Some(sum.into_iter().chain(segments).collect::<Vec<_>>().join(", ")),
    }
}

fn summary(frame: &[u8]) -> String {
    let Some((addresses, mut rest)) = frame.split_at_checked(12) else { return "too short for Ethernet".to_string() };
    let mac = |at: usize| addresses.get(at..at + 6).and_then(|octets| octets.try_into().ok()).map(MacAddr::new);
    let (Some(to), Some(from)) = (mac(0), mac(6)) else { return String::new() };
    let mut line = format!("{from} > {to}");
    let mut tags = 0;
    loop {
        let Some((kind, behind)) = rest.split_first_chunk().map(|(kind, behind)| (u16::from_be_bytes(*kind), behind))
        else {
            return line;
        };
        match (kind, behind.split_first_chunk()) {
            (0x8100 | 0x88a8, Some((tag, behind))) if tags < TAGS_MAX => {
                let _ = write!(line, ", vlan {}", u16::from_be_bytes(*tag) & 0xfff);
                (rest, tags) = (behind, tags + 1);
            }
            _ => {
                line.push_str(", ");
                line.push_str(&payload(kind, behind).unwrap_or_else(|| format!("type {kind:#06x}")));
                return line;
            }
        }
    }
}

fn payload(kind: u16, octets: &[u8]) -> Option<String> {
    let v4 = |at: usize| octets.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(Ipv4Addr::from);
    let v6 = |at: usize| octets.get(at..at + 16).and_then(|all| <[u8; 16]>::try_from(all).ok()).map(Ipv6Addr::from);
    match kind {
        0x0806 => Some(match u16::from_be_bytes(*octets.get(6..)?.first_chunk()?) {
            1 => format!("ARP who has {}, tell {}", v4(24)?, v4(14)?),
            2 => format!("ARP {} is here", v4(14)?),
            other => format!("ARP operation {other}"),
        }),
        0x0800 => {
            let header = usize::from(octets.first()? & 0xf) * 4;
            let is_later = u16::from_be_bytes(*octets.get(6..)?.first_chunk()?) & 0x1fff != 0;
            let behind = octets.get(header..).filter(|_| !is_later);
            Some(transport(*octets.get(9)?, behind, &v4(12)?.to_string(), &v4(16)?.to_string()))
        }
        0x86dd => {
            Some(transport(*octets.get(6)?, octets.get(40..), &format!("[{}]", v6(8)?), &format!("[{}]", v6(24)?)))
        }
        _ => None,
    }
}

fn transport(protocol: u8, octets: Option<&[u8]>, from: &str, to: &str) -> String {
    let port = |at: usize| Some(u16::from_be_bytes(*octets?.get(at..)?.first_chunk()?));
    match (protocol, port(0), port(2)) {
        (6, Some(source), Some(destination)) => {
            let flags = octets.and_then(|octets| octets.get(13)).copied().unwrap_or(0);
            let names = [(2, 'S'), (16, '.'), (1, 'F'), (4, 'R'), (8, 'P')];
            let flags: String = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
            format!("TCP {from}:{source} > {to}:{destination} [{flags}]")
        }
        (17, Some(source), Some(destination)) => format!("UDP {from}:{source} > {to}:{destination}"),
        (1 | 58, Some(kind), _) => format!("ICMP {from} > {to} type {}", kind >> 8),
        _ => format!("IP {from} > {to} protocol {protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sv3::drop_reason::DropReason;
    use sv3::virtio::NetHdr;

    use super::*;

    fn record(dropped: Option<DropReason>, hdr: NetHdr) -> Record {
        Record { captured: 60, len: 60, slot: 0, passage: Passage::In, dropped, time_ns: 0, hdr }
    }

    #[test]
    fn a_line_tells_what_a_frame_is_and_what_became_of_it() {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 10, 8, 0, 0x45];
        frame.extend([0; 8]);
        frame.extend([17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0x30, 0x39]);
        let hdr = NetHdr { flags: 1, csum_start: 38, csum_offset: 6, ..NetHdr::NONE };
        assert_eq!(
            of(&record(Some(DropReason::VlanTag), hdr), &frame, "web", 3_661_000_002_000),
            "01:01:01.000002 web in  02:00:00:00:00:01 > 02:00:00:00:00:02, vlan 10, UDP 10.0.0.1:53 > 10.0.0.2:12345, \
             60 octets, partial checksum from 38 at 44, dropped: vlan_tag\n"
        );
    }

    proptest! {
        #[test]
        fn any_frame_has_a_line(
            frame in proptest::collection::vec(any::<u8>(), 0..90),
            kind in proptest::sample::select(vec![[8u8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]]),
        ) {
            let frame: Vec<u8> = frame.iter().take(12).chain(&kind).chain(frame.iter().skip(12)).copied().collect();
            assert!(of(&record(None, NetHdr::NONE), &frame, "p0", u64::MAX).ends_with('\n'));
        }
    }
}
