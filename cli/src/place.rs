//! Paths: the sockets' folder, and the binaries that belong to this one.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the front door in the folder.
pub const SOCKET: &str = "vhost-user.sock";
/// Name of the control socket in the folder.
pub const CONTROL: &str = "control.sock";

/// Most octets of a socket's path (unix(7)).
pub const PATH_MAX: usize = 107;

/// The folder of the sockets: `$XDG_RUNTIME_DIR/sv3`, else `/tmp/sv3-UID`.
pub fn folder() -> PathBuf {
    let uid = nix::unistd::geteuid().as_raw();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("sv3"),
        None => PathBuf::from(format!("/tmp/sv3-{uid}")),
    }
}

/// Makes the folder, or checks that it belongs to this user and that no other can write to it: in /tmp, another user
/// may have made it first.
pub fn prepare(folder: &Path) -> Result<(), String> {
    let say = |what: String| format!("{}: {what}", folder.display());
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(say(format!("cannot be made: {e}; choose another folder by --socket and --control"))),
    }
    let meta = std::fs::symlink_metadata(folder).map_err(|e| say(e.to_string()))?;
    if !meta.is_dir() {
        return Err(say("is not a folder; remove it, or choose another folder by --socket and --control".to_string()));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        let owner = meta.uid();
        return Err(say(format!("belongs to user {owner}; choose another folder by --socket and --control")));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(say("other users may access it; close it by `chmod 700`".to_string()));
    }
    Ok(())
}

/// A binary that is installed with this one: in the same folder, or in `../libexec/sv3`.
pub fn sibling(name: &str) -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("cannot find my own binary: {e}"))?;
    let places = places(&me, name);
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let tried: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        format!("{name} is not installed; sv3 looked for {}", tried.join(" and "))
    })
}

fn places(me: &Path, name: &str) -> Vec<PathBuf> {
    let Some(bin) = me.parent() else { return Vec::new() };
    let libexec = bin.parent().map(|prefix| prefix.join("libexec/sv3").join(name));
    [Some(bin.join(name)), libexec].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_next_to_us_or_in_libexec() {
        let places = places(Path::new("/usr/bin/sv3"), "sv3-worker");
        assert_eq!(places, [Path::new("/usr/bin/sv3-worker"), Path::new("/usr/libexec/sv3/sv3-worker")]);
    }

    #[test]
    fn a_folder_of_ours_alone_is_good_and_any_other_is_refused() {
        let base = std::env::temp_dir().join(format!("sv3-place-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        let folder = base.join("sv3");
        prepare(&folder).unwrap();
        prepare(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare(&folder).unwrap_err().contains("chmod 700"));
        let link = base.join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(prepare(&link).unwrap_err().contains("not a folder"));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
