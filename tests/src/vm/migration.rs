//! Live migration: a guest goes on in another QEMU.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Attachment, Config, Qmp, Vm, memory};
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

/// A moment of a migration that waits for what a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The guest runs, and its memory is copied.
    Copying,
    /// The guest stands still, its rings have stopped, and the last pages are not sent yet.
    Stopped,
}

/// Octets a second of a migration that waits.
const SLOWLY: u64 = 4 << 20;
/// Octets a second of one that does not.
const QUICKLY: u64 = 1 << 33;

impl Config {
    /// Starts a QEMU on the switch's socket that waits for a guest of the same configuration, see [`Vm::migrate`].
    pub fn await_guest(self, socket: &Path) -> Result<Vm> {
        self.await_guest_on(&Attachment::VhostUser(socket))
    }

    /// The same on any attachment.
    pub fn await_guest_on(self, attachment: &Attachment) -> Result<Vm> {
        let mut vm = Config { awaits_guest: true, ..self }.start_on(attachment)?;
        until("the monitor", || match (vm.qmp(), vm.qemu.try_wait()?) {
            (Ok(qmp), _) => Ok(Some(qmp)),
            (Err(failure), Some(_)) => Err(failure),
            (Err(_), None) => Ok(None),
        })
        .map_err(|failure| vm.explain("wait for a guest", &failure))?;
        Ok(vm)
    }
}

impl Vm {
    /// Moves the guest to `to`, which waits for it. `meanwhile` runs again and again until it is there.
    pub fn migrate(self, to: Vm, mut meanwhile: impl FnMut() -> Result<()>) -> Result<(Vm, Moved)> {
        let place = self.place(&to)?;
        self.start_migration(&place, QUICKLY)?;
        let moved = self.await_migration(&mut meanwhile).map_err(|failure| to.explain("arrive", &failure))?;
        self.taken_over_by(to, moved)
    }

    /// A migration that fails: why, and the guest goes on here.
    pub fn fail_to_migrate(&mut self, to: &Vm) -> Result<String> {
        let place = self.place(to)?;
        self.start_migration(&place, QUICKLY)?;
        match self.await_migration(&mut || Ok(())) {
            Ok(moved) => Err(Failure::new(format!("it did not fail: {moved:?}"))),
            Err(failure) => Ok(to.explain("arrive", &failure).to_string()),
        }
    }

    /// Where `to` waits for this guest from now on.
    fn place(&self, to: &Vm) -> Result<String> {
        let place = format!("unix:{}", to.scratch.path().join("guest").display());
        to.qmp()?.execute("migrate-incoming", json!({ "uri": place }))?;
        Ok(place)
    }

    /// The same, and compares the guest's memory here and there while it stands still in between: how many pages of 4 KiB
    /// differ.
    pub fn migrate_and_compare(self, to: Vm, mut meanwhile: impl FnMut() -> Result<()>) -> Result<(Vm, Moved, usize)> {
        // A guest that comes is not to run yet.
        to.qmp()?.execute("stop", json!({}))?;
        let place = self.place(&to)?;
        self.start_migration(&place, QUICKLY)?;
        let moved = self.await_migration(&mut meanwhile)?;
        to.await_state("paused")?;
        let different = memory::differences(self.pid(), to.pid())?;
        to.qmp()?.execute("cont", json!({}))?;
        let (there, moved) = self.taken_over_by(to, moved)?;
        Ok((there, moved, different))
    }

    /// Moves the guest, and waits at each stage for what `at` does.
    pub fn migrate_in_stages(self, to: Vm, mut at: impl FnMut(Stage) -> Result<()>) -> Result<(Vm, Moved)> {
        self.enable("pause-before-switchover")?;
        let place = self.place(&to)?;
        self.start_migration(&place, SLOWLY)?;
        let mut qmp = self.qmp()?;
        self.await_status(&mut qmp, "active")?;
        at(Stage::Copying)?;
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": QUICKLY }))?;
        self.await_status(&mut qmp, "pre-switchover")?;
        at(Stage::Stopped)?;
        qmp.execute("migrate-continue", json!({ "state": "pre-switchover" }))?;
        drop(qmp);
        let moved = self.await_migration(&mut || Ok(()))?;
        self.taken_over_by(to, moved)
    }

    /// Switches a capability of migrations on, such as `multifd`.
    pub fn enable(&self, capability: &str) -> Result<()> {
        let capabilities = json!([{ "capability": capability, "state": true }]);
        self.qmp()?.execute("migrate-set-capabilities", json!({ "capabilities": capabilities })).map(drop)
    }

    /// Moves the guest by way of a file: it stands still until it is read.
    pub fn migrate_by_file(self, to: Vm) -> Result<(Vm, Moved)> {
        let place = format!("file:{}", self.saved().display());
        self.start_migration(&place, QUICKLY)?;
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

    fn start_migration(&self, place: &str, bandwidth: u64) -> Result<()> {
        let mut qmp = self.qmp()?;
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": bandwidth }))?;
        qmp.execute("migrate", json!({ "uri": place })).map(drop)
    }

    /// Waits until a migration that goes on has come so far.
    fn await_status(&self, qmp: &mut Qmp, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = qmp.execute("query-migrate", json!({}))?;
            let status = said["status"].as_str().unwrap_or_default();
            if status == wanted {
                return Ok(());
            }
            if ["failed", "cancelled", "completed"].contains(&status) || Instant::now() > deadline {
                return Err(self.explain("migrate", &Failure::new(said.to_string())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
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
        to.await_state("running")?;
        to.agent.go_on_from(&self.agent);
        Ok((to, moved))
    }

    /// Waits until the guest is in this state.
    fn await_state(&self, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let look = || -> Result<()> {
            let mut qmp = self.qmp()?;
            loop {
                let said = qmp.execute("query-status", json!({}))?;
                match said["status"].as_str().unwrap_or_default() {
                    state if state == wanted => return Ok(()),
                    _ if Instant::now() > deadline => return Err(Failure::new(said.to_string())),
                    _ => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        };
        look().map_err(|failure| self.explain("arrive", &failure))
    }
}
