//! The first octets of a chain, and the beginning of a frame: the switch decides by them.
//!
//! A guest may write to a frame while the switch forwards it. Everything that the switch decides by (addresses, net
//! header, and the headers that a segmentation is checked against) is therefore read once, into the worker's own
//! memory, and delivered from there. So a receiver gets exactly what was checked. Only octets that decide nothing are
//! copied from guest memory to guest memory. If they change meanwhile, that concerns only the sender and the
//! receiver.
//!
//! The worker keeps each frame's first octets as words for the whole burst ([`FrameHead`]). For a frame that needs
//! segmentation it also reads all octets that may be headers, while that frame is the current one ([`Snapshot`]).

use sv3::frame::MacAddr;
use sv3::virtio::{NET_HDR_LEN, NetHdr, VIRTIO_NET_HDR_F_DATA_VALID};

use super::copy::gather;
use super::slice::GuestSlice;
use crate::process::crash::HEAD_WORDS;

/// Octets of a frame's head.
pub const HEAD_LEN: usize = HEAD_WORDS * 8;

/// The first octets of a chain, as words in memory order. To extract fields from registers costs less than to read
/// memory that was just written.
#[derive(Clone, Copy, Default)]
pub struct FrameHead(pub [u64; HEAD_WORDS]);

impl FrameHead {
    /// Reads the head of a chain that has at least a net header and an Ethernet header. Octets beyond the chain's end
    /// are 0.
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

    /// The same head with another net header, of [`NET_HDR_LEN`] octets.
    #[inline]
    pub fn with_net_hdr(mut self, hdr: NetHdr) -> FrameHead {
        let (first, second) = hdr.to_words();
        self.0[0] = first.to_le();
        self.0[1] = (u64::from_le(self.0[1]) >> 32 << 32 | u64::from(second)).to_le();
        self
    }

    /// Reads the head of a frame behind [`NET_HDR_LEN`] octets that are not its own. Its net header has these flags and
    /// nothing else.
    #[inline]
    pub fn read_frame(slices: &[GuestSlice<'_>], flags: u8) -> FrameHead {
        let words = |first: &GuestSlice<'_>| Some((first.read_words(NET_HDR_LEN)?, first.read_words(NET_HDR_LEN + 4)?));
        match slices.first().and_then(words) {
            Some(([begin], [second, third])) => {
                FrameHead([u64::from(flags).to_le(), (u64::from_le(begin) << 32).to_le(), second, third])
            }
            None => FrameHead::read(slices).with_net_hdr(NetHdr { flags, ..NetHdr::NONE }),
        }
    }

    /// The same head, which does not claim a verified checksum.
    #[inline]
    pub fn without_claims(mut self) -> FrameHead {
        self.0[0] = (u64::from_le(self.0[0]) & !u64::from(VIRTIO_NET_HDR_F_DATA_VALID)).to_le();
        self
    }

    /// What the sender asks for or claims: the net header's first two octets, flags and gso_type, as a number. 0: nothing.
    #[inline]
    pub fn asks(&self) -> u16 {
        u64::from_le(self.0[0]) as u16
    }

    /// Whether the frames have the same addresses. False as well if the two octets after the addresses differ.
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
        // Octets 8 to 23, the first one highest. The source address ends there, or two octets earlier.
        let octets = u128::from(u64::from_be(self.0[1])) << 64 | u128::from(u64::from_be(self.0[2]));
        let src = if skip == NET_HDR_LEN { octets } else { octets >> 16 };
        (MacAddr::from_bits((src >> 48) as u64), MacAddr::from_bits(src as u64))
    }

    /// The octets behind the addresses as a word, the first one highest, of a frame behind a net header of [`NET_HDR_LEN`]
    /// octets.
    #[inline]
    pub fn word_behind_addresses(&self) -> u64 {
        u64::from_be(self.0[3])
    }

    /// The six octets behind the addresses, of a frame behind a net header of `skip` octets, 10 or 12: its type, or a VLAN
    /// tag and the type behind it.
    #[inline]
    pub fn behind_addresses(&self, skip: usize) -> [u8; 6] {
        // Octets 16 to 31, the first one highest.
        let octets = u128::from(u64::from_be(self.0[2])) << 64 | u128::from(u64::from_be(self.0[3]));
        let shifted = if skip == NET_HDR_LEN { octets << 64 } else { octets << 48 };
        let [a, b, c, d, e, f, ..] = shifted.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// All octets.
    fn octets(&self) -> [u8; HEAD_LEN] {
        let mut octets = [0; HEAD_LEN];
        for (to, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = word.to_ne_bytes();
        }
        octets
    }
}

/// Octets of a [`Window`].
pub const WINDOW_LEN: usize = 72;

/// The first octets of a chain, as many as usual headers have: net header, Ethernet, IPv6 and the ports behind it. They are
/// read if the sender's frames are held to what is in them, and delivered as they were read.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Window(pub [u8; WINDOW_LEN]);

/// Words of a window from the one on that begins behind the addresses.
const MASKED: usize = WINDOW_LEN / 8 - 3;

/// Some bits of a window behind the addresses.
pub struct WindowMask([u64; MASKED]);

impl WindowMask {
    /// `words`: as [`Window::words`] has them, from the fourth one on.
    pub const fn new(words: [u64; MASKED]) -> WindowMask {
        let [a, b, c, d, e, f] = words;
        WindowMask([a.to_be(), b.to_be(), c.to_be(), d.to_be(), e.to_be(), f.to_be()])
    }
}

impl Window {
    /// Nothing.
    pub const EMPTY: Window = Window([0; WINDOW_LEN]);

    /// The window of a chain.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn read(head: &FrameHead, slices: &[GuestSlice<'_>]) -> Window {
        let mut window = Window([0xff; WINDOW_LEN]);
        window.fill(head, slices);
        window
    }

    /// Reads what follows the head. Octets behind the chain's end are 0.
    #[inline]
    pub fn fill(&mut self, head: &FrameHead, slices: &[GuestSlice<'_>]) {
        let words = slices.first().and_then(|first| first.read_words::<{ WINDOW_LEN / 8 - HEAD_WORDS }>(HEAD_LEN));
        let (begin, rest) = self.0.split_at_mut(HEAD_LEN);
        let put = |place: &mut [u8], words: &[u64]| {
            place.as_chunks_mut::<8>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_ne_bytes());
        };
        put(begin, &head.0);
        match words {
            Some(words) => put(rest, &words),
            None => {
                rest.fill(0);
                gather(slices, HEAD_LEN, rest);
            }
        }
    }

    /// All octets as words, the first octet of each highest.
    #[inline]
    pub fn words(&self) -> [u64; WINDOW_LEN / 8] {
        let words = self.0.as_chunks::<8>().0;
        std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_be_bytes(*word)))
    }

    /// Whether the windows have the same bits where `mask` has some.
    #[inline]
    pub fn is_like(&self, other: &Window, mask: &WindowMask) -> bool {
        let words = |window: &Window| {
            let words = window.0.last_chunk::<{ MASKED * 8 }>().map_or(&[][..], |octets| octets.as_chunks::<8>().0);
            std::array::from_fn::<u64, MASKED, _>(|at| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word)))
        };
        let pairs = words(self).into_iter().zip(words(other));
        pairs.zip(mask.0).fold(0, |differ, ((own, others), mask)| differ | (own ^ others) & mask) == 0
    }
}

/// The octets of a frame that are delivered exactly as they were read first. The rest is read from the frame itself.
#[derive(Clone, Copy)]
pub enum Snapshot<'a> {
    /// The head of the frame's chain. Head and guest memory are kept until the burst is published.
    Chain(&'a FrameHead),
    /// The frame's first octets.
    Frame(&'a [u8]),
}

impl Snapshot<'_> {
    /// No octets: the frame is in the worker's own memory.
    pub const NOTHING: Snapshot<'static> = Snapshot::Frame(&[]);

    /// The first octets of a frame of `len` octets, after a net header of `skip` octets. `room` holds them.
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
            assert_eq!(head.behind_addresses(skip), wanted[12..18]);
        }
        let hdr = NetHdr { flags: 3, gso_size: 7, csum_offset: 6, num_buffers: 1, ..NetHdr::NONE };
        let other = head.with_net_hdr(hdr);
        assert_eq!((other.net_hdr(12), other.addresses(12)), (hdr, head.addresses(12)));
        assert_eq!(FrameHead::read_frame(&[GuestSlice::of_host(&mut chain)], 2).0, {
            head.with_net_hdr(NetHdr { flags: 2, ..NetHdr::NONE }).0
        });
        let short = FrameHead::read_frame(&[GuestSlice::of_host(&mut chain[..26])], 2);
        assert_eq!((short.net_hdr(12).flags, short.addresses(12)), (2, head.addresses(12)));
        assert_eq!(other.without_claims().net_hdr(12), NetHdr { flags: 1, ..hdr });
        assert_eq!(Snapshot::Frame(&[7, 8, 9]).octets((12, 2), &mut room), [7, 8]);
        assert!(Snapshot::NOTHING.octets((0, 60), &mut room).is_empty());
    }

    #[test]
    fn a_window_is_the_head_and_what_follows_it() {
        for len in [26usize, 33, 71, 72, 100] {
            let mut chain: Vec<u8> = (1..=len as u8).collect();
            let mut wanted = chain.clone();
            wanted.resize(WINDOW_LEN, 0);
            let slices = [GuestSlice::of_host(&mut chain)];
            let window = Window::read(&FrameHead::read(&slices), &slices);
            assert_eq!(window.0, wanted[..]);
            assert_eq!(window.words()[1].to_be_bytes(), wanted[8..16]);
        }
    }
}
