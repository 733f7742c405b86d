//! The SFP+ module in the cage: a memory at I2C address A0h that a driver reads by single bits (data sheet, 8.2.3.1.6;
//! SFF-8472).

/// I2CCTL: the lines as they are, and as the driver drives them.
const CLOCK_IN: u32 = 1;
const CLOCK_OUT: u32 = 1 << 1;
const DATA_IN: u32 = 1 << 2;
const DATA_OUT: u32 = 1 << 3;
/// The module's address, without the bit for reading.
const ADDRESS: u8 = 0xA0;

/// What the module does with the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for a start.
    Idle,
    /// It takes bits: so many octets of this transfer came before.
    Takes(u8),
    /// It has an octet and says so.
    Acknowledges(u8),
    /// It gives bits.
    Gives,
    /// It waits for the driver to say whether it wants more.
    Asks,
}

/// The module.
pub struct Sfp {
    clock: bool,
    data: bool,
    /// The module pulls the data line down.
    pulls: bool,
    state: State,
    bits: u8,
    octet: u8,
    offset: u8,
    reads: bool,
}

impl Default for Sfp {
    fn default() -> Sfp {
        Sfp { clock: true, data: true, pulls: false, state: State::Idle, bits: 0, octet: 0, offset: 0, reads: false }
    }
}

impl Sfp {
    /// I2CCTL.
    pub fn read(&self) -> u32 {
        let line = |on, bit| if on { bit } else { 0 };
        line(self.clock, CLOCK_IN | CLOCK_OUT) | line(self.data && !self.pulls, DATA_IN) | line(self.data, DATA_OUT)
    }

    /// The driver changes a line, or both.
    pub fn write(&mut self, value: u32) {
        let (clock, data) = (value & CLOCK_OUT != 0, value & DATA_OUT != 0);
        if self.clock && clock && data != self.data {
            self.state = if data { State::Idle } else { State::Takes(0) };
            (self.bits, self.octet, self.pulls) = (0, 0, false);
        }
        (self.data, self.clock) = (
            data,
            match (self.clock, clock) {
                (false, true) => {
                    self.rises();
                    true
                }
                (true, false) => {
                    self.falls();
                    false
                }
                (same, _) => same,
            },
        );
    }

    fn rises(&mut self) {
        match self.state {
            State::Takes(_) => {
                self.octet = self.octet << 1 | u8::from(self.data);
                self.bits += 1;
            }
            State::Asks if self.data => self.state = State::Idle,
            _ => {}
        }
    }

    fn falls(&mut self) {
        match self.state {
            State::Takes(before) if self.bits == 8 => {
                if before == 0 && self.octet & 0xFE != ADDRESS {
                    self.state = State::Idle;
                    return;
                }
                self.state = State::Acknowledges(before);
                self.pulls = true;
            }
            State::Acknowledges(before) => {
                match before {
                    0 => self.reads = self.octet & 1 != 0,
                    1 => self.offset = self.octet,
                    _ => {}
                }
                (self.bits, self.octet, self.pulls) = (0, 0, false);
                self.state = if self.reads && before == 0 { State::Gives } else { State::Takes(before + 1) };
                if self.state == State::Gives {
                    self.give();
                }
            }
            State::Gives if self.bits == 8 => (self.state, self.pulls) = (State::Asks, false),
            State::Gives => self.pulls = self.next_bit(),
            State::Asks => {
                self.state = State::Gives;
                self.give();
            }
            _ => {}
        }
    }

    fn give(&mut self) {
        (self.bits, self.octet) = (0, content(self.offset));
        self.offset = self.offset.wrapping_add(1);
        self.pulls = self.next_bit();
    }

    /// The next bit is 0: the line goes down.
    fn next_bit(&mut self) -> bool {
        let bit = self.octet & 0x80 != 0;
        (self.octet, self.bits) = (self.octet << 1, self.bits + 1);
        !bit
    }
}

/// A passive copper cable (SFF-8472, table 4.1).
fn content(offset: u8) -> u8 {
    match offset {
        0 => 3,
        2 => 0x21,
        8 => 4,
        18 => 1,
        20..36 => b"sv3             "[usize::from(offset) - 20],
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(sfp: &mut Sfp, clock: bool, data: bool) -> bool {
        sfp.write((u32::from(clock) * CLOCK_OUT) | (u32::from(data) * DATA_OUT));
        sfp.read() & DATA_IN != 0
    }

    fn start(sfp: &mut Sfp) {
        drive(sfp, false, true);
        drive(sfp, true, true);
        drive(sfp, true, false);
        drive(sfp, false, false);
    }

    /// Sends an octet. True: it was acknowledged.
    fn send(sfp: &mut Sfp, octet: u8) -> bool {
        for bit in (0..8).rev() {
            let data = octet >> bit & 1 != 0;
            drive(sfp, false, data);
            drive(sfp, true, data);
            drive(sfp, false, data);
        }
        drive(sfp, false, true);
        let acknowledged = !drive(sfp, true, true);
        drive(sfp, false, true);
        acknowledged
    }

    fn take(sfp: &mut Sfp, more: bool) -> u8 {
        let mut octet = 0;
        for _ in 0..8 {
            octet = octet << 1 | u8::from(drive(sfp, true, true));
            drive(sfp, false, true);
        }
        drive(sfp, false, !more);
        drive(sfp, true, !more);
        drive(sfp, false, !more);
        drive(sfp, false, true);
        octet
    }

    #[test]
    fn a_driver_reads_the_module_bit_by_bit() {
        let mut sfp = Sfp::default();
        for (offset, expected) in [(0, [3, 0]), (8, [4, 0]), (20, [b's', b'v'])] {
            start(&mut sfp);
            assert!(send(&mut sfp, 0xA0) && send(&mut sfp, offset));
            start(&mut sfp);
            assert!(send(&mut sfp, 0xA1));
            assert_eq!([take(&mut sfp, true), take(&mut sfp, false)], expected);
        }
        start(&mut sfp);
        assert!(!send(&mut sfp, 0xA2), "nobody has this address");
    }
}
