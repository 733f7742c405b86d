//! Interrupts (data sheet, 7.3 and 8.2.3.5): causes, masks, MSI-X vectors and their timers.
//!
//! # Theory of operation
//!
//! A cause is a bit: of a vector, for queues (IVAR says which), or of EICR from 16 on, for all others. An event sets the
//! cause. If its mask is set and the vector's timer (EITR) does not run, the vector is raised; the cause is cleared if
//! EIAC says so, and the mask if EIAM says so. Otherwise the event stays due: clearing a mask loses nothing.

use crate::Complaints;

/// Vectors that [`crate::Card::interrupts`] can tell.
const VECTORS: u32 = 32;
/// GPIE: several vectors; OCD, only the other causes are cleared by reading; EIAME.
const MSIX: u32 = 1 << 4;
const OCD: u32 = 1 << 5;
const EIAME: u32 = 1 << 30;
/// An entry of IVAR is valid.
const VALID: u32 = 1 << 7;
/// Causes of EICR that are a queue's.
const QUEUES: u64 = 0xFFFF;
/// The link has changed.
pub const LSC: u32 = 1 << 20;

/// The interrupt registers and what is due.
pub struct Interrupts {
    gpie: u32,
    eiac: u32,
    /// EIAM and EIAM_EX.
    other_automask: u32,
    automask: u64,
    ivar: [u32; 64],
    misc: u32,
    eitr: [u32; 129],
    causes: u64,
    mask: u64,
    due: u64,
    other_causes: u32,
    other_mask: u32,
    other_due: u32,
    /// Microseconds until a vector may be raised again.
    timers: [u32; VECTORS as usize],
    /// Time passes: vectors are held back.
    timed: bool,
    raised: u32,
}

impl Default for Interrupts {
    fn default() -> Interrupts {
        Interrupts {
            gpie: 0,
            eiac: 0,
            other_automask: 0,
            automask: 0,
            ivar: [0; 64],
            misc: 0,
            eitr: [0; 129],
            causes: 0,
            mask: 0,
            due: 0,
            other_causes: 0,
            other_mask: 0,
            other_due: 0,
            timers: [0; VECTORS as usize],
            timed: false,
            raised: 0,
        }
    }
}

impl Interrupts {
    /// After a reset. Time still passes.
    pub fn reset(&mut self) {
        *self = Interrupts { timed: self.timed, ..Interrupts::default() };
    }

    /// The register, if it is one of interrupts.
    pub fn read(&mut self, at: u32) -> Option<u32> {
        Some(match at {
            0x0800 => self.take_causes(),
            0x0808 => self.shown(),
            0x0810 => self.eiac,
            0x0880 | 0x0888 => self.other_mask | (self.mask & QUEUES) as u32,
            0x0890 => self.other_automask | (self.automask & QUEUES) as u32,
            0x0898 => self.gpie,
            0x0A00 => self.misc,
            0x0A80 | 0x0A90 => self.causes as u32,
            0x0A84 | 0x0A94 => (self.causes >> 32) as u32,
            0x0AA0 | 0x0AB0 => self.mask as u32,
            0x0AA4 | 0x0AB4 => (self.mask >> 32) as u32,
            0x0AD0 => self.automask as u32,
            0x0AD4 => (self.automask >> 32) as u32,
            0x0900..0x0A00 => *self.ivar.get((at as usize - 0x900) / 4)?,
            _ => *self.eitr.get(throttle(at)?)?,
        })
    }

    /// The driver writes the register. False: it is none of interrupts.
    pub fn write(&mut self, at: u32, value: u32, complaints: &mut Complaints) -> bool {
        let (queues, others) = (u64::from(value) & QUEUES, value & !(QUEUES as u32));
        match at {
            0x0800 => (self.causes, self.other_causes) = (self.causes & !queues, self.other_causes & !others),
            0x0808 => self.set(queues, others),
            0x0810 => self.eiac = value,
            0x0880 => self.unmask(queues, others),
            0x0888 => (self.mask, self.other_mask) = (self.mask & !queues, self.other_mask & !others),
            0x0890 => (self.automask, self.other_automask) = (self.automask & !QUEUES | queues, others),
            0x0898 => self.gpie = value,
            0x0A00 => self.misc = value,
            0x0A90 => self.set(value.into(), 0),
            0x0A94 => self.set(u64::from(value) << 32, 0),
            0x0AA0 => self.unmask(value.into(), 0),
            0x0AA4 => self.unmask(u64::from(value) << 32, 0),
            0x0AB0 => self.mask &= !u64::from(value),
            0x0AB4 => self.mask &= !(u64::from(value) << 32),
            0x0AD0 => self.automask = self.automask >> 32 << 32 | u64::from(value),
            0x0AD4 => self.automask = u64::from(value) << 32 | self.automask & 0xFFFF_FFFF,
            0x0900..0x0A00 => match self.ivar.get_mut((at as usize - 0x900) / 4) {
                Some(entry) => *entry = value,
                None => return false,
            },
            _ => match throttle(at).and_then(|vector| self.eitr.get_mut(vector)) {
                // Bits 0 to 2 are reserved; the counter and its write-disable are not shown.
                Some(eitr) => {
                    if value & 7 != 0 {
                        complaints.add(format!("EITR is {value:#x}: bits 0 to 2 are reserved (8.2.3.5.12)"));
                    }
                    *eitr = value & 0x0000_8FF8;
                }
                None => return false,
            },
        }
        true
    }

    fn shown(&self) -> u32 {
        let summary = if self.other_causes != 0 && self.gpie & MSIX != 0 { 1 << 31 } else { 0 };
        self.other_causes | (self.causes & QUEUES) as u32 | summary
    }

    /// Reads EICR, which clears it (data sheet, 7.3.1.4.1).
    fn take_causes(&mut self) -> u32 {
        let shown = self.shown();
        self.other_causes = 0;
        if self.gpie & OCD == 0 {
            self.causes &= !QUEUES;
        }
        if self.gpie & MSIX == 0 {
            self.mask &= !self.automask;
            self.other_mask &= !self.other_automask;
        }
        shown
    }

    fn set(&mut self, queues: u64, others: u32) {
        self.causes |= queues;
        self.due |= queues;
        self.other_causes |= others;
        self.other_due |= others;
        self.deliver();
    }

    fn unmask(&mut self, queues: u64, others: u32) {
        let (new, other) = (queues & !self.mask, others & !self.other_mask);
        self.mask |= new;
        self.other_mask |= other;
        // What was cleared in between is due no more; what is pending is.
        self.due = self.due & !new | new & self.causes;
        self.other_due = self.other_due & !other | other & self.other_causes;
        self.deliver();
    }

    /// Something happened in a queue: to a receive queue, or to a transmit queue.
    #[inline]
    pub fn queue(&mut self, queue: usize, transmit: bool) {
        let entry = self.ivar.get(queue / 2).copied().unwrap_or(0) >> (queue % 2 * 16 + usize::from(transmit) * 8);
        if entry & VALID != 0 {
            self.set(1 << (entry & 0x3F), 0);
        }
    }

    /// Microseconds between two interrupts of the queue's vector, and whether it has one.
    pub fn interval(&self, queue: usize) -> Option<u32> {
        let entry = self.ivar.get(queue / 2)? >> (queue % 2 * 16);
        (entry & VALID != 0).then(|| period(self.eitr.get(entry as usize & 0x3F).copied().unwrap_or(0)))
    }

    /// Microseconds from the end of a flow of joined segments to its interrupt (GPIE.RSC_DELAY).
    pub fn rsc_delay(&self) -> u32 {
        ((self.gpie >> 11 & 7) + 1) * 4
    }

    /// A cause that has a vector of its own, as the mailbox of a virtual function has.
    pub fn cause(&mut self, vector: u32) {
        self.set(1 << vector, 0);
    }

    /// Another cause, by its bit in EICR.
    pub fn other(&mut self, cause: u32) {
        self.set(0, cause);
    }

    fn deliver(&mut self) {
        let mut ready = self.due & self.causes & self.mask;
        while ready != 0 {
            let vector = ready.trailing_zeros();
            ready &= ready - 1;
            let bit = 1u64 << vector;
            if !self.raise(if self.gpie & MSIX != 0 { vector } else { 0 }) {
                continue;
            }
            self.due &= !bit;
            // Vectors from 16 on have no bit in EIAC and are always cleared.
            if self.gpie & MSIX != 0 && (u64::from(self.eiac) | !QUEUES) & bit != 0 {
                self.causes &= !bit;
            }
            if self.gpie & EIAME != 0 {
                self.mask &= !(self.automask & bit);
            }
        }
        let others = self.other_due & self.other_causes & self.other_mask;
        let vector = if self.gpie & MSIX == 0 { Some(0) } else { self.vector_of_others() };
        if others != 0 && vector.is_some_and(|vector| self.raise(vector)) {
            self.other_due &= !others;
            if self.gpie & MSIX != 0 {
                self.other_causes &= !(self.eiac & others);
            }
            if self.gpie & EIAME != 0 {
                self.other_mask &= !(self.other_automask & others);
            }
        }
    }

    fn vector_of_others(&self) -> Option<u32> {
        (self.misc >> 8 & VALID != 0).then_some(self.misc >> 8 & 0x3F)
    }

    /// False: its timer runs.
    fn raise(&mut self, vector: u32) -> bool {
        let Some(timer) = self.timers.get_mut(vector as usize) else { return true };
        if *timer > 0 {
            return false;
        }
        if self.timed {
            *timer = period(self.eitr.get(vector as usize).copied().unwrap_or(0));
        }
        self.raised |= 1 << vector;
        true
    }

    /// Vectors raised since the last call.
    pub fn take(&mut self) -> u32 {
        std::mem::take(&mut self.raised)
    }

    /// Timers run.
    pub fn pass_time(&mut self, microseconds: u32) {
        self.timed = true;
        for timer in &mut self.timers {
            *timer = timer.saturating_sub(microseconds);
        }
        self.deliver();
    }
}

/// The vector whose timer is at `at`.
fn throttle(at: u32) -> Option<usize> {
    match at {
        0x0820..0x0880 => Some((at as usize - 0x820) / 4),
        0x1_2300..0x1_24A4 => Some((at as usize - 0x1_2300) / 4 + 24),
        _ => None,
    }
}

/// Microseconds of an EITR: its interval counts 2.048 us at 10 Gbit/s (data sheet, 8.2.3.5.12).
fn period(eitr: u32) -> u32 {
    (eitr >> 3 & 0x1FF) * 2048 / 1000
}

#[cfg(test)]
mod tests;
