//! What an operator declares: ports with names that last, and what guests at the front door may do.
//!
//! The command line reads a file (TOML) or its own options, and gives the whole to the supervisor as a [`Change`]: JSON
//! in a sealed memfd, with the sockets of new doors. So the supervisor parses no language of people, makes no socket and
//! opens no file. It checks the whole again ([`Config::check`]) and takes all of it or nothing.

mod address;

pub use address::StaticAddress;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::MAX_PORTS;
use crate::attachment::{Attachment, FrameForm};
use crate::rules::{PortRules, Vid};
use crate::snooping::Switched;

/// Most octets of a [`Change`].
pub const CHANGE_MAX: usize = 8 << 20;
/// Most users that have rules of their own.
pub const USERS_MAX: usize = 1024;
/// Most static addresses of all ports together.
pub const ADDRESSES_MAX: usize = 16_384;
/// Most octets of a description.
pub const DESCRIPTION_MAX: usize = 200;
/// The folder of declared ports' sockets, beside the control socket.
pub const FOLDER: &str = "ports";

/// All that is declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ports, by name.
    pub ports: BTreeMap<String, PortConfig>,
    /// The rules of guests at the front door whose user has none.
    pub guests: PortRules,
    /// The rules of guests at the front door, by user id.
    pub users: BTreeMap<u32, PortRules>,
    /// Whether the switch snoops on IGMP and MLD. Absent in a change: as before; in what is in force: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snooping: Option<Switched>,
}

/// A declared port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortConfig {
    /// How it gets what is behind it.
    pub kind: DoorKind,
    /// Who may connect to its socket, if it has one.
    pub socket: Access,
    /// What it may do.
    pub rules: PortRules,
    /// Addresses that are at this port, whatever it says: always if it has a socket, else while something is attached.
    pub addresses: Vec<StaticAddress>,
    /// Whether it is in service. A port that is down takes no client and moves no frame.
    pub up: bool,
    /// For people.
    pub description: String,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            kind: DoorKind::default(),
            socket: Access::default(),
            rules: PortRules::default(),
            addresses: Vec::new(),
            up: true,
            description: String::new(),
        }
    }
}

/// How a declared port gets what is behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DoorKind {
    /// It has a socket of its own, where a vhost-user front-end connects.
    #[default]
    VhostUser,
    /// It has a socket of its own, where a client sends and receives frames, each after its length.
    Stream {
        /// What is in front of each frame.
        form: FrameForm,
        /// Most octets of a frame's payload that the client accepts.
        mtu: u32,
    },
    /// It has no socket: a tap, a card or a socket is attached under this name.
    Attached,
}

impl DoorKind {
    /// Whether the port has a socket of its own.
    pub fn has_door(self) -> bool {
        self != DoorKind::Attached
    }
}

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// The user that the socket belongs to; `None`: whoever made it.
    pub owner: Option<u32>,
    /// Its group; `None`: that of whoever made it.
    pub group: Option<u32>,
    /// Its permissions, at most 0o777.
    pub mode: u32,
}

impl Access {
    /// Permissions unless others are given: the owner alone.
    pub const MODE: u32 = 0o600;
}

impl Default for Access {
    fn default() -> Access {
        Access { owner: None, group: None, mode: Access::MODE }
    }
}

/// What the command line gives the supervisor. With it come a listening socket for each of `doors`, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// All that is declared from now on.
    pub config: Config,
    /// The ports whose sockets come along: those that have none yet.
    pub doors: Vec<String>,
    /// The file that it was read from; `None`: as before.
    pub file: Option<String>,
}

/// What is in force: the answer to the request `config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Grows by one with each change. A change names the generation that it was made from.
    pub generation: u64,
    /// All that is declared.
    pub config: Config,
    /// The file that it was read from last.
    pub file: Option<String>,
}

impl Config {
    /// Why this cannot be, in words that name the port or the user.
    pub fn check(&self) -> Result<(), String> {
        if self.ports.len() > MAX_PORTS {
            return Err(format!("{} ports, of {MAX_PORTS} at most", self.ports.len()));
        }
        if self.users.len() > USERS_MAX {
            return Err(format!("rules for {} users, of {USERS_MAX} at most", self.users.len()));
        }
        self.guests.check().map_err(|why| format!("guests: {why}"))?;
        if let Some(setting) = self.snooping.and_then(Switched::setting) {
            setting.check().map_err(|why| format!("snooping: {why}"))?;
        }
        for (uid, rules) in &self.users {
            rules.check().map_err(|why| format!("user {uid}: {why}"))?;
        }
        let mut addresses = BTreeMap::new();
        for (name, port) in &self.ports {
            port.check(name).map_err(|why| format!("port {name}: {why}"))?;
            for address in &port.addresses {
                if let Some(other) = addresses.insert((address.vid, address.mac), name) {
                    return Err(format!("port {name}: {address} is at port {other} already"));
                }
            }
        }
        match addresses.len() {
            0..=ADDRESSES_MAX => Ok(()),
            count => Err(format!("{count} static addresses, of {ADDRESSES_MAX} at most")),
        }
    }

    /// The rules of a guest of this user at the front door.
    pub fn rules_of(&self, uid: u32) -> &PortRules {
        self.users.get(&uid).unwrap_or(&self.guests)
    }
}

impl PortConfig {
    fn check(&self, name: &str) -> Result<(), String> {
        if !Attachment::is_name(name) {
            let most = Attachment::NAME_MAX;
            return Err(format!(
                "a name has up to {most} letters, digits, '.', '_' and '-', and is not 'p' with a number"
            ));
        }
        if name.starts_with('.') {
            return Err("the name of its socket would be hidden: begin with a letter or a digit".to_string());
        }
        if self.description.len() > DESCRIPTION_MAX || self.description.contains(char::is_control) {
            return Err(format!("a description is one line of {DESCRIPTION_MAX} octets at most"));
        }
        if self.socket.mode > 0o777 {
            return Err(format!("mode {:o}: permissions are 0 to 0777", self.socket.mode));
        }
        if let DoorKind::Stream { mtu, .. } = self.kind
            && !(Attachment::MTU_MIN..=Attachment::MTU_MAX).contains(&mtu)
        {
            return Err(format!("mtu {mtu}: it is {} to {}", Attachment::MTU_MIN, Attachment::MTU_MAX));
        }
        self.rules.check()?;
        self.addresses.iter().try_for_each(|address| address.check(&self.rules.vlan))
    }

    /// The VLAN of an address that names none: that of frames without a tag.
    pub fn usual_vid(&self) -> Option<Vid> {
        address::usual_vid(&self.rules.vlan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Vlan;
    use crate::snooping::Snooping;

    fn port(vlan: Vlan) -> PortConfig {
        PortConfig { rules: PortRules { vlan, ..PortRules::default() }, ..PortConfig::default() }
    }

    fn config(ports: &[(&str, PortConfig)]) -> Config {
        let ports = ports.iter().map(|(name, port)| (name.to_string(), port.clone())).collect();
        Config { ports, ..Config::default() }
    }

    #[test]
    fn what_cannot_be_is_told_with_the_port_s_name() {
        let with = |change: fn(&mut PortConfig)| {
            let mut port = port(Vlan::Access { vid: 10 });
            change(&mut port);
            config(&[("web", port)]).check().unwrap_err()
        };
        let at = |vid, mac| StaticAddress { vid, mac };
        let hasty = Switched::On(Snooping { interval_ms: 1, ..Snooping::default() });
        let told = Config { snooping: Some(hasty), ..Config::default() }.check().unwrap_err();
        assert!(told.starts_with("snooping: interval"), "{told}");
        for (told, why) in [
            (with(|port| port.rules.vlan = Vlan::Access { vid: 0 }), "1 to 4094"),
            (with(|port| port.socket.mode = 0o1777), "0777"),
            (with(|port| port.description = "a\nb".to_string()), "one line"),
            (with(|port| port.kind = DoorKind::Stream { form: FrameForm::Plain, mtu: 1 }), "68 to 65520"),
            (with(|port| port.addresses = vec![at_of(20)]), "VLAN 20"),
        ] {
            assert!(told.starts_with("port web: ") && told.contains(why), "{told}");
        }
        for name in ["", "p3", "a/b", ".hidden", "..", &"x".repeat(32)] {
            assert!(config(&[(name, PortConfig::default())]).check().is_err(), "{name:?}");
        }
        let mut twice = port(Vlan::Access { vid: 10 });
        twice.addresses = vec![at(10, [2; 6])];
        let told = config(&[("a", twice.clone()), ("b", twice)]).check().unwrap_err();
        assert!(told.starts_with("port b: ") && told.contains("port a"), "{told}");
    }

    fn at_of(vid: Vid) -> StaticAddress {
        StaticAddress { vid, mac: [2; 6] }
    }

    #[test]
    fn there_are_bounds() {
        let many = |count: usize| (0..count).map(|at| (format!("a{at}"), PortConfig::default())).collect();
        let config = |ports| Config { ports, ..Config::default() };
        config(many(MAX_PORTS)).check().unwrap();
        assert!(config(many(MAX_PORTS + 1)).check().unwrap_err().contains("1024"));
        let mut port = PortConfig::default();
        let mac = |at: usize| [2, 0, 0, 0, (at >> 8) as u8, at as u8];
        port.addresses = (0..ADDRESSES_MAX).map(|at| StaticAddress { vid: 0, mac: mac(at) }).collect();
        let mut full = config([("a".to_string(), port)].into());
        full.check().unwrap();
        full.ports.insert("b".to_string(), PortConfig { addresses: vec![at_of(0)], ..PortConfig::default() });
        assert!(full.check().unwrap_err().contains("16384 at most"));
    }
}
