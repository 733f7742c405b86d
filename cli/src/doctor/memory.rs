//! Memory for guests: huge pages, /dev/shm.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let mut found = vec![shared(machine)];
    found.extend(huge(machine));
    found
}

fn shared(machine: &Machine) -> Finding {
    let memfd = "give guests `memory-backend-memfd` (libvirt: `<source type='memfd'/>`), which needs no folder";
    match (machine.has("dev/shm"), machine.may_use("dev/shm")) {
        (false, _) => {
            Finding::advice("memory", "/dev/shm is missing: a guest with its memory in a file there does not start")
                .to(Cost::Guest, memfd)
        }
        (true, false) => Finding::advice(
            "memory",
            "/dev/shm is closed to this user: a guest with its memory in a file there does not start",
        )
        .to(Cost::Guest, memfd),
        (true, true) => Finding::good("memory", "/dev/shm is there; sv3 itself does not use it"),
    }
}

fn huge(machine: &Machine) -> Option<Finding> {
    let text = machine.read("proc/meminfo")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, free, size) = (value("HugePages_Total:")?, value("HugePages_Free:")?, value("Hugepagesize:")?);
    Some(match (total, free) {
        (0, _) => Finding::good("memory", "there are no huge pages, and sv3 needs none"),
        (total, 0) => {
            let message =
                format!("all {total} huge pages of {size} KiB are taken: another guest that wants some does not start");
            Finding::advice("memory", message).to(
                Cost::Host,
                format!(
                    "`sudo sysctl vm.nr_hugepages={}`, or give the guest ordinary pages: sv3 is as fast with them",
                    total * 2
                ),
            )
        }
        (total, free) => {
            Finding::good("memory", format!("{free} of {total} huge pages of {size} KiB are free; sv3 needs none"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn a_missing_folder_is_told_with_what_needs_none() {
        let found = probe(&Fake::with(&[]).machine);
        assert!(found.len() == 1 && found[0].message.contains("/dev/shm is missing"), "{found:?}");
        assert!(found[0].remedy.as_ref().unwrap().act.contains("memory-backend-memfd"));
        let found = probe(&Fake::with(&[("dev/shm/", "")]).machine);
        assert_eq!((found.len(), found[0].state), (1, State::Good));
    }

    #[test]
    fn huge_pages_are_counted() {
        for (total, free, state, words) in [
            (0, 0, State::Good, "needs none"),
            (512, 12, State::Good, "12 of 512 huge pages of 2048 KiB are free"),
            (512, 0, State::Advice, "all 512 huge pages"),
        ] {
            let text =
                format!("HugePages_Total:     {total}\nHugePages_Free:      {free}\nHugepagesize:       2048 kB\n");
            let found = probe(&Fake::with(&[("proc/meminfo", &text), ("dev/shm/", "")]).machine);
            assert!(found[1].state == state && found[1].message.contains(words), "{found:?}");
        }
    }
}
