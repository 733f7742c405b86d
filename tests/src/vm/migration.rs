//! Live migration: a guest goes on in another QEMU.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Config, Vm};
use crate::failure::{Failure, Result};
use crate::patience::until;

/// Longest time that a migration may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a migration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How long the guest stood still, as QEMU tells it.
    pub downtime: Duration,
    /// How often QEMU looked at the log of dirty pages.
    pub rounds: u64,
}

impl Config {
    /// Starts a QEMU on the switch's socket that waits for a guest of the same configuration, see [`Vm::migrate`].
    pub fn await_guest(self, socket: &Path) -> Result<Vm> {
        let vm = Config { awaits_guest: true, ..self }.start(socket)?;
        until("the monitor", || Ok(vm.qmp().ok()))?;
        Ok(vm)
    }
}

impl Vm {
    /// Moves the guest to `to`, which waits for it. `meanwhile` runs again and again until it is there.
    pub fn migrate(self, to: Vm, mut meanwhile: impl FnMut() -> Result<()>) -> Result<(Vm, Moved)> {
        let place = format!("unix:{}", to.scratch.path().join("guest").display());
        to.qmp()?.execute("migrate-incoming", json!({ "uri": place }))?;
        self.start_migration(&place)?;
        let moved = self.await_migration(&mut meanwhile)?;
        self.taken_over_by(to, moved)
    }

    /// Moves the guest by way of a file: it stands still until it is read.
    pub fn migrate_by_file(self, to: Vm) -> Result<(Vm, Moved)> {
        let place = format!("file:{}", self.saved().display());
        self.start_migration(&place)?;
        let moved = self.await_migration(&mut || Ok(()))?;
        to.qmp()?.execute("migrate-incoming", json!({ "uri": place }))?;
        self.taken_over_by(to, moved)
    }

    fn saved(&self) -> PathBuf {
        self.scratch.path().join("saved")
    }

    /// Begins to move the guest to nowhere in particular, and stops that again when `enough` of its memory has gone.
    pub fn cancel_migration(&mut self, enough: u64) -> Result<()> {
        let mut qmp = self.qmp()?;
        // The rest would take minutes.
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 4 << 20 }))?;
        qmp.execute("migrate", json!({ "uri": "exec:cat >/dev/null" }))?;
        let deadline = Instant::now() + PATIENCE;
        let mut cancelled = false;
        loop {
            let said = qmp.execute("query-migrate", json!({}))?;
            match said["status"].as_str().unwrap_or_default() {
                "cancelled" => return Ok(()),
                "active" if !cancelled && said["ram"]["transferred"].as_u64().unwrap_or(0) >= enough => {
                    qmp.execute("migrate_cancel", json!({}))?;
                    cancelled = true;
                }
                "completed" | "failed" => return Err(self.explain("migrate", &Failure::new(said.to_string()))),
                _ if Instant::now() > deadline => return Err(self.explain("migrate", &Failure::new(said.to_string()))),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn start_migration(&self, place: &str) -> Result<()> {
        let mut qmp = self.qmp()?;
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 33 }))?;
        qmp.execute("migrate", json!({ "uri": place })).map(drop)
    }

    pub(super) fn await_migration(&self, meanwhile: &mut impl FnMut() -> Result<()>) -> Result<Moved> {
        let mut qmp = self.qmp()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = qmp.execute("query-migrate", json!({}))?;
            match said["status"].as_str().unwrap_or_default() {
                "completed" => {
                    let number = |value: &Value| value.as_u64().unwrap_or_default();
                    let downtime = Duration::from_millis(number(&said["downtime"]));
                    return Ok(Moved { downtime, rounds: number(&said["ram"]["dirty-sync-count"]) });
                }
                "failed" | "cancelled" => return Err(self.explain("migrate", &Failure::new(said.to_string()))),
                _ if Instant::now() > deadline => return Err(self.explain("migrate", &Failure::new(said.to_string()))),
                _ => meanwhile()?,
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The guest runs in `to`, and this QEMU ends.
    pub(super) fn taken_over_by(self, mut to: Vm, moved: Moved) -> Result<(Vm, Moved)> {
        let deadline = Instant::now() + PATIENCE;
        let mut qmp = to.qmp()?;
        loop {
            let said = qmp.execute("query-status", json!({}))?;
            match said["status"].as_str().unwrap_or_default() {
                "running" => break,
                _ if Instant::now() > deadline => return Err(to.explain("arrive", &Failure::new(said.to_string()))),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        to.agent.go_on_from(&self.agent);
        Ok((to, moved))
    }
}
