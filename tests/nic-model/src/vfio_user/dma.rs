//! What the card reaches by DMA: ranges of addresses that the client maps, each a part of a file that is shared with it.
//! Nothing can be reached while the card is not bus master.
#![allow(unsafe_code)] // copies from and to memory that the machine writes at the same time

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::Memory;

/// The ranges by their addresses, and whether the card is bus master.
#[derive(Default)]
pub struct Dma {
    ranges: BTreeMap<u64, Range>,
    /// Each file is mapped once, as a driver maps and unmaps its buffers all the time.
    files: Vec<(FileId, Arc<MmapRaw>)>,
    /// The card may start transactions (COMMAND.BME).
    pub bus_master: bool,
}

type FileId = (u64, u64);

struct Range {
    size: u64,
    writable: bool,
    file: Arc<MmapRaw>,
    offset: usize,
}

impl Dma {
    /// Maps a part of a file for the card.
    pub fn map(&mut self, iova: u64, size: u64, offset: u64, writable: bool, file: &File) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(nix::libc::EINVAL);
        let file = self.file(file)?;
        let offset = usize::try_from(offset).map_err(|_| invalid())?;
        let end = usize::try_from(size).ok().and_then(|size| offset.checked_add(size));
        if end.is_none_or(|end| end > file.len()) || iova.checked_add(size).is_none() || size == 0 {
            return Err(invalid());
        }
        self.ranges.insert(iova, Range { size, writable, file, offset });
        Ok(())
    }

    /// Takes back all that begins in a range of addresses.
    pub fn unmap(&mut self, iova: u64, size: u64) {
        let last = iova.saturating_add(size.saturating_sub(1));
        self.ranges.retain(|start, _| *start < iova || *start > last);
    }

    /// Takes back everything.
    pub fn unmap_all(&mut self) {
        self.ranges.clear();
    }

    fn file(&mut self, file: &File) -> io::Result<Arc<MmapRaw>> {
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        if let Some((_, mapped)) = self.files.iter().find(|(known, _)| *known == id) {
            return Ok(mapped.clone());
        }
        let mapped = Arc::new(MmapOptions::new().map_raw(file)?);
        self.files.push((id, mapped.clone()));
        Ok(mapped)
    }

    /// The parts of a range of addresses, one after the other: each a pointer and a length. None: not all of it is
    /// mapped for this.
    fn parts(&self, iova: u64, length: usize, write: bool) -> Option<Vec<(*mut u8, usize)>> {
        let (mut at, mut left, mut parts) = (iova, length, Vec::with_capacity(2));
        while left > 0 {
            let (start, range) = self.ranges.range(..=at).next_back()?;
            let inside = at - start;
            let room = usize::try_from(range.size.checked_sub(inside)?).ok()?;
            if room == 0 || (write && !range.writable) {
                return None;
            }
            let length = left.min(room);
            // SAFETY: `map` made sure that the range lies in the file, which stays mapped as long as the range.
            parts.push((unsafe { range.file.as_mut_ptr().add(range.offset + inside as usize) }, length));
            left -= length;
            at = at.checked_add(length as u64)?;
        }
        self.bus_master.then_some(parts)
    }
}

impl Memory for Dma {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool {
        let Some(parts) = self.parts(iova, to.len(), false) else { return false };
        // What the driver wrote before it rang is older than what comes now.
        fence(Ordering::Acquire);
        let mut to = to;
        for (from, length) in parts {
            let (now, later) = to.split_at_mut(length);
            // SAFETY: `from` has so many octets mapped. The machine may write them meanwhile: any octets are valid.
            unsafe { ptr::copy_nonoverlapping(from, now.as_mut_ptr(), length) };
            to = later;
        }
        true
    }

    fn write(&mut self, iova: u64, from: &[u8]) -> bool {
        let Some(parts) = self.parts(iova, from.len(), true) else { return false };
        let mut from = from;
        for (to, length) in parts {
            let (now, later) = from.split_at(length);
            // A descriptor's last 8 octets say that it is done, so they come last.
            let first = length.saturating_sub(8);
            // SAFETY: `to` has so many octets mapped, and nobody in this process has a reference to them.
            unsafe {
                ptr::copy_nonoverlapping(now.as_ptr(), to, first);
                fence(Ordering::Release);
                ptr::copy_nonoverlapping(now.as_ptr().add(first), to.add(first), length - first);
            }
            from = later;
        }
        fence(Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dma() -> io::Result<Dma> {
        let file = tempfile()?;
        let mut dma = Dma { bus_master: true, ..Dma::default() };
        // Two pages that follow each other for the card, and the other way round in the file.
        dma.map(0x10000, 4096, 4096, true, &file)?;
        dma.map(0x11000, 4096, 0, false, &file)?;
        Ok(dma)
    }

    fn tempfile() -> io::Result<File> {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = File::from(nix::sys::memfd::memfd_create(c"dma", flags)?);
        file.set_len(8192)?;
        Ok(file)
    }

    #[test]
    fn only_what_is_mapped_can_be_reached() -> io::Result<()> {
        let mut dma = dma()?;

        assert!(dma.write(0x10ff0, &[7; 16]) && !dma.write(0x10ff8, &[8; 16]), "the second page is for reading");
        let mut octets = [1; 32];
        assert!(dma.read(0x10ff0, &mut octets));
        assert_eq!(octets, std::array::from_fn(|at| if at < 16 { 7 } else { 0 }));
        assert!(!dma.read(0x11ff8, &mut octets) && !dma.read(0xfff8, &mut octets));
        Ok(())
    }

    #[test]
    fn nothing_can_be_reached_once_it_is_unmapped_or_without_the_bus() -> io::Result<()> {
        let mut dma = dma()?;
        dma.bus_master = false;
        assert!(!dma.read(0x10000, &mut [0]));
        dma.bus_master = true;
        assert!(dma.read(0x10000, &mut [0]));
        dma.unmap(0x10000, 4096);
        assert!(!dma.read(0x10000, &mut [0]) && dma.read(0x11000, &mut [0]));
        Ok(())
    }

    #[test]
    fn a_range_beyond_its_file_is_refused() -> io::Result<()> {
        let (mut dma, file) = (Dma::default(), tempfile()?);
        assert!(dma.map(0, 4096, 4097, true, &file).is_err());
        assert!(dma.map(0, u64::MAX, 1, true, &file).is_err());
        assert!(dma.map(u64::MAX, 4096, 0, true, &file).is_err());
        Ok(())
    }
}
