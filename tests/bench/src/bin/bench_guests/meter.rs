//! Processor time of the switch, of QEMU's devices, and of the guests' own processors.
//!
//! The kernel's bridge has no process: its work is done in the system calls of QEMU's thread that serves the tap, or in
//! vhost-net's threads, which belong to QEMU's process too. So its time is among that of the devices; compare switches
//! by the sum of both. The time of a vhost-user switch's devices goes into interrupts.

use std::fs;
use std::ops::Sub;

use sv3_tests::failure::{Failure, Result};

/// Processes and threads to be watched.
pub struct Meter {
    /// The switch's processes.
    pub switch: Vec<u32>,
    /// QEMU's processes.
    pub guests: Vec<u32>,
    /// The threads of QEMU that are a guest's processor.
    pub processors: Vec<u32>,
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// In the switch's processes.
    pub switch: f64,
    /// In QEMU's threads that are no processor of a guest.
    pub devices: f64,
    /// In the guests' processors.
    pub guests: f64,
    /// Time without work.
    pub idle: f64,
}

impl Meter {
    /// All time that was used so far.
    pub fn read(&self) -> Result<Cpu> {
        let guests = self.processors.iter().map(|thread| seconds(*thread)).sum::<Result<f64>>()?;
        let devices = processes(&self.guests)? - guests;
        Ok(Cpu { switch: processes(&self.switch)?, devices, guests, idle: idle()? })
    }
}

fn processes(ids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for id in ids {
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            // A thread may end meanwhile.
            sum += seconds(thread?.file_name().to_string_lossy().parse()?).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// What a thread has run.
fn seconds(thread: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.map(|ns| ns / 1e9).ok_or_else(|| Failure::new(format!("thread {thread} shows no time")))
}

/// What all processors together have idled.
fn idle() -> Result<f64> {
    // `cpu`, then hundredths of seconds in user, nice, system, idle, waiting for a disk.
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.split_whitespace().skip(4).take(2).map(|field| Ok(field.parse::<f64>()?));
    Ok(fields.sum::<Result<f64>>()? / 100.0)
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, before: Cpu) -> Cpu {
        Cpu {
            switch: self.switch - before.switch,
            devices: self.devices - before.devices,
            guests: self.guests - before.guests,
            idle: self.idle - before.idle,
        }
    }
}
