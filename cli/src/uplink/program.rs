//! The programs: how each is started, and what it gives guests.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sv3::attachment::Transport;

/// How long a program may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// slirp4netns: any number of guests; the fastest up
    #[value(alias = "slirp4netns")]
    Slirp,
    /// gvproxy: any number of guests; as podman machine uses it
    Gvproxy,
    /// passt: one guest only
    Passt,
    /// pasta: not supported, since guests would need a DHCP server
    Pasta,
}

/// A program that runs, and the switch's end of its socket.
pub struct Started {
    /// The process.
    pub child: Child,
    /// The socket.
    pub socket: OwnedFd,
}

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
                "slirp4netns gives each guest an address by DHCP (10.0.2.15 and up), the router 10.0.2.2, which is also \
                 this host's loopback, and the name server 10.0.2.3"
            }
            Program::Gvproxy => {
                "gvproxy gives each guest an address by DHCP (192.168.127.3 and up), the router and name server \
                 192.168.127.1, and this host's loopback as 192.168.127.254"
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
        let named =
            |program: &Program| path.file_name().is_some_and(|name| name.to_string_lossy().contains(program.file()));
        let known = [Program::Slirp, Program::Gvproxy, Program::Passt];
        let program = wanted.or_else(|| known.into_iter().find(named)).ok_or_else(|| {
            format!("{}: say which program this is: `sv3 uplink slirp|gvproxy|passt --program ...`", path.display())
        })?;
        return Ok((program, path.to_path_buf()));
    }
    // slirp4netns first: it serves any number of guests, and is the faster of the two upwards.
    let order = [Program::Slirp, Program::Gvproxy, Program::Passt];
    let found = order.into_iter().filter(|program| wanted.is_none_or(|wanted| wanted == *program));
    let found = found.filter_map(|program| Some((program, in_path(program.file())?)));
    found.into_iter().next().ok_or_else(|| match wanted {
        Some(program) => {
            format!("{program} is not installed: `sudo apt install {program}`, or name its file by --program")
        }
        None => "no program for the internet is installed: `sudo apt install slirp4netns`".to_string(),
    })
}

fn in_path(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(file))
        .find(|path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// A new folder that only this user may enter, for the program's sockets.
pub fn folder() -> Result<PathBuf, String> {
    let folder = crate::place::folder();
    crate::place::prepare(&folder)?;
    let folder = folder.join(format!("uplink-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

/// Starts a program.
pub fn start(program: Program, path: &Path, mtu: u32, folder: &Path) -> Result<Started, String> {
    match program {
        Program::Slirp => slirp(path, mtu, folder),
        Program::Gvproxy => gvproxy(path, mtu, folder),
        Program::Passt | Program::Pasta => passt(path, mtu, folder),
    }
}

/// It reads and writes whole frames, so a SOCK_SEQPACKET socket does as well as the tap that it expects.
fn slirp(path: &Path, mtu: u32, folder: &Path) -> Result<Started, String> {
    let (ours, theirs) = pair(SockType::SeqPacket)?;
    // It ends when the other end of this pipe is closed, even if this process is killed.
    let (theirs_exit, ours_exit) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    inherit(&theirs_exit)?;
    let mut command = Command::new(path);
    command.arg("--netns-type=tapfd").arg(format!("--mtu={mtu}"));
    command.arg(format!("--exit-fd={}", theirs_exit.as_raw_fd()));
    command.arg(format!("--api-socket={}", api(folder).display()));
    let _ = std::fs::remove_file(api(folder));
    let child = spawn(command.arg(theirs.as_raw_fd().to_string()), path, folder)?;
    // Kept open for the life of this process.
    std::mem::forget(ours_exit);
    Ok(Started { child, socket: ours })
}

/// It listens, takes one client ever, and ends with it.
fn gvproxy(path: &Path, mtu: u32, folder: &Path) -> Result<Started, String> {
    let socket = folder.join("qemu.sock");
    for stale in [&socket, &api(folder)] {
        let _ = std::fs::remove_file(stale);
    }
    let mut command = Command::new(path);
    command.arg("-listen-qemu").arg(format!("unix://{}", socket.display()));
    command.arg("-listen").arg(format!("unix://{}", api(folder).display()));
    // Its port for SSH would be taken already where another one runs.
    command.arg("-ssh-port").arg(free_port()?.to_string()).arg("-mtu").arg(mtu.to_string());
    let mut child = spawn(&mut command, path, folder)?;
    let until = Instant::now() + START_TIME;
    loop {
        if let Ok(stream) = UnixStream::connect(&socket) {
            return Ok(Started { child, socket: stream.into() });
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{} has ended at once ({status})", path.display()));
        }
        if Instant::now() > until {
            super::end(&mut child);
            return Err(format!("{} does not listen", path.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn passt(path: &Path, mtu: u32, folder: &Path) -> Result<Started, String> {
    let (ours, theirs) = pair(SockType::Stream)?;
    let mut command = Command::new(path);
    command.arg("--foreground").arg("--fd").arg(theirs.as_raw_fd().to_string()).arg("--mtu").arg(mtu.to_string());
    let child = spawn(&mut command, path, folder)?;
    Ok(Started { child, socket: ours })
}

/// The socket by which ports are published.
pub fn api(folder: &Path) -> PathBuf {
    folder.join("api.sock")
}

/// A pair of sockets. The second one is for a program that is started.
fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd), String> {
    let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|errno| format!("socketpair: {errno}"))?;
    inherit(&theirs)?;
    Ok((ours, theirs))
}

fn inherit(fd: &OwnedFd) -> Result<(), String> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(|errno| format!("fcntl: {errno}"))
}

/// A TCP port of the loopback that is free at the moment.
fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| format!("loopback: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("loopback: {error}"))
}

/// The file with what the program writes.
fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// The last line that the program wrote, if any.
pub fn last_words(folder: &Path) -> Option<String> {
    let text = std::fs::read(log(folder)).ok()?;
    let text = String::from_utf8_lossy(text.get(text.len().saturating_sub(4096)..)?).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_string)
}

fn spawn(command: &mut Command, path: &Path, folder: &Path) -> Result<Child, String> {
    let at = |error: std::io::Error| format!("{}: {error}", log(folder).display());
    let log = std::fs::File::create(log(folder)).map_err(at)?;
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(at)?).stderr(log);
    command.spawn().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_one_that_is_asked_for_or_told_by_its_file() {
        let file = |path: &str, wanted| choose(wanted, Some(Path::new(path))).map(|(program, _)| program);
        assert_eq!(file("/opt/slirp4netns", None), Ok(Program::Slirp));
        assert_eq!(file("/opt/wrapper", Some(Program::Gvproxy)), Ok(Program::Gvproxy));
        assert!(file("/opt/wrapper", None).unwrap_err().contains("sv3 uplink slirp|gvproxy|passt"));
        assert!(choose(Some(Program::Pasta), None).unwrap_err().contains("DHCP server"));
    }
}
