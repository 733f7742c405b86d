//! Frames that the card has joined (RSC), as frames of virtio that their receiver may segment again.
//!
//! The card leaves the headers of the first frame and sets some of their fields (82599, 7.11). A receiver expects a frame
//! like one that was never segmented: lengths and the checksum of the IP header are those of the whole, and the checksum
//! of TCP is partial (virtio 1.3, 5.1.6.4). All fields are set, whatever the card has left in them.

use sv3::virtio::{NetHdr, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6};

use super::headers::{HEAD, Headers, IPV6};
use crate::memory::checksum::{fold, sum};
use crate::memory::slice::GuestSlice;

/// Where a TCP header has its checksum.
const TCP_CSUM: usize = 16;

/// Completes the headers of a frame of `len` octets that were `joined` frames. `first`: its first buffer. `mtu`: that of
/// the network. Returns the net header. `None`: it is no TCP.
pub fn complete(first: &GuestSlice<'_>, (len, joined): (usize, u16), mtu: u16) -> Option<NetHdr> {
    let mut head = [0; HEAD];
    let known = first.read(0, &mut head);
    let head = head.get(..known)?;
    let headers = Headers::find(head)?;
    let end = headers.tcp_end(head).filter(|end| *end < len && *end <= known)?;
    let Headers { l3, l4, protocol, v6 } = headers;
    let addresses = if v6 {
        first.write(l3 + 4, &u16::try_from(len - l3 - IPV6).ok()?.to_be_bytes());
        head.get(l3 + 8..l3 + IPV6)?
    } else {
        let mut ip = [0; 60];
        let ip = ip.get_mut(..l4 - l3)?;
        ip.copy_from_slice(head.get(l3..l4)?);
        ip.get_mut(2..4)?.copy_from_slice(&u16::try_from(len - l3).ok()?.to_be_bytes());
        ip.get_mut(10..12)?.fill(0);
        let checksum = !sum(ip, 0);
        ip.get_mut(10..12)?.copy_from_slice(&checksum.to_be_bytes());
        first.write(l3, ip);
        head.get(l3 + 12..l3 + 20)?
    };
    let pseudo = fold(u64::from(sum(addresses, 0)) + u64::from(protocol) + (len - l4) as u64);
    first.write(l4 + TCP_CSUM, &pseudo.to_be_bytes());
    let size = segment_size(len - end, joined, usize::from(mtu).saturating_sub(end - l3));
    Some(NetHdr {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gso_type: if v6 { VIRTIO_NET_HDR_GSO_TCPV6 } else { VIRTIO_NET_HDR_GSO_TCPV4 },
        hdr_len: u16::try_from(end).ok()?,
        gso_size: u16::try_from(size).ok()?,
        csum_start: u16::try_from(l4).ok()?,
        csum_offset: TCP_CSUM as u16,
        num_buffers: 0,
    })
}

/// Octets of payload in each of the frames, of which the last one may have had less. The card tells only how many there
/// were. If each may have had the `usual` number, they are taken to have had it.
fn segment_size(payload: usize, joined: u16, usual: usize) -> usize {
    let joined = usize::from(joined).max(1);
    let least = payload.div_ceil(joined);
    let most = payload.saturating_sub(1).checked_div(joined - 1).unwrap_or(payload);
    if (least..=most).contains(&usual) { usual } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_the_usual_size_if_they_can() {
        assert_eq!(segment_size(5000, 4, 1448), 1448);
        assert_eq!(segment_size(4 * 1448, 4, 1448), 1448);
        assert_eq!(segment_size(3 * 1448 + 1, 4, 1448), 1448);
        assert_eq!(segment_size(4 * 1000, 4, 1448), 1000, "another size");
        assert_eq!((segment_size(100, 1, 1448), segment_size(100, 0, 100)), (100, 100));
    }
}
