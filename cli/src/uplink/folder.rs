//! A folder for the program's sockets.

use std::fs::{DirBuilder, File, remove_dir_all};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::place;

/// The beginning of the folders' names.
const NAME: &str = "uplink-";
/// A file that is locked as long as the folder is in use.
const LOCK: &str = "lock";

/// A folder that only this user may enter. It goes when this is dropped, and where that did not happen, with the next
/// one that is made.
pub struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes one.
    pub fn new() -> Result<Folder, String> {
        let folder = place::folder();
        place::prepare(&folder)?;
        Folder::within(&folder)
    }

    fn within(folder: &Path) -> Result<Folder, String> {
        remove_stale(folder);
        let path = folder.join(format!("{NAME}{}", std::process::id()));
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        DirBuilder::new().mode(0o700).create(&path).map_err(at)?;
        let lock = File::create(path.join(LOCK)).map_err(at)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| at(errno.into()))?;
        Ok(Folder { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = remove_dir_all(&self.path);
    }
}

/// Removes folders of processes that were killed.
fn remove_stale(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(NAME) {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_user_and_otherwise_with_the_next_one() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("uplink-0");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let other = base.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let folder = Folder::within(base.path()).unwrap();
        assert!(folder.path().is_dir() && !dead.exists() && other.is_dir());
        remove_stale(base.path());
        assert!(folder.path().is_dir(), "it is in use");
        let path = folder.path().to_path_buf();
        drop(folder);
        assert!(!path.exists());
    }
}
