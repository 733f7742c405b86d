//! The policies as tables for people.

use std::collections::BTreeSet;

use sv3_policy::{Policy, Verdict, WorkerRole};

use super::page::table;

/// All policies, of this build.
pub fn page() -> String {
    let workers = WorkerRole::ALL.map(sv3_policy::worker);
    let others = [sv3_policy::supervisor(), sv3_policy::web(), sv3_policy::web_asker()];
    workers.into_iter().chain(others).map(policy).collect::<Vec<_>>().join("\n")
}

fn policy(policy: &Policy) -> String {
    let names: BTreeSet<_> = policy.rules().iter().map(|rule| rule.syscall).collect();
    let otherwise = match policy.verdict(sv3_policy::syscall_number("open").unwrap_or(-1), &[0; 6]) {
        Verdict::Trap => "is trapped: its number goes into the crash record, and the process dies of SIGSYS",
        _ => "ends the process by SIGSYS",
    };
    let digest = policy.digest();
    let mut rows = vec![["SYSCALL", "ARGUMENTS", "WHICH PART MAKES IT, AND WHY"].map(str::to_string)];
    for rule in policy.rules() {
        let limits: Vec<String> = rule.limits.iter().map(|limit| limit.to_string()).collect();
        let limits = if limits.is_empty() { "any".to_string() } else { limits.join(", ") };
        rows.push([rule.syscall.to_string(), limits, rule.why.to_string()]);
    }
    format!(
        "{}: {} syscalls, policy {digest:08x}; any other {otherwise}; a number that is not in the kernel's table, \
         or of x32, or of another architecture, ends it at once\n{}",
        policy.role(),
        names.len(),
        table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_explained() {
        let page = page();
        for rule in sv3_policy::worker(WorkerRole::Cards).rules().iter().chain(sv3_policy::supervisor().rules()) {
            assert!(page.contains(rule.syscall) && page.contains(rule.why), "{rule:?}");
        }
        assert!(page.contains("worker: 13 syscalls"), "{page}");
        assert!(page.contains("(MAP_SHARED, with MAP_NORESERVE or without)"), "{page}");
    }
}
