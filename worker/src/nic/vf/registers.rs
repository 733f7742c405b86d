//! Where a family has the registers of its virtual functions.

/// VFCTRL and VTCTRL: the function's reset.
pub const CTRL_RST: u32 = 1 << 26;
/// A vector in IVAR or IVAR_MISC is valid.
pub const IVAR_VALID: u32 = 1 << 7;

/// Offsets in the BAR, and values that differ between the families.
#[derive(Debug)]
pub struct Registers {
    /// Control.
    pub ctrl: u32,
    /// Link and speed.
    pub link: u32,
    /// The mailbox's control register.
    pub mailbox: u32,
    /// The mailbox's buffer.
    pub buffer: u32,
    /// Interrupt cause.
    pub eicr: u32,
    /// Mask set.
    pub eims: u32,
    /// Mask clear.
    pub eimc: u32,
    /// Causes that clear when their message is sent.
    pub eiac: u32,
    /// Vectors that are masked when their message is sent.
    pub eiam: u32,
    /// Throttle of vector 0.
    pub eitr: u32,
    /// Vectors of pairs 0 and 1.
    pub ivar: u32,
    /// Vector of the mailbox.
    pub ivar_misc: u32,
    /// RDBAL of queue 0.
    pub receive: u32,
    /// TDBAL of queue 0.
    pub transmit: u32,
    /// Octets from a queue's registers to those of the next.
    pub stride: u32,
    /// SRRCTL, from RDBAL.
    pub srrctl: u32,
    /// SRRCTL.DROP_EN.
    pub drop_en: u32,
    /// DCA_RXCTRL and DCA_TXCTRL, from RDBAL and TDBAL.
    pub dca: u32,
    /// TXDCTL: a bit that writes back what is done, while the queue is turned off; 0: none.
    pub flush: u32,
    /// What RXDCTL and TXDCTL hold beside ENABLE.
    pub rxdctl: u32,
    /// See `rxdctl`.
    pub txdctl: u32,
    /// PSRTYPE.
    pub psrtype: u32,
}

impl Registers {
    /// The first register of a receive queue.
    pub fn receive_queue(&self, pair: u16) -> u32 {
        self.receive + self.stride * u32::from(pair)
    }

    /// The first register of a transmit queue.
    pub fn transmit_queue(&self, pair: u16) -> u32 {
        self.transmit + self.stride * u32::from(pair)
    }
}
