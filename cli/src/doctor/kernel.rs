//! The kernel: its version, landlock, seccomp, memfd.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// The first version with all system calls that sv3 needs (close_range).
const LEAST: (u32, u32) = (5, 9);
/// The first version with landlock, and the first with all of it that sv3 asks for.
const LANDLOCK: (u32, u32) = (5, 13);
/// The landlock ABI of Linux 6.12.
const WHOLE: u32 = 6;

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let release = machine.read("proc/sys/kernel/osrelease");
    let version = release.as_deref().and_then(version);
    let mut found = vec![match (&release, version) {
        (Some(release), Some(version)) if version < LEAST => {
            Finding::fault("kernel", format!("Linux {release} lacks system calls that sv3 needs (close_range)"))
                .to(Cost::Reboot, "boot Linux 6.12 or newer; 5.9 is the oldest that sv3 runs on")
        }
        (Some(release), Some(_)) => Finding::good("kernel", format!("Linux {release}")),
        _ => Finding::advice("kernel", "the kernel's version cannot be read: /proc is not mounted, or not all of it")
            .to(Cost::Host, "mount /proc (in a container: let the engine do so)"),
    }];
    found.push(landlock(machine, version));
    found.extend(seccomp(machine));
    found.extend(machine.memfd.as_ref().err().map(|why| {
        Finding::fault(
            "kernel",
            format!("no memory file can be made (memfd_create: {why}), and sv3 keeps its ledger in one"),
        )
        .to(Cost::Host, "allow memfd_create in the seccomp profile of the container or unit that sv3 runs in")
    }));
    found
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn landlock(machine: &Machine, version: Option<(u32, u32)>) -> Finding {
    match &machine.landlock {
        Err(why) => Finding::fault("landlock", format!("this process cannot confine itself ({why})"))
            .to(Cost::Host, "allow the landlock calls and PR_SET_NO_NEW_PRIVS where sv3 runs"),
        Ok(0) if version.is_some_and(|version| version < LANDLOCK) => {
            Finding::advice("landlock", "this kernel has no landlock: sv3 runs confined by seccomp alone")
                .to(Cost::Reboot, "boot Linux 5.13 or newer; 6.12 or newer has all that sv3 asks for")
        }
        Ok(0) => Finding::advice("landlock", "landlock is not enabled here: sv3 runs confined by seccomp alone").to(
            Cost::Reboot,
            "put landlock into the kernel's parameter `lsm=` (`cat /sys/kernel/security/lsm` shows what is there); \
                 in a container, allow the landlock calls",
        ),
        Ok(abi) if *abi < WHOLE => Finding::advice(
            "landlock",
            format!("landlock has ABI {abi}: it denies files, and not all else that sv3 asks for (ABI {WHOLE})"),
        )
        .to(Cost::Reboot, "boot Linux 6.12 or newer"),
        Ok(abi) => Finding::good("landlock", format!("landlock has ABI {abi}: all that sv3 asks for")),
    }
}

fn seccomp(machine: &Machine) -> Option<Finding> {
    let actions = machine.read("proc/sys/kernel/seccomp/actions_avail");
    Some(match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "kill_process") => {
            Finding::good("seccomp", "seccomp is there")
        }
        Some(_) => Finding::fault("seccomp", "this kernel's seccomp cannot end a process (kill_process)")
            .to(Cost::Reboot, "boot Linux 6.12 or newer"),
        // Without /proc there is nothing to say.
        None if !machine.has("proc/sys/kernel") => return None,
        None => Finding::fault("seccomp", "this kernel has no seccomp filters, and sv3 does not run without")
            .to(Cost::Reboot, "boot a kernel with CONFIG_SECCOMP_FILTER; every distribution's has it"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    const ACTIONS: &str = "kill_process kill_thread trap errno user_notif trace log allow\n";

    fn said(release: &str, landlock: Result<u32, String>, actions: &str) -> Vec<Finding> {
        let mut fake =
            Fake::with(&[("proc/sys/kernel/osrelease", release), ("proc/sys/kernel/seccomp/actions_avail", actions)]);
        fake.machine.landlock = landlock;
        probe(&fake.machine)
    }

    #[test]
    fn a_kernel_of_today_is_good() {
        let found = said("6.12.38+deb13-amd64\n", Ok(6), ACTIONS);
        assert!(found.iter().all(|finding| finding.state == State::Good && finding.remedy.is_none()), "{found:?}");
        assert_eq!(found[0].message, "Linux 6.12.38+deb13-amd64");
    }

    #[test]
    fn each_lack_of_an_old_kernel_is_told_with_what_helps() {
        for (release, landlock, actions, topic, state, words) in [
            ("5.4.0", Ok(0), ACTIONS, "kernel", State::Fault, "5.9 is the oldest"),
            ("5.10.0-30-amd64", Ok(0), ACTIONS, "landlock", State::Advice, "boot Linux 5.13 or newer"),
            ("6.1.0", Ok(0), ACTIONS, "landlock", State::Advice, "lsm="),
            ("6.1.0", Ok(2), ACTIONS, "landlock", State::Advice, "boot Linux 6.12"),
            ("6.12.0", Err("prctl: EPERM".to_string()), ACTIONS, "landlock", State::Fault, "PR_SET_NO_NEW_PRIVS"),
            ("6.12.0", Ok(6), "trap errno", "seccomp", State::Fault, "boot Linux"),
        ] {
            let found = said(release, landlock, actions);
            let one = found.iter().find(|finding| finding.topic == topic).unwrap();
            let act = &one.remedy.as_ref().unwrap().act;
            assert!(one.state == state && act.contains(words), "{release} {topic}: {one:?}");
        }
    }

    #[test]
    fn what_a_container_forbids_is_told() {
        let mut fake = Fake::with(&[("proc/sys/kernel/osrelease", "6.12.0")]);
        fake.machine.memfd = Err("Operation not permitted".to_string());
        let found = probe(&fake.machine);
        assert!(found.iter().any(|one| one.message.contains("memfd_create: Operation not permitted")), "{found:?}");
        assert!(found.iter().any(|one| one.topic == "seccomp" && one.state == State::Fault), "{found:?}");
        let empty = probe(&Fake::with(&[]).machine);
        assert!(empty[0].message.contains("/proc is not mounted") && empty.iter().all(|one| one.topic != "seccomp"));
    }
}
