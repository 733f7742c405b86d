//! What a change does, in words, before it is made.

use std::collections::BTreeMap;

use sv3::config::Config;

use super::show::{self, Setting};
use super::{snooping, words};

/// A line for each port, user or setting that differs; none if nothing does.
pub fn lines(old: &Config, new: &Config) -> Vec<String> {
    let ports = |config: &Config| -> BTreeMap<String, Vec<Setting>> {
        config.ports.iter().map(|(name, port)| (format!("port {name}"), show::port(port))).collect()
    };
    let users = |config: &Config| -> BTreeMap<String, Vec<Setting>> {
        let of_user = |(uid, rules)| (format!("guests of user {}", words::of_user(uid)), show::rules(rules));
        config.users.iter().map(|(uid, rules)| of_user((*uid, rules))).collect()
    };
    let mut lines = sections(&ports(old), &ports(new));
    lines.extend(sections(&users(old), &users(new)));
    lines.extend(settings("guests", &show::rules(&old.guests), &show::rules(&new.guests)));
    // A file that does not say it leaves it as it is.
    if new.snooping.is_some() {
        lines.extend(settings("snooping", &snooping::settings(old.snooping), &snooping::settings(new.snooping)));
    }
    lines
}

fn sections(old: &BTreeMap<String, Vec<Setting>>, new: &BTreeMap<String, Vec<Setting>>) -> Vec<String> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("- {name}: removed"));
    let mut lines: Vec<String> = gone.collect();
    for (name, now) in new {
        match old.get(name) {
            Some(before) => lines.extend(settings(name, before, now)),
            None => {
                let all: Vec<String> = now.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                let all = if all.is_empty() { "no rules".to_string() } else { all.join(", ") };
                lines.push(format!("+ {name}: {all}"));
            }
        }
    }
    lines
}

fn settings(name: &str, old: &[Setting], new: &[Setting]) -> Vec<String> {
    let find =
        |all: &[Setting], wanted: &str| all.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone());
    let mut keys: Vec<&str> = old.iter().chain(new).map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter_map(|key| match (find(old, key), find(new, key)) {
        (Some(before), Some(now)) if before == now => None,
        (Some(before), Some(now)) => Some(format!("  {name}: {key} = {now} (was {before})")),
        (None, Some(now)) => Some(format!("  {name}: {key} = {now}")),
        (Some(before), None) => Some(format!("  {name}: {key} is the default (was {before})")),
        (None, None) => None,
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use sv3::config::PortConfig;
    use sv3::rules::Vlan;

    use super::*;

    #[test]
    fn each_change_is_a_line() {
        let port = |vid| {
            let mut port = PortConfig::default();
            port.rules.vlan = Vlan::Access { vid };
            port
        };
        let config = |ports: &[(&str, PortConfig)]| Config {
            ports: ports.iter().map(|(name, port)| (name.to_string(), port.clone())).collect(),
            ..Config::default()
        };
        let old = config(&[("db", port(5)), ("web", port(10)), ("same", port(1))]);
        let mut down = port(20);
        (down.up, down.description) = (false, "it's \"new\"".to_string());
        let new = config(&[("mail", PortConfig::default()), ("web", down), ("same", port(1))]);
        let told = lines(&old, &new);
        assert_eq!(
            told,
            [
                "- port db: removed",
                "+ port mail: no rules",
                "  port web: description = \"it's \\\"new\\\"\"",
                "  port web: up = false",
                "  port web: vlan = 20 (was 10)",
            ]
        );
        assert!(lines(&new, &new).is_empty());
        let mut guests = new.clone();
        guests.guests.flood = false;
        assert_eq!(lines(&new, &guests), ["  guests: flood = false"]);
    }
}
