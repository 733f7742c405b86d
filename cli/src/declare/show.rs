//! What is declared, as settings and as a file that can be read again.

use std::fmt::Write;

use sv3::attachment::{Attachment, FrameForm};
use sv3::config::{Access, Config, DoorKind, PortConfig};
use sv3::frame::MacAddr;
use sv3::rules::{Bucket, Isolation, PortRules, Sources, TagType, Vlan};
use sv3::snooping::Switched;

use super::rate::{Rate, short};
use super::{snooping, words};

/// A key and its value as TOML has it.
pub type Setting = (&'static str, String);

/// The whole, as a file.
pub fn file(config: &Config) -> String {
    let mut text = String::new();
    let mut section = |name: String, settings: Vec<Setting>| {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{name}]");
        for (key, value) in settings {
            let _ = writeln!(text, "{key} = {value}");
        }
    };
    if config.snooping.and_then(Switched::setting).is_some() {
        section("snooping".to_string(), snooping::settings(config.snooping));
    }
    if !config.guests.is_open() {
        section("guests".to_string(), rules(&config.guests));
    }
    for (uid, of_user) in &config.users {
        section(format!("users.{}", key(&words::of_user(*uid))), rules(of_user));
    }
    for (name, at) in &config.ports {
        section(format!("ports.{}", key(name)), port(at));
    }
    text
}

/// The settings of a port that differ from the defaults.
pub fn port(port: &PortConfig) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    match port.kind {
        DoorKind::VhostUser => {}
        DoorKind::Attached => all.push(("kind", text("attached"))),
        DoorKind::Stream { form, mtu } => {
            all.push(("kind", text("stream")));
            match form {
                FrameForm::Plain => {}
                FrameForm::NetHeader => all.push(("form", text("vnet"))),
                FrameForm::Implied => all.push(("form", text("implied"))),
            }
            if mtu != Attachment::MTU {
                all.push(("mtu", mtu.to_string()));
            }
        }
    }
    if !port.description.is_empty() {
        all.push(("description", text(&port.description)));
    }
    if !port.up {
        all.push(("up", "false".to_string()));
    }
    let Access { owner, group, mode } = port.socket;
    all.extend(owner.map(|uid| ("owner", text(&words::of_user(uid)))));
    all.extend(group.map(|gid| ("group", text(&words::of_group(gid)))));
    if mode != Access::MODE {
        all.push(("mode", text(&format!("{mode:04o}"))));
    }
    all.extend(rules(&port.rules));
    if !port.addresses.is_empty() {
        let usual = port.usual_vid();
        let address = |at: &sv3::config::StaticAddress| match Some(at.vid) == usual {
            true => MacAddr::new(at.mac).to_string(),
            false => at.to_string(),
        };
        all.push(("static", list(port.addresses.iter().map(address))));
    }
    all
}

/// The settings of rules that differ from the defaults.
pub fn rules(rules: &PortRules) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    match &rules.vlan {
        Vlan::Unaware => {}
        Vlan::Access { vid } => all.push(("vlan", vid.to_string())),
        Vlan::Tunnel { vid } => all.push(("tunnel", vid.to_string())),
        Vlan::Trunk { native, allowed, tag } => {
            all.push(("trunk", text(&words::of_vids(allowed))));
            all.extend(native.map(|vid| ("native", vid.to_string())));
            if *tag == TagType::Service {
                all.push(("tag", text("802.1ad")));
            }
        }
    }
    match rules.isolation {
        Isolation::Open => {}
        Isolation::Isolated => all.push(("isolated", "true".to_string())),
        Isolation::Group(group) => all.push(("isolation_group", group.to_string())),
    }
    let guard = &rules.guard;
    match &guard.macs {
        Sources::Any => {}
        Sources::First(count) => all.push(("first_macs", count.to_string())),
        Sources::Listed(macs) => all.push(("mac", list(macs.iter().map(|mac| MacAddr::new(*mac).to_string())))),
    }
    all.extend(guard.ipv4.as_ref().map(|four| ("ipv4", list(four.iter().map(words::of_prefix4)))));
    all.extend(guard.ipv6.as_ref().map(|six| ("ipv6", list(six.iter().map(words::of_prefix6)))));
    let refused =
        [("no_dhcp_server", guard.no_dhcp_server), ("no_router", guard.no_router), ("no_bridge", guard.no_bridge)];
    let yes = |(key, is): (&'static str, bool)| is.then(|| (key, "true".to_string()));
    all.extend(refused.into_iter().filter_map(yes));
    let storm = rules.storm;
    let storms =
        [("storm_broadcast", storm.broadcast), ("storm_multicast", storm.multicast), ("storm_unknown", storm.unknown)];
    all.extend(storms.into_iter().filter_map(|(key, frames)| Some((key, frames?.to_string()))));
    let sides = [
        (rules.limits.from_port, "rate_from_port", "burst_from_port"),
        (rules.limits.to_port, "rate_to_port", "burst_to_port"),
    ];
    for (bucket, rate, burst) in sides {
        let Some(Bucket { rate: amount, burst: at_once, unit }) = bucket else { continue };
        all.push((rate, text(&Rate { amount, unit }.words())));
        all.push((burst, text(&short(at_once))));
    }
    let floods = [
        ("flood", rules.flood),
        ("mcast_flood", rules.mcast_flood),
        ("bcast_flood", rules.bcast_flood),
        ("learning", rules.learning),
    ];
    all.extend(floods.into_iter().filter(|(_, is)| !is).map(|(key, _)| (key, "false".to_string())));
    if rules.max_addresses > 0 {
        all.push(("max_addresses", rules.max_addresses.to_string()));
    }
    all
}

/// A name as a key of TOML.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || ['-', '_'].contains(&c);
    if !name.is_empty() && name.chars().all(bare) { name.to_string() } else { text(name) }
}

/// A string of TOML.
fn text(words: &str) -> String {
    let mut quoted = String::from('"');
    for c in words.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn list(words: impl Iterator<Item = String>) -> String {
    format!("[{}]", words.map(|word| text(&word)).collect::<Vec<_>>().join(", "))
}
