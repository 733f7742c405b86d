//! The machine that probes look at: this one, or one that a test has made of a folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};
use sv3_policy::steps;

use crate::place;

/// How long a program may take to say its version.
const VERSION_TIME: Duration = Duration::from_secs(10);
/// Octets of a file in /proc or /sys that are read.
const FILE_MAX: u64 = 1 << 20;

/// What a probe may ask.
pub struct Machine {
    /// Where the tree of files begins: `/`, or a folder of a test.
    root: PathBuf,
    /// The folders of `$PATH`, from the root.
    programs: Vec<PathBuf>,
    /// User id of this process.
    pub uid: u32,
    /// The landlock ABI that a process of this user gets; 0: none.
    pub landlock: Result<u32, String>,
    /// Whether a memfd can be made.
    pub memfd: Result<(), String>,
    /// `$XDG_RUNTIME_DIR`, if it is set.
    pub runtime: Option<PathBuf>,
    /// The folder of the sockets.
    pub folder: PathBuf,
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        let memfd = memfd_create(c"sv3-doctor", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
        Machine {
            root: PathBuf::from("/"),
            programs: std::env::split_paths(&path).collect(),
            uid: nix::unistd::geteuid().as_raw(),
            landlock: landlock(),
            memfd: memfd.map(drop).map_err(|errno| errno.desc().to_string()),
            runtime: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            folder: place::folder(),
        }
    }

    /// Where a path of the machine is.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file, without white space at its ends.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        use std::io::Read;
        let mut text = String::new();
        let file = std::fs::File::open(self.at(path)).ok()?;
        file.take(FILE_MAX).read_to_string(&mut text).ok()?;
        Some(text.trim().to_string())
    }

    /// The number in a file.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a folder, in order.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The last part of where a link leads to.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let to = std::fs::read_link(self.at(path)).ok()?;
        Some(to.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether a path is there.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).exists()
    }

    /// Whether this process may read and write it.
    pub fn may_use(&self, path: impl AsRef<Path>) -> bool {
        access(&self.at(path), AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
    }

    /// A limit of a process: the soft and the hard one, `u64::MAX` if it is unlimited.
    pub fn limit(&self, process: &str, name: &str) -> Option<(u64, u64)> {
        let text = self.read(format!("proc/{process}/limits"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = line.split_whitespace().map(|word| match word {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        });
        Some((words.next()??, words.next()??))
    }

    /// The program of this name, in `$PATH`.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let places = self.programs.iter().map(|folder| self.at(folder.join(name)));
        places.into_iter().find(|place| place.is_file() && access(place, AccessFlags::X_OK).is_ok())
    }

    /// What a program prints with `--version`.
    pub fn version_of(&self, program: &Path) -> Option<String> {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let until = Instant::now() + VERSION_TIME;
        // What it prints fits into the pipe, so it does not wait for a reader.
        while child.try_wait().ok()?.is_none() {
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        use std::io::Read;
        let mut text = String::new();
        child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// The landlock ABI that a thread of this process gets. Landlock, `no_new_privs` and capabilities are a thread's own, so
/// a thread that ends finds out.
fn landlock() -> Result<u32, String> {
    let confine = || {
        steps::drop_privileges()?;
        steps::restrict_reach().map(|achieved| achieved.landlock_abi)
    };
    let thread = std::thread::Builder::new().spawn(confine).map_err(|error| error.to_string())?;
    thread.join().map_err(|_| "it could not be tried".to_string())?
}

#[cfg(test)]
pub mod fake {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine that is made of a folder, in which all is well.
    pub struct Fake {
        folder: tempfile::TempDir,
        /// The machine.
        pub machine: Machine,
    }

    impl Fake {
        /// A machine with these files; a path that ends in `/` is a folder.
        pub fn with(files: &[(&str, &str)]) -> Fake {
            let folder = tempfile::tempdir().unwrap();
            let machine = Machine {
                root: folder.path().to_path_buf(),
                programs: vec![PathBuf::from("/usr/bin")],
                uid: nix::unistd::geteuid().as_raw(),
                landlock: Ok(7),
                memfd: Ok(()),
                runtime: Some(PathBuf::from("/run/user/1000")),
                folder: PathBuf::from("/run/user/1000/sv3"),
            };
            let fake = Fake { folder, machine };
            files.iter().for_each(|(path, text)| fake.write(path, text));
            fake
        }

        /// Writes a file, or makes a folder.
        pub fn write(&self, path: &str, text: &str) {
            let place = self.folder.path().join(path);
            if path.ends_with('/') {
                return std::fs::create_dir_all(place).unwrap();
            }
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, text).unwrap();
        }

        /// Makes a link.
        pub fn link(&self, path: &str, to: &str) {
            let place = self.folder.path().join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, place).unwrap();
        }

        /// A program that prints this.
        pub fn program(&self, name: &str, says: &str) {
            let path = format!("usr/bin/{name}");
            self.write(&path, &format!("#!/bin/sh\necho '{says}'\n"));
            std::fs::set_permissions(self.folder.path().join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;

    #[test]
    fn limits_are_read_from_the_kernels_words() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        let fake = Fake::with(&[("proc/self/limits", text)]);
        assert_eq!(fake.machine.limit("self", "Max open files"), Some((1024, 524_288)));
        assert_eq!(fake.machine.limit("self", "Max locked memory"), Some((u64::MAX, u64::MAX)));
        assert_eq!(fake.machine.limit("self", "Max nice priority"), None);
        assert_eq!(fake.machine.limit("7", "Max open files"), None);
    }

    #[test]
    fn what_is_tried_here_leaves_this_thread_as_it_was() {
        let here = Machine::here();
        assert!(here.memfd.is_ok());
        let socket = std::net::TcpListener::bind("127.0.0.1:0");
        assert!(socket.is_ok(), "landlock holds for the thread that has ended only");
    }
}
