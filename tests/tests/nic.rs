//! sv3 drives a network card, in a machine with an IOMMU, as an ordinary user.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use sv3_tests::failure::Result;
use sv3_tests::machine::Machine;

/// A machine whose user has virtual function 0 of an 82576, and runs sv3.
fn machine() -> Result<Machine> {
    let mut config = Machine::config().module("igb").igb();
    for name in ["sv3", "sv3-supervisor", "sv3-worker"] {
        config = config.program(sv3_tests::switch::target_folder()?.join(name));
    }
    let mut machine = config.boot()?;
    let physical = format!("/sys/bus/pci/devices/{}", Machine::card(0));
    machine.write("0", &format!("{physical}/sriov_drivers_autoprobe"))?;
    machine.write("1", &format!("{physical}/sriov_numvfs"))?;
    machine.bind_to_vfio("0000:01:10.0")?;
    machine.give_to_user("0000:01:10.0")?;
    machine
        .start("as_user sv3 run --socket /home/user/front --control /home/user/control.sock >/home/user/log 2>&1")?;
    Ok(machine)
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_virtual_function_is_attached() -> Result<()> {
    let mut machine = machine()?;
    eprintln!("{:?}", machine.run("sleep 2; as_user sv3 attach nic 0000:01:10.0 --control /home/user/control.sock; cat /home/user/log; as_user sv3 status --control /home/user/control.sock; dmesg | tail -5"));
    Ok(())
}
