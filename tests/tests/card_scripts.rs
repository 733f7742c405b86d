//! `scripts/vfio-rebind` and `scripts/vf` on a folder that looks like a machine: what they refuse, what they do, and that
//! they take back what they did when a step fails. `SV3_TEST_SHELL="bash --posix"` has another shell
//! run them; busybox's prefers its own programs to those of the folder.

use sv3::card::CardModel;
use sv3::card_attachment::CardAttachment;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::sysfs::Machine;

const CARD: &str = "0000:02:00.1";
const DEVICE: &str = "sys/bus/pci/devices/0000:02:00.1";

/// A card that nobody uses, alone with a bridge in its group.
fn machine() -> Result<Machine> {
    let machine = Machine::new()?;
    machine.device("0000:00:02.0", "0x060400", "pcieport", 14)?;
    machine.card(CARD, "enp2s0f1", 14)?;
    Ok(machine)
}

#[test]
fn a_card_goes_to_a_user_and_back() -> Result<()> {
    let machine = machine()?;
    let said = machine.run("vfio-rebind 02:00.1 alice")?.ok()?;
    assert!(said.contains("/dev/vfio/14 is alice's"), "{said}");
    assert_eq!(machine.driver(CARD).as_deref(), Some("vfio-pci"));
    assert_eq!((machine.owner(14), machine.driver("0000:00:02.0").as_deref()), ("alice".into(), Some("pcieport")));
    assert_eq!(
        machine.record()?,
        format!(
            "/{DEVICE}/driver_override=vfio-pci\n/{DEVICE}/driver/unbind={CARD}
/sys/bus/pci/drivers_probe={CARD}\nchown alice /dev/vfio/14"
        )
    );
    machine.run("vfio-rebind --back 0000:02:00.1")?.ok()?;
    assert_eq!(machine.driver(CARD).as_deref(), Some("igb"));
    assert_eq!(machine.read(&format!("{DEVICE}/driver_override")), "(null)");
    assert!(machine.record()?.starts_with("chown root /dev/vfio/14\n"));
    Ok(())
}

#[test]
fn doing_it_twice_is_doing_it_once() -> Result<()> {
    let machine = machine()?;
    machine.run("vfio-rebind enp2s0f1 alice")?.ok()?;
    machine.record()?;
    machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?;
    assert_eq!(machine.record()?, "chown alice /dev/vfio/14");
    machine.run("vfio-rebind --back 0000:02:00.1")?.ok()?;
    machine.record()?;
    machine.run("vfio-rebind --back 0000:02:00.1")?.ok()?;
    assert_eq!(machine.record()?, "");
    Ok(())
}

#[test]
fn a_check_changes_nothing_and_is_for_everybody() -> Result<()> {
    let machine = machine()?;
    machine.write("uid", "1000")?;
    let said = machine.run("vfio-rebind --check 0000:02:00.1 alice")?.ok()?;
    for word in ["IOMMU is on", "0000:00:02.0, a bridge, is in group 14 too", "alice may lock 8192 KiB", "nobody uses"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(machine.record()?, "");
    machine.run("vfio-rebind 0000:02:00.1 alice")?.refused(&["this is for root"])?;
    assert_eq!(machine.record()?, "");
    Ok(())
}

/// Each way in which a machine or a card can be unfit: how it is made so, and what the script says.
#[test]
fn what_is_missing_is_said_with_what_helps() -> Result<()> {
    type Spoil = fn(&Machine) -> Result<()>;
    let no_groups: Spoil = |it| {
        it.remove("sys/kernel/iommu_groups")?;
        it.remove(&format!("{DEVICE}/iommu_group"))
    };
    let cases: [(&str, Spoil, &[&str]); 15] = [
        ("firmware", no_groups, &["the firmware offers no IOMMU", "VT-d"]),
        ("Intel", |it| it.write("sys/firmware/acpi/tables/DMAR", ""), &["intel_iommu=on"]),
        ("AMD", |it| it.write("sys/firmware/acpi/tables/IVRS", ""), &["amd_iommu=off"]),
        ("interrupts", |it| it.write("proc/interrupts", "PCI-MSI"), &["interrupts are not remapped", "EPERM"]),
        (
            "modules",
            |it| {
                it.write("sys/kernel/security/lockdown", "none [integrity]")?;
                it.remove("sys/bus/pci/drivers/vfio-pci")
            },
            &["no module vfio-pci", "linux-image-amd64", "locked down"],
        ),
        ("class", |it| it.write(&format!("{DEVICE}/class"), "0x010601"), &["no network card", "0x010601"]),
        ("functions", |it| it.write(&format!("{DEVICE}/sriov_numvfs"), "2"), &["2 virtual functions", "vf --back"]),
        ("token", |it| it.link(&format!("{DEVICE}/physfn/driver"), "../vfio-pci"), &["a token"]),
        ("no IOMMU", |it| it.write(&format!("{DEVICE}/iommu_group/name"), "vfio-noiommu"), &["could write all"]),
        ("outside", |it| it.remove(&format!("{DEVICE}/iommu_group")), &["no IOMMU group", "slot"]),
        (
            "neighbour",
            |it| it.card("0000:02:00.0", "enp2s0f0", 14),
            &["driver igb, interface enp2s0f0", "--with-group"],
        ),
        ("container", |it| it.remove(&format!("{DEVICE}/net")), &["no interface here"]),
        ("address", |it| it.write("addresses/enp2s0f1", "3: e    inet 192.0.2.7/24 e"), &["has address 192.0.2.7/24"]),
        ("route", |it| it.write("routes", "default via 192.0.2.1 dev enp2s0f1 onlink"), &["leads the default route"]),
        (
            "bond",
            |it| {
                it.link("sys/class/net/enp2s0f1/master", "../bond0")?;
                it.write("sys/class/net/enp2s0f1/upper_bond0", "")?;
                it.write("sys/class/net/enp2s0f1/upper_vlan7", "")
            },
            &["is a member of bond0, carries vlan7"],
        ),
    ];
    for (name, spoil, words) in cases {
        let machine = machine()?;
        if matches!(name, "Intel" | "AMD") {
            no_groups(&machine)?;
        }
        spoil(&machine)?;
        for line in ["vfio-rebind --check 0000:02:00.1", "vfio-rebind 0000:02:00.1 alice"] {
            machine.run(line)?.refused(words).map_err(|failure| Failure::new(format!("{name}: {failure}")))?;
            assert_eq!(machine.record()?, "", "{name}: {line}");
        }
    }
    Ok(())
}

#[test]
fn modules_are_loaded_if_they_are_not() -> Result<()> {
    let machine = machine()?;
    machine.remove("sys/bus/pci/drivers/vfio-pci")?;
    machine
        .write("lib/modules/6.1.0/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko: kernel/drivers/vfio/vfio.ko")?;
    assert!(machine.run("vfio-rebind --check 0000:02:00.1")?.ok()?.contains("vfio-pci can be loaded"));
    machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?;
    assert!(machine.record()?.starts_with("modprobe vfio-pci\n"));
    Ok(())
}

#[test]
fn a_card_in_use_is_taken_by_force() -> Result<()> {
    let machine = machine()?;
    machine.write("addresses/enp2s0f1", "3: e    inet6 2001:db8::7/64 scope global")?;
    machine.run("vfio-rebind 0000:02:00.1 alice")?.refused(&["has address 2001:db8::7/64", "1 missing"])?;
    let said = machine.run("vfio-rebind --force 0000:02:00.1 alice")?.ok()?;
    assert!(said.contains("forced"), "{said}");
    assert_eq!(machine.owner(14), "alice");
    Ok(())
}

#[test]
fn a_link_local_address_is_no_use() -> Result<()> {
    let machine = machine()?;
    machine.write("addresses/enp2s0f1", "3: e    inet6 fe80::1/64 scope link")?;
    machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?;
    Ok(())
}

#[test]
fn the_group_goes_along_and_comes_back() -> Result<()> {
    let machine = machine()?;
    machine.card("0000:02:00.0", "enp2s0f0", 14)?;
    machine.device("0000:02:00.2", "0x020000", "", 14)?;
    machine.run("vfio-rebind --with-group 0000:02:00.1 alice")?.ok()?;
    let drivers =
        || ["0000:02:00.0", CARD, "0000:02:00.2", "0000:00:02.0"].map(|it| machine.driver(it).unwrap_or_default());
    assert_eq!(drivers(), ["vfio-pci", "vfio-pci", "", "pcieport"]);
    machine.run("vfio-rebind --back 0000:02:00.1")?.ok()?;
    assert_eq!(drivers(), ["igb", "igb", "", "pcieport"]);
    Ok(())
}

#[test]
fn a_disk_never_goes_along() -> Result<()> {
    let machine = machine()?;
    machine.device("0000:03:00.0", "0x010601", "ahci", 14)?;
    let words = ["0000:03:00.0 is no network card"];
    machine.run("vfio-rebind --with-group --force 0000:02:00.1 alice")?.refused(&words)?;
    assert_eq!(machine.driver("0000:03:00.0").as_deref(), Some("ahci"));
    Ok(())
}

#[test]
fn a_failing_step_takes_back_the_others() -> Result<()> {
    for step in [format!("/{DEVICE}/driver/unbind"), "/sys/bus/pci/drivers_probe".to_string()] {
        let machine = machine()?;
        machine.card("0000:02:00.0", "enp2s0f0", 14)?;
        machine.fail(&step)?;
        machine.run("vfio-rebind --with-group 0000:02:00.1 alice")?.refused(&["does not take", "taking back"])?;
        assert_eq!(machine.read(&format!("{DEVICE}/driver_override")), "(null)", "{step}");
        assert_eq!(machine.driver("0000:02:00.0").as_deref(), Some("igb"));
        assert!(!machine.has("dev/vfio/14"));
    }
    // The second card of the group fails: the first one gets its driver again.
    let machine = machine()?;
    machine.card("0000:02:00.0", "enp2s0f0", 14)?;
    machine.fail("/sys/bus/pci/devices/0000:02:00.0/driver_override")?;
    machine.run("vfio-rebind --with-group 0000:02:00.1 alice")?.refused(&["taking back"])?;
    assert_eq!((machine.driver(CARD).as_deref(), machine.has("dev/vfio/14")), (Some("igb"), false));
    Ok(())
}

#[test]
fn another_users_card_is_left_alone() -> Result<()> {
    let machine = machine()?;
    machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?;
    machine.run("vfio-rebind 0000:02:00.1 bob")?.refused(&["belongs to the user 1000"])?;
    assert_eq!(machine.owner(14), "alice");
    Ok(())
}

#[test]
fn a_card_that_a_program_has_open_does_not_go_back() -> Result<()> {
    let machine = machine()?;
    machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?;
    machine.record()?;
    let _held = machine.open_group(14)?;
    machine.run("vfio-rebind --back 0000:02:00.1")?.refused(&["open in qemu (77)"])?;
    assert_eq!(machine.record()?, "");
    // The kernel asks the program for it.
    machine.run("vfio-rebind --back --force 0000:02:00.1")?.ok()?;
    assert_eq!(machine.driver(CARD).as_deref(), Some("igb"));
    Ok(())
}

#[test]
fn the_memory_that_a_card_needs_is_as_the_script_says() -> Result<()> {
    let settings = CardAttachment::new("nic", CARD).settings(CardModel::Ixgbe, (0, 0), 1);
    let line = format!("NEED={}\n", settings.dma_size().div_ceil(1024));
    assert!(script("lib/vfio.sh")?.contains(&line), "{line}");
    Ok(())
}

#[test]
fn too_little_locked_memory_is_told() -> Result<()> {
    let machine = machine()?;
    machine.remove("proc/8192")?;
    machine.process(1000, 64)?;
    let words = ["alice may lock 64 KiB", "limits.d"];
    machine.run("vfio-rebind --check 0000:02:00.1 alice")?.refused(&words)?;
    // The card can be given all the same.
    assert!(machine.run("vfio-rebind 0000:02:00.1 alice")?.ok()?.contains(words[0]));
    machine.process(1000, 65536)?;
    let said = machine.run("vfio-rebind --check 0000:02:00.1 alice")?.ok()?;
    assert!(said.contains("some programs of alice may lock only 64 KiB: say `sv3 attach` in a new"), "{said}");
    Ok(())
}

/// A physical function that can have virtual ones.
fn physical() -> Result<Machine> {
    let machine = machine()?;
    machine.with_functions(CARD)?;
    Ok(machine)
}

const FIRST: &str = "0000:02:10.0";
const SECOND: &str = "0000:02:10.1";

#[test]
fn virtual_functions_go_to_users_and_back() -> Result<()> {
    let machine = physical()?;
    machine
        .run(
            "vf enp2s0f1 2 alice --vf all,trust=on,spoofchk=off --vf 1,mac=02:00:00:00:00:09,trust=off,user=bob,vlan=7",
        )?
        .ok()?;
    let record = machine.record()?;
    for line in [
        format!("/{DEVICE}/sriov_drivers_autoprobe=0\n/{DEVICE}/sriov_numvfs=2"),
        // Local, of the card's 00:1b:21:aa:bb:cc.
        "ip link set enp2s0f1 vf 0 mac 02:00:21:aa:bb:cc\nip link set enp2s0f1 vf 0 trust on".to_string(),
        "vf 1 mac 02:00:00:00:00:09\nip link set enp2s0f1 vf 1 trust off\nip link set enp2s0f1 vf 1 spoofchk off"
            .to_string(),
        "vf 1 vlan 7".to_string(),
    ] {
        assert!(record.contains(&line), "{line}: {record}");
    }
    assert_eq!([FIRST, SECOND].map(|it| machine.driver(it)), [Some("vfio-pci".into()), Some("vfio-pci".into())]);
    assert_eq!((machine.owner(100), machine.owner(101)), ("alice".into(), "bob".into()));
    let keyfile = "run/NetworkManager/conf.d/90-sv3-vf-0000:02:00.1.conf";
    let network = "run/systemd/network/05-sv3-vf-0000:02:00.1.network";
    let addresses = "mac:02:00:21:aa:bb:cc;mac:02:00:00:00:00:09";
    assert_eq!(machine.read(keyfile), format!("[keyfile]\nunmanaged-devices+={addresses}"));
    assert!(machine.read(network).contains("MACAddress=02:00:21:aa:bb:cc 02:00:00:00:00:09\n"));

    machine.run("vf --back 0000:02:00.1")?.ok()?;
    assert_eq!(machine.read(&format!("{DEVICE}/sriov_numvfs")), "0");
    assert_eq!(machine.read(&format!("{DEVICE}/sriov_drivers_autoprobe")), "1");
    assert!(![keyfile, network, "dev/vfio/100"].iter().any(|file| machine.has(file)));
    Ok(())
}

#[test]
fn virtual_functions_for_guests_have_no_driver() -> Result<()> {
    let machine = physical()?;
    machine.run("vf 0000:02:00.1 2")?.ok()?;
    assert_eq!([FIRST, SECOND].map(|it| machine.driver(it)), [None, None]);
    // Again, with a user: they stay as they are, and are given.
    machine.record()?;
    machine.run("vf 0000:02:00.1 2 alice")?.ok()?;
    assert_eq!(machine.owner(101), "alice");
    assert!(!machine.record()?.contains("sriov"));
    // One that goes back has no driver either.
    let said = machine.run(&format!("vfio-rebind --back {FIRST}"))?.ok()?;
    assert!(said.contains("vfio-pci -> no driver") && machine.driver(FIRST).is_none(), "{said}");
    Ok(())
}

#[test]
fn virtual_functions_that_cannot_be_are_refused() -> Result<()> {
    for (line, words) in [
        ("vf enp2s0f1 8 alice", "at most 7"),
        ("vf enp2s0f1 0", "to have none"),
        ("vf enp2s0f1 2 carol", "no user 'carol'"),
        ("vf enp2s0f1 2 --vf 2,trust=on", "functions 0 to 1"),
        ("vf enp2s0f1 2 --vf all,mac=02:00:00:00:00:09", "cannot have one address"),
        ("vf enp2s0f1 2 --vf 0,mac=03:00:00:00:00:09", "mac=03:00:00:00:00:09"),
        ("vf enp2s0f1 2 --vf 0,trust=maybe", "trust=maybe"),
        ("vf enp2s0f1 2 --vf 0,vlan=4095", "vlan=4095"),
        ("vf 0000:00:02.0 2", "makes no virtual functions"),
        ("vf 0000:00:1f.0 2", "no PCI device"),
    ] {
        let machine = physical()?;
        machine.run(line)?.refused(&[words])?;
        assert_eq!(machine.record()?, "", "{line}");
    }
    let machine = physical()?;
    machine.write(&format!("{DEVICE}/sriov_numvfs"), "3")?;
    machine.run("vf enp2s0f1 2 alice")?.refused(&["has 3 virtual functions", "--back"])?;
    Ok(())
}

#[test]
fn virtual_functions_are_removed_when_a_step_fails() -> Result<()> {
    for step in ["ip link set enp2s0f1 vf 1 trust on", "/sys/bus/pci/devices/0000:02:10.1/driver_override"] {
        let machine = physical()?;
        machine.fail(step)?;
        machine.run("vf enp2s0f1 2 alice --vf all,trust=on")?.refused(&["does not take", "taking back"])?;
        assert_eq!(machine.read(&format!("{DEVICE}/sriov_numvfs")), "0", "{step}");
        assert_eq!(machine.read(&format!("{DEVICE}/sriov_drivers_autoprobe")), "1");
        assert!(!machine.has("run/systemd/network/05-sv3-vf-0000:02:00.1.network"));
    }
    Ok(())
}

#[test]
fn virtual_functions_in_use_are_not_removed() -> Result<()> {
    let machine = physical()?;
    machine.run("vf enp2s0f1 2 alice")?.ok()?;
    machine.record()?;
    let held = machine.open_group(101)?;
    machine.run("vf --back enp2s0f1")?.refused(&[SECOND, "open in qemu (77)"])?;
    assert_eq!(machine.record()?, "");
    drop(held);
    machine.remove("dev/vfio/101")?;
    // A driver of this host has one.
    machine.remove("sys/bus/pci/devices/0000:02:10.0/driver")?;
    machine.link("sys/bus/pci/devices/0000:02:10.0/driver", "../../drivers/igbvf")?;
    machine.run("vf --back 0000:02:00.1")?.refused(&["driver igbvf of this host has 0000:02:10.0"])?;
    machine.run("vf --back --force 0000:02:00.1")?.ok()?;
    assert!(!machine.has("sys/bus/pci/devices/0000:02:10.0"));
    Ok(())
}

/// A file of the scripts' folder.
fn script(file: &str) -> Result<String> {
    Ok(std::fs::read_to_string(format!("{}/../scripts/{file}", env!("CARGO_MANIFEST_DIR")))?)
}

/// The command line of a unit of systemd for an instance, with the variables that its example sets.
fn command_of(unit: &str, example: &str, instance: &str) -> Result<String> {
    let (unit, example) = (script(&format!("systemd/{unit}"))?, script(&format!("systemd/{example}"))?);
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/lib/sv3/"));
    let mut command = start.unwrap_or_default().replace("%i", instance);
    for (name, value) in example.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        command = command.replace(&format!("${name}"), value);
    }
    Ok(command.replace(" $SV3_OPTIONS", ""))
}

#[test]
fn units_of_systemd_do_what_their_examples_say() -> Result<()> {
    let machine = physical()?;
    machine.run(&command_of("sv3-vfio@.service", "vfio.example", CARD)?)?.ok()?;
    assert_eq!(machine.owner(14), "alice");
    let machine = physical()?;
    machine.run(&command_of("sv3-vf@.service", "vf.example", "enp2s0f1")?)?.ok()?;
    assert_eq!((machine.owner(100), machine.driver(SECOND)), ("alice".into(), None));
    assert!(machine.record()?.contains("vf 0 trust on"));
    Ok(())
}
