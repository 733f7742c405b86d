//! A guest stands still, goes on, and goes back to an earlier moment.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Qmp, Vm};
use crate::failure::{Failure, Result};

/// Longest time that a job of QEMU's may take.
const PATIENCE: Duration = Duration::from_secs(120);

impl Vm {
    /// The guest stands still.
    pub fn pause(&mut self) -> Result<()> {
        self.qmp()?.execute("stop", json!({})).map(drop)
    }

    /// The guest goes on.
    pub fn resume(&mut self) -> Result<()> {
        self.qmp()?.execute("cont", json!({})).map(drop)
    }

    /// A disk image (qcow2) that keeps snapshots. The guest does not see it.
    pub fn add_image(&mut self) -> Result<()> {
        let path = self.scratch.path().join("image.qcow2");
        let mut qmp = self.qmp()?;
        job(&mut qmp, "blockdev-create", json!({ "options": { "driver": "file", "filename": path, "size": 0 } }))?;
        qmp.execute("blockdev-add", json!({ "driver": "file", "node-name": "file", "filename": path }))?;
        let size: u64 = 1 << 30;
        job(&mut qmp, "blockdev-create", json!({ "options": { "driver": "qcow2", "file": "file", "size": size } }))?;
        qmp.execute("blockdev-add", json!({ "driver": "qcow2", "node-name": "image", "file": "file" })).map(drop)
    }

    /// Saves the guest's state to the image, as the monitor's `savevm` does.
    pub fn save_snapshot(&mut self) -> Result<()> {
        job(&mut self.qmp()?, "snapshot-save", snapshot())
    }

    /// The guest goes back to the state that was saved.
    pub fn load_snapshot(&mut self) -> Result<()> {
        let mut qmp = self.qmp()?;
        job(&mut qmp, "snapshot-load", snapshot())?;
        qmp.execute("cont", json!({})).map(drop)
    }
}

fn snapshot() -> Value {
    json!({ "tag": "saved", "vmstate": "image", "devices": ["image"] })
}

/// Runs a command that QEMU does as a job, to its end.
fn job(qmp: &mut Qmp, command: &str, mut arguments: Value) -> Result<()> {
    arguments["job-id"] = json!("job");
    qmp.execute(command, arguments)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let jobs = qmp.execute("query-jobs", json!({}))?;
        let ended = jobs.as_array().into_iter().flatten().find(|job| job["status"] == "concluded");
        if let Some(job) = ended {
            qmp.execute("job-dismiss", json!({ "id": "job" }))?;
            return match job["error"].as_str() {
                Some(error) => Err(Failure::new(format!("{command}: {error}"))),
                None => Ok(()),
            };
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("{command} does not end: {jobs}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
