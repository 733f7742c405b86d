//! Limits of this user's processes: open files, locked memory.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// Files that one port takes, about, and the least that the switch keeps for itself: as the supervisor counts
/// (`supervisor/src/clients/budget.rs`).
const PORT: u64 = 10;
const RESERVE: (u64, u64) = (128, 768);
/// With fewer ports than this the switch says so at its start too.
const FEW: u64 = 64;
/// Octets that one queue pair of a network card locks.
const QUEUE_PAIR: u64 = 6212 << 10;

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    [files(machine, "self", ""), locked(machine)].into_iter().flatten().collect()
}

/// Whether a process may open as many files as ports need. The switch raises its soft limit to the hard one. `of` stands
/// before the sentence.
pub fn files(machine: &Machine, process: &str, of: &str) -> Option<Finding> {
    let (_, hard) = machine.limit(process, "Max open files")?;
    let reserve = (hard / 4).clamp(RESERVE.0, RESERVE.1);
    let ports = (hard.saturating_sub(reserve) / PORT).saturating_sub(1);
    let raise = "raise the hard limit of open files: `nofile` in /etc/security/limits.d and a new login, or LimitNOFILE= \
                 in the unit";
    Some(match ports {
        0 => Finding::fault("files", format!("{of}{hard} open files are too few for one port")).to(Cost::Host, raise),
        ports if ports < FEW => {
            Finding::advice("files", format!("{of}{hard} open files are enough for some {ports} ports"))
                .to(Cost::Host, raise)
        }
        ports => Finding::good("files", format!("{of}{hard} open files are enough for {ports} ports and more")),
    })
}

fn locked(machine: &Machine) -> Option<Finding> {
    let (_, hard) = machine.limit("self", "Max locked memory")?;
    let has = match hard {
        u64::MAX => "unlimited".to_string(),
        octets => format!("{} KiB", octets >> 10),
    };
    if machine.uid == 0 || hard >= QUEUE_PAIR {
        return Some(Finding::good(
            "locked_memory",
            format!("locked memory is {has}: enough for a queue of a network card"),
        ));
    }
    let message = format!("locked memory is {has}, and each queue of a network card takes {} KiB", QUEUE_PAIR >> 10);
    let act = "only for a port of a network card: a line `USER - memlock 65536` in /etc/security/limits.d and a new login, \
               or LimitMEMLOCK=64M in the unit";
    Some(Finding::advice("locked_memory", message).to(Cost::Host, act))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    fn said(files: &str, locked: &str) -> Vec<Finding> {
        let text = format!(
            "Max locked memory         {locked}  {locked}  bytes\nMax open files            64 {files} files\n"
        );
        let mut fake = Fake::with(&[("proc/self/limits", &text)]);
        fake.machine.uid = 1000;
        probe(&fake.machine)
    }

    #[test]
    fn files_are_counted_as_the_supervisor_counts_them() {
        for (files, state, words) in [
            ("524288", State::Good, "enough for 52351 ports"),
            ("400", State::Advice, "400 open files are enough for some 26 ports"),
            ("64", State::Fault, "too few for one port"),
        ] {
            let found = said(files, "unlimited");
            assert!(found[0].state == state && found[0].message.contains(words), "{found:?}");
        }
        assert!(said("64", "0")[0].remedy.as_ref().unwrap().act.contains("LimitNOFILE="));
    }

    #[test]
    fn locked_memory_is_for_cards() {
        let found = said("1024", "8388608");
        assert!(found[1].state == State::Good && found[1].message.contains("8192 KiB"), "{found:?}");
        let found = said("1024", "65536");
        assert!(found[1].state == State::Advice && found[1].message.contains("64 KiB, and each queue"), "{found:?}");
        assert!(probe(&Fake::with(&[]).machine).is_empty());
    }
}
