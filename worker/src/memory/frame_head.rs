//! The first octets of a chain, and the begin of a frame: what decisions are made by.
//!
//! A guest may write to a frame while it is on its way. What was decided by (addresses, net header, and the headers that a
//! segmentation is checked against) is therefore read once, into memory of the worker's own, and delivered from there:
//! what a receiver gets is what was looked at. Only octets that nothing is decided by are copied from guest memory to guest
//! memory, and whether they change meanwhile is an affair between sender and receiver.
//!
//! Each frame's first octets are kept as words for as long as its burst lasts ([`FrameHead`]); of a frame that is to be
//! segmented, as many octets as may be headers are read in addition, for as long as the frame is in hand ([`Snapshot`]).

use sv3::frame::MacAddr;
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use super::copy::gather;
use super::slice::GuestSlice;
use crate::process::crash::HEAD_WORDS;

/// Octets of a frame's head.
pub const HEAD_LEN: usize = HEAD_WORDS * 8;

/// The first octets of a chain, in words as they stand in memory: picking them apart in registers costs less than from
/// memory that was only just written.
#[derive(Clone, Copy, Default)]
pub struct FrameHead(pub [u64; HEAD_WORDS]);

impl FrameHead {
    /// Of a chain that has a net header and an Ethernet header at least; what it does not have is 0.
    #[inline]
    pub fn read(slices: &[GuestSlice<'_>]) -> FrameHead {
        let words = slices.first().and_then(|first| first.read_words(0));
        FrameHead(words.unwrap_or_else(|| {
            let mut octets = [0; HEAD_LEN];
            gather(slices, 0, &mut octets);
            let (words, _) = octets.as_chunks::<8>();
            std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word)))
        }))
    }

    /// Whether the sender says that something is left to be done.
    #[inline]
    pub fn has_offload(&self) -> bool {
        // The header's first two octets: flags and gso_type.
        u64::from_le(self.0[0]) as u16 != 0
    }

    /// Whether the frames have the same addresses; no, too, if they differ in the two octets beside.
    #[inline]
    pub fn same_addresses(&self, other: &FrameHead) -> bool {
        self.0[1] == other.0[1] && self.0[2] == other.0[2]
    }

    /// The net header of `len` octets, 10 or 12.
    pub fn net_hdr(&self, len: usize) -> NetHdr {
        let [a, b, ..] = self.0.map(u64::to_ne_bytes);
        let [flags, gso_type, c, d, e, f, g, h] = a;
        let [i, j, k, l, ..] = b;
        let (k, l) = if len == NET_HDR_LEN { (k, l) } else { (0, 0) };
        NetHdr::from_bytes([flags, gso_type, c, d, e, f, g, h, i, j, k, l])
    }

    /// Destination and source of the frame behind a net header of `skip` octets, 10 or 12.
    #[inline]
    pub fn addresses(&self, skip: usize) -> (MacAddr, MacAddr) {
        // Octets 8 to 23, the first one highest: the source ends them, or is two octets further to the front.
        let octets = u128::from(u64::from_be(self.0[1])) << 64 | u128::from(u64::from_be(self.0[2]));
        let src = if skip == NET_HDR_LEN { octets } else { octets >> 16 };
        (MacAddr::from_bits((src >> 48) as u64), MacAddr::from_bits(src as u64))
    }

    /// All of it, octet by octet.
    fn octets(&self) -> [u8; HEAD_LEN] {
        let mut octets = [0; HEAD_LEN];
        for (to, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = word.to_ne_bytes();
        }
        octets
    }
}

/// The octets of a frame that are delivered as they were looked at. The rest is where the frame lies.
#[derive(Clone, Copy)]
pub enum Snapshot<'a> {
    /// The head of the frame's chain, which is kept until the burst is published, as is the guest's memory.
    Chain(&'a FrameHead),
    /// The frame's first octets.
    Frame(&'a [u8]),
}

impl Snapshot<'_> {
    /// None: the frame is the worker's own.
    pub const NOTHING: Snapshot<'static> = Snapshot::Frame(&[]);

    /// The first octets of a frame of `len` octets behind a net header of `skip` octets; `room` is for them.
    pub fn octets<'r>(&self, (skip, len): (usize, usize), room: &'r mut [u8; HEAD_LEN]) -> &'r [u8]
    where
        Self: 'r,
    {
        let octets = match *self {
            Snapshot::Chain(head) => {
                *room = head.octets();
                room.get(skip..)
            }
            Snapshot::Frame(octets) => Some(octets),
        };
        let octets = octets.unwrap_or_default();
        octets.get(..len).unwrap_or(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begin_is_the_frames_first_octets_and_no_more_than_it_has() {
        let mut chain: Vec<u8> = (0..40).collect();
        let head = FrameHead::read(&[GuestSlice::of_host(&mut chain)]);
        let mut room = [0; HEAD_LEN];
        for skip in [10usize, 12] {
            let wanted: Vec<u8> = (skip as u8..HEAD_LEN as u8).collect();
            assert_eq!(Snapshot::Chain(&head).octets((skip, 1500), &mut room), wanted);
            assert_eq!(Snapshot::Chain(&head).octets((skip, 14), &mut room), &wanted[..14]);
        }
        assert_eq!(Snapshot::Frame(&[7, 8, 9]).octets((12, 2), &mut room), [7, 8]);
        assert!(Snapshot::NOTHING.octets((0, 60), &mut room).is_empty());
    }
}
