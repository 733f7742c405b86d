//! A host: a network namespace with a bridge, on which there are a VXLAN device to the other host and the tap that is
//! the uplink of this host's switch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::Namespace;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};

use crate::router::Router;

/// The tap's name, and the port's.
const UPLINK: &str = "uplink";
/// The MTU of guests.
const MTU: u32 = 1500;
/// What VXLAN over IPv4 adds to a guest's MTU: 20 octets of IP, 8 of UDP, 8 of VXLAN, and the inner frame's 14.
const OVERHEAD: u32 = 50;

/// A host's address towards the other.
pub fn underlay(number: u8) -> String {
    format!("192.0.2.{number}")
}

/// A host.
pub struct Host {
    number: u8,
    // Ends before the rest.
    switch: Switch,
    router: Router,
    namespace: Namespace,
}

impl Host {
    /// Two hosts that reach each other. Their switches have no uplink yet.
    pub fn pair() -> Result<[Host; 2]> {
        let [one, two] = [Namespace::new()?, Namespace::new()?];
        one.cable("underlay", &two)?;
        Ok([Host::on(one, 1)?, Host::on(two, 2)?])
    }

    fn on(namespace: Namespace, number: u8) -> Result<Host> {
        let own = underlay(number);
        for words in [
            &format!("address add {own}/24 dev underlay"),
            &format!("link set underlay mtu {}", MTU + OVERHEAD),
            "link add bridge0 type bridge mcast_snooping 0",
            &format!("link add vxlan100 type vxlan id 100 local {own} dstport 4789 nolearning"),
            "link set vxlan100 master bridge0",
            "link set vxlan100 type bridge_slave learning off neigh_suppress on",
            "link set vxlan100 up",
            "link set bridge0 up",
        ] {
            namespace.ip(words)?;
        }
        namespace.make_tap(UPLINK, &format!("02:00:00:00:ff:0{number}"), "", "")?;
        namespace.ip(&format!("link set {UPLINK} master bridge0"))?;
        let router = Router::start(&namespace, number)?;
        let home = Home::new()?;
        let behind = ["nsenter".to_string(), format!("--net={}", namespace.path()), "--".to_string()];
        let switch = home.start_behind(&behind, &[])?;
        Ok(Host { number, switch, router, namespace })
    }

    /// Waits until the other host's FRR talks with this one's.
    pub fn await_peer(&self) -> Result<()> {
        self.router.await_peer(3 - self.number)
    }

    /// Its sv3.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Attaches the tap to the switch.
    pub fn attach(&self) -> Result<()> {
        self.sv3(&["attach", "tap", UPLINK])
    }

    /// Detaches it, which closes its last open file.
    pub fn detach(&self) -> Result<()> {
        self.sv3(&["detach", UPLINK])
    }

    /// Runs a command of sv3 on this host: as the user of the switch where all may open taps that are theirs, as is
    /// usual, and by root elsewhere.
    fn sv3(&self, arguments: &[&str]) -> Result<()> {
        let home = self.switch.home();
        let mut command = if fs::metadata("/dev/net/tun")?.mode() & 0o006 == 0o006 {
            home.sv3(arguments)
        } else {
            let mut command = Command::new(home.path("bin/sv3"));
            command.args(arguments);
            command
        };
        command.arg("--control").arg(self.switch.control());
        let output = self.namespace.enclose(&command).output()?;
        let said = || String::from_utf8_lossy(&output.stderr).trim_end().to_string();
        match output.status.success() {
            true => Ok(()),
            false => Err(Failure::new(format!("sv3 {}: {}", arguments.join(" "), said()))),
        }
    }

    /// Whether its bridge sends what is for this address to the other host.
    pub fn knows(&self, mac: &str) -> Result<bool> {
        // The VXLAN device's own line, which has `self` in it, may outlive the bridge's.
        let there = format!("{mac} dev vxlan100 ");
        Ok(self.places(mac)?.lines().any(|line| line.starts_with(&there) && line.contains("master bridge0")))
    }

    /// Where its bridge and its VXLAN device have this address, a line each.
    fn places(&self, mac: &str) -> Result<String> {
        let table = self.namespace.run("bridge", "fdb show br bridge0")?;
        Ok(table.lines().filter(|line| line.starts_with(mac)).collect::<Vec<_>>().join("\n"))
    }

    /// Waits until it does, or until it does not; how long that took.
    pub fn await_known(&self, mac: &str, known: bool) -> Result<Duration> {
        let began = Instant::now();
        let what = format!("host {} to {} {mac}", self.number, if known { "learn" } else { "forget" });
        let waited = until(&what, || Ok((self.knows(mac)? == known).then_some(())));
        waited.map_err(|failure| {
            let places = self.places(mac).unwrap_or_else(|failure| failure.to_string());
            let router = self.router.ask("zebra", &format!("show evpn mac vni 100 mac {mac}")).unwrap_or_default();
            Failure::new(format!("{failure}\n{places}\n{router}"))
        })?;
        Ok(began.elapsed())
    }
}
