//! The EEPROM behind EERD and EEC, and who may use it (data sheet, 6, 8.2.3.2 and 10.5.4).

/// Words of the EEPROM: EEC tells the size as a power of two, from 64 on.
const WORDS: usize = 1024;
const SIZE: u32 = 4;
/// What all words up to the checksum add up to.
const SUM: u16 = 0xBABA;
/// Where the checksum is.
const CHECKSUM: usize = 0x3F;
/// SFP+ modules and what is written into the core for each: a list, and the word that says where.
const MODULES: usize = 0x2B;
const MODULE_LIST: usize = 0x80;
/// The firmware's block, with a version that Linux takes for a final one.
const FIRMWARE: usize = 0x0F;
const FIRMWARE_BLOCK: usize = 0xC0;
/// EEC: grant follows request, there is an EEPROM, it was read.
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8 | 1 << 9;
/// FWSM: the firmware runs.
const FIRMWARE_VALID: u32 = 1 << 15;

/// The EEPROM and the semaphores.
pub struct Eeprom {
    words: Vec<u16>,
    eec: u32,
    eerd: u32,
    swsm: u32,
    gssr: u32,
}

impl Eeprom {
    /// The EEPROM of a card with this address.
    pub fn new(mac: [u8; 6]) -> Eeprom {
        let mut words = vec![0xFFFF; WORDS];
        words[..3].copy_from_slice(&std::array::from_fn::<u16, 3, _>(|at| {
            u16::from_le_bytes([mac[2 * at], mac[2 * at + 1]])
        }));
        words[MODULES] = MODULE_LIST as u16;
        // Passive copper and short or long range, of either port; each with one value for the core.
        for (at, kind) in [3u16, 4, 5, 6].into_iter().enumerate() {
            words[MODULE_LIST + 1 + 2 * at] = kind;
            words[MODULE_LIST + 2 + 2 * at] = (MODULE_LIST + 0x20) as u16;
        }
        words[MODULE_LIST + 0x21] = 0x0001;
        words[FIRMWARE] = FIRMWARE_BLOCK as u16;
        words[FIRMWARE_BLOCK + 4] = (FIRMWARE_BLOCK + 0x10) as u16;
        words[FIRMWARE_BLOCK + 0x17] = 6;
        // No alternative addresses, any module may be used.
        words[0x2C] = 1;
        let sum = words[..CHECKSUM].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM] = SUM.wrapping_sub(sum);
        Eeprom { words, eec: 0, eerd: 0, swsm: 0, gssr: 0 }
    }

    /// The register, if it is one of these.
    pub fn read(&mut self, at: u32) -> Option<u32> {
        Some(match at {
            0x1_0010 => self.eec | PRESENT | SIZE << 11 | if self.eec & REQUEST != 0 { GRANT } else { 0 },
            0x1_0014 => self.eerd,
            // SMBI is set by reading: who reads 0 has the semaphore.
            0x1_0140 => {
                let before = self.swsm;
                self.swsm |= 1;
                before
            }
            0x1_0148 => FIRMWARE_VALID,
            0x1_0160 => self.gssr,
            _ => return None,
        })
    }

    /// The driver writes the register. False: it is none of these.
    pub fn write(&mut self, at: u32, value: u32) -> bool {
        match at {
            0x1_0010 => self.eec = value & (REQUEST | 0x3F),
            0x1_0014 => self.look_up(value),
            0x1_0140 => self.swsm = value & 3,
            0x1_0148 => {}
            // Software's bits; the firmware's are never taken.
            0x1_0160 => self.gssr = value & 0x1F,
            _ => return false,
        }
        true
    }

    /// EERD: START 0, DONE 1, ADDR 2 to 15, DATA 16 to 31.
    fn look_up(&mut self, value: u32) {
        let word = self.words.get((value >> 2 & 0x3FFF) as usize).copied().unwrap_or(0xFFFF);
        self.eerd = if value & 1 != 0 { value & 0xFFFC | 2 | u32::from(word) << 16 } else { value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_checksum_and_the_address() {
        let mut it = Eeprom::new([2, 3, 4, 5, 6, 7]);
        let mut word = |at: u32| {
            assert!(it.write(0x1_0014, at << 2 | 1));
            let eerd = it.read(0x1_0014).unwrap();
            assert_eq!(eerd & 2, 2);
            (eerd >> 16) as u16
        };
        assert_eq!((0..0x40).fold(0u16, |sum, at| sum.wrapping_add(word(at))), SUM);
        assert_eq!((word(0), word(2)), (0x0302, 0x0706));
    }

    #[test]
    fn who_reads_zero_has_the_semaphore() {
        let mut it = Eeprom::new([0; 6]);
        assert_eq!((it.read(0x1_0140), it.read(0x1_0140)), (Some(0), Some(1)));
        it.write(0x1_0140, 0);
        assert_eq!(it.read(0x1_0140), Some(0));
    }
}
