//! Streams of noise from guest to guest, whose checksums the receivers answer.

use std::time::Duration;

use super::{Job, Vm};
use crate::failure::{Failure, Result};

/// Octets of a stream, in MiB.
const MIB: u32 = 4;
/// Long enough for the last stream on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

impl Vm {
    /// Answers each stream by its checksum.
    pub fn serve_checksums(&mut self) -> Result<()> {
        self.start("while :; do nc -l -p 7000 -e sha256sum; done")?;
        self.sh("until netstat -ltn | grep -q :7000; do usleep 20000; done").map(drop)
    }

    /// Sends streams to another guest, one after the other, until [`Vm::finish_noise`]. One that is cut off, because
    /// the other guest or its card has ended, gets no answer and does not count.
    pub fn start_noise(&mut self, to: &str) -> Result<Job> {
        self.sh(&format!("rm -f /tmp/enough; dd if=/dev/urandom of=/tmp/noise bs=1M count={MIB} 2>/dev/null"))?;
        self.start(&format!(
            "want=$(sha256sum </tmp/noise); until [ -e /tmp/enough -a -n \"$got\" ]; do \
             got=$(timeout 30 nc {to} 7000 </tmp/noise 2>/dev/null); \
             case $got in '') usleep 20000;; \"$want\") echo good;; *) echo \"bad $got\";; esac; done"
        ))
    }

    /// Ends the streams, with one that came whole; how many did. None came with another octet.
    pub fn finish_noise(&mut self, job: Job) -> Result<usize> {
        self.sh("touch /tmp/enough")?;
        let said = self.finish(job, PATIENCE)?.text;
        match (said.matches("good").count(), said.contains("bad")) {
            (good, false) if good > 0 => Ok(good),
            _ => Err(Failure::new(format!("streams: {said}"))),
        }
    }
}
