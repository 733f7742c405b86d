//! QEMU processes of this user that are to connect to a switch, by their command lines: where nobody listens, QEMU waits
//! without a word (and so does `virsh start`), and without shared memory a guest never attaches.

use super::finding::{Cost, Finding};
use super::machine::Machine;

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let processes = machine.list("proc").into_iter().filter(|name| name.bytes().all(|digit| digit.is_ascii_digit()));
    processes.flat_map(|pid| of(machine, &pid)).collect()
}

fn of(machine: &Machine, pid: &str) -> Vec<Finding> {
    let Some(text) = machine.read(format!("proc/{pid}/cmdline")) else { return Vec::new() };
    let words: Vec<&str> = text.split('\0').collect();
    let is_qemu = words.first().is_some_and(|program| program.rsplit('/').next().unwrap_or_default().contains("qemu"));
    let paths = if is_qemu { paths(&words) } else { Vec::new() };
    let mut found: Vec<Finding> = paths.iter().filter_map(|path| missing(machine, pid, path)).collect();
    let shares = words.iter().any(|word| word.contains("share=on") || word.replace(' ', "").contains("\"share\":true"));
    if !paths.is_empty() && !shares {
        let message =
            format!("QEMU {pid} is to attach to a switch, and shares no memory: its guest never sees a carrier");
        found.push(Finding::fault("guest", message).to(
            Cost::Guest,
            "QEMU: -object memory-backend-memfd,id=m,size=512M,share=on -machine memory-backend=m; libvirt: \
             <memoryBacking> with <source type='memfd'/> and <access mode='shared'/>",
        ));
    }
    if found.is_empty() && !paths.is_empty() {
        found.push(Finding::good(
            "guest",
            format!("QEMU {pid} shares its memory, and somebody listens at {}", paths.join(", ")),
        ));
    }
    found
}

/// The sockets that vhost-user network devices connect to.
fn paths<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let of = |option: &'static str| {
        let pairs = words.iter().zip(words.iter().skip(1));
        pairs.filter(move |(name, _)| name.trim_start_matches('-') == option).map(|(_, value)| *value)
    };
    let netdevs: Vec<&str> = of("netdev").filter(|netdev| netdev.contains("vhost-user")).collect();
    of("chardev")
        .filter(|chardev| chardev.starts_with("socket,") && !chardev.contains("server=on"))
        .filter_map(|chardev| {
            let field = |name: &str| chardev.split(',').find_map(|field| field.strip_prefix(name));
            let id = field("id=")?;
            let is_ours =
                |netdev: &&str| netdev.contains(&format!("chardev={id}")) || netdev.contains(&format!("\"{id}\""));
            netdevs.iter().any(is_ours).then(|| field("path="))?.filter(|path| path.starts_with('/'))
        })
        .collect()
}

/// What to say if nobody listens at a path.
fn missing(machine: &Machine, pid: &str, path: &str) -> Option<Finding> {
    let message = match (machine.has(path), listens(machine, path)) {
        (false, _) => {
            format!("QEMU {pid} is to connect to {path}, which does not exist: it waits, and `virsh start` with it")
        }
        (true, Some(false)) => {
            format!("QEMU {pid} is to connect to {path}, where nobody listens: it waits, and `virsh start` with it")
        }
        (true, _) => return None,
    };
    let act =
        format!("start the switch there (`sv3 run --socket {path}`), or correct the path in the guest's definition");
    Some(Finding::fault("guest", message).to(Cost::Command, act))
}

/// Whether a process listens at a path, as far as this network namespace shows.
fn listens(machine: &Machine, path: &str) -> Option<bool> {
    /// A socket that accepts connections (`__SO_ACCEPTCON`).
    const LISTENS: &str = "00010000";
    let table = machine.read("proc/net/unix")?;
    Some(table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(3) == Some(&LISTENS) && words.get(7) == Some(&path)
    }))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    const PATH: &str = "/run/sv3/vhost-user.sock";
    const TABLE: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                         0000: 00000002 00000000 00010000 0001 01 17 /run/sv3/vhost-user.sock\n";

    fn fake(arguments: &[&str]) -> Fake {
        let fake =
            Fake::with(&[("proc/77/cmdline", &arguments.join("\0")), ("proc/78/cmdline", "bash\0-netdev\0vhost-user")]);
        fake.write("proc/self/cmdline", "qemu");
        fake
    }

    #[test]
    fn a_guest_that_waits_for_nobody_is_found_by_its_command_line() {
        let chardev = format!("socket,id=charnet0,path={PATH},reconnect=1");
        let by_libvirt = "{\"type\":\"vhost-user\",\"chardev\":\"charnet0\",\"id\":\"hostnet0\"}";
        let memory = "{\"qom-type\":\"memory-backend-memfd\",\"share\":true,\"size\":536870912}";
        let fake =
            fake(&["/usr/bin/qemu-system-x86_64", "-object", memory, "-chardev", &chardev, "-netdev", by_libvirt]);
        let said = || probe(&fake.machine);
        assert!(said()[0].message.contains("which does not exist") && said().len() == 1, "{:?}", said());
        fake.write("run/sv3/vhost-user.sock", "");
        fake.write("proc/net/unix", "Num RefCount\n");
        assert!(said()[0].message.contains("where nobody listens"), "{:?}", said());
        assert!(said()[0].remedy.as_ref().unwrap().act.contains("sv3 run --socket /run/sv3/vhost-user.sock"));
        fake.write("proc/net/unix", TABLE);
        assert_eq!((said().len(), said()[0].state), (1, State::Good), "{:?}", said());
    }

    #[test]
    fn memory_that_is_not_shared_is_found_before_the_guest_attaches() {
        let chardev = format!("socket,id=c,path={PATH}");
        let fake = fake(&["qemu-system-x86_64", "-chardev", &chardev, "-netdev", "vhost-user,id=n,chardev=c"]);
        fake.write("run/sv3/vhost-user.sock", "");
        fake.write("proc/net/unix", TABLE);
        let said = probe(&fake.machine);
        assert!(said.len() == 1 && said[0].message.contains("QEMU 77 is to attach"), "{said:?}");
        assert!(said[0].remedy.as_ref().unwrap().act.contains("share=on"));
    }

    #[test]
    fn other_programs_and_other_devices_are_of_no_account() {
        let fake = fake(&["qemu-system-x86_64", "-chardev", "socket,id=mon,path=/x", "-netdev", "user,id=n"]);
        assert!(probe(&fake.machine).is_empty());
        fake.write("proc/77/cmdline", "qemu-system-x86_64\0-chardev");
        assert!(probe(&fake.machine).is_empty());
    }
}
