//! What the kernel shows of a live process in `/proc/PID`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use sv3::audit::{Fact, Fd};

use super::fact;

/// What any user may read of a process and all its threads. `filtered`: the process must have a seccomp policy.
pub fn facts(pid: u32, threads: usize, filtered: bool) -> Result<Vec<Fact>, String> {
    let path = format!("/proc/{pid}/status");
    let statuses = tasks(pid).map_err(|e| format!("{path}: {e}; the process may have ended, try again"))?;
    let of_one = |status: &String, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or("not shown".to_string(), |rest| rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    // If threads differ, all values are shown, and that differs from what is declared.
    let field = |name: &str| {
        let mut values: Vec<_> = statuses.iter().map(|status| of_one(status, name)).collect();
        values.dedup();
        values.join(", ")
    };
    let of_kernel =
        |name: &str, declared: Option<&str>| fact(name, declared.map(str::to_string), &field(name), "kernel");
    const NONE: Option<&str> = Some("0000000000000000");
    let mut facts = vec![
        of_kernel("Uid", None),
        of_kernel("Gid", None),
        of_kernel("Threads", Some(&threads.to_string())),
        of_kernel("NoNewPrivs", Some("1")),
        of_kernel("CapInh", NONE),
        of_kernel("CapPrm", NONE),
        of_kernel("CapEff", NONE),
        of_kernel("CapAmb", NONE),
        // Only root can empty the bounding set, and no_new_privs makes it meaningless.
        of_kernel("CapBnd", None),
        of_kernel("Seccomp", filtered.then_some("2")),
        of_kernel("Seccomp_filters", None),
    ];
    facts.push(core_files(pid));
    facts.push(dumpable(pid, &path, field("Uid").split(' ').next().unwrap_or_default()));
    Ok(facts)
}

/// What the kernel shows of each thread.
fn tasks(pid: u32) -> std::io::Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| fs::read_to_string(task?.path().join("status"))).collect()
}

fn core_files(pid: u32) -> Fact {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let limit =
        line.map_or("not shown".to_string(), |rest| rest.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
    fact("core file size", Some("0 0".to_string()), &limit, "kernel")
}

/// Whether a process is dumpable: if it is not, its files in `/proc/PID` belong to root.
fn dumpable(pid: u32, path: &str, uid: &str) -> Fact {
    let owner = fs::metadata(path).map(|meta| meta.uid());
    let observed = match owner {
        _ if uid == "0" => return fact("dumpable", None, "not known of a process of root", "kernel"),
        Ok(0) => "no",
        Ok(_) => "yes",
        Err(_) => return fact("dumpable", Some("no".to_string()), &format!("process {pid} is gone"), "kernel"),
    };
    fact("dumpable", Some("no".to_string()), observed, "kernel")
}

/// The open files of a process, by number, as the kernel names them. `None`: this user may not look.
pub fn fds(pid: u32) -> Option<BTreeMap<i32, String>> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut fds = BTreeMap::new();
    for entry in folder {
        let path = entry.ok()?.path();
        let number = path.file_name()?.to_str()?.parse().ok()?;
        // Skips an fd that was closed meanwhile.
        if let Ok(target) = fs::read_link(&path) {
            fds.insert(number, target.display().to_string());
        }
    }
    Some(fds)
}

/// Fds that are not in the list, or are of another kind there.
pub fn untold(seen: &BTreeMap<i32, String>, told: &[Fd]) -> Vec<String> {
    let known = |number: i32, kind: &str| {
        told.iter().any(|fd| fd.fd == Some(number) && (fd.kind == kind || fd.kind == "inherited" || kind == "file"))
    };
    let strange = seen.iter().filter(|(number, target)| !known(**number, kind(target)));
    strange.map(|(number, target)| format!("{number} ({target})")).collect()
}

/// Fds of a kind of which more are open than listed.
pub fn too_many(seen: &BTreeMap<i32, String>, told: &[Fd]) -> Vec<String> {
    let mut left = BTreeMap::<&str, usize>::new();
    told.iter().for_each(|fd| *left.entry(&fd.kind).or_default() += 1);
    let strange = seen.iter().filter(|(_, target)| match left.get_mut(kind(target)) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        _ => true,
    });
    strange.map(|(number, target)| format!("{number} ({target})")).collect()
}

/// The kind of a file, from its name in `/proc/PID/fd`.
fn kind(target: &str) -> &'static str {
    let kinds = [
        ("socket:", "socket"),
        ("pipe:", "pipe"),
        ("anon_inode:[eventfd]", "eventfd"),
        ("anon_inode:[eventpoll]", "eventpoll"),
        ("anon_inode:[signalfd]", "signalfd"),
        ("/memfd:", "memory"),
        ("/dev/null", "null"),
    ];
    kinds.iter().find(|(prefix, _)| target.starts_with(prefix)).map_or("file", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(fd: Option<i32>, kind: &str) -> Fd {
        Fd { fd, kind: kind.to_string(), purpose: String::new() }
    }

    #[test]
    fn an_fd_that_is_not_listed_is_found() {
        let seen =
            BTreeMap::from([(0, "/dev/pts/1".to_string()), (3, "socket:[7]".to_string()), (4, "pipe:[8]".into())]);
        let all = [told(Some(0), "inherited"), told(Some(3), "socket"), told(Some(4), "pipe")];
        assert!(untold(&seen, &all).is_empty());
        assert_eq!(untold(&seen, &all[..2]), ["4 (pipe:[8])"]);
        let all = [told(None, "file"), told(None, "socket"), told(None, "pipe"), told(None, "pipe")];
        assert!(too_many(&seen, &all).is_empty());
        assert_eq!(too_many(&seen, &all[..2]), ["4 (pipe:[8])"]);
    }
}
