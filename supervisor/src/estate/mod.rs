//! What a supervisor leaves to its successor, so that no socket closes when `sv3 run --take-over` replaces the whole
//! switch: open files, and a record that says what each of them is.
//!
//! # Theory of operation
//!
//! A [`Record`] is JSON, so a newer supervisor reads the record of an older one as long as fields are only added. It
//! names files by their numbers in a list ([`Files`], [`Heirlooms`]), and knows nothing of how octets and files travel.
//! [`transfer`] sends both over a socket. Times are kept by CLOCK_MONOTONIC ([`Clock`]), which all processes of the
//! machine share.
//!
//! Each owner writes its own part of the record, and makes itself from that part again. The record comes from a process
//! of the same user, which read hostile data. So every number and every file in it is checked, and what does not fit is
//! an error ([`Unfit`]), never a panic: then the successor ends, and the old supervisor serves on.

pub mod clock;
pub mod files;
pub mod record;
pub mod transfer;

use std::fmt;

pub use clock::Clock;
pub use files::{FileNumber, Files, Heirlooms};
pub use record::Record;

/// Version of the record and of the exchange that passes it on. It grows if a field changes its meaning or goes, or if
/// the ledger's layout changes: both supervisors use one ledger.
pub const VERSION: u32 = 2;

/// Why a record cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same as an error for [`Result::Err`].
pub fn unfit<T>(why: impl Into<String>) -> Result<T, Unfit> {
    Err(Unfit(why.into()))
}

#[cfg(test)]
mod tests {
    use sv3::ledger::Ledger;

    use super::*;

    #[test]
    fn the_version_grows_with_the_ledger() {
        // If this fails, the ledger has another layout: let VERSION grow, then write the new size here.
        assert_eq!((VERSION, size_of::<Ledger>()), (2, LEDGER_SIZE));
    }

    const LEDGER_SIZE: usize = 4_640_575_488;
}
