//! The wire's state as registers tell it (data sheet, 8.2.3.22), and what of a driver's doing takes the link away.

/// AUTOC: 10G serial (LMS 3), and the bit that restarts the link.
const AUTOC_RESET: u32 = 3 << 13;
const RESTART: u32 = 1 << 12;
/// AUTOC2: SFI.
const AUTOC2_RESET: u32 = 2 << 16;
/// LINKS: up, at 10 Gbit/s, signal on the lane.
const LINKS_UP: u32 = 1 << 30 | 3 << 28 | 0xF00;
/// ESDP: there is a module (SDP2); the laser is off (SDP3, if it is an output).
const MODULE: u32 = 1 << 2;

/// The link.
pub struct Link {
    plugged: bool,
    autoc: u32,
    autoc2: u32,
    esdp: u32,
    /// How often the other end has seen the link go away.
    losses: u32,
}

impl Link {
    /// The wire is plugged in, or not.
    pub fn new(plugged: bool) -> Link {
        Link { plugged, autoc: AUTOC_RESET, autoc2: AUTOC2_RESET, esdp: MODULE, losses: 0 }
    }

    /// Frames pass.
    #[inline]
    pub fn up(&self) -> bool {
        self.plugged
    }

    /// How often the other end has seen the link go away.
    pub fn losses(&self) -> u32 {
        self.losses
    }

    /// The register, if it is one of the link.
    pub fn read(&self, at: u32) -> Option<u32> {
        Some(match at {
            0x0020 => self.esdp | MODULE,
            0x42A0 => self.autoc,
            0x42A4 => LINKS_UP * u32::from(self.plugged),
            0x42A8 => self.autoc2,
            // The state machine of auto-negotiation has begun.
            0x42B0 => 1 << 16,
            _ => return None,
        })
    }

    /// The driver writes the register: whether it was one, and whether the link went away.
    pub fn write(&mut self, at: u32, value: u32) -> Option<bool> {
        match at {
            0x0020 => self.esdp = value,
            0x42A0 => {
                self.autoc = value & !RESTART;
                return Some(value & RESTART != 0 && self.lose());
            }
            0x42A8 => self.autoc2 = value,
            0x42A4 | 0x42B0 => {}
            _ => return None,
        }
        Some(false)
    }

    /// The wire is plugged in or pulled out. True: that changed something.
    pub fn plug(&mut self, plugged: bool) -> bool {
        if self.plugged && !plugged {
            self.lose();
        }
        std::mem::replace(&mut self.plugged, plugged) != plugged
    }

    /// The link goes away, and comes back at once if the wire is there. True: it was up.
    fn lose(&mut self) -> bool {
        self.losses += u32::from(self.plugged);
        self.plugged
    }

    /// CTRL.LNK_RST: all of it begins again.
    pub fn reset(&mut self) {
        self.lose();
        *self = Link { losses: self.losses, ..Link::new(self.plugged) };
    }
}
