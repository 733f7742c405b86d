//! What guests need to reach the internet without root: a program for it, and user namespaces for its neighbours.

use super::finding::{Cost, Finding};
use super::machine::Machine;

const PROGRAMS: [&str; 3] = ["slirp4netns", "gvproxy", "passt"];

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let there: Vec<&str> = PROGRAMS.into_iter().filter(|name| machine.program(name).is_some()).collect();
    let program = match there.is_empty() {
        true => Finding::advice("uplink", "no program is installed that gives guests the internet without root")
            .to(Cost::Host, "for `sv3 run --internet`: `sudo apt install slirp4netns`"),
        false => {
            Finding::good("uplink", format!("guests can reach the internet without root, by {}", there.join(" or ")))
        }
    };
    vec![program, namespaces(machine)]
}

fn namespaces(machine: &Machine) -> Finding {
    let is = |path: &str, value: u64| machine.number(path) == Some(value);
    let why = if is("proc/sys/user/max_user_namespaces", 0) {
        "user.max_user_namespaces is 0"
    } else if is("proc/sys/kernel/unprivileged_userns_clone", 0) {
        "kernel.unprivileged_userns_clone is 0"
    } else if is("proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1) {
        "kernel.apparmor_restrict_unprivileged_userns is 1"
    } else {
        return Finding::good("namespaces", "this user may make user namespaces; sv3 needs none");
    };
    Finding::good("namespaces", format!("{why}: sv3 needs no user namespace, but passt and rootless containers do"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn programs_are_found_and_namespaces_are_of_no_account_to_sv3() {
        let fake = Fake::with(&[]);
        let found = probe(&fake.machine);
        assert!(found[0].state == State::Advice && found[1].message.contains("may make user namespaces"), "{found:?}");
        fake.program("slirp4netns", "");
        fake.program("passt", "");
        let found = probe(&fake.machine);
        assert!(found[0].message.ends_with("by slirp4netns or passt"), "{found:?}");
        for (path, value, words) in [
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone is 0"),
            ("proc/sys/user/max_user_namespaces", "0", "max_user_namespaces is 0"),
        ] {
            fake.write(path, value);
            let found = probe(&fake.machine);
            assert!(found[1].state == State::Good && found[1].message.contains(words), "{found:?}");
        }
    }
}
