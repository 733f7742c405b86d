//! Guests reach a network through a card, in a machine with an IOMMU, by a switch of an ordinary user, while its worker is
//! killed again and again.
//!
//! All of it runs inside (`src/bin/card_user.rs`). The peer is another card of the machine, in a network of its own; the
//! cable between the two cards goes through the test.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use std::time::Duration;

use sv3_nic_model::vfio_user::Function;
use sv3_nic_model::{Pf, PfSettings, Vf, VfSettings};
use sv3_tests::failure::Result;
use sv3_tests::machine::{Config, Machine};
use sv3_tests::network::Cable;
use sv3_tests::nic::Nic;
use sv3_tests::switch::{USER, target_folder};

const USER_OF_CARD: &str = env!("CARGO_BIN_EXE_card_user");
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine with what [`USER_OF_CARD`] wants; card 1 is the peer.
fn boot(config: Config) -> Result<Machine> {
    let binaries = target_folder()?;
    let config =
        ["sv3", "sv3-supervisor", "sv3-worker"].iter().fold(config, |it, name| it.program(binaries.join(name)));
    let tools = ["/usr/bin/setpriv", "/usr/bin/env", "/usr/bin/nsenter", "/sbin/ip"];
    let config = tools.iter().fold(config, |it, tool| it.program(tool));
    config.virtio().module("tun").program(USER_OF_CARD).boot()
}

/// Hands the function to the switch's user, and has it used while workers are killed.
fn use_card(machine: &mut Machine, address: &str, kills: u32) -> Result<()> {
    machine.bind_to_vfio(address)?;
    machine.give_to(address, &USER.to_string())?;
    let peer = machine.interface(1)?;
    let program = format!("PATH=/bin:$PATH SV3_TEST_BINARIES=/bin card_user {address} {peer} {kills}");
    let output = machine.run_for(&program, PATIENCE)?;
    eprintln!("{}", output.text);
    output.ok()?;
    machine.check_kernel()
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_an_82599() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let mut machine = boot(Machine::config().vfio_user(&nic.socket()))?;
    let _cable = Cable::join(nic.wire()?, machine.wire(1)?)?;
    let used = use_card(&mut machine, &Machine::card(0), 20);
    nic.check()?;
    used
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_a_virtual_function_of_an_82599() -> Result<()> {
    let settings = VfSettings { trusted: true, spoof_check: false, ..VfSettings::default() };
    let mut nic = Nic::start(Function::Virtual, Vf::new(settings))?;
    let mut machine = boot(Machine::config().vfio_user(&nic.socket()))?;
    let _cable = Cable::join(nic.wire()?, machine.wire(1)?)?;
    let used = use_card(&mut machine, &Machine::card(0), 20);
    nic.check()?;
    used
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_a_virtual_function_of_an_82576() -> Result<()> {
    let mut machine = boot(Machine::config().module("igb").igb())?;
    let _cable = Cable::join(machine.wire(0)?, machine.wire(1)?)?;
    let physical = format!("/sys/bus/pci/devices/{}", Machine::card(0));
    let interface = machine.interface(0)?;
    machine.write("0", &format!("{physical}/sriov_drivers_autoprobe"))?;
    machine.write("1", &format!("{physical}/sriov_numvfs"))?;
    machine
        .sh(&format!("/bin/ip link set {interface} vf 0 mac 52:54:00:00:02:00 spoofchk off trust on"))?;
    machine.sh(&format!("ip link set {interface} up"))?;
    use_card(&mut machine, "0000:01:10.0", 20)
}
