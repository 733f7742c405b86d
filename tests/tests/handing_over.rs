//! `scripts/vfio-rebind` and `scripts/vf` with a real kernel and an emulated Intel 82576, in a machine with an IOMMU.
//! `card_scripts.rs` has what such a machine cannot show.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use sv3_tests::failure::Result;
use sv3_tests::machine::{Config, Machine};

const READER: &str = env!("CARGO_BIN_EXE_vfio_reader");
/// Lists who has what.
const DRIVERS: &str = "for it in /sys/bus/pci/devices/*; do echo $it $(readlink $it/driver); done; ls /dev/vfio";
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/udev/60-sv3-card.rules");
const FUNCTION: &str = "0000:01:10.0";

/// A machine with the scripts, iproute2's `ip`, and a shell that prefers it to busybox's.
fn config() -> Config {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");
    let mut config = Machine::config().module("igb").igb().program(READER).program("/bin/dash").program("/sbin/ip");
    for (file, inside) in [
        ("vfio-rebind", "/scripts/vfio-rebind"),
        ("vf", "/scripts/vf"),
        ("lib/pci.sh", "/scripts/lib/pci.sh"),
        ("lib/vfio.sh", "/scripts/lib/vfio.sh"),
    ] {
        config = config.file(format!("{scripts}/{file}"), inside);
    }
    config
}

/// One machine has all of it, since its boot takes long.
#[test]
#[ignore = "scripts/check runs it"]
fn cards_and_functions_go_to_users_and_back() -> Result<()> {
    let mut machine = config().debian("usr/bin/udevadm").file(RULES, "/rules").boot()?;
    a_card_goes_to_a_user_and_back(&mut machine)?;
    virtual_functions_go_to_users_and_back(&mut machine)?;
    the_rule_of_udev_gives_a_card_to_its_user(&mut machine)
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_machine_without_an_iommu_is_told_so() -> Result<()> {
    let mut machine = config().without_iommu().boot()?;
    let interface = machine.interface(0)?;
    let refused = machine.run(&format!("/scripts/vfio-rebind --check {interface} user"))?;
    assert!(refused.status == 1 && refused.text.contains("the firmware offers no IOMMU"), "{refused:?}");
    let refused = machine.run(&format!("as_user vfio_reader {}", Machine::card(0)))?;
    assert!(refused.status == 1 && refused.text.contains("has no IOMMU group"), "{refused:?}");
    Ok(())
}

fn a_card_goes_to_a_user_and_back(machine: &mut Machine) -> Result<()> {
    let card = Machine::card(0);
    let interface = machine.interface(0)?;
    let before = machine.sh(DRIVERS)?;
    machine.sh(&format!("ip link set {interface} up"))?;

    let said = machine.sh(&format!("/scripts/vfio-rebind --check {interface} user"))?;
    assert!(said.contains("the IOMMU is on") && said.contains("interrupts are remapped"), "{said}");
    machine.sh(&format!("ip address add 192.0.2.7/24 dev {interface}"))?;
    let refused = machine.run(&format!("/scripts/vfio-rebind {card} user"))?;
    assert!(refused.status == 1 && refused.text.contains("has address 192.0.2.7/24"), "{refused:?}");
    machine.sh(&format!("ip address flush dev {interface}"))?;

    // Busybox runs it.
    machine.sh(&format!("/scripts/vfio-rebind {card} user"))?;
    machine.sh(&format!("/scripts/vfio-rebind {card} user"))?;
    let read = machine.as_user(&format!("vfio_reader {card}"))?;
    assert!(read.contains("8086:10c9"), "{read}");

    let group = machine.sh(&format!("basename $(readlink /sys/bus/pci/devices/{card}/iommu_group)"))?;
    let group = group.trim();
    machine.sh(&format!(
        "as_user sh -c 'exec 3<>/dev/vfio/{group}; echo $$ >/tmp/pid; exec sleep 100' >/dev/null 2>&1 &"
    ))?;
    machine.sh("until [ -s /tmp/pid ]; do usleep 20000; done")?;
    let refused = machine.run(&format!("/scripts/vfio-rebind --back {card}"))?;
    assert!(refused.status == 1 && refused.text.contains("is open in sleep ("), "{refused:?}");
    machine.sh("pid=$(cat /tmp/pid); kill $pid; while [ -e /proc/$pid ]; do usleep 20000; done")?;

    machine.sh(&format!("/scripts/vfio-rebind --back {card}"))?;
    machine.interface(0)?;
    assert_eq!(machine.sh(DRIVERS)?, before);
    Ok(())
}

fn virtual_functions_go_to_users_and_back(machine: &mut Machine) -> Result<()> {
    let card = Machine::card(0);
    let interface = machine.interface(0)?;
    let vf = "PATH=/bin:/sbin:/usr/bin dash /scripts/vf";

    machine.sh(&format!(
        "{vf} {card} 2 user --vf all,trust=on --vf 0,spoofchk=off --vf 1,mac=02:00:00:00:00:09,user=none"
    ))?;
    let shown = machine.sh(&format!("/bin/ip link show dev {interface}"))?;
    let line = |number: u32| shown.lines().find(|line| line.contains(&format!("vf {number} "))).unwrap_or_default();
    assert!(line(0).contains("52:00:00:00:03:00") && line(0).contains("spoof checking off"), "{shown}");
    assert!(line(1).contains("02:00:00:00:00:09") && line(1).contains("spoof checking on"), "{shown}");
    assert!([0, 1].iter().all(|it| line(*it).contains("trust on")), "{shown}");
    let read = machine.as_user(&format!("vfio_reader {FUNCTION}"))?;
    assert!(read.contains("8086:10ca"), "{read}");
    machine.sh(&format!("{vf} {interface} 2 user --vf 1,user=none"))?;
    let refused = machine.run(&format!("{vf} {interface} 3 user"))?;
    assert!(refused.status == 1 && refused.text.contains("has 2 virtual functions"), "{refused:?}");
    let refused = machine.run(&format!("/scripts/vfio-rebind {card} user"))?;
    assert!(refused.status == 1 && refused.text.contains("2 virtual functions"), "{refused:?}");

    machine.sh(&format!("{vf} --back {card}"))?;
    let left =
        machine.run(&format!("ls /dev/vfio/[0-9]* /sys/bus/pci/devices/{card}/virtfn* /run/*/conf.d/* 2>/dev/null"))?;
    assert_eq!(left.text, "");
    // busybox's ip cannot set them up.
    let refused = machine.run(&format!("/scripts/vf {card} 2 user"))?;
    assert!(refused.status == 1 && refused.text.contains("apt install iproute2"), "{refused:?}");
    Ok(())
}

fn the_rule_of_udev_gives_a_card_to_its_user(machine: &mut Machine) -> Result<()> {
    let card = Machine::card(0);
    machine.sh("mkdir -p /etc/udev/rules.d /run/udev")?;
    machine.sh(&format!("sed 's/0000:02:00.1/{card}/; s/alice/user/' /rules >/etc/udev/rules.d/60-sv3-card.rules"))?;
    // The daemon is the same program by another name.
    let daemon = "/debian/loader --argv0 systemd-udevd --library-path /debian/lib /debian/bin/udevadm";
    machine.sh(&format!("{daemon} >/dev/null 2>&1 &"))?;
    machine.sh("until udevadm control --ping --timeout=1 2>/dev/null; do usleep 20000; done")?;

    // As at boot: the card is seen first, and drivers come later.
    machine.write(&card, &format!("/sys/bus/pci/devices/{card}/driver/unbind"))?;
    machine.sh("udevadm trigger --action=add --subsystem-match=pci; udevadm settle")?;
    machine.write(&card, "/sys/bus/pci/drivers_probe")?;
    machine.sh("udevadm settle")?;
    let read = machine.as_user(&format!("vfio_reader {card}"))?;
    assert!(read.contains("8086:10c9"), "{read}");

    // Without a rule, the daemon leaves alone what the script did.
    machine.sh("rm /etc/udev/rules.d/*; udevadm control --reload")?;
    machine.sh(&format!("/scripts/vfio-rebind --back {card} && /scripts/vfio-rebind {card} user && udevadm settle"))?;
    machine.as_user(&format!("vfio_reader {card}"))?;
    Ok(())
}
