//! Drivers of others drive the models of cards: what they take for a card is one.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use sv3_nic_model::vfio_user::Function;
use sv3_nic_model::{IgbVf, Pf, PfSettings, Vf, VfSettings};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::machine::{Config, Machine};
use sv3_tests::network::Cable;
use sv3_tests::nic::Nic;
use sv3_tests::vm::{Ping, Stream};

const IPERF3: &str = "usr/bin/iperf3";
const SECONDS: u64 = 3;

/// A card on one end of a cable, and a virtio card in a network of its own on the other one.
struct Link {
    machine: Machine,
    _cable: Cable,
    /// Runs a command at the other end.
    peer: String,
    interface: String,
}

/// What Linux does and the data sheet does not want: EITR of the vector for other causes is 1,950. A receive descriptor's
/// second half is left as the card wrote it. A context of which only L4T matters does not say which IP it is.
const LINUX_DOES: [&str; 3] = ["EITR is 0x79e", "has its bit DD set", "MACLEN 14 and IPv4 false; there is version 4"];

/// What DPDK does: each queue gets its head when it is enabled already, though the head is 0.
const DPDK_DOES: &str = "a write to register 0x10 of a queue that is enabled";

const CARD: &str = "10.0.0.1";
const PEER: &str = "10.0.0.2";

impl Link {
    /// Boots the machine, whose card 0 is the one in question; its wire comes later than the machine.
    fn boot(config: Config, wire: impl FnOnce(&mut Machine) -> Result<UnixStream>) -> Result<Link> {
        let mut machine = config.virtio().debian(IPERF3).boot()?;
        let cable = Cable::join(wire(&mut machine)?, machine.wire(1)?)?;
        let interface = machine.interface(0)?;
        machine.sh(&format!("ip link set {interface} up && ip address add {CARD}/24 dev {interface}"))?;
        let peer = machine.interface(1)?;
        let peer = machine.enclose(&peer, &format!("{PEER}/24"))?;
        machine.sh(&format!("{peer} iperf3 -s -D"))?;
        Ok(Link { machine, _cable: cable, peer, interface })
    }

    fn await_carrier(&mut self, up: bool) -> Result<()> {
        let path = format!("/sys/class/net/{}/carrier", self.interface);
        self.machine.sh(&format!("until grep -q {} {path}; do usleep 20000; done", u8::from(up))).map(drop)
    }

    /// The driver notices that the wire is pulled out and plugged in.
    fn survives_a_pull(&mut self, nic: &Nic) -> Result<()> {
        nic.set_link(false);
        self.await_carrier(false)?;
        nic.set_link(true);
        self.await_carrier(true)?;
        let ping = self.ping("", PEER)?;
        assert_eq!((ping.lost(), ping.duplicates), (0, 0), "after a pull: {ping:?}");
        self.machine.check_kernel()
    }

    fn ping(&mut self, from: &str, to: &str) -> Result<Ping> {
        Ping::parse(&self.machine.run(&format!("{from} ping -i 0.1 -W 2 -c 10 {to}"))?.text)
    }

    /// TCP streams to the peer and from it.
    fn streams(&mut self) -> Result<[Stream; 2]> {
        let patience = Duration::from_secs(SECONDS + 30);
        let stream = |machine: &mut Machine, options: &str| {
            Stream::parse(&machine.run_for(&format!("iperf3 -J -c {PEER} -t {SECONDS} {options}"), patience)?.text)
        };
        Ok([stream(&mut self.machine, "")?, stream(&mut self.machine, "-R")?])
    }

    fn streams_well(&mut self) -> Result<()> {
        for stream in self.streams()? {
            assert!(stream.bits_per_second > 1e6 && stream.stalled_seconds() == 0, "{stream:?}");
        }
        self.machine.check_kernel()
    }

    fn works(&mut self) -> Result<()> {
        self.await_carrier(true)?;
        let peer = self.peer.clone();
        for (from, to) in [("", PEER), (&peer, CARD)] {
            let ping = self.ping(from, to)?;
            assert_eq!((ping.lost(), ping.duplicates), (0, 0), "{from} ping {to}: {ping:?}");
        }
        self.streams_well()
    }
}

/// testpmd takes card 0 from its driver and answers the pings of the peer, for any address.
fn testpmd_answers(Link { mut machine, _cable, peer, .. }: Link, driver: &str) -> Result<()> {
    let testpmd = machine.start_testpmd(0, driver, "")?;
    testpmd.await_answer(&mut machine, &format!("{peer} ping -W 1 -c 1 {CARD}"))?;
    let ping = Ping::parse(&machine.sh(&format!("{peer} ping -i 0.1 -W 2 -c 20 {CARD}"))?)?;
    assert_eq!((ping.lost(), ping.duplicates), (0, 0), "{ping:?}\n{}", testpmd.said(&mut machine)?);
    machine.check_kernel()
}

const E1000: &str = "librte_net_e1000.so.23";
const IXGBE: &str = "librte_net_ixgbe.so.23";

// Linux and DPDK have a card one after the other, in one machine, since its boot takes long.

#[test]
#[ignore = "scripts/check runs it"]
fn linux_and_dpdk_drive_an_82576() -> Result<()> {
    let config = Machine::config().module("igb").igb().testpmd(E1000);
    let mut link = Link::boot(config, |machine| machine.wire(0))?;
    link.works()?;
    testpmd_answers(link, E1000)
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_and_dpdk_drive_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let config = Machine::config().module("ixgbe").vfio_user(&nic.socket());
    let mut link = Link::boot(config.debian("usr/bin/perl").testpmd(IXGBE), |_| nic.wire())?;
    link.works()?;
    link.survives_a_pull(&nic)?;
    takes_joined_segments(&mut link)?;
    nic.check_but(&LINUX_DOES)?;
    testpmd_answers(link, IXGBE)?;
    nic.check_but(&[DPDK_DOES])
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_and_dpdk_drive_a_virtual_function_of_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual, Vf::new(VfSettings::default()))?;
    let config = Machine::config().module("ixgbevf").vfio_user(&nic.socket());
    let mut link = Link::boot(config.testpmd(IXGBE), |_| nic.wire())?;
    link.works()?;
    link.survives_a_pull(&nic)?;
    nic.check_but(&LINUX_DOES)?;
    testpmd_answers(link, IXGBE)?;
    nic.check()
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_and_dpdk_drive_a_virtual_function_of_an_82576() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual82576, IgbVf::new(VfSettings::default()))?;
    let config = Machine::config().module("igbvf").vfio_user(&nic.socket());
    let mut link = Link::boot(config.testpmd(E1000), |_| nic.wire())?;
    link.works()?;
    nic.check_but(&LINUX_DOES)?;
    testpmd_answers(link, E1000)?;
    nic.check_but(&[DPDK_DOES])
}

/// Perl sets a flag of the interface that is its argument: LRO (linux/ethtool.h: ETHTOOL_GFLAGS, ETHTOOL_SFLAGS).
const JOIN: &str = r#"
    socket(S, 2, 2, 0) or die $!;
    sub flags { my ($v) = @_; ioctl(S, 0x8946, pack("a16 P x16", $ARGV[0], $v)) or die $!; (unpack("LL", $v))[1] }
    flags(pack("LL", 0x26, flags(pack("LL", 0x25, 0)) | 0x8000));
    flags(pack("LL", 0x25, 0)) & 0x8000 or die "no LRO";
"#;

/// Linux takes the segments that the card has joined.
fn takes_joined_segments(link: &mut Link) -> Result<()> {
    let interface = link.interface.clone();
    let count = |machine: &mut Machine, name: &str| -> Result<u64> {
        let text = machine.sh(&format!("cat /sys/class/net/{interface}/statistics/{name}"))?;
        text.trim().parse().map_err(|_| Failure::new(format!("{name}: {text}")))
    };
    let counts = |machine: &mut Machine| -> Result<(u64, u64)> {
        Ok((count(machine, "rx_bytes")?, count(machine, "rx_packets")?))
    };
    link.machine.sh(&format!("perl -e '{}' {interface}", JOIN.replace('\n', " ")))?;
    link.await_carrier(true)?;
    let before = counts(&mut link.machine)?;
    link.streams_well()?;
    let after = counts(&mut link.machine)?;
    let (octets, packets) = (after.0 - before.0, after.1 - before.1);
    assert!(octets / packets.max(1) > 3000, "{octets} octets in {packets} packets");
    Ok(())
}
