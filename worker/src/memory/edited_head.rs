//! The first octets of a chain with another VLAN tag, for frames that lie in one piece.
//!
//! A receiver gets these octets in place of the chain's own first ones. All octets that were looked at are among them, so
//! none of these is read again.

use sv3::virtio::NET_HDR_LEN;

use super::frame_head::{FrameHead, WINDOW_LEN, Window};
use crate::process::crash::HEAD_WORDS;

/// Octets of a tag.
const TAG: usize = 4;
/// Words of net header and addresses.
const IN_FRONT: usize = 3;
/// The second half of a word.
const LOW: u64 = 0xffff_ffff;
/// Octets of the longest one.
const ROOM: usize = WINDOW_LEN + 8;

/// Net header, addresses, the tag if there is one, and what follows.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct EditedHead {
    /// In front, as a [`FrameHead`] is: so a crash record can have it.
    octets: [u8; ROOM],
    /// How many octets count.
    len: usize,
    /// In place of how many octets of the chain.
    replaced: usize,
}

const _: () = assert!(HEAD_WORDS * 8 <= ROOM && IN_FRONT * 8 == NET_HDR_LEN + 12);

impl EditedHead {
    /// Nothing.
    pub const EMPTY: EditedHead = EditedHead { octets: [0; ROOM], len: 0, replaced: 0 };

    /// The head of a chain with another tag. `cut`: the four octets behind the addresses, a tag, are left out. `put`: this
    /// tag stands there, first octet highest; 0: none.
    #[inline]
    pub fn edit_head(&mut self, head: &FrameHead, cut: bool, put: u32) {
        self.edit(head.0.map(u64::from_be), cut, put);
    }

    /// The same of a window.
    #[inline]
    pub fn edit_window(&mut self, window: &Window, cut: bool, put: u32) {
        self.edit(window.words(), cut, put);
    }

    /// `words`: the first octet of each highest.
    #[inline(always)]
    fn edit<const N: usize>(&mut self, words: [u64; N], cut: bool, put: u32) {
        let (front, behind) = words.split_at(IN_FRONT.min(N));
        let (octets, _) = self.octets.as_chunks_mut::<8>();
        let mut places = octets.iter_mut();
        let mut write = |word: u64| {
            if let Some(place) = places.next() {
                *place = word.to_be_bytes();
            }
        };
        front.iter().for_each(|word| write(*word));
        self.replaced = 8 * N;
        let tag = u64::from(put);
        // Halves of words: what is kept of the first one, and whether the others move by a half.
        let Some((first, others)) = behind.split_first() else { return };
        let last = match (cut, put != 0) {
            (false, false) => others.iter().fold(*first, |word, next| {
                write(word);
                *next
            }),
            (true, true) => others.iter().fold(tag << 32 | first & LOW, |word, next| {
                write(word);
                *next
            }),
            (true, false) => others.iter().fold(first << 32, |word, next| {
                write(word | next >> 32);
                next << 32
            }),
            (false, true) => behind.iter().fold(tag << 32, |word, next| {
                write(word | next >> 32);
                next << 32
            }),
        };
        write(last);
        self.len = self.replaced + if put != 0 { TAG } else { 0 } - if cut { TAG } else { 0 };
    }

    /// In place of how many octets of the chain these stand.
    #[inline]
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// The frame's octets among these.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(NET_HDR_LEN..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::slice::GuestSlice;

    #[test]
    fn a_tag_is_put_in_taken_off_or_replaced() {
        let chain: Vec<u8> = (1..=WINDOW_LEN as u8).collect();
        let mut memory = chain.clone();
        let slices = [GuestSlice::of_host(&mut memory)];
        let head = FrameHead::read(&slices);
        let window = Window::read(&head, &slices);
        let tag = [0x81, 0, 0x20, 10];
        for (cut, put) in [(false, false), (true, false), (false, true), (true, true)] {
            let behind = if cut { 28 } else { 24 };
            let (in_front, tag) = (&chain[12..24], if put { &tag[..] } else { &[] });
            let put = if put { u32::from_be_bytes([0x81, 0, 0x20, 10]) } else { 0 };
            let mut edited = EditedHead { octets: [0xff; ROOM], len: 99, replaced: 99 };
            edited.edit_head(&head, cut, put);
            assert_eq!(edited.octets(), [in_front, tag, &chain[behind..32]].concat(), "{cut} {put:x}");
            assert_eq!(edited.replaced(), 32);
            edited.edit_window(&window, cut, put);
            assert_eq!(edited.octets(), [in_front, tag, &chain[behind..72]].concat(), "{cut} {put:x}");
            assert_eq!(edited.replaced(), 72);
        }
    }
}
