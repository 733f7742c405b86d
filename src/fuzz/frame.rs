//! Target `frame`: an Ethernet header and a net header, read by hand and by [`crate::frame`] and [`crate::virtio`].

use super::Input;
use crate::frame::MacAddr;
use crate::virtio::{NetHdr, feature_names};

/// Octets: net header (12), destination (6), source (6), features (8).
pub fn frame(octets: &[u8]) {
    let mut input = Input::new(octets);
    let raw: [u8; 12] = input.array();
    let hdr = NetHdr::from_bytes(raw);
    assert_eq!(hdr.to_bytes(), raw);
    let word = |at: usize| u16::from(raw[at]) | u16::from(raw[at + 1]) << 8;
    assert_eq!((hdr.flags, hdr.gso_type), (raw[0], raw[1]));
    assert_eq!([hdr.hdr_len, hdr.gso_size, hdr.csum_start], [word(2), word(4), word(6)]);
    assert_eq!([hdr.csum_offset, hdr.num_buffers], [word(8), word(10)]);

    let addresses: [[u8; 6]; 2] = [input.array(), input.array()];
    let [dst, src] = addresses.map(MacAddr::new);
    for (mac, octets) in [dst, src].into_iter().zip(addresses) {
        assert_eq!(mac.octets(), octets);
        assert_eq!(MacAddr::from_bits(mac.bits() | 0xffff << 48), mac);
        assert_eq!(mac.is_group(), octets[0] & 1 == 1);
        assert_eq!(mac.is_zero(), octets == [0; 6]);
        assert_eq!(mac.is_link_local(), octets[..5] == [1, 0x80, 0xc2, 0, 0] && octets[5] < 16);
        assert_eq!(mac.to_string(), octets.map(|octet| format!("{octet:02x}")).join(":"));
    }
    assert_eq!(dst.cmp(&src), addresses[0].cmp(&addresses[1]));

    let features = input.u64();
    assert_eq!(feature_names(features).len(), features.count_ones() as usize);
}
