//! The compiled programs do what the rules say. An interpreter of classic BPF, written without seccompiler's code,
//! runs them for every syscall number and for every limit's value with each of its bits flipped.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use sv3_policy::{Policy, Verdict, all, syscall_number};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: i32 = 0x4000_0000;
/// Above all syscall numbers of the kernel.
const NUMBERS: i32 = 1024;

// Opcodes of classic BPF (linux/bpf_common.h) that seccompiler emits.
const LD_ABS: u16 = 0x20;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ALLOW: u32 = 0x7fff_0000;

#[test]
fn programs_fit_the_kernel() {
    for policy in all() {
        assert!((1..4096).contains(&policy.program().len()), "{}", policy.role());
    }
}

#[test]
fn every_rule_says_who_needs_it_and_names_a_syscall() {
    for policy in all() {
        for rule in policy.rules() {
            assert!(rule.why.len() > 10 && syscall_number(rule.syscall).is_some(), "{}: {rule:?}", policy.role());
        }
    }
}

#[test]
fn the_worker_gets_by_with_thirteen_syscalls() {
    for policy in all().iter().filter(|policy| policy.role() == "worker") {
        let names: BTreeSet<_> = policy.rules().iter().map(|rule| rule.syscall).collect();
        assert!(names.len() <= 13, "{names:?}");
    }
}

#[test]
fn ports_of_files_cost_three_syscalls_more_and_none_that_can_send_a_file() {
    for debug in [false, true] {
        let of = |role| *all().iter().find(|policy| policy.role() == role && policy.is_debug() == debug).unwrap();
        let names = |role| of(role).rules().iter().map(|rule| rule.syscall).collect::<BTreeSet<_>>();
        let (with, without) = (names("worker-files"), names("worker"));
        assert!(with.is_superset(&without));
        assert_eq!(with.difference(&without).copied().collect::<Vec<_>>(), ["ioctl", "recvmmsg", "writev"]);
        assert!(["sendmsg", "sendmmsg", "sendto"].iter().all(|name| !with.contains(name)));
        let (ioctl, recvmmsg) = (syscall_number("ioctl").unwrap(), syscall_number("recvmmsg").unwrap());
        let requests = (0..1 << 16).filter(|request| of("worker-files").allows(ioctl, &[0, *request, 0, 0, 0, 0]));
        assert_eq!(requests.collect::<Vec<_>>(), [libc::TIOCOUTQ]);
        let flags = (0..1 << 16).filter(|flags| of("worker-files").allows(recvmmsg, &[0, 0, 1, *flags, 0, 0]));
        assert_eq!(flags.collect::<Vec<_>>(), [libc::MSG_DONTWAIT as u64]);
    }
}

#[test]
fn a_card_that_reads_guests_memory_costs_two_requests_more() {
    for debug in [false, true] {
        let of = |role| *all().iter().find(|policy| policy.role() == role && policy.is_debug() == debug).unwrap();
        let names = |role| of(role).rules().iter().map(|rule| rule.syscall).collect::<BTreeSet<_>>();
        assert_eq!(names("worker-cards"), names("worker-files"));
        let ioctl = syscall_number("ioctl").unwrap();
        let requests = (0..1 << 16).filter(|request| of("worker-cards").allows(ioctl, &[0, *request, 0, 0, 0, 0]));
        // VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA: _IO(';', 100 + 13) and the next one (linux/vfio.h).
        assert_eq!(requests.collect::<BTreeSet<_>>(), BTreeSet::from([libc::TIOCOUTQ, 0x3b71, 0x3b72]));
    }
}

#[test]
fn a_release_lacks_what_only_debug_builds_need() {
    for policy in all() {
        const F_GETFD: u64 = 1;
        let fcntl = syscall_number("fcntl").unwrap();
        assert_eq!(policy.allows(fcntl, &[0, F_GETFD, 0, 0, 0, 0]), policy.is_debug(), "{}", policy.role());
    }
}

#[test]
fn who_holds_a_memory_file_can_neither_resize_nor_seal_it() {
    const F_ADD_SEALS: u64 = 1033;
    for policy in all() {
        for name in ["ftruncate", "truncate", "fallocate"] {
            assert!(policy.rules().iter().all(|rule| rule.syscall != name), "{}: {name}", policy.role());
        }
        for seals in 0..64 {
            assert!(!policy.allows(syscall_number("fcntl").unwrap(), &[0, F_ADD_SEALS, seals, 0, 0, 0]));
        }
    }
}

#[test]
fn policies_have_numbers_of_their_own() {
    let digests: BTreeSet<_> = all().iter().map(|policy| policy.digest()).collect();
    assert_eq!(digests.len(), all().len());
}

#[test]
fn nobody_else_than_the_worker_may_live_on_after_a_syscall_that_is_not_allowed() {
    for policy in all() {
        let open = syscall_number("open").unwrap();
        let expected = if policy.role().starts_with("worker") { Verdict::Trap } else { Verdict::Kill };
        assert_eq!(policy.verdict(open, &[0; 6]), expected);
        for number in [sv3_policy::last_syscall() + 1, open | X32_BIT, -1] {
            assert_eq!(policy.verdict(number, &[0; 6]), Verdict::Kill, "{number}");
        }
    }
}

#[test]
fn what_takes_a_selector_is_limited_by_it_and_nothing_may_become_executable() {
    let selected = [("fcntl", 1), ("ioctl", 1), ("prctl", 0), ("madvise", 2), ("socket", 0), ("socketpair", 0)];
    let mappings = [("mmap", 2), ("mprotect", 2)];
    const PROT_EXEC: u64 = 4;
    for policy in all() {
        for rule in policy.rules() {
            let limit = |arg| rule.limits.iter().find(|limit| limit.arg == arg);
            for (_, arg) in selected.iter().filter(|(syscall, _)| *syscall == rule.syscall) {
                assert!(limit(*arg).is_some(), "{}: {rule:?}", policy.role());
            }
            for (_, arg) in mappings.iter().filter(|(syscall, _)| *syscall == rule.syscall) {
                assert!(limit(*arg).is_some_and(|prot| !prot.holds(PROT_EXEC)), "{}: {rule:?}", policy.role());
            }
        }
    }
}

#[test]
fn programs_agree_with_their_rules_and_no_instruction_is_idle() {
    for policy in all() {
        let mut machine = Machine::new(policy);
        assert_eq!(machine.run(I386, 0, &[0; 6]), KILL_PROCESS, "another architecture's table of syscalls");
        for number in (0..NUMBERS).chain((0..NUMBERS).map(|number| number | X32_BIT)).chain([-1, i32::MAX]) {
            for args in [[0; 6], [u64::MAX; 6]] {
                machine.compare(number, args);
            }
        }
        for rule in policy.rules() {
            let number = syscall_number(rule.syscall).unwrap();
            let mut args = [0; 6];
            rule.limits.iter().for_each(|limit| args[limit.arg] = limit.value);
            machine.compare(number, args);
            for bit in 0..6 * 64 {
                let mut off = args;
                off[bit / 64] ^= 1 << (bit % 64);
                machine.compare(number, off);
                machine.compare(number | X32_BIT, off);
            }
        }
        let idle: Vec<_> = machine.reachable().difference(&machine.visited).copied().collect();
        assert!(idle.is_empty(), "{}: instructions {idle:?} never ran", policy.role());
    }
}

/// Runs a seccomp program: the few opcodes of classic BPF that seccompiler emits, by the kernel's definition.
struct Machine {
    policy: &'static Policy,
    program: seccompiler::BpfProgram,
    visited: BTreeSet<usize>,
}

impl Machine {
    fn new(policy: &'static Policy) -> Machine {
        Machine { policy, program: policy.program(), visited: BTreeSet::new() }
    }

    fn compare(&mut self, number: i32, args: [u64; 6]) {
        let verdict = self.run(X86_64, number, &args);
        let expected = match self.policy.verdict(number, &args) {
            Verdict::Allow => ALLOW,
            Verdict::Trap => TRAP,
            Verdict::Kill => KILL_PROCESS,
        };
        assert_eq!(verdict, expected, "{}: syscall {number:#x} with {args:x?}", self.policy.role());
    }

    /// Instructions that a jump can reach. seccompiler also emits a few that none reaches.
    fn reachable(&self) -> BTreeSet<usize> {
        let (mut found, mut next) = (BTreeSet::new(), vec![0]);
        while let Some(at) = next.pop() {
            let i = &self.program[at];
            if found.insert(at) {
                match i.code {
                    RET => {}
                    JA => next.push(at + 1 + i.k as usize),
                    JEQ | JGT | JGE => next.extend([at + 1 + usize::from(i.jt), at + 1 + usize::from(i.jf)]),
                    _ => next.push(at + 1),
                }
            }
        }
        found
    }

    fn run(&mut self, arch: u32, number: i32, args: &[u64; 6]) -> u32 {
        // struct seccomp_data: nr, arch, instruction pointer, args; all little-endian.
        let mut data = [number.to_le_bytes(), arch.to_le_bytes()].concat();
        data.extend([0; 8]);
        data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
        let (mut at, mut a) = (0, 0);
        loop {
            let i = &self.program[at];
            self.visited.insert(at);
            let jump = |taken| at + 1 + usize::from(if taken { i.jt } else { i.jf });
            at = match i.code {
                LD_ABS => {
                    let from = i.k as usize;
                    a = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                    at + 1
                }
                AND => {
                    a &= i.k;
                    at + 1
                }
                JA => at + 1 + i.k as usize,
                JEQ => jump(a == i.k),
                JGT => jump(a > i.k),
                JGE => jump(a >= i.k),
                RET => return i.k,
                other => panic!("opcode {other:#x}"),
            };
        }
    }
}
