//! Sockets of declared ports. This process makes them, because it has the rights of the person who runs it: the switch
//! may make no socket once it serves, and a socket for another user takes root.
//!
//! A socket has mode 0600 from its first moment. It gets its owner before it gets its permissions, so at no moment may
//! anybody connect who may not in the end.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use sv3::config::{Access, FOLDER};

use super::words;
use crate::output::complain;

/// Most octets of a socket's path (unix(7)).
const PATH_MAX: usize = 107;

/// The folder of declared ports' sockets.
pub struct Folder {
    path: PathBuf,
}

/// A socket that goes again, unless it is kept.
pub struct Door {
    socket: UnixListener,
    path: PathBuf,
    is_kept: bool,
}

/// What a socket's name was like before it was changed.
pub struct Before {
    path: PathBuf,
    access: Access,
}

impl Folder {
    /// The folder beside the control socket of the switch of this user. It is made if it is not there.
    pub fn prepare(control: &Path, uid: u32) -> Result<Folder, String> {
        let control = std::path::absolute(control).map_err(|error| format!("{}: {error}", control.display()))?;
        let path = control.parent().unwrap_or(Path::new("/")).join(FOLDER);
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => {
                fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(at)?;
                if uid != me() {
                    chown(&path, Some(uid), None).map_err(at)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(error)),
        }
        let meta = fs::symlink_metadata(&path).map_err(at)?;
        let is_ours = [0, me(), uid].contains(&meta.uid());
        if !meta.is_dir() || !is_ours || meta.mode() & 0o022 != 0 {
            return Err(format!(
                "{}: it must be a folder of user {uid} or root that nobody else may write to; remove it",
                path.display()
            ));
        }
        Ok(Folder { path })
    }

    /// Where a port's socket is.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// Makes a port's socket. One at which nobody listens is replaced: only the switch's user and root can have left it.
    pub fn make(&self, name: &str, access: Access) -> Result<Door, String> {
        let path = self.place(name);
        let at = |error: std::io::Error| format!("port {name}: {}: {error}", path.display());
        if path.as_os_str().len() > PATH_MAX {
            let octets = path.as_os_str().len();
            return Err(format!("port {name}: a socket's path has {PATH_MAX} octets at most, and this {octets}"));
        }
        if let Ok(meta) = fs::symlink_metadata(&path) {
            if !meta.file_type().is_socket() {
                return Err(format!("port {name}: {} is not a socket; remove it", path.display()));
            }
            if UnixStream::connect(&path).is_ok() {
                return Err(format!("port {name}: another process listens at {}", path.display()));
            }
            fs::remove_file(&path).map_err(at)?;
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        umask(before);
        let door = Door { socket: bound.map_err(at)?, path: path.clone(), is_kept: false };
        give(&path, access).map_err(|why| format!("port {name}: {why}"))?;
        self.warn(name, access);
        Ok(door)
    }

    /// Changes whose a port's socket is and who may connect.
    pub fn change(&self, name: &str, access: Access) -> Result<Before, String> {
        let path = self.place(name);
        let meta = fs::symlink_metadata(&path).map_err(|error| format!("port {name}: {}: {error}", path.display()))?;
        let old = Access { owner: Some(meta.uid()), group: Some(meta.gid()), mode: meta.mode() & 0o777 };
        let before = Before { path: path.clone(), access: old };
        if let Err(why) = give(&path, access) {
            before.restore();
            return Err(format!("port {name}: {why}"));
        }
        self.warn(name, access);
        Ok(before)
    }

    /// Warns if the user of a socket cannot reach it.
    fn warn(&self, name: &str, access: Access) {
        let Some(uid) = access.owner.filter(|uid| *uid != 0 && *uid != me()) else { return };
        let closed = self.path.ancestors().find(|folder| {
            let meta = fs::metadata(folder);
            meta.is_ok_and(|meta| {
                let mine = meta.uid() == uid && meta.mode() & 0o100 != 0;
                let of_group = Some(meta.gid()) == access.group && meta.mode() & 0o010 != 0;
                !mine && !of_group && meta.mode() & 0o001 == 0
            })
        });
        if let Some(folder) = closed {
            complain(&format!(
                "port {name}: user {} may not enter {}; open it (`chmod a+x`), or run the switch with --socket and \
                 --control in a folder such as /run/sv3",
                words::of_user(uid),
                folder.display()
            ));
        }
    }
}

impl Door {
    /// The socket, which listens.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The switch has it.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Before {
    /// Makes the name as it was, as far as that is possible.
    pub fn restore(&self) {
        let _ = give(&self.path, self.access);
    }
}

/// Gives a socket its owner, then its permissions. The name is followed once.
fn give(path: &Path, Access { owner, group, mode }: Access) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let name: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(at)?;
    let meta = name.metadata().map_err(at)?;
    if !meta.file_type().is_socket() {
        return Err(format!("{} is not a socket", path.display()));
    }
    let file = format!("/proc/self/fd/{}", name.as_raw_fd());
    let owner = owner.filter(|owner| *owner != meta.uid());
    let group = group.filter(|group| *group != meta.gid());
    if owner.is_some() || group.is_some() {
        chown(&file, owner, group).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => may_not(owner, group),
            _ => at(error),
        })?;
    }
    fs::set_permissions(&file, Permissions::from_mode(mode)).map_err(at)
}

/// Why this user may not give a socket away, and what to do.
fn may_not(owner: Option<u32>, group: Option<u32>) -> String {
    match (owner, group) {
        (Some(uid), _) => format!(
            "only root may give a socket to user {}: run this by sudo with --control, or give it to a group that you \
             are in (group, and mode 0660)",
            words::of_user(uid)
        ),
        (None, Some(gid)) => {
            format!("you are not in the group {}: join it, or run this by sudo with --control", words::of_group(gid))
        }
        (None, None) => "permission denied".to_string(),
    }
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(&temp.path().join("control.sock"), me()).unwrap();
        (temp, folder)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_unless_it_is_kept() {
        let (_temp, folder) = folder();
        let access = Access { mode: 0o660, ..Access::default() };
        let door = folder.make("web", access).unwrap();
        assert_eq!(fs::metadata(folder.place("web")).unwrap().mode() & 0o777, 0o660);
        drop(door);
        assert!(!folder.place("web").exists());
        folder.make("web", access).unwrap().keep();
        let before = folder.change("web", Access { mode: 0o600, ..access }).unwrap();
        assert_eq!(fs::metadata(folder.place("web")).unwrap().mode() & 0o777, 0o600);
        before.restore();
        assert_eq!(fs::metadata(folder.place("web")).unwrap().mode() & 0o777, 0o660);
        // Nobody listens any more.
        drop(folder.make("web", access).unwrap());
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let (temp, folder) = folder();
        let door = folder.make("web", Access::default()).unwrap();
        assert!(folder.make("web", Access::default()).err().unwrap().contains("another process listens"));
        drop(door);
        fs::write(folder.place("web"), "precious").unwrap();
        assert!(folder.make("web", Access::default()).err().unwrap().contains("not a socket"));
        fs::set_permissions(temp.path().join(FOLDER), Permissions::from_mode(0o777)).unwrap();
        let told = Folder::prepare(&temp.path().join("control.sock"), me()).err().unwrap();
        assert!(told.contains("nobody else may write"), "{told}");
    }
}
