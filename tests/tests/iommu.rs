//! A card behind an IOMMU is handed to an ordinary user, in a machine of its own; and DPDK in a guest that has an IOMMU.
//!
//! Ignored by a plain `cargo test`, as each machine wants a processor: `scripts/check` runs it.

use std::time::Duration;

use sv3_nic_model::vfio_user::Function;
use sv3_nic_model::{Pf, PfSettings, Vf, VfSettings};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, Mac, frame, mac};
use sv3_tests::guest::{Guest, Received};
use sv3_tests::machine::Machine;
use sv3_tests::nic::Nic;
use sv3_tests::switch::Switch;

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

#[test]
#[ignore = "scripts/check runs it"]
fn dpdk_in_a_guest_with_an_iommu_answers_through_the_switch() -> Result<()> {
    const DRIVER: &str = "librte_net_virtio.so.23";
    const ASKS: usize = 300;
    let switch = Switch::start()?;
    let mut machine = Machine::config().testpmd(DRIVER).vhost_user(switch.socket()).boot()?;
    let mut peer = Guest::connect(switch.socket());
    let testpmd = machine.start_testpmd_past_iommu(0, DRIVER, "")?;

    // It takes some seconds to start, and says little of it.
    let answer = (0..ASKS).find_map(|_| {
        peer.send(&who_has([10, 0, 0, 9], mac(1)));
        peer.receive_within(Duration::from_millis(200))
    });
    let Some(Received { frame: answer, .. }) = answer else {
        return Err(Failure::new(format!("testpmd does not answer:\n{}", testpmd.said(&mut machine)?)));
    };

    assert_eq!((&answer[..6], &answer[6..12]), (&mac(1)[..], &Machine::address(0)[..]));
    assert_eq!(answer[20..22], [0, 2], "it is an answer: {answer:02x?}");
    machine.check_kernel()
}

/// An ARP request (RFC 826).
fn who_has(address: [u8; 4], asker: Mac) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    let mut request = frame(BROADCAST, asker, &[&fixed[..], &asker, &[10, 0, 0, 1], &[0; 6], &address].concat());
    request[12..14].copy_from_slice(&[8, 6]);
    request.resize(60, 0);
    request
}
