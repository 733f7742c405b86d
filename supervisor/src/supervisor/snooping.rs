//! Switches snooping on and off, and tells of groups.

use serde_json::json;
use sv3::config::InForce;
use sv3::group_status::GroupsStatus;
use sv3::ipc::Command;
use sv3::snooping::{Snooping, SnoopingRun, Switched};

use super::Supervisor;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// The switch snoops in this way from now on, or no longer. What is learnt stays if it has snooped before.
    pub(super) fn set_snooping(&mut self, wanted: Option<Snooping>) -> Result<(), String> {
        wanted.as_ref().map_or(Ok(()), Snooping::check)?;
        self.switch_snooping(wanted);
        Ok(())
    }

    /// The same for a setting that was checked.
    pub(super) fn switch_snooping(&mut self, wanted: Option<Snooping>) {
        let before = self.workers.config.settings.snooping;
        let setting = wanted.map(|settings| match before {
            Some(before) => SnoopingRun { settings, ..before },
            None => SnoopingRun::begin(settings),
        });
        if setting == before {
            return;
        }
        self.workers.config.settings.snooping = setting;
        self.workers.send(vec![Command::Snoop { setting }.into()], Waiter::Nobody);
        let message = match wanted {
            Some(wanted) => format!("the switch snoops on IGMP and MLD: {wanted}"),
            None => "the switch no longer snoops on IGMP and MLD".to_string(),
        };
        self.telemetry.events.say_with("snooping", message, json!({ "on": wanted.is_some() }));
    }

    /// What is declared, with the setting.
    pub(super) fn in_force(&self) -> InForce {
        let mut in_force = self.clients.slots.declared.in_force();
        in_force.config.snooping =
            self.workers.config.settings.snooping.map(|snooping| Switched::On(snooping.settings));
        in_force
    }

    /// All groups.
    pub(super) fn groups(&self) -> GroupsStatus {
        let setting = self.workers.config.settings.snooping.map(|snooping| snooping.settings);
        let ports: Vec<_> = self.port_statuses().into_iter().map(|port| (port.slot, port.name)).collect();
        crate::telemetry::groups::groups(&self.workers.ledger.groups, setting, &ports)
    }
}
