//! Memory that a card reaches by DMA.

/// The memory that the card reaches by DMA, by the addresses that its driver gave it.
pub trait Memory {
    /// Reads octets. False: the card may not read there; nothing is read.
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool;

    /// Writes octets. Those of a descriptor (16, aligned) become visible at once, after all earlier writes. False: the
    /// card may not write there; nothing is written.
    fn write(&mut self, iova: u64, from: &[u8]) -> bool;
}

/// Memory of the test's own: all that the card may reach is `octets`, from `base` on.
pub struct Ram {
    /// Where the card sees the first octet.
    pub base: u64,
    /// The octets.
    pub octets: Vec<u8>,
}

impl Ram {
    /// `size` octets of zeroes.
    pub fn new(base: u64, size: usize) -> Ram {
        Ram { base, octets: vec![0; size] }
    }

    /// The octets at an address of the card's, if all of them are there.
    pub fn at(&mut self, iova: u64, len: usize) -> Option<&mut [u8]> {
        let from = usize::try_from(iova.checked_sub(self.base)?).ok()?;
        self.octets.get_mut(from..from.checked_add(len)?)
    }
}

impl Memory for Ram {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool {
        self.at(iova, to.len()).map(|from| to.copy_from_slice(from)).is_some()
    }

    fn write(&mut self, iova: u64, from: &[u8]) -> bool {
        self.at(iova, from.len()).map(|to| to.copy_from_slice(from)).is_some()
    }
}
