//! A guest's memory, page by page, seen by way of its QEMU's file of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::failure::{Failure, Result};

const PAGE: usize = 4096;
/// Octets that are read at once: a multiple of a page.
const STEP: usize = 1 << 20;

/// How many pages differ between two QEMUs, whose guests stand still.
pub(super) fn differences(one: u32, other: u32) -> Result<usize> {
    let (one, other) = (open(one)?, open(other)?);
    let length = one.metadata()?.len();
    if other.metadata()?.len() != length {
        return Err(Failure::new("the guests' memories have different lengths"));
    }
    let (mut here, mut there) = (vec![0; STEP], vec![0; STEP]);
    let mut different = 0;
    for offset in (0..length).step_by(STEP) {
        one.read_exact_at(&mut here, offset)?;
        other.read_exact_at(&mut there, offset)?;
        if here != there {
            different += here.chunks(PAGE).zip(there.chunks(PAGE)).filter(|(here, there)| here != there).count();
        }
    }
    Ok(different)
}

/// The memory of a guest with `memory-backend-memfd`, by the name that QEMU gives it.
fn open(pid: u32) -> Result<File> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        if target.display().to_string().starts_with("/memfd:memory-backend-memfd") {
            return Ok(File::open(path)?);
        }
    }
    Err(Failure::new(format!("process {pid} has no memory of a guest")))
}
