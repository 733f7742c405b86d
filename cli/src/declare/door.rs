//! Sockets of declared ports. This process makes them, because it has the rights of the person who runs it: the switch
//! may make no socket once it serves, and a socket for another user takes root.
//!
//! A socket has mode 0600 from its first moment. It gets its owner before it gets its permissions, so at no moment may
//! anybody connect who may not in the end.
//!
//! If root runs this for the switch of another user, that user may move the folders while this process works in them, and
//! put a link to another place there. So each folder is opened once, without following a link, and is named by its file
//! descriptor from then on ([`Folder::reach`]).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat, umask};
use sv3::config::{Access, FOLDER};

use super::words;
use crate::output::complain;

/// Most octets of a socket's path (unix(7)).
const PATH_MAX: usize = 107;

/// The folder of declared ports' sockets.
pub struct Folder {
    path: PathBuf,
    dir: Rc<File>,
    /// The switch is another user's.
    is_foreign: bool,
}

/// A socket that goes again, unless it is kept.
pub struct Door {
    socket: UnixListener,
    path: PathBuf,
    is_kept: bool,
    /// `path` may be by this.
    _dir: Rc<File>,
}

/// What a socket's name was like before it was changed.
pub struct Before {
    path: PathBuf,
    access: Access,
    /// `path` may be by this.
    _dir: Rc<File>,
}

impl Folder {
    /// The folder beside the control socket of the switch of this user. It is made if it is not there.
    pub fn prepare(control: &Path, uid: u32) -> Result<Folder, String> {
        let control = std::path::absolute(control).map_err(|error| format!("{}: {error}", control.display()))?;
        let above = control.parent().unwrap_or(Path::new("/"));
        let path = above.join(FOLDER);
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let above = OpenOptions::new().read(true).custom_flags(flags).open(above).map_err(at)?;
        let is_foreign = uid != me();
        if is_foreign {
            check_control(&above, &control, uid)?;
        }
        let wrong = || {
            let path = path.display();
            format!("{path}: it must be a folder of user {uid} or root that nobody else may write to; remove it")
        };
        let is_new = match mkdirat(&above, FOLDER, Mode::from_bits_truncate(0o755)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(at(errno.into())),
        };
        let dir = match open_folder(&above) {
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(wrong()),
            dir => File::from(dir.map_err(|errno| at(errno.into()))?),
        };
        if is_new {
            dir.set_permissions(Permissions::from_mode(0o755)).map_err(at)?;
            if is_foreign {
                // That user may have put another folder in its place, which is root's and stays so.
                let is_empty = fs::read_dir(of_fd(&dir)).map_err(at)?.next().is_none();
                if !is_empty || dir.metadata().map_err(at)?.uid() != me() {
                    return Err(wrong());
                }
                fchown(&dir, Some(uid), None).map_err(at)?;
            }
        }
        let meta = dir.metadata().map_err(at)?;
        let is_ours = [0, me(), uid].contains(&meta.uid());
        if !is_ours || meta.mode() & 0o022 != 0 {
            return Err(wrong());
        }
        Ok(Folder { path, dir: Rc::new(dir), is_foreign })
    }

    /// Where a port's socket is, for people and clients.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// By which name this process reaches it.
    fn reach(&self, name: &str) -> PathBuf {
        if self.is_foreign { of_fd(&self.dir).join(format!("{name}.sock")) } else { self.place(name) }
    }

    /// Makes a port's socket. One at which nobody listens is replaced: only the switch's user and root can have left it.
    pub fn make(&self, name: &str, access: Access) -> Result<Door, String> {
        let (shown, path) = (self.place(name), self.reach(name));
        let at = |error: std::io::Error| format!("port {name}: {}: {error}", shown.display());
        if shown.as_os_str().len() > PATH_MAX {
            let octets = shown.as_os_str().len();
            return Err(format!("port {name}: a socket's path has {PATH_MAX} octets at most, and this {octets}"));
        }
        if let Ok(meta) = fs::symlink_metadata(&path) {
            if !meta.file_type().is_socket() {
                return Err(format!("port {name}: {} is not a socket; remove it", shown.display()));
            }
            if UnixStream::connect(&path).is_ok() {
                return Err(format!("port {name}: another process listens at {}", shown.display()));
            }
            fs::remove_file(&path).map_err(at)?;
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        umask(before);
        let door = Door { socket: bound.map_err(at)?, path: path.clone(), is_kept: false, _dir: self.dir.clone() };
        give(&path, access).map_err(|why| format!("port {name}: {}: {why}", shown.display()))?;
        self.warn(name, access);
        Ok(door)
    }

    /// A port's socket, if it is among those that a service manager has passed. Its unit says who may connect, and its
    /// name stays.
    pub fn passed(&self, name: &str, passed: &mut Vec<UnixListener>) -> Option<Door> {
        let path = self.place(name);
        let is_it = |socket: &UnixListener| {
            socket.local_addr().is_ok_and(|address| address.as_pathname() == Some(path.as_path()))
        };
        let at = passed.iter().position(is_it)?;
        Some(Door { socket: passed.swap_remove(at), path, is_kept: true, _dir: self.dir.clone() })
    }

    /// Changes whose a port's socket is and who may connect.
    pub fn change(&self, name: &str, access: Access) -> Result<Before, String> {
        let (shown, path) = (self.place(name), self.reach(name));
        let meta = fs::symlink_metadata(&path).map_err(|error| format!("port {name}: {}: {error}", shown.display()))?;
        let old = Access { owner: Some(meta.uid()), group: Some(meta.gid()), mode: meta.mode() & 0o777 };
        let before = Before { path: path.clone(), access: old, _dir: self.dir.clone() };
        if let Err(why) = give(&path, access) {
            before.restore();
            return Err(format!("port {name}: {}: {why}", shown.display()));
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

/// Errs unless a folder has this control socket, and the socket is of this user: else the folder is another one by now.
fn check_control(above: &File, control: &Path, uid: u32) -> Result<(), String> {
    let stat = control.file_name().map(|name| fstatat(above, name, AtFlags::AT_SYMLINK_NOFOLLOW));
    let is_it = stat.and_then(Result::ok).is_some_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFSOCK && stat.st_uid == uid
    });
    let told = || format!("{} is no socket of user {uid}: name the control socket itself", control.display());
    is_it.then_some(()).ok_or_else(told)
}

/// Opens the folder of sockets in another one. It may be no link.
fn open_folder(above: &File) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(above, FOLDER, flags, Mode::empty())
}

/// The name of an open file in this process.
fn of_fd(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives a socket its owner, then its permissions. The name is followed once. The error does not tell the path.
fn give(path: &Path, Access { owner, group, mode }: Access) -> Result<(), String> {
    let at = |error: std::io::Error| error.to_string();
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let name: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(at)?;
    let meta = name.metadata().map_err(at)?;
    if !meta.file_type().is_socket() {
        return Err("it is not a socket".to_string());
    }
    let file = of_fd(&name);
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

    /// Root declares a port for the switch of another user, who puts a link to a folder of root's in the folder's place.
    #[test]
    fn a_folder_that_is_moved_away_does_not_lead_root_astray() {
        const USER: u32 = 54_321;
        if me() != 0 {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (theirs, own) = (temp.path().join("theirs"), temp.path().join("own"));
        [&theirs, &own].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let control = theirs.join("control.sock");
        let _socket = UnixListener::bind(&control).unwrap();
        assert!(Folder::prepare(&control, USER).err().unwrap().contains("no socket of user 54321"));
        for path in [&theirs, &control] {
            chown(path, Some(USER), None).unwrap();
        }
        let folder = Folder::prepare(&control, USER).unwrap();
        assert_eq!(fs::metadata(theirs.join(FOLDER)).unwrap().uid(), USER);
        fs::rename(theirs.join(FOLDER), theirs.join("moved")).unwrap();
        std::os::unix::fs::symlink(&own, theirs.join(FOLDER)).unwrap();
        drop(UnixListener::bind(own.join("web.sock")).unwrap());
        let before = fs::symlink_metadata(own.join("web.sock")).unwrap();
        let access = Access { owner: Some(USER), mode: 0o666, ..Access::default() };
        folder.make("web", access).unwrap().keep();
        folder.change("web", Access { mode: 0o660, ..access }).unwrap();
        let after = fs::symlink_metadata(own.join("web.sock")).unwrap();
        assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), before.uid(), before.mode()));
        let made = fs::symlink_metadata(theirs.join("moved/web.sock")).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (USER, 0o660));
        // Nor does it make one there.
        assert!(Folder::prepare(&control, USER).err().unwrap().contains("it must be a folder"));
        assert_eq!(fs::metadata(&own).unwrap().uid(), 0);
    }

    #[test]
    fn a_socket_that_was_passed_is_taken_by_its_place_and_its_name_stays() {
        let (_temp, folder) = folder();
        let bind = |name: &str| UnixListener::bind(folder.place(name)).unwrap();
        let mut passed = vec![bind("a"), bind("web")];
        assert!(folder.passed("db", &mut passed).is_none());
        drop(folder.passed("web", &mut passed).unwrap());
        assert!(folder.place("web").exists() && passed.len() == 1);
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
