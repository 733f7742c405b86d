//! The two lines to the SFP+ module, driven bit by bit (82599, 8.2.3.1.6; SFF-8472).

use super::registers::*;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait::{self, MS, US};

/// Half of a bit's time at 100 kHz, in nanoseconds.
const HALF: u64 = 5 * US;
/// How long one octet may take, in nanoseconds. At 100 kHz it takes 0.4 ms.
const LIMIT: u64 = 4 * MS;
/// The module's memory, without the bit for reading.
const MEMORY: u8 = 0xa0;

/// The octet at `offset` of the module's memory; `None`: there is no module that answers.
pub fn read(bar: &impl Bar, offset: u8) -> Result<Option<u8>, Fault> {
    let lines = Lines { bar, began: bar.now_ns() };
    let octet = lines.octet_at(offset);
    // The lines are left as nobody pulls them.
    lines.stop()?;
    octet
}

struct Lines<'b, B: Bar> {
    bar: &'b B,
    began: u64,
}

impl<B: Bar> Lines<'_, B> {
    fn octet_at(&self, offset: u8) -> Result<Option<u8>, Fault> {
        self.start()?;
        if !self.send(MEMORY)? || !self.send(offset)? {
            return Ok(None);
        }
        self.start()?;
        if !self.send(MEMORY | 1)? {
            return Ok(None);
        }
        let mut octet = 0;
        for _ in 0..8 {
            octet = octet << 1 | u8::from(self.bit(true)?);
        }
        // One octet is enough: it is not acknowledged.
        self.bit(true)?;
        Ok(Some(octet))
    }

    fn drive(&self, clock: bool, data: bool) -> Result<(), Fault> {
        if self.bar.now_ns().wrapping_sub(self.began) > LIMIT {
            return Err(Fault::Bad("I2CCTL"));
        }
        let lines = if clock { I2CCTL_CLK_OUT } else { 0 } | if data { I2CCTL_DATA_OUT } else { 0 };
        self.bar.write(I2CCTL, lines);
        wait::pause(self.bar, HALF);
        Ok(())
    }

    /// Data falls while the clock is high.
    fn start(&self) -> Result<(), Fault> {
        self.drive(false, true)?;
        self.drive(true, true)?;
        self.drive(true, false)?;
        self.drive(false, false)
    }

    /// Data rises while the clock is high.
    fn stop(&self) -> Result<(), Fault> {
        for (clock, data) in [(false, false), (true, false), (true, true)] {
            self.bar.write(I2CCTL, if clock { I2CCTL_CLK_OUT } else { 0 } | if data { I2CCTL_DATA_OUT } else { 0 });
            wait::pause(self.bar, HALF);
        }
        wait::read(self.bar, I2CCTL).map(drop)
    }

    /// One bit, and what the line says meanwhile.
    fn bit(&self, data: bool) -> Result<bool, Fault> {
        self.drive(false, data)?;
        self.drive(true, data)?;
        let line = wait::read(self.bar, I2CCTL)? & I2CCTL_DATA_IN != 0;
        self.drive(false, data)?;
        Ok(line)
    }

    /// Sends an octet. True: it was acknowledged.
    fn send(&self, octet: u8) -> Result<bool, Fault> {
        for shift in (0..8).rev() {
            self.bit(octet >> shift & 1 != 0)?;
        }
        Ok(!self.bit(true)?)
    }
}
