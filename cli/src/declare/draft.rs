//! A port, or the rules of a user, while settings are collected.

use sv3::attachment::{Attachment, FrameForm};
use sv3::config::{DoorKind, PortConfig, StaticAddress};
use sv3::rules::{Isolation, Limits, PortRules, Sources, TagType, Vid, Vids, Vlan};

use super::rate::{Rate, amount};
use super::words::{self, Prefix, boolean, number};

/// What takes a setting back.
const NONE: [&str; 3] = ["none", "any", "off"];
/// Settings that are lists. An empty one would look as if it let nothing pass, and let all pass.
const LISTS: [&str; 6] = ["mac", "first_macs", "ip", "vlan", "trunk", "tunnel"];

/// The port so far.
#[derive(Clone, Debug)]
pub struct Draft {
    port: PortConfig,
    kind: Kind,
    form: FrameForm,
    mtu: u32,
    vlan: VlanDraft,
    strict: bool,
    /// DHCP servers, routers, bridges: `None`: as `guard` says.
    refused: [Option<bool>; 3],
    /// `None`: the VLAN of frames without a tag.
    addresses: Vec<(Option<Vid>, [u8; 6])>,
    from_port: Side,
    to_port: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    VhostUser,
    Stream,
    Attached,
}

#[derive(Clone, Debug, Default)]
struct VlanDraft {
    access: Option<Vid>,
    tunnel: Option<Vid>,
    trunk: Option<Vids>,
    native: Option<Vid>,
    tag: TagType,
}

/// A limit in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    rate: Option<Rate>,
    burst: Option<u64>,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::of(&PortConfig::default())
    }
}

impl Draft {
    /// A draft that begins with a port as it is.
    pub fn of(port: &PortConfig) -> Draft {
        let (kind, form, mtu) = match port.kind {
            DoorKind::VhostUser => (Kind::VhostUser, FrameForm::Plain, Attachment::MTU),
            DoorKind::Stream { form, mtu } => (Kind::Stream, form, mtu),
            DoorKind::Attached => (Kind::Attached, FrameForm::Plain, Attachment::MTU),
        };
        let mut vlan = VlanDraft::default();
        match &port.rules.vlan {
            Vlan::Unaware => {}
            Vlan::Access { vid } => vlan.access = Some(*vid),
            Vlan::Tunnel { vid } => vlan.tunnel = Some(*vid),
            Vlan::Trunk { native, allowed, tag } => {
                (vlan.trunk, vlan.native, vlan.tag) = (Some(allowed.clone()), *native, *tag);
            }
        }
        let guard = &port.rules.guard;
        let refused = [guard.no_dhcp_server, guard.no_router, guard.no_bridge].map(|no| no.then_some(true));
        let usual = port.usual_vid();
        let address = |at: &StaticAddress| (Some(at.vid).filter(|vid| Some(*vid) != usual), at.mac);
        let addresses = port.addresses.iter().map(address).collect();
        let side = |bucket: Option<sv3::rules::Bucket>| match bucket {
            None => Side::default(),
            Some(bucket) => {
                let rate = Rate { amount: bucket.rate, unit: bucket.unit };
                Side { rate: Some(rate), burst: Some(bucket.burst) }
            }
        };
        let Limits { from_port, to_port } = port.rules.limits;
        let (from_port, to_port) = (side(from_port), side(to_port));
        let strict = false;
        Draft { port: port.clone(), kind, form, mtu, vlan, strict, refused, addresses, from_port, to_port }
    }

    /// Takes a setting. The error is for people, and does not name the key.
    pub fn set(&mut self, key: &str, values: &[String]) -> Result<(), String> {
        let first = values.first().map_or("", String::as_str);
        let one = || match values {
            [_] => Ok(first),
            _ => Err("takes one value".to_string()),
        };
        if values.is_empty() && LISTS.contains(&key) {
            return Err("an empty list lets nothing pass: name one, or write \"any\"".to_string());
        }
        let is_none = !values.is_empty() && values.iter().all(|value| NONE.contains(&value.as_str()));
        match key {
            "kind" | "description" | "up" | "owner" | "group" | "mode" | "form" | "mtu" => {
                self.set_port(key, one()?, is_none)
            }
            "vlan" | "trunk" | "native" | "tunnel" | "tag" => self.set_vlan(key, values, is_none),
            "guard" | "mac" | "first_macs" | "ip" | "ipv4" | "ipv6" | "no_dhcp_server" | "no_router" | "no_bridge" => {
                self.set_guard(key, values, is_none)
            }
            "static" => {
                let parts = values.iter().flat_map(|value| value.split(',')).map(str::trim);
                let parts = parts.filter(|part| !NONE.contains(part));
                self.addresses = parts.map(static_address).collect::<Result<_, _>>()?;
                Ok(())
            }
            _ => self.set_rule(key, one()?, is_none),
        }
    }

    fn set_port(&mut self, key: &str, value: &str, is_none: bool) -> Result<(), String> {
        match key {
            "kind" => {
                self.kind = match value {
                    "vhost-user" => Kind::VhostUser,
                    "stream" => Kind::Stream,
                    "attached" => Kind::Attached,
                    _ => return Err(format!("{value:?} is none of vhost-user, stream, attached")),
                }
            }
            "description" => self.port.description = value.to_string(),
            "up" => self.port.up = boolean(value)?,
            "owner" if is_none => self.port.socket.owner = None,
            "owner" => self.port.socket.owner = Some(words::user(value)?),
            "group" if is_none => self.port.socket.group = None,
            "group" => self.port.socket.group = Some(words::group(value)?),
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777);
                self.port.socket.mode = mode.ok_or(format!("{value:?} is no octal mode, such as 0660"))?;
            }
            "form" => {
                self.form = match value {
                    "plain" => FrameForm::Plain,
                    "vnet" => FrameForm::NetHeader,
                    "implied" => FrameForm::Implied,
                    _ => return Err(format!("{value:?} is none of plain, vnet, implied")),
                }
            }
            _ => self.mtu = number(value, Attachment::MTU_MIN.into(), Attachment::MTU_MAX.into())?,
        }
        Ok(())
    }

    fn set_vlan(&mut self, key: &str, values: &[String], is_none: bool) -> Result<(), String> {
        let vlan = &mut self.vlan;
        let one = match values {
            [one] => one.as_str(),
            _ => "",
        };
        match key {
            "native" if is_none => vlan.native = None,
            "native" => vlan.native = Some(words::vid(one)?),
            "tag" => {
                vlan.tag = match one {
                    "802.1Q" | "802.1q" => TagType::Customer,
                    "802.1ad" => TagType::Service,
                    _ => return Err(format!("{one:?} is neither 802.1Q nor 802.1ad")),
                }
            }
            // Each of the others says all about the port's VLANs.
            _ => {
                let before = std::mem::take(vlan);
                match key {
                    _ if is_none => {}
                    "vlan" => vlan.access = Some(words::vid(one)?),
                    "tunnel" => vlan.tunnel = Some(words::vid(one)?),
                    _ => {
                        (vlan.trunk, vlan.tag) = (Some(words::vids(values)?), before.tag);
                        vlan.native = before.native;
                    }
                }
            }
        }
        Ok(())
    }

    fn set_guard(&mut self, key: &str, values: &[String], is_none: bool) -> Result<(), String> {
        let guard = &mut self.port.rules.guard;
        let one = values.first().map_or("", String::as_str);
        let parts = || values.iter().flat_map(|value| value.split(',')).map(str::trim);
        match key {
            "guard" if is_none => {
                *guard = Default::default();
                (self.strict, self.refused) = (false, [None; 3]);
            }
            "guard" if one == "strict" => self.strict = true,
            "guard" => return Err(format!("{one:?} is neither strict nor off")),
            "mac" | "first_macs" if is_none => guard.macs = Sources::Any,
            "mac" => guard.macs = Sources::Listed(parts().map(words::mac).collect::<Result<_, _>>()?),
            "first_macs" => guard.macs = Sources::First(number(one, 1, sv3::rules::LIST_MAX as u64)?),
            "ip" | "ipv4" | "ipv6" => {
                let (mut four, mut six) = (Vec::new(), Vec::new());
                // `ipv4 = []` lets none pass, `ipv4 = "any"` lets all pass.
                let given = parts().filter(|part| !NONE.contains(part)).map(Prefix::parse);
                for prefix in given.collect::<Result<Vec<_>, _>>()? {
                    match prefix {
                        Prefix::V4(prefix) if key != "ipv6" => four.push(prefix),
                        Prefix::V6(prefix) if key != "ipv4" => six.push(prefix),
                        _ => return Err(format!("{key} takes no address of the other kind")),
                    }
                }
                let is_open = is_none;
                if key == "ipv4" || key == "ip" && (is_open || !four.is_empty()) {
                    guard.ipv4 = (!is_open).then_some(four);
                }
                if key == "ipv6" || key == "ip" && (is_open || !six.is_empty()) {
                    guard.ipv6 = (!is_open).then_some(six);
                }
            }
            "no_dhcp_server" => self.refused[0] = Some(boolean(one)?),
            "no_router" => self.refused[1] = Some(boolean(one)?),
            _ => self.refused[2] = Some(boolean(one)?),
        }
        Ok(())
    }

    fn set_rule(&mut self, key: &str, value: &str, is_none: bool) -> Result<(), String> {
        let PortRules { isolation, storm, .. } = &mut self.port.rules;
        let frames = |value: &str| match (is_none, amount(value)) {
            (true, _) => Ok(None),
            (false, Some(frames)) if frames > 0 => Ok(Some(frames)),
            _ => Err(format!("{value:?} is no number of frames a second")),
        };
        let rate = |value: &str| if is_none { Ok(None) } else { Rate::parse(value).map(Some) };
        let burst = |value: &str| amount(value).filter(|burst| *burst > 0).ok_or(format!("{value:?} is no amount"));
        match key {
            "isolated" => *isolation = if boolean(value)? { Isolation::Isolated } else { Isolation::Open },
            "isolation_group" if is_none => *isolation = Isolation::Open,
            "isolation_group" => *isolation = Isolation::Group(number(value, 0, u32::MAX.into())?),
            "storm_broadcast" => storm.broadcast = frames(value)?,
            "storm_multicast" => storm.multicast = frames(value)?,
            "storm_unknown" => storm.unknown = frames(value)?,
            "rate_from_port" => self.from_port = Side { rate: rate(value)?, burst: None },
            "rate_to_port" => self.to_port = Side { rate: rate(value)?, burst: None },
            "burst_from_port" => self.from_port.burst = Some(burst(value)?),
            "burst_to_port" => self.to_port.burst = Some(burst(value)?),
            "flood" => self.port.rules.flood = boolean(value)?,
            "mcast_flood" => self.port.rules.mcast_flood = boolean(value)?,
            "bcast_flood" => self.port.rules.bcast_flood = boolean(value)?,
            "learning" => self.port.rules.learning = boolean(value)?,
            "max_addresses" if is_none => self.port.rules.max_addresses = 0,
            "max_addresses" => self.port.rules.max_addresses = number(value, 1, u32::MAX.into())?,
            _ => return Err("there is no such setting".to_string()),
        }
        Ok(())
    }

    /// The port. The error is for people.
    pub fn finish(self) -> Result<PortConfig, String> {
        let mut port = self.port;
        port.kind = match self.kind {
            Kind::VhostUser => DoorKind::VhostUser,
            Kind::Attached => DoorKind::Attached,
            Kind::Stream => DoorKind::Stream { form: self.form, mtu: self.mtu },
        };
        if self.kind != Kind::Stream && (self.form, self.mtu) != (FrameForm::Plain, Attachment::MTU) {
            return Err("form and mtu are of ports with kind = \"stream\"".to_string());
        }
        port.rules.vlan = match self.vlan {
            VlanDraft { access: Some(vid), .. } => Vlan::Access { vid },
            VlanDraft { tunnel: Some(vid), .. } => Vlan::Tunnel { vid },
            VlanDraft { trunk: Some(allowed), native, tag, .. } => Vlan::Trunk { native, allowed, tag },
            VlanDraft { native: Some(vid), .. } => {
                return Err(format!("native = {vid} is of a trunk: name its VLANs, such as trunk = \"{vid},20-30\""));
            }
            VlanDraft { .. } => Vlan::Unaware,
        };
        let guard = &mut port.rules.guard;
        if self.strict {
            if guard.macs == Sources::Any {
                guard.macs = Sources::First(1);
            }
            if guard.ipv4.is_some() || guard.ipv6.is_some() {
                guard.ipv4.get_or_insert_default();
                guard.ipv6.get_or_insert_default();
            }
        }
        let [no_dhcp_server, no_router, no_bridge] = self.refused.map(|no| no.unwrap_or(self.strict));
        (guard.no_dhcp_server, guard.no_router, guard.no_bridge) = (no_dhcp_server, no_router, no_bridge);
        let sides = [("from", self.from_port), ("to", self.to_port)];
        let buckets = sides.map(|(which, side)| match side {
            Side { rate: Some(rate), burst } => Ok(Some(rate.bucket(burst))),
            Side { rate: None, burst: Some(_) } => Err(format!("burst_{which}_port needs rate_{which}_port")),
            Side { rate: None, burst: None } => Ok(None),
        });
        let [from_port, to_port] = buckets;
        port.rules.limits = Limits { from_port: from_port?, to_port: to_port? };
        let usual = port.usual_vid();
        let address = |(vid, mac): (Option<Vid>, [u8; 6])| StaticAddress { vid: vid.or(usual).unwrap_or(0), mac };
        port.addresses = self.addresses.into_iter().map(address).collect();
        port.addresses.sort_unstable();
        port.addresses.dedup();
        Ok(port)
    }
}

/// Reads `MAC` or `MAC@VID`.
fn static_address(text: &str) -> Result<(Option<Vid>, [u8; 6]), String> {
    match text.split_once('@') {
        None => Ok((None, words::mac(text)?)),
        Some((mac, vid)) => Ok((Some(words::vid(vid)?), words::mac(mac)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(settings: &[(&str, &str)]) -> Result<PortConfig, String> {
        let mut draft = Draft::default();
        for (key, value) in settings {
            draft.set(key, &[value.to_string()]).map_err(|why| format!("{key}: {why}"))?;
        }
        draft.finish()
    }

    #[test]
    fn strict_is_the_port_s_own_addresses_and_no_services() {
        let guard = draft(&[("guard", "strict")]).unwrap().rules.guard;
        assert_eq!(guard.macs, Sources::First(1));
        assert!(guard.no_dhcp_server && guard.no_router && guard.no_bridge && guard.ipv4.is_none());
        let port = draft(&[("guard", "strict"), ("mac", "52:54:00:00:00:01"), ("ip", "10.0.0.7"), ("no_router", "no")]);
        let guard = port.unwrap().rules.guard;
        assert_eq!(guard.macs, Sources::Listed(vec![[0x52, 0x54, 0, 0, 0, 1]]));
        assert_eq!((guard.ipv4.map(|list| list.len()), guard.ipv6), (Some(1), Some(vec![])));
        assert!(guard.no_dhcp_server && !guard.no_router);
    }

    #[test]
    fn a_later_setting_replaces_an_earlier_one() {
        let mut draft = Draft::of(&draft(&[("trunk", "10,20"), ("native", "10")]).unwrap());
        draft.set("vlan", &["30".to_string()]).unwrap();
        assert_eq!(draft.clone().finish().unwrap().rules.vlan, Vlan::Access { vid: 30 });
        draft.set("vlan", &["none".to_string()]).unwrap();
        assert_eq!(draft.finish().unwrap().rules.vlan, Vlan::Unaware);
    }

    #[test]
    fn addresses_follow_the_port_into_another_vlan() {
        let before = draft(&[("vlan", "10"), ("static", "52:54:00:00:00:01")]).unwrap();
        assert_eq!(before.addresses[0].vid, 10);
        let mut after = Draft::of(&before);
        after.set("vlan", &["20".to_string()]).unwrap();
        assert_eq!(after.finish().unwrap().addresses[0].vid, 20);
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        for (settings, why) in [
            (&[("native", "10")][..], "trunk"),
            (&[("burst_to_port", "5")], "needs rate_to_port"),
            (&[("mtu", "9000")], "stream"),
            (&[("ipv4", "::1")], "other kind"),
            (&[("kind", "tap")], "none of"),
            (&[("mode", "0888")], "octal"),
            (&[("up", "maybe")], "neither"),
        ] {
            let told = draft(settings).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
