//! The declaration of one port, to be changed.

use sv3::config::{DoorKind, InForce, PortConfig};
use sv3::status::Status;

use crate::control::Control;

/// The port as it is declared. One that was attached and of which nothing was said counts as declared.
pub fn declared(control: &Control, before: &InForce, name: &str) -> Result<PortConfig, String> {
    match before.config.ports.get(name) {
        Some(port) => Ok(port.clone()),
        None if is_attached(&control.running()?.1, name) => {
            Ok(PortConfig { kind: DoorKind::Attached, ..PortConfig::default() })
        }
        None => Err(unknown(control, name)),
    }
}

/// Whether something was attached under this name.
fn is_attached(status: &Status, name: &str) -> bool {
    let port = status.port(name);
    port.is_some_and(|port| port.card.is_some() || port.files.is_some() && port.name != format!("p{}", port.slot))
}

/// Why a port of this name cannot be changed, for people.
pub fn unknown(control: &Control, name: &str) -> String {
    let is_there = control.running().is_ok_and(|(_, status)| status.port(name).is_some());
    match is_there {
        true => format!(
            "{name} came in at the front door and has no declaration: `sv3 port add NAME` declares a port, and rules \
             of such guests are by user, in a file (docs/use/config.md)"
        ),
        false => format!("there is no port {name}; `sv3 port add {name}` declares one, `sv3 status` lists all"),
    }
}
