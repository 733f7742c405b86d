//! The steps of confinement. A child tries each, as root and as an ordinary user.
#![allow(unsafe_code)] // fork
#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, fork, setuid};
use sv3_policy::steps;

/// Runs `act` in a child, as the user `user`, and checks that its assertions hold.
fn child(user: Uid, act: impl Fn()) {
    // SAFETY: the child leaves by _exit in any case, and waits for no lock that another thread may have.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "as {user}"),
        ForkResult::Child => {
            setuid(user).unwrap();
            act();
            // SAFETY: only ends the process.
            unsafe { libc::_exit(0) }
        }
    }
}

/// The user of this process, and an ordinary user if that is root.
fn users() -> Vec<Uid> {
    let me = Uid::effective();
    if me.is_root() { vec![me, Uid::from_raw(65534)] } else { vec![me] }
}

fn proc_status(key: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .filter(|line| line.starts_with(key))
        .map(|line| line[line.find(':').unwrap() + 1..].trim().into())
        .collect()
}

#[test]
fn no_capability_is_left() {
    for user in users() {
        child(user, || {
            steps::drop_privileges().unwrap();
            assert_eq!(proc_status("NoNewPrivs"), ["1"]);
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(proc_status(set), ["0000000000000000"], "{set}");
            }
            steps::drop_privileges().unwrap();
        });
    }
    if Uid::effective().is_root() {
        child(Uid::effective(), || {
            steps::drop_privileges().unwrap();
            assert_eq!(proc_status("CapBnd"), ["0000000000000000"]);
        });
    }
}

#[test]
fn no_core_file_and_no_look_inside() {
    for user in users() {
        child(user, || {
            steps::hide_memory().unwrap();
            assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
            assert_eq!(nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE), Ok((0, 0)));
        });
    }
}

#[test]
fn files_are_out_of_reach_but_for_removing_in_the_folders_named() {
    for user in users() {
        let folder = tempdir(user);
        let (named, other) = (folder.join("named"), folder.join("other"));
        child(user, || {
            for folder in [&named, &other] {
                std::fs::create_dir(folder).unwrap();
                std::fs::write(folder.join("socket"), "").unwrap();
            }
            steps::drop_privileges().unwrap();
            if steps::restrict_files(&[&named]).unwrap().landlock_abi > 0 {
                assert!(std::fs::read("/etc/passwd").is_err());
                assert!(std::fs::write(named.join("new"), "").is_err());
                assert!(std::fs::remove_file(other.join("socket")).is_err());
            }
            std::fs::remove_file(named.join("socket")).unwrap();
        });
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn tcp_and_outsiders_are_out_of_reach_but_own_children_are_not() {
    const ABI_OF_NET: u32 = 4;
    const ABI_OF_SCOPES: u32 = 6;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    for user in users() {
        // SAFETY: as in `child`.
        let outsider = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => loop {
                let _ = setuid(user);
                nix::unistd::pause();
            },
        };
        child(user, || {
            steps::drop_privileges().unwrap();
            let abi = steps::restrict_reach().unwrap().landlock_abi;
            if abi >= ABI_OF_NET {
                assert!(TcpStream::connect(to).is_err());
            }
            if abi >= ABI_OF_SCOPES {
                assert_eq!(kill(outsider, None), Err(Errno::EPERM));
            }
            reaches_its_own_children();
        });
        kill(outsider, nix::sys::signal::Signal::SIGKILL).unwrap();
        waitpid(outsider, None).unwrap();
    }
}

/// The supervisor must reach its workers, which restrict themselves further.
fn reaches_its_own_children() {
    // SAFETY: as in `child`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            assert_eq!(kill(child, nix::sys::signal::Signal::SIGKILL), Ok(()));
            waitpid(child, None).unwrap();
        }
        ForkResult::Child => loop {
            let _ = steps::restrict_reach();
            nix::unistd::pause();
        },
    }
}

fn tempdir(owner: Uid) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("sv3-steps-{}-{owner}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    nix::unistd::chown(Path::new(&folder), Some(owner), None).unwrap();
    folder
}
