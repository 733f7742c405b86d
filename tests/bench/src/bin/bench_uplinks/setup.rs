//! What is between a guest and whom it talks to.

use std::any::Any;
use std::os::fd::AsFd;
use std::time::Duration;

use sv3::attachment::{Attachment as Port, Transport};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::Namespace;
use sv3_tests::network::ports::{attach_tap, attachment, uplink};
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Attachment, Vm};
use tempfile::TempDir;

use crate::programs::{Program, connect};
use crate::relay::Relay;

/// A setup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The guest by vhost-user on sv3, which has a tap of the host.
    Sv3Tap,
    /// QEMU's own tap on a bridge of the host.
    Bridge,
    /// The guest on sv3, whose uplink is gvproxy with this MTU.
    Sv3Gvproxy(u32),
    /// The guest on sv3, whose uplink is slirp4netns with this MTU.
    Sv3Slirp(u32),
    /// QEMU's stream straight to gvproxy with this MTU.
    Gvproxy(u32),
    /// Two guests on streams of sv3.
    Sv3Streams,
    /// A guest on a stream of sv3 and one by vhost-user.
    Sv3Mixed,
    /// Two guests on streams, and a thread that copies between these.
    Relay,
}

const LARGE: u32 = 65_520;

/// Groups of setups that compare; ours is the first of each.
pub const GROUPS: [(&str, &[Setup]); 3] = [
    ("host", &[Setup::Sv3Tap, Setup::Bridge]),
    (
        "world",
        &[
            Setup::Sv3Gvproxy(LARGE),
            Setup::Sv3Slirp(LARGE),
            Setup::Sv3Gvproxy(1500),
            Setup::Sv3Slirp(1500),
            Setup::Gvproxy(LARGE),
            Setup::Gvproxy(1500),
        ],
    ),
    ("streams", &[Setup::Sv3Streams, Setup::Relay, Setup::Sv3Mixed]),
];

const HOST: &str = "10.0.0.200";
const WORLD: &str = "198.51.100.1";
const TAP: &str = "sv3-tap";

impl Setup {
    /// For a table.
    pub fn words(self) -> String {
        match self {
            Setup::Sv3Tap => "sv3, vhost-user, a tap".into(),
            Setup::Bridge => "QEMU's tap, the kernel's bridge".into(),
            Setup::Sv3Gvproxy(mtu) => format!("sv3, vhost-user, gvproxy, MTU {mtu}"),
            Setup::Sv3Slirp(mtu) => format!("sv3, vhost-user, slirp4netns, MTU {mtu}"),
            Setup::Gvproxy(mtu) => format!("QEMU's stream, gvproxy, MTU {mtu}"),
            Setup::Sv3Streams => "sv3, two streams".into(),
            Setup::Sv3Mixed => "sv3, a stream and vhost-user".into(),
            Setup::Relay => "two streams, a thread that copies".into(),
        }
    }
}

/// Makes the host that this program is in ready.
pub fn prepare() -> Result<()> {
    Namespace::own()?.ip("link set lo up").map(drop)
}

/// A guest that can be measured, with all that must live meanwhile.
pub struct Bench {
    guest: Vm,
    /// Whom it talks to.
    target: String,
    /// Guests end first, then programs and switches, in this order.
    _kept: Vec<Box<dyn Any>>,
}

impl Bench {
    /// Boots a setup.
    pub fn boot(setup: Setup) -> Result<Bench> {
        match setup {
            Setup::Sv3Tap | Setup::Bridge => host(setup),
            Setup::Sv3Gvproxy(mtu) | Setup::Sv3Slirp(mtu) | Setup::Gvproxy(mtu) => world(setup, mtu),
            Setup::Sv3Streams | Setup::Sv3Mixed | Setup::Relay => streams(setup),
        }
    }

    /// TCP to the target and from it, in Gbit/s, and requests a second.
    pub fn measure(&mut self, seconds: u32) -> Result<[f64; 3]> {
        let (guest, target) = (&mut self.guest, &self.target);
        let mut silent = 0;
        while guest.ping(target, 5)?.answered == 0 {
            silent += 1;
            if silent == 4 {
                return Err(Failure::new(format!("the guest does not reach {target}")));
            }
        }
        let up = guest.iperf3(target, seconds, "")?.bits_per_second;
        let down = guest.iperf3(target, seconds, "-R")?.bits_per_second;
        let job = guest.start(&format!("netperf -H {target} -t TCP_RR -l {seconds} -P 0 -- -k THROUGHPUT"))?;
        let text = guest.finish(job, Duration::from_secs(u64::from(seconds) + 30))?.ok()?;
        let requests = text.lines().find_map(|line| line.strip_prefix("THROUGHPUT=")?.trim().parse().ok());
        let requests = requests.ok_or_else(|| Failure::new(format!("netperf: {text}")))?;
        Ok([up / 1e9, down / 1e9, requests])
    }
}

/// The guest talks to its host.
fn host(setup: Setup) -> Result<Bench> {
    let host = Namespace::own()?;
    let device = Device::tap(&host)?;
    let mut kept: Vec<Box<dyn Any>> = Program::servers(&host)?.into_iter().map(|it| Box::new(it) as _).collect();
    let guest = if setup == Setup::Sv3Tap {
        host.ip(&format!("address add {HOST}/24 dev {TAP}"))?;
        let switch = Switch::start()?;
        attach_tap(&switch, &host, TAP, &attachment(Transport::Tap, "host"))?;
        let guest = Vm::number(1).boot(switch.socket())?;
        kept.push(Box::new(switch));
        guest
    } else {
        let bridge = Device::bridge(&host)?;
        host.ip(&format!("link set {TAP} master {}", bridge.0))?;
        host.ip(&format!("address add {HOST}/24 dev {}", bridge.0))?;
        kept.push(Box::new(bridge));
        Vm::number(1).start_on(&Attachment::Tap { name: TAP, vhost: false })?.booted()?
    };
    kept.push(Box::new(device));
    Ok(Bench { guest, target: HOST.to_string(), _kept: kept })
}

/// The guest talks to a server beyond its host.
fn world(setup: Setup, mtu: u32) -> Result<Bench> {
    let (host, far) = (Namespace::own()?, Namespace::new()?);
    let cable = Device("world".to_string());
    host.cable(&cable.0, &far)?;
    host.ip(&format!("address add 198.51.100.2/24 dev {}", cable.0))?;
    far.ip(&format!("address add {WORLD}/24 dev {}", cable.0))?;
    let mut kept: Vec<Box<dyn Any>> = Program::servers(&far)?.into_iter().map(|it| Box::new(it) as _).collect();
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("gvproxy");
    let mut addresses = ["192.168.127.50/24", "192.168.127.1"];
    let port = |transport| Port { mtu, ..uplink(transport, "world") };
    let mut guest = match setup {
        Setup::Gvproxy(_) => {
            kept.push(Box::new(Program::gvproxy(&socket, mtu)?));
            Vm::number(1).start_on(&Attachment::Stream(&socket))?.booted()?
        }
        Setup::Sv3Gvproxy(_) => {
            let switch = Switch::start()?;
            kept.push(Box::new(Program::gvproxy(&socket, mtu)?));
            switch.attach(&port(Transport::Stream), &[connect(&socket)?.as_fd()])?;
            let guest = Vm::number(1).boot(switch.socket())?;
            kept.insert(0, Box::new(switch));
            guest
        }
        _ => {
            addresses = ["10.0.2.50/24", "10.0.2.2"];
            let switch = Switch::start()?;
            let (slirp, ours) = Program::slirp(mtu)?;
            switch.attach(&port(Transport::Packets), &[ours.as_fd()])?;
            kept.push(Box::new(slirp));
            let guest = Vm::number(1).boot(switch.socket())?;
            kept.insert(0, Box::new(switch));
            guest
        }
    };
    let [own, router] = addresses;
    guest.sh(&format!(
        "ip link set eth0 mtu {mtu}; ip address add {own} dev eth0; ip route add default via {router} src {}",
        own.trim_end_matches("/24")
    ))?;
    kept.push(Box::new((cable, far, folder)));
    Ok(Bench { guest, target: WORLD.to_string(), _kept: kept })
}

/// Two guests talk to each other.
fn streams(setup: Setup) -> Result<Bench> {
    let folder: TempDir = tempfile::tempdir()?;
    let sockets = ["first", "second"].map(|name| folder.path().join(name));
    let mut kept: Vec<Box<dyn Any>> = Vec::new();
    let [first, second] = &sockets;
    let on_stream = |number, socket| Vm::number(number).start_on(&Attachment::StreamListen(socket));
    let (guest, mut server) = match setup {
        Setup::Relay => {
            let guests = (on_stream(1, first)?, on_stream(2, second)?);
            let relay = Relay::between_streams([connect(first)?, connect(second)?], 1 << 16, None)?;
            kept.push(Box::new(relay));
            guests
        }
        _ => {
            let switch = Switch::start()?;
            let guest = on_stream(1, first)?;
            switch.attach(&attachment(Transport::Stream, "first"), &[connect(first)?.as_fd()])?;
            let other = if setup == Setup::Sv3Mixed {
                Vm::number(2).start(switch.socket())?
            } else {
                let other = on_stream(2, second)?;
                switch.attach(&attachment(Transport::Stream, "second"), &[connect(second)?.as_fd()])?;
                other
            };
            kept.push(Box::new(switch));
            (guest, other)
        }
    };
    let guest = guest.booted()?;
    server = server.booted()?;
    server.serve_iperf3()?;
    server.sh("netserver")?;
    let target = server.address();
    kept.insert(0, Box::new(server));
    kept.push(Box::new(folder));
    Ok(Bench { guest, target, _kept: kept })
}

/// An interface of the host that is deleted when this is dropped.
struct Device(String);

impl Device {
    fn tap(host: &Namespace) -> Result<Device> {
        host.make_tap(TAP, "02:00:00:00:00:c8", "", "")?;
        Ok(Device(TAP.to_string()))
    }

    fn bridge(host: &Namespace) -> Result<Device> {
        let device = Device("sv3-bridge".to_string());
        host.ip(&format!("link add {} type bridge mcast_snooping 0", device.0))?;
        host.ip(&format!("link set {} up", device.0))?;
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Namespace::own().and_then(|host| host.ip(&format!("link delete {}", self.0)));
    }
}
