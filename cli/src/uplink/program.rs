//! The programs: how each is started, and what it gives guests.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sv3::attachment::Transport;

use super::process::Process;
use super::tied::Tied;

/// How long a program may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// slirp4netns: any number of guests
    #[value(alias = "slirp4netns")]
    Slirp,
    /// gvproxy: any number of guests; as podman machine uses it
    Gvproxy,
    /// passt: one guest only
    Passt,
    /// pasta: not supported, since guests would need a DHCP server
    Pasta,
}

/// The programs that can be an uplink. slirp4netns first: it serves any number of guests, and lets none of them publish
/// ports by itself.
const KNOWN: [Program; 3] = [Program::Slirp, Program::Gvproxy, Program::Passt];

impl Program {
    /// How frames pass through its socket.
    pub fn transport(self) -> Transport {
        match self {
            Program::Slirp => Transport::Packets,
            Program::Gvproxy | Program::Passt | Program::Pasta => Transport::Stream,
        }
    }

    /// The file that is looked for.
    fn file(self) -> &'static str {
        match self {
            Program::Slirp => "slirp4netns",
            Program::Gvproxy => "gvproxy",
            Program::Passt => "passt",
            Program::Pasta => "pasta",
        }
    }

    /// What guests get, for people.
    pub fn words(self) -> &'static str {
        match self {
            Program::Slirp => {
                "slirp4netns gives each guest an address by DHCP (10.0.2.15 and up), the router 10.0.2.2, which is \
                 also this host's loopback, and the name server 10.0.2.3"
            }
            Program::Gvproxy => {
                "gvproxy gives each guest an address by DHCP (192.168.127.3 and up), the router and name server \
                 192.168.127.1, and this host's loopback as 192.168.127.254; a guest may publish ports of this host by \
                 itself"
            }
            Program::Passt => {
                "passt gives this host's own address to one guest by DHCP; with two guests the answers go to the one \
                 that spoke last, so attach one only"
            }
            Program::Pasta => "pasta is not supported",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())
    }
}

/// The program to start, and its file: the one that was asked for, or the first that is installed.
pub fn choose(wanted: Option<Program>, path: Option<&Path>) -> Result<(Program, PathBuf), String> {
    if wanted == Some(Program::Pasta) {
        return Err(
            "pasta cannot be an uplink: it leads a network namespace out, and guests would need a DHCP server \
                    beside it; take slirp4netns or gvproxy, which serve any number of guests"
                .to_string(),
        );
    }
    if let Some(path) = path {
        if !path.is_file() {
            return Err(format!("{}: there is no such file", path.display()));
        }
        let named =
            |program: &Program| path.file_name().is_some_and(|name| name.to_string_lossy().contains(program.file()));
        let program = wanted.or_else(|| KNOWN.into_iter().find(named)).ok_or_else(|| {
            format!("{}: say which program this is: `sv3 uplink slirp|gvproxy|passt --program ...`", path.display())
        })?;
        return Ok((program, path.to_path_buf()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = KNOWN.into_iter().filter(|program| wanted.is_none_or(|wanted| wanted == *program));
    let found = found.filter_map(|program| Some((program, in_path(&path, program.file())?))).next();
    found.ok_or_else(|| match wanted {
        Some(program) => {
            format!("{program} is not installed: `sudo apt install {program}`, or name its file by --program")
        }
        None => "no program for the internet is installed: `sudo apt install slirp4netns`".to_string(),
    })
}

/// Why this program was taken, if nobody asked for one.
pub fn reason(program: Program) -> String {
    let better = KNOWN.into_iter().take_while(|other| *other != program);
    let better: Vec<String> = better.map(|other| other.to_string()).collect();
    match better.is_empty() {
        true => format!("{program} is installed, and is taken first"),
        false => format!("{program} is taken, since {} is not installed", better.join(" or ")),
    }
}

fn in_path(path: &OsStr, file: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|folder| folder.join(file))
        .find(|path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// Starts a program. Also returns the switch's end of its socket.
pub fn start(program: Program, path: &Path, mtu: u32, folder: &Path) -> Result<(Process, OwnedFd), String> {
    match program {
        // It reads and writes whole frames, so a SOCK_SEQPACKET socket does as well as the tap that it expects.
        Program::Slirp => with_pair(SockType::SeqPacket, path, |end| slirp(end, mtu, folder)),
        Program::Gvproxy => gvproxy(path, mtu, folder),
        Program::Passt | Program::Pasta => with_pair(SockType::Stream, path, |end| passt(end, mtu)),
    }
}

/// Gives the program one end of a pair of sockets, whose number its arguments contain.
fn with_pair(
    kind: SockType,
    path: &Path,
    arguments: impl FnOnce(i32) -> Vec<OsString>,
) -> Result<(Process, OwnedFd), String> {
    let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|errno| format!("socketpair: {errno}"))?;
    // This process starts nothing else while it has this end.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|errno| format!("fcntl: {errno}"))?;
    let command = Tied::command(path, &arguments(theirs.as_raw_fd()));
    Ok((Process::start(command, path, Some(theirs))?, ours))
}

fn slirp(end: i32, mtu: u32, folder: &Path) -> Vec<OsString> {
    let _ = std::fs::remove_file(api(folder));
    let mut api_socket = OsString::from("--api-socket=");
    api_socket.push(api(folder));
    ["--netns-type=tapfd".into(), format!("--mtu={mtu}").into(), api_socket, end.to_string().into()].into()
}

fn passt(end: i32, mtu: u32) -> Vec<OsString> {
    ["--foreground", "--fd", &end.to_string(), "--mtu", &mtu.to_string()].map(OsString::from).into()
}

/// It listens, takes one client ever, and ends with it.
fn gvproxy(path: &Path, mtu: u32, folder: &Path) -> Result<(Process, OwnedFd), String> {
    let socket = folder.join("qemu.sock");
    for stale in [&socket, &api(folder)] {
        let _ = std::fs::remove_file(stale);
    }
    let unix = |path: &Path| {
        let mut url = OsString::from("unix://");
        url.push(path);
        url
    };
    // No port of the loopback leads to a guest's SSH unless it is asked for.
    let rest = ["-ssh-port", "-1", "-mtu", &mtu.to_string()].map(OsString::from);
    let words = ["-listen-qemu".into(), unix(&socket), "-listen".into(), unix(&api(folder))].into_iter().chain(rest);
    let mut process = Process::start(Tied::command(path, &Vec::from_iter(words)), path, None)?;
    let until = Instant::now() + START_TIME;
    loop {
        process.listen();
        if let Ok(stream) = UnixStream::connect(&socket) {
            return Ok((process, stream.into()));
        }
        if process.ended().is_some() {
            return Err(format!("{} has ended at once{}", path.display(), process.end()));
        }
        if Instant::now() > until {
            return Err(format!("{} does not listen{}", path.display(), process.end()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The socket by which ports are published.
pub fn api(folder: &Path) -> PathBuf {
    folder.join("api.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_one_that_is_asked_for_or_told_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, wanted| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            choose(wanted, Some(&path)).map(|(program, _)| program)
        };
        assert_eq!(file("slirp4netns", None), Ok(Program::Slirp));
        assert_eq!(file("wrapper", Some(Program::Gvproxy)), Ok(Program::Gvproxy));
        assert!(file("wrapper", None).unwrap_err().contains("sv3 uplink slirp|gvproxy|passt"));
        assert!(choose(None, Some(Path::new("/none/passt"))).unwrap_err().contains("no such file"));
        assert!(choose(Some(Program::Pasta), None).unwrap_err().contains("DHCP server"));
    }

    #[test]
    fn a_program_is_found_where_it_can_be_executed() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = folders.each_ref().map(|folder| folder.path().join("passt"));
        let path = std::env::join_paths(folders.iter().map(|folder| folder.path())).unwrap();
        std::fs::write(&first, "").unwrap();
        assert_eq!(in_path(&path, "passt"), None);
        std::fs::write(&second, "").unwrap();
        std::fs::set_permissions(&second, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(in_path(&path, "passt"), Some(second));
    }

    #[test]
    fn people_hear_why_a_program_was_taken() {
        assert_eq!(reason(Program::Slirp), "slirp4netns is installed, and is taken first");
        assert_eq!(reason(Program::Passt), "passt is taken, since slirp4netns or gvproxy is not installed");
    }

    #[test]
    fn each_program_gets_its_socket_and_the_mtu_in_its_own_words() {
        let words = |words: Vec<OsString>| words.into_iter().map(|word| word.into_string().unwrap() + " ").collect();
        let slirp: String = words(slirp(7, 65520, Path::new("/none")));
        assert_eq!(slirp, "--netns-type=tapfd --mtu=65520 --api-socket=/none/api.sock 7 ");
        let passt: String = words(passt(7, 1500));
        assert_eq!(passt, "--foreground --fd 7 --mtu 1500 ");
    }
}
