//! A guest that can move: a kernel with its addresses and connections in a network of its own, whose network device is
//! a tap, which a [`Front`] connects to a switch.
//!
//! When the guest moves, its device does: the front-end stops at the one switch and starts at the other. The kernel and
//! its connections stay where they are, and see what a guest sees whose memory was copied in no time.

use std::net::UdpSocket;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::image::{Suite, tree};
use sv3_tests::network::{Namespace, Tap};

use crate::front::Front;
use crate::host::Host;

const DEVICE: &str = "eth0";
/// A port at which nobody answers (RFC 863).
const DISCARD: u16 = 9;

/// A guest. It vanishes when dropped.
pub struct Station {
    number: u8,
    namespace: Namespace,
    front: Front,
}

impl Station {
    /// A guest on a host. It has not spoken yet.
    pub fn plug(number: u8, host: &Host) -> Result<Station> {
        let namespace = Namespace::new()?;
        let mac = mac(number);
        namespace.make_tap(DEVICE, &text(mac), &format!("{}/24", address(number)), "")?;
        let front = Front::connect(Tap::open(&namespace, DEVICE, false)?, host.switch().socket())?;
        Ok(Station { number, namespace, front })
    }

    /// Its network.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its IPv4 address.
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// Its Ethernet address.
    pub fn mac(&self) -> String {
        text(mac(self.number))
    }

    /// Says something to all.
    pub fn speak(&self) -> Result<()> {
        let socket = self.namespace.inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.set_broadcast(true)?;
        socket.send_to(b"hello", ("198.51.100.255", DISCARD))?;
        Ok(())
    }

    /// Says something to another guest alone, without asking for its address. A switch that knows the other guest
    /// shows this frame to nobody else.
    pub fn whisper(&self, other: &Station) -> Result<()> {
        let (there, mac) = (other.address(), other.mac());
        self.namespace.ip(&format!("neighbour replace {there} lladdr {mac} dev {DEVICE} nud permanent"))?;
        let socket = self.namespace.inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.send_to(b"hello", (there, DISCARD))?;
        Ok(())
    }

    /// Moves to another host.
    pub fn move_to(&self, host: &Host) -> Result<()> {
        self.front.move_to(host.switch().socket(), mac(self.number))
    }

    /// Pings another guest ten times a second; how many of the pings were answered.
    pub fn ping(&self, other: &Station, count: u32) -> Result<u32> {
        let busybox = tree(Suite::Bookworm)?.join("bin/busybox");
        let mut command = self.namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(busybox);
        command.args(["ping", "-i", "0.1", "-W", "2", "-c", &count.to_string(), &other.address()]);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answered = text.split(", ").find_map(|part| part.strip_suffix(" packets received")?.trim().parse().ok());
        answered.ok_or_else(|| Failure::new(format!("ping: {text}{}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Frames and octets that its kernel has received.
    pub fn received(&self) -> Result<(u64, u64)> {
        Ok((self.namespace.figure(DEVICE, "rx_packets")?, self.namespace.figure(DEVICE, "rx_bytes")?))
    }
}

fn address(number: u8) -> String {
    format!("198.51.100.{number}")
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
