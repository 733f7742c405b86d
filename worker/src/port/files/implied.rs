//! The net header that a frame of [`sv3::attachment::FrameForm::Implied`] would have.
//!
//! libkrun passes its guest's frames on without their net headers, although the guest uses offloads. All that it lost
//! can be found in the frame: TCP and UDP frames have a partial checksum, and a TCP frame longer than the MTU is to be
//! segmented. A long UDP frame is one datagram (libkrun offers UFO, and no USO), so it stays whole.

use sv3::frame::ETHERNET_LEN;
use sv3::virtio::*;

/// Octets of a frame's beginning in which the headers are looked for.
pub const HEAD: usize = 256;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_CSUM: usize = 16;
const UDP_CSUM: usize = 6;

/// The header of a frame of `len` octets that begins with `head`. What it says is checked like any other header.
pub fn header(head: &[u8], len: usize, mtu: usize) -> NetHdr {
    transport(head).and_then(|found| found.header(head, len, mtu)).unwrap_or(NetHdr::NONE)
}

/// Where TCP or UDP begins.
struct Transport {
    ip: usize,
    at: usize,
    protocol: u8,
    v6: bool,
}

fn transport(head: &[u8]) -> Option<Transport> {
    let mut ip = ETHERNET_LEN;
    for _ in 0..3 {
        match be16(head, ip - 2)? {
            0x8100 | 0x88a8 => ip += 4,
            0x0800 => {
                let ihl = usize::from(head.get(ip)? & 0xf) * 4;
                // A fragment's checksum covers the whole datagram.
                let whole = be16(head, ip + 6)? & 0x3fff == 0;
                return whole.then_some(Transport { ip, at: ip + ihl, protocol: *head.get(ip + 9)?, v6: false });
            }
            0x86dd => return after_ipv6(head, ip),
            _ => return None,
        }
    }
    None
}

/// Skips hop-by-hop options, routing headers and destination options (RFC 8200, 4).
fn after_ipv6(head: &[u8], ip: usize) -> Option<Transport> {
    let (mut at, mut protocol) = (ip + 40, *head.get(ip + 6)?);
    while matches!(protocol, 0 | 43 | 60) {
        protocol = *head.get(at)?;
        at += 8 + usize::from(*head.get(at + 1)?) * 8;
    }
    Some(Transport { ip, at, protocol, v6: true })
}

impl Transport {
    fn header(&self, head: &[u8], len: usize, mtu: usize) -> Option<NetHdr> {
        let csum_offset = match self.protocol {
            TCP => TCP_CSUM,
            // A datagram without a checksum. The sum of a pseudo header is never 0.
            UDP if be16(head, self.at + UDP_CSUM)? == 0 => return None,
            UDP => UDP_CSUM,
            _ => return None,
        };
        let hdr = NetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            csum_start: u16::try_from(self.at).ok()?,
            csum_offset: csum_offset as u16,
            ..NetHdr::NONE
        };
        if self.protocol != TCP || len <= self.ip + mtu {
            return Some(hdr);
        }
        let end = self.at + usize::from(head.get(self.at + 12)? >> 4) * 4;
        let gso_size = u16::try_from(mtu.checked_sub(end.checked_sub(self.ip)?)?).ok()?;
        let gso_type = if self.v6 { VIRTIO_NET_HDR_GSO_TCPV6 } else { VIRTIO_NET_HDR_GSO_TCPV4 };
        Some(NetHdr { gso_type, gso_size, hdr_len: u16::try_from(end).ok()?, ..hdr })
    }
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}
