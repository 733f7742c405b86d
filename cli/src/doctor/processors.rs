//! Processors: how many, how they are clocked, and whether a cgroup takes them away.

use super::finding::{Cost, Finding};
use super::machine::Machine;

const CPUS: &str = "sys/devices/system/cpu";

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    [count(machine), clock(machine), quota(machine)].into_iter().flatten().collect()
}

fn count(machine: &Machine) -> Option<Finding> {
    let online = machine.read(format!("{CPUS}/online"))?;
    let bounds = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    };
    let counts: Option<Vec<u64>> =
        online.split(',').map(|range| bounds(range).map(|(first, last)| last.saturating_sub(first) + 1)).collect();
    Some(match counts?.iter().sum() {
        1 => Finding::advice(
            "processors",
            "there is one processor: guests and the worker take turns, which costs latency",
        )
        .to(Cost::Host, "give this machine two processors or more"),
        count => Finding::good("processors", format!("there are {count} processors")),
    })
}

fn clock(machine: &Machine) -> Option<Finding> {
    let governor = |name: &String| machine.read(format!("{CPUS}/{name}/cpufreq/scaling_governor"));
    let governors: Vec<String> = machine.list(CPUS).iter().filter_map(governor).collect();
    let slow = governors.iter().filter(|governor| *governor != "performance").count();
    let first = governors.iter().find(|governor| *governor != "performance");
    Some(match first {
        None if governors.is_empty() => return None,
        None => Finding::good("processors", "processors run at full clock (performance)"),
        Some(governor) => Finding::advice(
            "processors",
            format!("{slow} processors clock down when they have little to do ({governor}): the first frames after a silence take longer"),
        )
        .to(Cost::Host, "where latency counts: `sudo cpupower frequency-set --governor performance`"),
    })
}

/// The bound that the process's control group, or one above it, sets on processor time.
fn quota(machine: &Machine) -> Option<Finding> {
    let groups = machine.read("proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut group = std::path::Path::new("sys/fs/cgroup").join(path);
    while group.starts_with("sys/fs/cgroup") {
        let text = machine.read(group.join("cpu.max")).unwrap_or_default();
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
        if let (Some(Some(quota)), Some(Some(period))) = (words.next(), words.next()) {
            let percent = quota.saturating_mul(100) / period.max(1);
            let message = format!(
                "a control group ({}) gives {percent} % of one processor: when that is used up, the worker stands still and \
                 frames wait",
                group.display()
            );
            return Some(
                Finding::advice("processors", message)
                    .to(Cost::Host, "raise CPUQuota= of the unit, or the limit of the container"),
            );
        }
        if !group.pop() {
            break;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn processors_are_counted_and_their_clock_is_told() {
        let fake = Fake::with(&[
            ("sys/devices/system/cpu/online", "0-3,8"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
        ]);
        let found = probe(&fake.machine);
        assert_eq!((found[0].message.as_str(), found[0].state), ("there are 5 processors", State::Good));
        assert!(found[1].message.starts_with("1 processors clock down") && found[1].message.contains("powersave"));
        fake.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance");
        fake.write("sys/devices/system/cpu/online", "0");
        let found = probe(&fake.machine);
        assert!(found[0].state == State::Advice && found[1].state == State::Good, "{found:?}");
    }

    #[test]
    fn a_bound_of_a_group_above_is_found() {
        let fake = Fake::with(&[
            ("proc/self/cgroup", "0::/user.slice/app"),
            ("sys/fs/cgroup/user.slice/app/cpu.max", "max 100000"),
            ("sys/fs/cgroup/user.slice/cpu.max", "50000 100000"),
        ]);
        let found = probe(&fake.machine);
        assert!(found.len() == 1 && found[0].message.contains("50 % of one processor"), "{found:?}");
        fake.write("sys/fs/cgroup/user.slice/cpu.max", "max 100000");
        assert!(probe(&fake.machine).is_empty());
    }
}
