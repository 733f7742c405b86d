//! QEMU: which one is in `$PATH`, what is known to be wrong with it, and KVM.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// Where distributions keep it, by name in `$PATH`.
const NAMES: [&str; 3] = ["qemu-system-x86_64", "qemu-kvm", "kvm"];
/// Where Red Hat's systems keep it.
const LIBEXEC: &str = "usr/libexec/qemu-kvm";

type Version = (u32, u32);

/// A known fault.
struct Known {
    /// The versions that have it: the first, and the first that has it no longer.
    versions: (Version, Version),
    /// Only where there is no KVM.
    without_kvm: bool,
    what: &'static str,
    act: &'static str,
}

const KNOWN: [Known; 3] = [
    Known {
        versions: ((0, 0), (2, 12)),
        without_kvm: false,
        what: "it has no memory-backend-memfd",
        act: "install a newer QEMU",
    },
    Known {
        versions: ((7, 2), (7, 3)),
        without_kvm: true,
        what: "without KVM it crashes when a vhost-user device uses MSI-X",
        act: "give the device `vectors=0`; libvirt: the override in docs/neighbours/libvirt.md",
    },
    Known {
        versions: ((0, 0), (9, 2)),
        without_kvm: false,
        what: "it does not know `reconnect-ms`",
        act: "say `reconnect=1` at the chardev",
    },
];

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let kvm = machine.may_use("dev/kvm") && can_virtualise(machine);
    let mut found = vec![match (machine.has("dev/kvm") && can_virtualise(machine), kvm) {
        (_, true) => Finding::good("kvm", "KVM is there for this user"),
        (true, false) => Finding::advice("kvm", "this user may not use /dev/kvm: guests run many times slower")
            .to(Cost::Host, "`sudo usermod --append --groups kvm USER`, and a new login"),
        (false, _) => Finding::advice("kvm", "there is no KVM: guests run many times slower").to(
            Cost::Reboot,
            "switch virtualisation on in the firmware (VT-x, AMD-V), or, in a virtual machine, nested virtualisation",
        ),
    }];
    let libexec = Some(machine.at(LIBEXEC)).filter(|path| path.is_file());
    let Some(program) = NAMES.into_iter().find_map(|name| machine.program(name)).or(libexec) else {
        found.push(
            Finding::advice("qemu", "there is no QEMU in PATH")
                .to(Cost::Host, "if guests are to run on QEMU: `sudo apt install qemu-system-x86`"),
        );
        return found;
    };
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((words, version)) = machine.version_of(&program).as_deref().and_then(version) else {
        found.push(
            Finding::advice("qemu", format!("{name} does not tell its version")).to(Cost::Host, "install QEMU anew"),
        );
        return found;
    };
    let before = found.len();
    let known = KNOWN.iter().filter(|known| (known.versions.0..known.versions.1).contains(&version));
    found.extend(known.filter(|known| !(known.without_kvm && kvm)).map(|known| {
        Finding::advice("qemu", format!("{name} is version {words}: {}", known.what)).to(Cost::Guest, known.act)
    }));
    if found.len() == before {
        found.push(Finding::good("qemu", format!("{name} is version {words}, without known faults")));
    }
    found
}

/// Whether the processors have VT-x or AMD-V. In some virtual machines /dev/kvm is there without.
fn can_virtualise(machine: &Machine) -> bool {
    let Some(text) = machine.read("proc/cpuinfo") else { return true };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_none_or(|flags| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// The version in what QEMU prints, as it is and as numbers.
fn version(says: &str) -> Option<(String, Version)> {
    let (_, rest) = says.split_once("version ")?;
    let words: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let mut numbers = words.split('.').map(|number| number.parse::<u32>().ok());
    let version = (numbers.next()??, numbers.next()??);
    Some((words, version))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    fn said(says: &str, kvm: bool) -> Vec<Finding> {
        let fake = Fake::with(&[]);
        fake.program("qemu-system-x86_64", says);
        if kvm {
            fake.write("dev/kvm", "");
        }
        probe(&fake.machine)
    }

    #[test]
    fn known_faults_are_those_of_the_version() {
        let acts = |says: &str, kvm: bool| -> String {
            said(says, kvm).iter().filter_map(|one| Some(one.remedy.as_ref()?.act.clone())).collect()
        };
        let old = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)";
        assert!(acts(old, false).contains("vectors=0") && acts(old, false).contains("reconnect=1"));
        assert!(!acts(old, true).contains("vectors=0") && acts(old, true).contains("reconnect=1"));
        assert!(acts("QEMU emulator version 2.11.1", true).contains("newer QEMU"));
        let new = said("QEMU emulator version 11.1.3 (Debian 1:11.1.3)", true);
        assert!(new.iter().all(|one| one.state == State::Good), "{new:?}");
        assert_eq!(new[1].message, "qemu-system-x86_64 is version 11.1.3, without known faults");
    }

    #[test]
    fn no_qemu_no_version_and_no_kvm_are_told() {
        let none = probe(&Fake::with(&[]).machine);
        assert!(none[0].message.contains("there is no KVM") && none[1].message.contains("no QEMU in PATH"), "{none:?}");
        let idle = Fake::with(&[("dev/kvm", ""), ("proc/cpuinfo", "processor : 0\nflags : fpu sse\n")]);
        assert!(probe(&idle.machine)[0].message.contains("there is no KVM"));
        idle.write("proc/cpuinfo", "flags : fpu vmx\n");
        assert_eq!(probe(&idle.machine)[0].state, State::Good);
        assert!(said("what?", true)[1].message.contains("does not tell its version"));
    }
}
