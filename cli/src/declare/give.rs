//! Gives declarations to the switch.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::config::{CHANGE_MAX, Change, Config, InForce};
use sv3::control::ControlRequest;
use sv3::passed;

use super::door::{Before, Door, Folder};
use crate::control::Control;

/// Most files of one message (net/scm.h: SCM_MAX_FD).
const FILES_MAX: usize = 253;

/// What is in force.
pub fn in_force(control: &Control) -> Result<InForce, String> {
    let answer = control.ask(&ControlRequest::Config)?;
    let in_force = serde_json::from_value(answer);
    in_force.map_err(|error| format!("the switch is of another version ({error})"))
}

/// Declares all this in the place of what is in force. The error is for people, and nothing is changed then.
pub fn declare(control: &Control, before: &InForce, config: Config, file: Option<String>) -> Result<(), String> {
    config.check()?;
    let folder = Folder::prepare(&control.path(), control.owner()?)?;
    let (doors, made) = make(&folder, &before.config, &config, &mut Vec::new())?;
    let mut changed: Vec<Before> = Vec::new();
    let undo = |changed: &[Before]| changed.iter().for_each(Before::restore);
    for (name, port) in &config.ports {
        let old = before.config.ports.get(name).filter(|old| old.kind.has_door() && port.kind.has_door());
        if old.is_some_and(|old| old.socket != port.socket) {
            changed.push(folder.change(name, port.socket).inspect_err(|_| undo(&changed))?);
        }
    }
    // What a change is not about may have changed meanwhile.
    let snooping = config.snooping.filter(|_| config.snooping != before.config.snooping);
    let config = Config { snooping, ..config };
    let change = sealed(&Change { config, doors, file }).inspect_err(|_| undo(&changed))?;
    let mut files = vec![change.as_fd()];
    files.extend(made.iter().map(Door::socket));
    let request = ControlRequest::Configure(before.generation);
    control.hand(&request, &files).inspect_err(|_| undo(&changed))?;
    made.into_iter().for_each(Door::keep);
    Ok(())
}

/// Makes the sockets of ports that have none yet, unless a service manager has passed them. Returns their names too.
pub fn make(
    folder: &Folder,
    old: &Config,
    new: &Config,
    passed: &mut Vec<UnixListener>,
) -> Result<(Vec<String>, Vec<Door>), String> {
    let has_door = |config: &Config, name: &String| config.ports.get(name).is_some_and(|port| port.kind.has_door());
    let (mut names, mut doors) = (Vec::new(), Vec::new());
    for (name, port) in &new.ports {
        if has_door(new, name) && !has_door(old, name) {
            doors.push(match folder.passed(name, passed) {
                Some(door) => door,
                None => folder.make(name, port.socket)?,
            });
            names.push(name.clone());
        }
    }
    Ok((names, doors))
}

/// A change in sealed memory.
pub fn sealed(change: &Change) -> Result<OwnedFd, String> {
    let octets = serde_json::to_vec(change).map_err(|error| error.to_string())?;
    if octets.len() > CHANGE_MAX {
        return Err(format!("this configuration has {} octets for the switch, of {CHANGE_MAX} at most", octets.len()));
    }
    let fail = |error: std::io::Error| format!("memory for the configuration: {error}");
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(memfd_create(c"sv3-config", flags).map_err(|errno| fail(errno.into()))?);
    file.write_all(&octets).and_then(|()| file.rewind()).map_err(fail)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| fail(errno.into()))?;
    Ok(file.into())
}

/// Sends a line and files over a stream socket, in as many messages as the files need.
pub fn send(socket: impl AsFd, line: &str, files: &[BorrowedFd<'_>]) -> nix::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let mut rest = line.as_bytes();
    let mut parts = files.chunks(FILES_MAX).peekable();
    while let Some(part) = parts.next() {
        // The line is complete when all files have gone.
        let octets = if parts.peek().is_some() { rest.get(..1) } else { Some(rest) }.unwrap_or_default();
        let fds: Vec<_> = part.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let told = [std::io::IoSlice::new(octets)];
        let sent = sendmsg::<()>(socket.as_fd().as_raw_fd(), &told, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    while !rest.is_empty() {
        let sent = nix::unistd::write(&socket, rest)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// The first change, for a switch that this process is about to become: the socket that is to be its stdin.
pub fn first(control: &Path, config: Config, file: String) -> Result<(OwnedFd, Vec<Door>), String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let folder = Folder::prepare(control, nix::unistd::geteuid().as_raw())?;
    let passed = passed::duplicates().map_err(|error| format!("what the service manager passed: {error}"))?;
    let mut passed: Vec<UnixListener> = passed.into_iter().map(|passed| passed.fd.into()).collect();
    let (doors, made) = make(&folder, &Config::default(), &config, &mut passed)?;
    let change = sealed(&Change { config, doors, file: Some(file) })?;
    let fail = |errno: nix::Error| format!("a socket for the configuration: {errno}");
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map_err(fail)?;
    let mut files = vec![change.as_fd()];
    files.extend(made.iter().map(Door::socket));
    send(&ours, "configure 0\n", &files).map_err(fail)?;
    Ok((theirs, made))
}
