//! QEMU is replaced by another one, perhaps a newer one, on the same machine, and the guest's memory stays where it is
//! (docs/devel/migration/CPR.rst of QEMU).

use std::path::Path;

use serde_json::{Value, json};

use super::{Config, Qmp, Vm};
use crate::failure::{Failure, Result};
use crate::patience::until;

impl Vm {
    /// `cpr-exec`: QEMU executes itself.
    pub fn replace_in_place(&mut self) -> Result<()> {
        let place = format!("file:{}", self.scratch.path().join("state").display());
        // Behind what was only for the first start.
        let program = self.words.iter().skip_while(|word| *word != "--").skip(1);
        let mut words: Vec<String> = program.map(|word| word.to_string_lossy().into_owned()).collect();
        words.extend(["-incoming".to_string(), place.clone()]);
        let mut qmp = self.qmp()?;
        qmp.execute("migrate-set-parameters", json!({"mode": "cpr-exec", "cpr-exec-command": words}))?;
        qmp.execute("migrate", json!({ "uri": place }))?;
        // The monitor ends with the program.
        until("the other QEMU", || match qmp.execute("query-migrate", json!({})) {
            Ok(said) if said["status"] == "failed" => Err(Failure::new(said.to_string())),
            Ok(_) => Ok(None),
            Err(_) => Ok(Some(())),
        })
        .map_err(|failure| self.explain("cpr-exec", &failure))?;
        let monitor = self.scratch.path().join("qmp");
        let runs =
            || Some(Qmp::connect(&monitor).ok()?.execute("query-status", json!({})).ok()?["status"] == "running");
        until("the guest", || Ok(runs().filter(|runs| *runs)))
            .map(drop)
            .map_err(|failure| self.explain("cpr-exec", &failure))
    }

    /// `cpr-transfer`: another QEMU of the same configuration gets the memory's files, and the guest goes on there. The
    /// configurations need [`Config::machine`] with `aux-ram-share=on`.
    pub fn replace_by(self, config: Config, socket: &Path) -> Result<Vm> {
        let [memory, state] = ["memory", "state"].map(|name| self.scratch.path().join(name));
        let channel = |kind: &str, path: &Path| {
            let address = json!({"transport": "socket", "type": "unix", "path": path});
            json!({"channel-type": kind, "addr": address})
        };
        let (memory, state) = (channel("cpr", &memory), channel("main", &state));
        let words = ["-incoming", &memory.to_string(), "-incoming", &state.to_string()];
        let to = config.arguments(&words).start(socket)?;
        // The other QEMU has no monitor before it has the memory.
        let path = self.scratch.path().join("memory");
        until("the other QEMU", || Ok(path.exists().then_some(())))?;
        self.set_mode("cpr-transfer")?;
        self.qmp()?.execute("migrate", json!({"channels": [state, memory]}))?;
        let moved = self.await_migration(&mut || Ok(()))?;
        until("its monitor", || Ok(to.qmp().ok()))?;
        self.taken_over_by(to, moved).map(|(vm, _)| vm)
    }

    /// `cpr-reboot`: QEMU ends and another one starts, and the memory is a file that stays; the machine may have
    /// another kernel meanwhile.
    pub fn replace_after(self, config: Config, socket: &Path) -> Result<Vm> {
        let capability = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
        let place = json!({"uri": format!("file:{}", self.scratch.path().join("state").display())});
        self.qmp()?.execute("migrate-set-capabilities", capability.clone())?;
        self.set_mode("cpr-reboot")?;
        self.qmp()?.execute("migrate", place.clone())?;
        let moved = self.await_migration(&mut || Ok(()))?;
        let to = config.await_guest(socket)?;
        to.qmp()?.execute("migrate-set-capabilities", capability)?;
        to.set_mode("cpr-reboot")?;
        to.qmp()?.execute("migrate-incoming", place)?;
        self.taken_over_by(to, moved).map(|(vm, _)| vm)
    }

    fn set_mode(&self, mode: &str) -> Result<Value> {
        self.qmp()?.execute("migrate-set-parameters", json!({ "mode": mode }))
    }
}
