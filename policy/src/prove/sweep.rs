//! Every syscall number, and every limit of every rule with each of its bits flipped.

use super::trial::{Declared, Entry, Layers, Trial};
use crate::{Policy, Verdict, last_syscall, syscall_name, syscall_number};

const X32_BIT: i32 = 0x4000_0000;
/// The numbers that only x32 has end before this.
const X32_END: i32 = 548;
/// -1: no valid fd, address, length or process.
const NOTHING: [u64; 6] = [u64::MAX; 6];
/// Above the highest process number, for `kill`, where -1 means all processes.
const NO_PROCESS: u64 = i32::MAX as u64;
/// uretprobe and uprobe. The kernel exempts them from every filter, since its own trampolines make them.
const UPROBES: [i32; 2] = [335, 336];
/// `getpid` of i386.
const I386_GETPID: i64 = 20;

/// The trials of a policy.
pub fn trials(policy: &'static Policy) -> impl Iterator<Item = Trial> {
    let last = last_syscall();
    let known = (0..=last).map(move |number| plain(policy, "syscalls of the table, arguments of no use", number));
    let beyond = (last + 1..last + 40).chain([1023, 4095, 0xffff, i32::MAX, -1]);
    let beyond = beyond.map(move |number| plain(policy, "numbers above the table's last", number));
    let x32 = (0..X32_END).map(move |number| plain(policy, "numbers of x32", number | X32_BIT));
    let i386 = Trial {
        group: "another architecture",
        what: "getpid of i386, by int 0x80".to_string(),
        layers: Layers::All,
        entry: Entry::I386,
        number: I386_GETPID,
        args: NOTHING,
        declared: Declared::Verdict(Verdict::Kill),
    };
    known.chain(beyond).chain(x32).chain([i386]).chain(limits(policy))
}

/// A trial of a syscall by number. Unused numbers of the kernel's table must be refused like the rest.
fn plain(policy: &'static Policy, group: &'static str, number: i32) -> Trial {
    let name = syscall_name(number & !X32_BIT).map_or(String::new(), |name| format!(" ({name})"));
    let mut trial = of(policy, group, format!("{number:#x}{name}"), number, NOTHING);
    if UPROBES.contains(&number) {
        trial.group = "uretprobe and uprobe, which the kernel exempts from filters";
        trial.declared = Declared::Exempt;
    }
    trial
}

/// Each rule with matching arguments, and with one bit flipped in each of its limits.
fn limits(policy: &'static Policy) -> impl Iterator<Item = Trial> {
    policy.rules().iter().flat_map(move |rule| {
        let number = syscall_number(rule.syscall).unwrap_or(-1);
        let mut right = NOTHING;
        if rule.syscall == "kill" {
            right[0] = NO_PROCESS;
        }
        for limit in rule.limits {
            if let Some(arg) = right.get_mut(limit.arg) {
                *arg = limit.value;
            }
        }
        let name = rule.syscall;
        let meant = of(policy, "rules, as they are meant", name.to_string(), number, right);
        let off = rule.limits.iter().flat_map(move |limit| {
            (0..64).map(move |bit| {
                let mut args = right;
                if let Some(arg) = args.get_mut(limit.arg) {
                    *arg ^= 1 << bit;
                }
                let what = format!("{name}, bit {bit} of arg{} flipped", limit.arg);
                of(policy, "limited arguments, one bit off", what, number, args)
            })
        });
        std::iter::once(meant).chain(off)
    })
}

fn of(policy: &'static Policy, group: &'static str, what: String, number: i32, args: [u64; 6]) -> Trial {
    let declared = Declared::Verdict(policy.verdict(number, &args));
    Trial { group, what, layers: Layers::All, entry: Entry::Native, number: i64::from(number), args, declared }
}
