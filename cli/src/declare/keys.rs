//! The settings that there are. docs/use/config.md has a row of each.

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// Its name in a file. On the command line, `-` stands for `_`.
    pub name: &'static str,
    /// What its value is called in `--help`; empty: it is true or false, and true if nothing is said.
    pub value: &'static str,
    /// Whose setting it is.
    pub of: Of,
    /// Its text in `--help`.
    pub help: &'static str,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A port's alone.
    Port,
    /// A port's, and it has a default for all of them.
    Socket,
    /// A rule: a port's, or a user's.
    Rule,
}

const fn key(name: &'static str, value: &'static str, of: Of, help: &'static str) -> Key {
    Key { name, value, of, help }
}

/// All of them. `guard` comes before those that it stands for.
pub const ALL: [Key; 37] = [
    key(
        "kind",
        "KIND",
        Of::Port,
        "vhost-user, stream, or attached: by `sv3 attach` under this name [default: vhost-user]",
    ),
    key("description", "TEXT", Of::Port, "For people"),
    key("up", "BOOL", Of::Port, "Whether the port is in service [default: true]"),
    key("owner", "USER", Of::Socket, "The user that its socket belongs to, by name or number"),
    key("group", "GROUP", Of::Socket, "The group of its socket"),
    key("mode", "MODE", Of::Socket, "The permissions of its socket, in octal [default: 0600]"),
    key("form", "FORM", Of::Port, "Frames of a stream: plain, vnet or implied [default: plain]"),
    key("mtu", "OCTETS", Of::Port, "Most octets of a frame's payload that a stream's client takes [default: 1500]"),
    key("vlan", "VID", Of::Rule, "Its frames have no tag and are of this VLAN (access); none: it knows no VLANs"),
    key("trunk", "VIDS", Of::Rule, "Its frames have tags of these VLANs, such as 10,20-30 or all"),
    key("native", "VID", Of::Rule, "The VLAN of a trunk's frames without a tag; none: they are dropped"),
    key("tunnel", "VID", Of::Rule, "All its frames are of this VLAN, whatever tags they have (QinQ)"),
    key("tag", "TYPE", Of::Rule, "Tags of a trunk: 802.1Q or 802.1ad [default: 802.1Q]"),
    key("isolated", "", Of::Rule, "It speaks to ports that are not isolated, such as uplinks"),
    key("isolation_group", "NUMBER", Of::Rule, "It speaks to these and to ports of the same group; none: to all"),
    key("guard", "HOW", Of::Rule, "strict: its own addresses, no DHCP server, no router, no bridge; or off"),
    key("mac", "MACS", Of::Rule, "Source addresses that its frames may have; any"),
    key("first_macs", "NUMBER", Of::Rule, "The first so many addresses that it uses are its own"),
    key("ip", "ADDRESSES", Of::Rule, "IPv4 and IPv6 addresses or prefixes that it may use; any"),
    key("ipv4", "ADDRESSES", Of::Rule, "The same of IPv4 alone"),
    key("ipv6", "ADDRESSES", Of::Rule, "The same of IPv6 alone"),
    key("no_dhcp_server", "", Of::Rule, "It may not answer as a DHCP server"),
    key("no_router", "", Of::Rule, "It may send no router advertisements and no redirects"),
    key("no_bridge", "", Of::Rule, "It may send no BPDUs"),
    key("static", "MACS", Of::Port, "Addresses that are at this port whatever it says, such as 52:54:00:00:00:01@10"),
    key("storm_broadcast", "FRAMES", Of::Rule, "Most frames to all that it may send in a second; none: any number"),
    key("storm_multicast", "FRAMES", Of::Rule, "Most frames to groups in a second"),
    key("storm_unknown", "FRAMES", Of::Rule, "Most frames to unknown addresses in a second"),
    key("rate_from_port", "RATE", Of::Rule, "Most that it may send: 100M is 100 Mbit/s, 5000fps is frames; none"),
    key("burst_from_port", "AMOUNT", Of::Rule, "So many octets, or frames, at once [default: 20 ms of the rate]"),
    key("rate_to_port", "RATE", Of::Rule, "Most that it gets; more is dropped"),
    key("burst_to_port", "AMOUNT", Of::Rule, "So many octets, or frames, at once"),
    key("flood", "BOOL", Of::Rule, "It gets frames to unknown addresses [default: true]"),
    key("mcast_flood", "BOOL", Of::Rule, "It gets frames to groups [default: true]"),
    key("bcast_flood", "BOOL", Of::Rule, "It gets frames to all [default: true]"),
    key("learning", "BOOL", Of::Rule, "The source addresses of its frames are learnt [default: true]"),
    key("max_addresses", "NUMBER", Of::Rule, "Most addresses that are learnt from it at a time; none: any number"),
];

/// All keys.
pub fn all() -> impl Iterator<Item = &'static Key> {
    ALL.iter()
}

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// The word among those that is most like this one, if any is.
pub fn nearest<'w>(name: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let found = words.map(|word| (distance(name, word), word)).min();
    found.filter(|(distance, word)| *distance <= 1 + word.len() / 4).map(|(_, word)| word)
}

/// How many letters must be changed, added or removed to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// Settings of which a port has one at most: each says all of the same thing.
const EITHER: [&[&str]; 3] = [&["vlan", "trunk", "tunnel"], &["mac", "first_macs"], &["isolated", "isolation_group"]];

/// The setting among the earlier ones that this one excludes.
pub fn excluded<'k>(earlier: &[&'k str], name: &str) -> Option<&'k str> {
    let rivals = EITHER.iter().find(|names| names.contains(&name))?;
    earlier.iter().copied().find(|other| *other != name && rivals.contains(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let names = || all().map(|key| key.name);
        for (wrong, right) in [("vlna", "vlan"), ("maac", "mac"), ("isolate", "isolated"), ("no-router", "no_router")] {
            assert_eq!(nearest(wrong, names()), Some(right));
        }
        assert_eq!(nearest("colour", names()), None);
    }

    #[test]
    fn the_document_has_a_row_of_every_setting() {
        let document = include_str!("../../../docs/use/config.md");
        for Key { name, .. } in all() {
            assert!(document.contains(&format!("| `{name}` |")), "docs/use/config.md has no row of {name}");
        }
        let mut names: Vec<_> = all().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().count());
    }
}
