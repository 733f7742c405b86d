//! What rules cost: VLANs and guards beside Open vSwitch, each kind of rule beside none, and a thousand declared ports
//! that do nothing.
//!
//! sv3's guests are at declared ports `v0`, `v1` and so on, as Open vSwitch's ports are called.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sv3_tests::failure::Result;

use crate::arena::{ATTEMPTS, Contestant, compete};
use crate::frame::Shape;
use crate::guest::Plan;
use crate::options::Options;
use crate::report::Case;
use crate::ring::Ring;
use crate::switch::{Kind, Needs, Switch};
use crate::throughput::{self, Load, closed_loop};

/// Declared ports, and static addresses at each.
const DECLARED: usize = 1_000;
const STATIC: usize = 10;

/// A switch and the commands that set it up.
pub struct Setting {
    /// As tables call it.
    pub name: &'static str,
    /// The switch.
    pub kind: Kind,
    /// What it is told before guests attach.
    pub commands: Vec<String>,
}

impl Setting {
    /// sv3 with so many declared ports that all have these rules.
    pub fn sv3(name: &'static str, ports: usize, rules: &str) -> Setting {
        let commands = (0..ports).map(|port| format!("sv3 port add v{port} {rules}").trim_end().to_string());
        Setting { name, kind: Kind::Sv3, commands: commands.collect() }
    }

    /// Open vSwitch.
    pub fn ovs(name: &'static str, commands: Vec<String>) -> Setting {
        Setting { name, kind: Kind::Ovs, commands }
    }
}

/// Starts those switches that are wanted, in their settings, and attaches so many guests to each; says why an Open
/// vSwitch does not take part.
pub fn enter<R: Ring>(
    options: &Options,
    settings: Vec<Setting>,
    ports: usize,
    plan: impl Fn(usize) -> Plan + Copy,
) -> Result<Vec<Contestant<R>>> {
    let needs = Needs { ports, huge: options.huge, longest: plan(0).shape.octets, options: &[] };
    let start = |setting: &Setting| {
        let switch = Switch::start(setting.kind, needs)?;
        setting.commands.iter().try_for_each(|command| switch.tell(command))?;
        Contestant::attach(setting.kind, switch, ports, plan, 0)
    };
    let mut contestants = Vec::new();
    for setting in settings.into_iter().filter(|setting| options.kinds.contains(&setting.kind)) {
        let mut attempt = start(&setting);
        for _ in 1..ATTEMPTS {
            if attempt.is_err() && setting.kind == Kind::Ovs {
                attempt = start(&setting);
            }
        }
        match attempt {
            Ok(mut contestant) => {
                contestant.name = setting.name.to_string();
                contestants.push(contestant);
            }
            Err(failure) if setting.kind != Kind::Sv3 => eprintln!("{} does not take part: {failure}", setting.name),
            Err(failure) => return Err(failure),
        }
    }
    Ok(contestants)
}

/// Access ports of one VLAN.
pub fn vlan<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let settings = vec![
        Setting::sv3("sv3, VLAN", 2, "--vlan 10"),
        Setting::sv3("sv3, open", 2, ""),
        Setting::ovs("OVS-DPDK, VLAN", tags()),
        Setting::ovs("OVS-DPDK, open", Vec::new()),
    ];
    pair::<R>(options, "vlan", "64 B, access ports of one VLAN", settings, 1)
}

/// Access ports of one VLAN that are guarded: by sv3's strict guard, and by flows that do the same.
pub fn guard<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let settings = vec![
        Setting { commands: guarded("--vlan 10"), ..Setting::sv3("sv3, VLAN, guard", 0, "") },
        Setting { commands: guarded(""), ..Setting::sv3("sv3, guard", 0, "") },
        Setting::ovs("OVS-DPDK, VLAN, flows", [tags(), flows()].concat()),
        Setting::ovs("OVS-DPDK, flows", flows()),
    ];
    pair::<R>(options, "guard", "64 B of UDP, guarded ports", settings, 1)
}

/// Each kind of rule beside none. The limit is one that is never reached.
pub fn rules<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let settings = vec![
        Setting::sv3("sv3, open", 2, ""),
        Setting::sv3("sv3, front door", 0, ""),
        Setting::sv3("sv3, VLAN", 2, "--vlan 10"),
        Setting::sv3("sv3, isolated", 2, "--isolation-group 1"),
        Setting::sv3("sv3, limit", 2, "--rate-from-port 1T"),
        Setting { commands: guarded(""), ..Setting::sv3("sv3, guard", 0, "") },
        Setting { commands: guarded("--vlan 10"), ..Setting::sv3("sv3, VLAN, guard", 0, "") },
    ];
    pair::<R>(options, "rules", "64 B of UDP, ports with rules", settings, 1)
}

/// A pair beside a thousand declared ports and ten thousand static addresses, and without them; with one address
/// behind each of the two ports, and with 500.
pub fn declared<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    // In the file of the largest switch.
    let mut file = tempfile::NamedTempFile::new()?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.write_all(many().as_bytes())?;
    let reload = vec![format!("sv3 reload {}", file.path().display())];
    let mut cases = Vec::new();
    for stations in [1, 500] {
        let settings = vec![
            Setting { commands: reload.clone(), ..Setting::sv3("sv3, 1,000 ports", 0, "") },
            Setting::sv3("sv3, 2 ports", 2, ""),
        ];
        let words = format!("64 B, {} addresses, beside declared ports", 2 * stations);
        cases.extend(pair::<R>(options, "declared", &words, settings, stations)?);
    }
    Ok(cases)
}

/// One guest sends to the other, on each switch in turn.
fn pair<R: Ring + Send>(
    options: &Options,
    scenario: &'static str,
    words: &str,
    settings: Vec<Setting>,
    stations: usize,
) -> Result<Vec<Case>> {
    let shape = |port: usize| Shape::udp(64, port as u8 + 1);
    let mut contestants = enter::<R>(options, settings, 2, |port| options.plan(shape(port)))?;
    let load = Load { stations, ..Load::new(options, shape(0)) };
    let (load_words, conditions) = (words.to_string(), options.conditions());
    let case = Case { scenario, load: load_words, conditions, figures: throughput::FIGURES, entries: Vec::new() };
    let case = compete(options, case, &mut contestants, |guests, _| {
        let (tally, pace) = closed_loop(guests, load, false, Duration::from_secs_f64(options.seconds))?;
        Ok(throughput::figures(tally, pace, shape(0)))
    })?;
    Ok(vec![case])
}

/// sv3's two ports with a strict guard and the addresses that [`Shape::udp`] has, and more rules.
fn guarded(rules: &str) -> Vec<String> {
    let port = |port: usize| {
        let more = if rules.is_empty() { String::new() } else { format!(" {rules}") };
        format!("sv3 port add v{port} --guard strict --mac {} --ip 10.0.0.{}{more}", mac(port), port + 1)
    };
    vec![port(0), port(1)]
}

/// Access ports of Open vSwitch.
fn tags() -> Vec<String> {
    vec!["ovs-vsctl set port v0 tag=10 -- set port v1 tag=10".to_string()]
}

/// Flows of Open vSwitch that let pass what sv3's strict guard lets pass: IPv4 and ARP from one address, what a guest
/// without an address may ask, no DHCP server and no router. All else is dropped: other ethertypes, bridges' frames,
/// IPv6, of which no address is listed.
fn flows() -> Vec<String> {
    let mut flows = vec!["ovs-ofctl del-flows br0".to_string()];
    let mut add = |flow: String| flows.push(format!("ovs-ofctl add-flow br0 {flow}"));
    add("priority=0,actions=drop".to_string());
    for port in [0, 1] {
        let (mac, ip) = (mac(port), format!("10.0.0.{}", port + 1));
        let from = format!("in_port=v{port},dl_src={mac}");
        for forbidden in ["udp,tp_src=67", "udp,tp_dst=68", "icmp,icmp_type=5", "icmp,icmp_type=9"] {
            add(format!("priority=20,{from},{forbidden},actions=drop"));
        }
        let discover = "udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67".to_string();
        let claim = |ip: &str| format!("arp,arp_sha={mac},arp_spa={ip}");
        for allowed in [format!("ip,nw_src={ip}"), discover, claim(&ip), claim("0.0.0.0")] {
            add(format!("priority=10,{from},{allowed},actions=NORMAL"));
        }
    }
    flows
}

/// The address of the first station behind a port.
fn mac(port: usize) -> String {
    format!("52:54:01:{port:02x}:00:00")
}

/// A file with as many ports and static addresses as [`declared`] wants; the first two are the pair's.
fn many() -> String {
    let mut file = String::new();
    for port in 0..DECLARED {
        let address = |n: usize| format!("\"52:54:02:{:02x}:{:02x}:{n:02x}\"", port >> 8, port & 0xff);
        let addresses: Vec<String> = (0..STATIC).map(address).collect();
        let _ = writeln!(file, "[ports.v{port}]\nstatic = [{}]", addresses.join(", "));
    }
    file
}
