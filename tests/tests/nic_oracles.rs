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
        self.machine.sh(&format!("{} iperf3 -s -D", self.peer))?;
        let patience = Duration::from_secs(SECONDS + 30);
        let stream = |machine: &mut Machine, options: &str| {
            Stream::parse(&machine.run_for(&format!("iperf3 -J -c {PEER} -t {SECONDS} {options}"), patience)?.text)
        };
        Ok([stream(&mut self.machine, "")?, stream(&mut self.machine, "-R")?])
    }

    fn works(&mut self) -> Result<()> {
        self.await_carrier(true)?;
        let peer = self.peer.clone();
        for (from, to) in [("", PEER), (&peer, CARD)] {
            let ping = self.ping(from, to)?;
            assert_eq!((ping.lost(), ping.duplicates), (0, 0), "{from} ping {to}: {ping:?}");
        }
        for stream in self.streams()? {
            assert!(stream.bits_per_second > 1e6 && stream.stalled_seconds() == 0, "{stream:?}");
        }
        self.machine.check_kernel()
    }
}

#[test]
#[ignore = "scripts/check runs it"]
fn an_82576_and_a_virtio_card_talk() -> Result<()> {
    Link::boot(Machine::config().module("igb").igb(), |machine| machine.wire(0))?.works()
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_drives_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let config = Machine::config().module("ixgbe").vfio_user(&nic.socket());
    let mut link = Link::boot(config, |_| nic.wire())?;
    link.works()?;
    link.survives_a_pull(&nic)?;
    nic.check_but(&LINUX_DOES)
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_drives_a_virtual_function_of_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual, Vf::new(VfSettings::default()))?;
    let config = Machine::config().module("ixgbevf").vfio_user(&nic.socket());
    let mut link = Link::boot(config, |_| nic.wire())?;
    link.works()?;
    link.survives_a_pull(&nic)?;
    nic.check_but(&LINUX_DOES)
}

/// testpmd drives card 0, which is bound to vfio-pci, and answers the pings of a virtio card.
fn testpmd_answers(
    config: Config,
    wire: impl FnOnce(&mut Machine) -> Result<UnixStream>,
    driver: &'static str,
) -> Result<()> {
    let mut machine = config.virtio().testpmd(driver).boot()?;
    let _cable = Cable::join(wire(&mut machine)?, machine.wire(1)?)?;
    let peer = machine.interface(1)?;
    let peer = machine.enclose(&peer, &format!("{PEER}/24"))?;
    let testpmd = machine.start_testpmd(0, driver, "")?;
    testpmd.await_answer(&mut machine, &format!("{peer} ping -W 1 -c 1 {CARD}"))?;
    let ping = Ping::parse(&machine.sh(&format!("{peer} ping -i 0.1 -W 2 -c 20 {CARD}"))?)?;
    assert_eq!((ping.lost(), ping.duplicates), (0, 0), "{ping:?}\n{}", testpmd.said(&mut machine)?);
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn dpdk_drives_an_82576() -> Result<()> {
    testpmd_answers(Machine::config().igb(), |machine| machine.wire(0), "librte_net_e1000.so.23")
}

#[test]
#[ignore = "scripts/check runs it"]
fn dpdk_drives_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let config = Machine::config().vfio_user(&nic.socket());
    testpmd_answers(config, |_| nic.wire(), "librte_net_ixgbe.so.23")?;
    nic.check_but(&[DPDK_DOES])
}

#[test]
#[ignore = "scripts/check runs it"]
fn dpdk_drives_a_virtual_function_of_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual, Vf::new(VfSettings::default()))?;
    let config = Machine::config().vfio_user(&nic.socket());
    testpmd_answers(config, |_| nic.wire(), "librte_net_ixgbe.so.23")?;
    nic.check()
}

#[test]
#[ignore = "scripts/check runs it"]
fn linux_drives_a_virtual_function_of_an_82576() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual82576, IgbVf::new(VfSettings::default()))?;
    let config = Machine::config().module("igbvf").vfio_user(&nic.socket());
    Link::boot(config, |_| nic.wire())?.works()?;
    nic.check_but(&LINUX_DOES)
}

#[test]
#[ignore = "scripts/check runs it"]
fn dpdk_drives_a_virtual_function_of_an_82576() -> Result<()> {
    let mut nic = Nic::start(Function::Virtual82576, IgbVf::new(VfSettings::default()))?;
    let config = Machine::config().vfio_user(&nic.socket());
    testpmd_answers(config, |_| nic.wire(), "librte_net_e1000.so.23")?;
    nic.check_but(&[DPDK_DOES])
}

/// Perl sets a flag of the interface that is its argument: LRO (linux/ethtool.h: ETHTOOL_GFLAGS, ETHTOOL_SFLAGS).
const JOIN: &str = r#"
    socket(S, 2, 2, 0) or die $!;
    sub flags { my ($v) = @_; ioctl(S, 0x8946, pack("a16 P x16", $ARGV[0], $v)) or die $!; (unpack("LL", $v))[1] }
    flags(pack("LL", 0x26, flags(pack("LL", 0x25, 0)) | 0x8000));
    flags(pack("LL", 0x25, 0)) & 0x8000 or die "no LRO";
"#;

#[test]
#[ignore = "scripts/check runs it"]
fn linux_takes_the_joined_segments_of_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let config = Machine::config().module("ixgbe").debian("usr/bin/perl").vfio_user(&nic.socket());
    let mut link = Link::boot(config, |_| nic.wire())?;
    let interface = link.interface.clone();
    link.machine.sh(&format!("perl -e '{}' {interface}", JOIN.replace('\n', " ")))?;
    link.works()?;
    let mut count = |name: &str| -> Result<u64> {
        let text = link.machine.sh(&format!("cat /sys/class/net/{interface}/statistics/{name}"))?;
        text.trim().parse().map_err(|_| Failure::new(format!("{name}: {text}")))
    };
    let (octets, packets) = (count("rx_bytes")?, count("rx_packets")?);
    assert!(octets / packets.max(1) > 3000, "{octets} octets in {packets} packets");
    nic.check_but(&LINUX_DOES)
}
