//! libvirt of Debian sid: a session daemon of the unprivileged user, with QEMU and all that it needs in a root folder of its
//! own. This needs root, for the mounts.
//!
//! Everything that a daemon started ends with it, since it is the first process of a namespace.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};
use crate::patience::until;
use crate::switch::USER;

/// Makes the root folder `$1` of the tree `$2`, with temporary files at `$3` as outside, and runs the rest in it as a user.
const ENTER: &str = r#"set -e
root=$1 tree=$2 scratch=$3 user=$4; shift 4
mount -t tmpfs root "$root"
cd "$root"
mkdir -p usr proc dev sys etc run var ".$scratch"
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$folder"; done
mount --bind "$tree/usr" usr
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mount --bind "$scratch" ".$scratch"
echo "user:x:$user:$user::/:/bin/sh" >etc/passwd
echo "user:x:$user:" >etc/group
# This shell is the first process. It reaps what daemons leave, for which libvirt waits.
chroot --userspec="$user:$user" . "$@"
exit $?
"#;

/// A session daemon of libvirt, that takes itself for a host of its own.
pub struct Libvirt {
    daemon: Child,
    folder: TempDir,
}

impl Libvirt {
    /// The daemon of the host of this number, at most 9.
    pub fn start(host: u8) -> Result<Libvirt> {
        let folder = tempfile::Builder::new().prefix("sv3-lv-").tempdir()?;
        let config = folder.path().join("config/libvirt");
        fs::create_dir_all(&config)?;
        for name in ["root", "run", "cache"] {
            fs::create_dir(folder.path().join(name))?;
        }
        // Two daemons on one machine would refuse to move guests between each other.
        fs::write(
            config.join("libvirtd.conf"),
            format!("host_uuid = \"8c0a5a4e-0000-4000-8000-00000000000{host}\"\n"),
        )?;
        fs::write(config.join("qemu.conf"), "stdio_handler = \"file\"\n")?;
        for name in ["", "run", "cache", "config", "config/libvirt"] {
            chown(folder.path().join(name), Some(USER), Some(USER))?;
        }
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = enter(folder.path(), &["/usr/sbin/libvirtd"])?;
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut libvirt = Libvirt { daemon, folder };
        until("libvirt to serve", || match libvirt.daemon.try_wait()? {
            Some(status) => Err(Failure::new(format!("it ended: {status}"))),
            None => Ok(libvirt.socket().exists().then_some(())),
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", libvirt.said())))?;
        Ok(libvirt)
    }

    /// A path that libvirt and its guests see under the same name, and may write to.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's address.
    pub fn address(&self) -> String {
        format!("qemu:///session?socket={}", self.socket().display())
    }

    /// Runs `virsh` with these words, which must succeed; what it printed.
    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        let address = self.address();
        let mut all = vec!["/usr/bin/virsh", "--connect", &address];
        all.extend(words);
        let output = enter(self.folder.path(), &all)?.stdin(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                Err(Failure::new(format!("virsh {words:?}: {why}\n{}", self.said())))
            }
        }
    }

    /// Writes a file that `virsh` can read; its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn socket(&self) -> PathBuf {
        self.path("run/libvirt/libvirt-sock")
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A program of libvirt's tree, by the unprivileged user, in namespaces that end with it.
fn enter(folder: &Path, program: &[&str]) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--"]);
    command.args(["sh", "-c", ENTER, "enter"]).arg(folder.join("root")).arg(image::tree(Suite::Libvirt)?);
    command.arg(std::env::temp_dir()).arg(USER.to_string()).args(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").env("HOME", folder);
    for (variable, name) in [("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")] {
        command.env(variable, folder.join(name));
    }
    Ok(command)
}
