//! Where the sockets are: the folder, and the length of their paths.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::finding::{Cost, Finding};
use super::machine::Machine;
use crate::place::{PATH_MAX, SOCKET};

const ELSEWHERE: &str = "choose another place by --socket and --control";

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let fault = |message: String, act: &str| vec![Finding::fault("places", message).to(Cost::Command, act)];
    let folder = machine.folder.display();
    let octets = machine.folder.join(SOCKET).as_os_str().len();
    if octets > PATH_MAX {
        return fault(
            format!("the front door's path has {octets} octets, and a socket's path has {PATH_MAX} at most"),
            ELSEWHERE,
        );
    }
    if let Some(runtime) = machine.runtime.as_ref().filter(|runtime| runtime.is_absolute() && !machine.has(runtime)) {
        let message = format!("XDG_RUNTIME_DIR is {}, which does not exist", runtime.display());
        return fault(
            message,
            "log in as this user (not by `su`), run `sudo loginctl enable-linger USER`, or choose another place by --socket and --control",
        );
    }
    let Ok(meta) = std::fs::symlink_metadata(machine.at(&machine.folder)) else {
        return vec![Finding::good("places", format!("sockets are to be in {folder}, which `sv3 run` makes"))];
    };
    if !meta.is_dir() {
        return fault(format!("{folder} is not a folder"), &format!("remove it, or {ELSEWHERE}"));
    }
    if meta.uid() != machine.uid {
        return fault(format!("{folder} belongs to user {}", meta.uid()), ELSEWHERE);
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return fault(
            format!("other users may access {folder}, so another one could replace the sockets"),
            &format!("`chmod 700 {folder}`"),
        );
    }
    vec![Finding::good("places", format!("sockets are in {folder}, which belongs to this user alone"))]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    fn said(fake: &Fake) -> (State, String) {
        let found = probe(&fake.machine);
        assert_eq!(found.len(), 1);
        let act = found[0].remedy.as_ref().map_or("", |remedy| remedy.act.as_str());
        (found[0].state, format!("{} | {act}", found[0].message))
    }

    #[test]
    fn each_place_that_cannot_be_is_told_with_the_way_out() {
        let mut fake = Fake::with(&[]);
        let (state, words) = said(&fake);
        assert!(
            state == State::Fault && words.contains("does not exist") && words.contains("enable-linger"),
            "{words}"
        );
        fake.write("run/user/1000/", "");
        assert!(said(&fake).1.contains("which `sv3 run` makes"));
        fake.write("run/user/1000/sv3/", "");
        let folder = fake.machine.at("run/user/1000/sv3");
        let close = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
        close(0o755);
        assert!(said(&fake).1.contains("chmod 700"));
        close(0o700);
        assert_eq!(said(&fake).0, State::Good);
        fake.machine.uid += 1;
        assert!(said(&fake).1.contains("belongs to user"));
        fake.machine.folder = PathBuf::from("/run/user/1000").join("x".repeat(100));
        assert!(said(&fake).1.contains("107 at most"));
        fake.machine.folder = PathBuf::from("/run/user/1000/file");
        fake.write("run/user/1000/file", "");
        assert!(said(&fake).1.contains("not a folder"));
    }
}
