//! Target `declared`: what the command line declares, as the supervisor reads it.

use sv3::config::{ADDRESSES_MAX, Change, USERS_MAX};
use sv3::ipc::{Command, Envelope};
use sv3::{MAX_PORTS, attachment::Attachment};

use crate::given::decode;
use crate::ports::terms::Terms;
use crate::workers::addresses::Addresses;

/// Octets: JSON.
pub fn declared(octets: &[u8]) {
    let change = match decode(octets) {
        Ok(change) => change,
        Err(why) => return assert!(!why.is_empty()),
    };
    let config = &change.config;
    assert!(config.ports.len() <= MAX_PORTS && config.users.len() <= USERS_MAX);
    assert!(config.ports.keys().all(|name| Attachment::is_name(name) && !name.starts_with('.')));
    assert!(config.ports.values().map(|port| port.addresses.len()).sum::<usize>() <= ADDRESSES_MAX);
    // What is written is read.
    let again: Change = serde_json::from_slice(&serde_json::to_vec(&change).unwrap()).unwrap();
    assert_eq!(again, change);
    let of_ports = config.ports.iter().map(|(name, port)| Terms::of(name, port));
    let of_users = config.users.values().chain([&config.guests]).map(Terms::of_guest);
    for terms in of_ports.chain(of_users) {
        // Each command fits into a frame, and rules are staged before they are committed.
        let told = terms.tell(7);
        let mut staged = false;
        for told in &told {
            assert!(fits(&told.command));
            match &told.command {
                Command::RulesStage { port: 7, rules } => staged = rules.check().is_ok(),
                Command::RulesCommit => assert!(std::mem::take(&mut staged)),
                other => panic!("{other:?}"),
            }
        }
        assert!(!staged);
    }
    // From any addresses to any others: what workers have in the end is what was said.
    let mut addresses = Addresses::default();
    let mut known = 0;
    for (slot, port) in (0..).zip(config.ports.values()) {
        let wanted = port.addresses.iter().map(|at| (*at, slot)).collect();
        let (gone, new) = addresses.follow(wanted);
        assert!(new.iter().chain(&gone).all(|told| fits(&told.command)));
        known = known - gone.len() + new.len();
        assert_eq!(known, addresses.replay().count());
    }
}

fn fits(command: &Command) -> bool {
    if let Command::AddressAdd { vid, mac, .. } = command {
        assert!(*vid < 4095 && mac[0] & 1 == 0);
    }
    Envelope { seq: 1, command: command.clone(), inherited: None }.encode().is_ok()
}
