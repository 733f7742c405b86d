//! Copies between lists of slices.

use crate::memory::slice::GuestSlice;

/// Copies out of a list of slices, from octet `skip` on. Returns the number of octets copied.
#[inline]
pub fn gather(slices: &[GuestSlice<'_>], skip: usize, into: &mut [u8]) -> usize {
    Reader::new(&[], slices, skip).read(into)
}

/// A position in a frame, to read from.
pub struct Reader<'a, 'm> {
    /// The octets that were already read.
    snapshot: &'a [u8],
    slices: &'a [GuestSlice<'m>],
    offset: usize,
}

impl<'a, 'm> Reader<'a, 'm> {
    /// Starts `skip` octets after the beginning of the list. `snapshot` holds the octets that were already read from
    /// there.
    #[inline]
    pub fn new(snapshot: &'a [u8], slices: &'a [GuestSlice<'m>], skip: usize) -> Reader<'a, 'm> {
        Reader { snapshot, slices, offset: skip + snapshot.len() }
    }

    /// Copies the next octets out. Returns how many.
    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let (known, snapshot) = self.snapshot.split_at(self.snapshot.len().min(into.len()));
        for (to, from) in into.iter_mut().zip(known) {
            *to = *from;
        }
        self.snapshot = snapshot;
        let mut done = known.len();
        while let Some((first, others)) = self.slices.split_first() {
            if self.offset >= first.len() {
                self.offset -= first.len();
                self.slices = others;
                continue;
            }
            let rest = into.get_mut(done..).unwrap_or(&mut []);
            if rest.is_empty() {
                break;
            }
            let n = first.read(self.offset, rest);
            self.offset += n;
            done += n;
        }
        done
    }
}

/// A position in a list of slices, to write to.
pub struct Writer<'a, 'm> {
    slices: &'a [GuestSlice<'m>],
    offset: usize,
}

impl<'a, 'm> Writer<'a, 'm> {
    /// The beginning of the list.
    #[inline]
    pub fn new(slices: &'a [GuestSlice<'m>]) -> Writer<'a, 'm> {
        Writer { slices, offset: 0 }
    }

    /// The slice to write to next; it has room.
    #[inline]
    fn front(&mut self) -> Option<&'a GuestSlice<'m>> {
        loop {
            let (first, rest) = self.slices.split_first()?;
            if self.offset < first.len() {
                return Some(first);
            }
            self.slices = rest;
            self.offset = 0;
        }
    }

    /// Writes octets. Returns how many fitted.
    #[inline]
    pub fn write(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(front) = self.front() else { break };
            let n = front.write(self.offset, rest);
            self.offset += n;
            done += n;
        }
        done
    }

    /// Copies `len` octets from a list of slices, from octet `skip` on. Returns how many existed and fitted.
    #[inline]
    pub fn copy(&mut self, from: &[GuestSlice<'_>], mut skip: usize, len: usize) -> usize {
        let mut done = 0;
        for slice in from {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            while done < len && skip < slice.len() {
                let Some(front) = self.front() else { return done };
                let n = slice.copy_to(skip, front, self.offset, len - done);
                self.offset += n;
                skip += n;
                done += n;
            }
            skip = 0;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(buffer: &mut [u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = buffer.to_vec();
        let mut out = Vec::new();
        for cut in cuts {
            let tail = rest.split_off((*cut).min(rest.len()));
            out.push(std::mem::replace(&mut rest, tail));
        }
        out.push(rest);
        out
    }

    #[test]
    fn pieces_of_all_lengths_are_copied_whole() {
        let mut data: Vec<u8> = (0..70_000u32).map(|n| (n * 7 / 3) as u8).collect();
        let mut target = vec![0; 70_000];
        let expected = data.clone();
        let from = GuestSlice::of_host(&mut data);
        for len in (1400..1800).chain([2047, 2048, 2049, 4084, 4096, 9000, 65_522, 65_535]) {
            let (offset, to_offset) = (len % 67, len % 61);
            target.fill(0xa5);
            let to = GuestSlice::of_host(&mut target);
            assert_eq!(from.copy_to(offset, &to, to_offset, len), len);
            let (copied, rest) = target[to_offset..].split_at(len);
            assert!(*copied == expected[offset..offset + len], "{len}");
            assert!(rest.iter().chain(&target[..to_offset]).all(|octet| *octet == 0xa5), "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_copies_the_same_octets(
            mut data in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..60, 0..8),
            room in proptest::collection::vec(0usize..60, 0..12),
            skip in 0usize..40,
            known in 0usize..60,
        ) {
            let mut pieces = cut(&mut data, &cuts);
            let from: Vec<_> = pieces.iter_mut().map(|piece| GuestSlice::of_host(piece)).collect();
            let mut buffers: Vec<Vec<u8>> = room.iter().map(|n| vec![0; *n]).collect();
            let to: Vec<_> = buffers.iter_mut().map(|buffer| GuestSlice::of_host(buffer)).collect();
            let total: usize = room.iter().sum();
            let expected = data.get(skip..).unwrap_or(&[]);
            let n = expected.len().min(total);
            prop_assert_eq!(Writer::new(&to).copy(&from, skip, expected.len()), n);
            prop_assert_eq!(&buffers.concat()[..n], &expected[..n]);
            let mut out = vec![0; expected.len()];
            let mut pieces = cut(&mut data.clone(), &cuts);
            let from: Vec<_> = pieces.iter_mut().map(|piece| GuestSlice::of_host(piece)).collect();
            prop_assert_eq!(gather(&from, skip, &mut out), expected.len());
            prop_assert_eq!(&out[..], expected);
            let known = expected.get(..known).unwrap_or(expected);
            let (mut source, mut out) = (Reader::new(known, &from, skip), Vec::<u8>::new());
            for n in room {
                let mut piece = vec![0; n];
                let n = source.read(&mut piece);
                out.extend(&piece[..n]);
            }
            prop_assert_eq!(&out[..], &expected[..expected.len().min(total)]);
        }
    }
}
