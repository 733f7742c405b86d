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
use sv3_tests::frames::mac;
use sv3_tests::machine::{Config, Machine};
use sv3_tests::network::Cable;
use sv3_tests::nic::Nic;
use sv3_tests::switch::{USER, target_folder};
use sv3_tests::vm::Job;

const USER_OF_CARD: &str = env!("CARGO_BIN_EXE_card_user");
const PATIENCE: Duration = Duration::from_secs(300);

/// A machine with what [`USER_OF_CARD`] wants; card 1 is the peer.
fn boot(config: Config) -> Result<Machine> {
    let binaries = target_folder()?;
    let config =
        ["sv3", "sv3-supervisor", "sv3-worker"].iter().fold(config, |it, name| it.program(binaries.join(name)));
    let tools = ["/usr/bin/setpriv", "/usr/bin/env", "/usr/bin/nsenter", "/sbin/ip"];
    let config = tools.iter().fold(config, |it, tool| it.program(tool));
    config.virtio().module("tun").program(USER_OF_CARD).boot()
}

/// Hands the function to the switch's user, and starts to use it in the machine.
fn start(machine: &mut Machine, address: &str, what: &str) -> Result<Job> {
    machine.bind_to_vfio(address)?;
    machine.give_to(address, &USER.to_string())?;
    let peer = machine.interface(1)?;
    // A card that reads guests' memory has all of it locked.
    let run = format!("ulimit -l unlimited; PATH=/bin:$PATH SV3_TEST_BINARIES=/bin card_user {address} {peer} {what}");
    machine.start(&format!("{run}; status=$?; touch /tmp/ended; exit $status"))
}

/// Waits for its end.
fn finish(machine: &mut Machine, job: Job) -> Result<()> {
    let output = machine.finish(job, PATIENCE)?;
    eprintln!("{}", output.text);
    output.ok()?;
    machine.check_kernel()
}

/// Waits until the machine wants something of the test, and lets it go on when that is done. A run that has ended wants
/// nothing any more, and [`finish`] says why.
fn when(machine: &mut Machine, name: &str, act: impl FnOnce()) -> Result<()> {
    let came = format!("[ -e /tmp/{name} ] || [ -e /tmp/ended ]");
    machine.run_for(&format!("until {came}; do usleep 20000; done"), PATIENCE)?.ok()?;
    act();
    machine.sh(&format!("touch /tmp/{name}.done")).map(drop)
}

/// TCP goes on while twenty workers die, and nobody sends but guests, and others who have the card too.
fn survives_kills(machine: &mut Machine, cable: &Cable, address: &str, others: &[[u8; 6]]) -> Result<()> {
    let job = start(machine, address, "kill")?;
    finish(machine, job)?;
    cable.check_sources(&[&[mac(1), mac(2)], others].concat())
}

/// After the kills the whole switch is replaced, and the card goes along; then the wire is pulled out and plugged in; then
/// the card is pulled out, and guests go on among themselves. One machine has all of it, since its boot takes long.
#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_an_82599_until_it_is_pulled_out() -> Result<()> {
    let mut nic = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let mut machine = boot(Machine::config().vfio_user(&nic.socket()))?;
    let cable = Cable::join(nic.wire()?, machine.wire(1)?)?;
    let job = start(&mut machine, &Machine::card(0), "kill replace unplug pull")?;
    when(&mut machine, "unplug", || nic.set_link(false))?;
    when(&mut machine, "plug", || nic.set_link(true))?;
    when(&mut machine, "pull", || nic.pull_out())?;
    finish(&mut machine, job)?;
    cable.check_sources(&[mac(1), mac(2)])?;
    nic.check()
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_a_virtual_function_of_an_82599() -> Result<()> {
    let settings = VfSettings { trusted: true, spoof_check: false, ..VfSettings::default() };
    let mut nic = Nic::start(Function::Virtual, Vf::new(settings))?;
    let mut machine = boot(Machine::config().vfio_user(&nic.socket()))?;
    let cable = Cable::join(nic.wire()?, machine.wire(1)?)?;
    // It reads the guests' memory, some of which goes under traffic.
    let job = start(&mut machine, &Machine::card(0), "zero-copy kill leave")?;
    finish(&mut machine, job)?;
    cable.check_sources(&[mac(1), mac(2), mac(3)])?;
    nic.check()
}

#[test]
#[ignore = "scripts/check runs it"]
fn guests_use_a_virtual_function_of_an_82576() -> Result<()> {
    let mut machine = boot(Machine::config().module("igb").igb())?;
    let cable = Cable::join(machine.wire(0)?, machine.wire(1)?)?;
    // QEMU's card loses a frame if its octets are in pages that do not lie behind each other, which no card does.
    machine.write("force", "/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
    let physical = format!("/sys/bus/pci/devices/{}", Machine::card(0));
    let interface = machine.interface(0)?;
    machine.write("0", &format!("{physical}/sriov_drivers_autoprobe"))?;
    machine.write("1", &format!("{physical}/sriov_numvfs"))?;
    machine.sh(&format!("/bin/ip link set {interface} vf 0 mac 52:54:00:00:02:00 spoofchk off trust on"))?;
    machine.sh(&format!("ip link set {interface} up"))?;
    // The physical function belongs to the machine's kernel, which speaks of IPv6.
    survives_kills(&mut machine, &cable, "0000:01:10.0", &[Machine::address(0)])
}
