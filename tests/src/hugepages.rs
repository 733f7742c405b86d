//! The machine's pool of huge pages, enlarged for a scenario. Root alone may do that.

use std::fs;
use std::os::fd::OwnedFd;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use crate::failure::{Failure, Result};
use crate::guest::memory::HUGE_PAGE;

/// Where the kernel tells of huge pages of 2 MiB (Documentation/admin-guide/mm/hugetlbpage.rst of Linux).
const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The enlarged pool. It is as before when this is dropped.
pub struct Pool {
    before: u64,
}

impl Pool {
    /// Adds so many pages. `None`: the kernel has none to give, or not to this user.
    pub fn enlarge(pages: u64) -> Result<Option<Pool>> {
        let Ok(before) = figure("nr_hugepages") else { return Ok(None) };
        let pool = Pool { before };
        let written = fs::write(format!("{FOLDER}/nr_hugepages"), (before + pages).to_string());
        if written.is_err() || figure("nr_hugepages")? < before + pages {
            println!("checked: no huge pages, which want root and free memory");
            return Ok(None);
        }
        Ok(Some(pool))
    }

    /// Pages that are free and that nobody has reserved.
    pub fn left(&self) -> Result<u64> {
        Ok(figure("free_hugepages")? - self.reserved()?)
    }

    /// Pages that are reserved and not taken yet.
    pub fn reserved(&self) -> Result<u64> {
        figure("resv_hugepages")
    }

    /// Takes all pages that are left. They are back when this is dropped.
    pub fn exhaust(&self) -> Result<OwnedFd> {
        let all = (self.left()? * HUGE_PAGE).cast_signed();
        let file = memfd_create("sv3-hoard", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?;
        ftruncate(&file, all)?;
        fallocate(&file, FallocateFlags::empty(), 0, all)?;
        match self.left()? {
            0 => Ok(file),
            left => Err(Failure::new(format!("{left} huge pages are left"))),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(format!("{FOLDER}/nr_hugepages"), self.before.to_string());
    }
}

fn figure(name: &str) -> Result<u64> {
    Ok(fs::read_to_string(format!("{FOLDER}/{name}"))?.trim().parse()?)
}
