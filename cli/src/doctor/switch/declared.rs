//! Declared ports at which nobody is.

use sv3::status::{DeclaredPort, Status};

use crate::doctor::finding::{Cost, Finding};

/// Names of ports that one sentence has at most.
const NAMES: usize = 8;

/// Looks.
pub fn probe(status: &Status) -> Vec<Finding> {
    let (mut absent, mut down) = (Vec::new(), Vec::new());
    for port in &status.declared {
        match (port.up, port.attached) {
            (false, _) => down.push(port),
            (true, false) => absent.push(port),
            (true, true) => {}
        }
    }
    let mut found = Vec::new();
    if !down.is_empty() {
        let message = format!("declared ports that are out of service: {}", names(&down));
        found.push(
            Finding::advice("declared", message).to(Cost::Command, "if they are to serve: `sv3 port up` and the name"),
        );
    }
    if !absent.is_empty() {
        let message =
            format!("declared ports at which nobody is attached: {}; `sv3 status` shows their sockets", names(&absent));
        found.push(Finding::good("declared", message));
    }
    found
}

fn names(ports: &[&DeclaredPort]) -> String {
    let names: Vec<&str> = ports.iter().take(NAMES).map(|port| port.name.as_str()).collect();
    let more = ports.len().saturating_sub(NAMES);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::State;
    use crate::doctor::switch::example::healthy;

    #[test]
    fn ports_out_of_service_and_ports_without_a_guest_are_named() {
        let mut status = healthy();
        let port = |name: &str, up, attached| DeclaredPort {
            name: name.to_string(),
            slot: None,
            socket: None,
            up,
            attached,
            description: String::new(),
        };
        status.declared = (0..10).map(|number| port(&format!("g{number}"), true, false)).collect();
        status.declared.extend([port("web", false, false), port("db", true, true)]);
        let found = probe(&status);
        assert!(found[0].state == State::Advice && found[0].message.ends_with("out of service: web"), "{found:?}");
        assert!(found[1].state == State::Good && found[1].message.contains("g7 and 2 more"), "{found:?}");
    }
}
