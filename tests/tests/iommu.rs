//! A card behind an IOMMU is handed to an ordinary user, in a machine of its own.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use sv3_nic_model::vfio_user::Function;
use sv3_nic_model::{Pf, PfSettings, Vf, VfSettings};
use sv3_tests::failure::Result;
use sv3_tests::machine::Machine;
use sv3_tests::nic::Nic;

const READER: &str = env!("CARGO_BIN_EXE_vfio_reader");

/// The virtual functions of card 0.
const VIRTUAL_FUNCTIONS: [&str; 2] = ["0000:01:10.0", "0000:01:10.2"];

#[test]
#[ignore = "scripts/check runs it"]
fn a_user_without_capabilities_opens_what_is_handed_over() -> Result<()> {
    let physical = Nic::start(Function::Physical, Pf::new(PfSettings::default()))?;
    let virtual_function = Nic::start(Function::Virtual, Vf::new(VfSettings::default()))?;
    let config = Machine::config().module("igb").igb().vfio_user(&physical.socket());
    let mut machine = config.vfio_user(&virtual_function.socket()).program(READER).boot()?;
    assert_eq!(machine.as_user("id -u")?.trim(), "1000");
    let capabilities = machine.as_user("grep -E \"Cap(Inh|Prm|Eff|Amb)\" /proc/self/status")?;
    assert!(capabilities.lines().all(|line| line.ends_with("\t0000000000000000")), "{capabilities}");
    one_of_two_virtual_functions(&mut machine)?;
    models_of_an_82599(&mut machine)?;
    physical.check()?;
    virtual_function.check()
}

fn one_of_two_virtual_functions(machine: &mut Machine) -> Result<()> {
    let physical = format!("/sys/bus/pci/devices/{}", Machine::card(0));
    machine.write("0", &format!("{physical}/sriov_drivers_autoprobe"))?;
    machine.write("2", &format!("{physical}/sriov_numvfs"))?;
    for function in VIRTUAL_FUNCTIONS {
        machine.bind_to_vfio(function)?;
    }
    machine.give_to_user(VIRTUAL_FUNCTIONS[0])?;

    let said = machine.as_user(&format!("vfio_reader {}", VIRTUAL_FUNCTIONS[0]))?;
    assert!(said.starts_with("VFIO 0, group ") && said.contains("8086:10ca, BAR 0 of 16384 octets"), "{said}");

    let sibling = machine.run(&format!("as_user vfio_reader {}", VIRTUAL_FUNCTIONS[1]))?;
    assert!(sibling.status == 1 && sibling.text.contains("Permission denied"), "it is root's still: {sibling:?}");
    Ok(())
}

fn models_of_an_82599(machine: &mut Machine) -> Result<()> {
    for (number, expected) in [(1, "8086:10fb, BAR 0 of 524288 octets"), (2, "8086:10ed, BAR 0 of 16384 octets")] {
        let address = Machine::card(number);
        machine.bind_to_vfio(&address)?;
        machine.give_to_user(&address)?;
        let said = machine.as_user(&format!("vfio_reader {address}"))?;
        assert!(said.contains(expected), "{said}");
    }
    Ok(())
}
