//! Single values, as people write them.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::unistd::{Gid, Group, Uid, User};
use sv3::card_attachment::parse_mac;
use sv3::frame::MacAddr;
use sv3::rules::{Prefix4, Prefix6, VID_MAX, Vid, VidRange, Vids};

/// Reads true or false.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Reads a number within bounds.
pub fn number<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or(format!("{text:?} must be {least} to {most}"))
}

/// Reads a VLAN.
pub fn vid(text: &str) -> Result<Vid, String> {
    number(text, 1, VID_MAX.into()).map_err(|_| format!("VLAN {text:?}: VLANs have the numbers 1 to {VID_MAX}"))
}

/// Reads VLANs such as `10,20-30`, or `all`.
pub fn vids(texts: &[String]) -> Result<Vids, String> {
    let mut ranges: Vec<VidRange> = Vec::new();
    for part in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
        if part == "all" {
            return Ok(Vids::all());
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = VidRange { first: vid(first.trim())?, last: vid(last.trim())? };
        if range.first > range.last {
            return Err(format!("{part:?}: the first VLAN is above the last one"));
        }
        ranges.push(range);
    }
    ranges.sort_by_key(|range| range.first);
    let mut joined: Vec<VidRange> = Vec::new();
    for range in ranges {
        match joined.last_mut().filter(|last| range.first <= last.last.saturating_add(1)) {
            Some(last) => last.last = last.last.max(range.last),
            None => joined.push(range),
        }
    }
    Ok(Vids(joined))
}

/// Writes them.
pub fn of_vids(vids: &Vids) -> String {
    let range = |range: &VidRange| match range {
        VidRange { first, last } if first == last => first.to_string(),
        VidRange { first, last } => format!("{first}-{last}"),
    };
    if *vids == Vids::all() { "all".to_string() } else { vids.0.iter().map(range).collect::<Vec<_>>().join(",") }
}

/// Reads the address of a machine.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let good = |mac: &MacAddr| !mac.is_group() && !mac.is_zero();
    let mac = parse_mac(text).filter(good);
    mac.map(MacAddr::octets).ok_or(format!("{text:?} is no address of one machine, such as 52:54:00:00:00:01"))
}

/// An address of IP, or several that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Of IPv4.
    V4(Prefix4),
    /// Of IPv6.
    V6(Prefix6),
}

impl Prefix {
    /// Reads `ADDRESS` or `ADDRESS/LEN`.
    pub fn parse(text: &str) -> Result<Prefix, String> {
        let wrong = || format!("{text:?} is no address or prefix, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/64");
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let len = |most: u64| len.map_or(Ok(most as u8), |len| number(len, 0, most)).map_err(|_| wrong());
        if let Ok(address) = address.parse::<Ipv4Addr>() {
            let len = len(32)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            return Ok(Prefix::V4(Prefix4 { address: (u32::from(address) & mask).to_be_bytes(), len }));
        }
        let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
        let len = len(128)?;
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Ok(Prefix::V6(Prefix6 { address: (u128::from(address) & mask).to_be_bytes(), len }))
    }
}

/// Writes a prefix.
pub fn of_prefix4(Prefix4 { address, len }: &Prefix4) -> String {
    let address = Ipv4Addr::from(*address);
    if *len == 32 { address.to_string() } else { format!("{address}/{len}") }
}

/// Writes a prefix.
pub fn of_prefix6(Prefix6 { address, len }: &Prefix6) -> String {
    let address = Ipv6Addr::from(*address);
    if *len == 128 { address.to_string() } else { format!("{address}/{len}") }
}

/// Reads a user's name or number.
pub fn user(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(uid) if uid != u32::MAX => Ok(uid),
        _ => match User::from_name(text) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            _ => Err(format!("this machine has no user {text:?}")),
        },
    }
}

/// Reads a group's name or number.
pub fn group(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(gid) if gid != u32::MAX => Ok(gid),
        _ => match Group::from_name(text) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            _ => Err(format!("this machine has no group {text:?}")),
        },
    }
}

/// The name of a user, or else the number.
pub fn of_user(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or(uid.to_string(), |user| user.name)
}

/// The name of a group, or else the number.
pub fn of_group(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or(gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_joined_and_written_again() {
        let read = |text: &str| vids(&[text.to_string()]);
        assert_eq!(of_vids(&read("30, 10,20-22,21-25,26").unwrap()), "10,20-26,30");
        assert_eq!(of_vids(&read("all").unwrap()), "all");
        for wrong in ["", "0", "4095", "9-3", "x", "1-", "1,,2"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_keep_their_first_bits() {
        let words = |text: &str| match Prefix::parse(text)? {
            Prefix::V4(prefix) => Ok(of_prefix4(&prefix)),
            Prefix::V6(prefix) => Ok::<_, String>(of_prefix6(&prefix)),
        };
        for (text, written) in [
            ("192.0.2.7", "192.0.2.7"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::7/64", "2001:db8::/64"),
            ("fe80::1", "fe80::1"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(words(text).as_deref(), Ok(written));
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "a/8"] {
            assert!(words(wrong).unwrap_err().contains("no address"), "{wrong}");
        }
    }
}
