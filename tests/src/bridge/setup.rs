//! Settings of a switch that both sv3 and the kernel's bridge know.

use sv3::config::{Config, PortConfig, StaticAddress};
use sv3::rules::{Guard, Isolation, PortRules, Sources, TagType, VidRange, Vids, Vlan};

use super::{Dice, static_of};
use crate::frames::Mac;

/// Ports of each switch.
pub const PORTS: usize = 6;
/// The VLANs of ports. [`Setup::FOREIGN`] is in none.
pub const VIDS: [u16; 3] = [10, 20, 30];

/// What the switch knows of VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: `vlan_filtering 0`; sv3's ports without VLANs.
    Unaware,
    /// 802.1Q tags: access ports and trunks.
    Customer,
    /// 802.1ad tags: tunnel ports and service trunks.
    Service,
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The VLAN of frames without a tag, which leave without a tag.
    pub untagged: Option<u16>,
    /// The VLANs of frames with tags. None: an access or tunnel port.
    pub tagged: Vec<u16>,
}

/// A port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its VLANs; those of a [`Kind::Unaware`] switch mean nothing.
    pub member: Member,
    /// It speaks to ports that are not isolated.
    pub isolated: bool,
    /// Whether frames to unknown addresses, to groups, and to all go to it.
    pub floods: [bool; 3],
    /// Sources are learnt.
    pub learning: bool,
    /// Only its static addresses may send (`locked` of the kernel's bridge).
    pub guarded: bool,
    /// Its static addresses, in each of its VLANs.
    pub statics: Vec<Mac>,
}

/// A switch.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What it knows of VLANs.
    pub kind: Kind,
    /// Its ports.
    pub ports: Vec<Port>,
}

impl Setup {
    /// A VLAN that no port is in.
    pub const FOREIGN: u16 = 40;

    /// Some settings.
    pub fn draw(kind: Kind, dice: &mut Dice) -> Setup {
        let ports = (0..PORTS).map(|at| Port::draw(at, kind, dice)).collect();
        Setup { kind, ports }
    }

    /// What the switch's own tags begin with.
    pub fn own_tag(&self) -> Option<u16> {
        match self.kind {
            Kind::Unaware => None,
            Kind::Customer => Some(0x8100),
            Kind::Service => Some(0x88a8),
        }
    }

    /// The VLAN in which the kernel takes a frame of this port; 0 if it knows none. `None`: it drops the frame.
    pub fn vid_of(&self, from: usize, frame: &[u8]) -> Option<u16> {
        let member = &self.ports[from].member;
        match self.own_tag() {
            None => Some(0),
            Some(own) if super::kind_of(frame) == own && super::said(frame) != 0 => {
                Some(super::said(frame)).filter(|vid| member.contains(*vid))
            }
            Some(_) => member.untagged,
        }
    }

    /// The VLANs of a port's static addresses.
    pub fn vids_of(&self, port: usize) -> Vec<u16> {
        match self.kind {
            Kind::Unaware => vec![0],
            _ => VIDS.into_iter().filter(|vid| self.ports[port].member.contains(*vid)).collect(),
        }
    }

    /// The same for sv3: ports of these names.
    pub fn config(&self, names: &[&str]) -> Config {
        let port = |at: usize| {
            let Port { isolated, floods, learning, guarded, statics, .. } = &self.ports[at];
            let macs = if *guarded { Sources::Listed(statics.clone()) } else { Sources::Any };
            let rules = PortRules {
                vlan: self.vlan_of(at),
                isolation: if *isolated { Isolation::Isolated } else { Isolation::Open },
                guard: Guard { macs, ..Guard::default() },
                flood: floods[0],
                mcast_flood: floods[1],
                bcast_flood: floods[2],
                learning: *learning,
                ..PortRules::default()
            };
            let vids = self.vids_of(at);
            let addresses =
                vids.iter().flat_map(|vid| statics.iter().map(|mac| StaticAddress { vid: *vid, mac: *mac }));
            PortConfig { rules, addresses: addresses.collect(), ..PortConfig::default() }
        };
        let ports = names.iter().enumerate().map(|(at, name)| (name.to_string(), port(at))).collect();
        Config { ports, ..Config::default() }
    }

    fn vlan_of(&self, at: usize) -> Vlan {
        let member = &self.ports[at].member;
        let tag = if self.kind == Kind::Service { TagType::Service } else { TagType::Customer };
        match (self.kind, member.untagged.filter(|_| member.tagged.is_empty())) {
            (Kind::Unaware, _) => Vlan::Unaware,
            (Kind::Customer, Some(vid)) => Vlan::Access { vid },
            (Kind::Service, Some(vid)) => Vlan::Tunnel { vid },
            (_, None) => {
                let range = |vid| VidRange { first: vid, last: vid };
                let allowed = Vids(VIDS.into_iter().filter(|vid| member.contains(*vid)).map(range).collect());
                Vlan::Trunk { native: member.untagged, allowed, tag }
            }
        }
    }

    /// The same for the kernel's bridge `br0` with these interfaces: words for `ip` and for `bridge`, a command a line.
    pub fn commands(&self, name: impl Fn(usize) -> String) -> [String; 2] {
        let filtering = u8::from(self.kind != Kind::Unaware);
        let protocol = if self.kind == Kind::Service { "802.1ad" } else { "802.1Q" };
        let mut ip = format!("link add br0 type bridge vlan_filtering {filtering} vlan_protocol {protocol} ");
        ip += "vlan_default_pvid 0 mcast_snooping 0 no_linklocal_learn 1\nlink set br0 up\n";
        let mut bridge = String::new();
        for (at, port) in self.ports.iter().enumerate() {
            let (name, word) = (name(at), |on: bool| if on { "on" } else { "off" });
            ip += &format!("link set {name} master br0\nlink set {name} up\n");
            let [flood, mcast, bcast] = port.floods.map(word);
            let (isolated, learning, locked) = (word(port.isolated), word(port.learning), word(port.guarded));
            bridge += &format!("link set dev {name} isolated {isolated} learning {learning} locked {locked} ");
            bridge += &format!("flood {flood} mcast_flood {mcast} bcast_flood {bcast}\n");
            if self.kind != Kind::Unaware {
                for vid in self.vids_of(at) {
                    let bare = if port.member.untagged == Some(vid) { " pvid untagged" } else { "" };
                    bridge += &format!("vlan add dev {name} vid {vid}{bare}\n");
                }
            }
            for (vid, mac) in self.vids_of(at).iter().flat_map(|vid| port.statics.iter().map(move |mac| (vid, mac))) {
                let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
                let vlan = if *vid == 0 { String::new() } else { format!(" vlan {vid}") };
                bridge += &format!("fdb add {mac} dev {name} master static sticky{vlan}\n");
            }
        }
        [ip, bridge]
    }
}

impl Port {
    fn draw(at: usize, kind: Kind, dice: &mut Dice) -> Port {
        let untagged = Some(dice.one_of(&VIDS[..2]));
        let trunk: Vec<u16> = VIDS.into_iter().filter(|_| dice.percent(75)).collect();
        let member = match dice.below(4) {
            0 | 1 => Member { untagged, tagged: Vec::new() },
            2 => Member { untagged: None, tagged: if trunk.is_empty() { VIDS.to_vec() } else { trunk } },
            _ => Member { untagged, tagged: VIDS.to_vec() },
        };
        // Of an unaware switch nothing is left of that.
        let member = if kind == Kind::Unaware { Member { untagged: None, tagged: Vec::new() } } else { member };
        let guarded = dice.percent(20);
        let count = if guarded { 2 } else { usize::from(dice.percent(40)) };
        Port {
            member,
            isolated: dice.percent(35),
            floods: [(); 3].map(|()| dice.percent(80)),
            learning: dice.percent(80),
            guarded,
            statics: (0..count).map(|which| static_of(at, which as u8)).collect(),
        }
    }
}

impl Member {
    /// Whether frames of a VLAN pass.
    pub fn contains(&self, vid: u16) -> bool {
        self.untagged == Some(vid) || self.tagged.contains(&vid)
    }

    /// An access or tunnel port.
    pub fn is_single(&self) -> bool {
        self.tagged.is_empty()
    }
}
