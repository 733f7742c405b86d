//! Another vhost-user back-end, to be measured as sv3 is: Open vSwitch with DPDK, of Debian sid.
//!
//! Each runs in the foreground in a folder of its own, serves as many sockets as it can, and is killed when the
//! [`Peer`] is dropped. It needs no huge pages, unless it is told to take some.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};
use crate::patience::until;

/// A running back-end of another project.
pub struct Peer {
    name: &'static str,
    /// The one that serves is the last one.
    processes: Vec<Child>,
    sockets: Vec<PathBuf>,
    folder: TempDir,
}

/// How an Open vSwitch runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct OvsTuning {
    /// The data path spins on this processor only.
    pub spins_on: Option<usize>,
    /// Its memory is of huge pages, 512 MiB of them and more as it likes; else of ordinary ones.
    pub huge_pages: bool,
    /// Largest IP packet; 1500 by default.
    pub mtu: Option<u32>,
    /// It connects to sockets on which QEMUs listen, again and again until they do. Only as such a client it can have
    /// TSO.
    pub connects: bool,
    /// More of its `other_config`, each `NAME=VALUE`.
    pub other_config: &'static [&'static str],
}

impl Peer {
    /// Open vSwitch, its data path of DPDK: one bridge that learns, with a port behind each of so many sockets. A data
    /// path thread that finds nothing sleeps a little, as there are other tests.
    pub fn ovs_dpdk(ports: usize) -> Result<Peer> {
        Peer::ovs_dpdk_tuned(ports, &OvsTuning { other_config: &["pmd-sleep-max=50"], ..OvsTuning::default() })
    }

    /// The same, for measurements.
    pub fn ovs_dpdk_tuned(ports: usize, tuning: &OvsTuning) -> Result<Peer> {
        let mut peer = Peer::new("OVS-DPDK")?;
        let database = peer.path("db.sock");
        let remote = format!("unix:{}", database.display());
        let schema = image::tree(Suite::Peers)?.join("usr/share/openvswitch/vswitch.ovsschema");
        run(peer.program("usr/bin/ovsdb-tool")?.arg("create").arg(peer.path("conf.db")).arg(schema))?;
        let mut server = peer.program("usr/sbin/ovsdb-server")?;
        server.arg(peer.path("conf.db")).arg(format!("--remote=p{remote}")).arg(peer.control("db"));
        peer.spawn(server)?;
        peer.await_socket(&database)?;

        let drivers = find(&image::tree(Suite::Peers)?.join("usr/lib/x86_64-linux-gnu/dpdk"), "pmds-")?;
        let memory = match tuning {
            OvsTuning { huge_pages: true, .. } => "--in-memory -m 512",
            // What it wants for its frames' buffers it cannot get later.
            OvsTuning { spins_on: Some(_), .. } => "--no-huge -m 2048",
            // A port for which no buffers are left is removed when its client comes.
            OvsTuning { .. } => "--no-huge -m 1536",
        };
        let extra = format!("--no-pci {memory} --no-telemetry -d {}", drivers.display());
        let mut settings = peer.program("usr/bin/ovs-vsctl")?;
        settings.args(["--no-wait", &format!("--db={remote}"), "init", "--", "set", "Open_vSwitch", "."]);
        settings.arg("other_config:dpdk-init=true");
        if let Some(core) = tuning.spins_on {
            let mask = format!("{:#x}", 1u64 << core);
            settings.arg(format!("other_config:pmd-cpu-mask=\"{mask}\""));
            settings.arg(format!("other_config:dpdk-lcore-mask=\"{mask}\""));
        }
        settings.args(tuning.other_config.iter().map(|setting| format!("other_config:{setting}")));
        settings.arg(format!("other_config:dpdk-extra=\"{extra}\""));
        settings.args(["--", "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"]);
        let kind = if tuning.connects { "dpdkvhostuserclient" } else { "dpdkvhostuser" };
        for port in 0..ports {
            let name = format!("v{port}");
            settings.args(["--", "add-port", "br0", &name, "--", "set", "Interface", &name, &format!("type={kind}")]);
            if tuning.connects {
                settings.arg(format!("options:vhost-server-path={}", peer.path(&name).display()));
            }
            if let Some(mtu) = tuning.mtu {
                settings.arg(format!("mtu_request={mtu}"));
            }
            peer.sockets.push(peer.path(&name));
        }
        run(&mut settings)?;
        let mut switch = alone(&peer.program("usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")?);
        switch.arg(&remote).arg(peer.control("switch"));
        peer.spawn(switch)?;
        // A client that comes before the bridge knows the port is never served. This waits until the switch has taken
        // note.
        let mut settled = peer.program("usr/bin/ovs-vsctl")?;
        run(settled.args([
            "--timeout=20",
            &format!("--db={remote}"),
            "set",
            "Bridge",
            "br0",
            "external_ids:settled=yes",
        ]))?;
        if !tuning.connects {
            for socket in peer.sockets.clone() {
                peer.await_socket(&socket)?;
            }
        }
        Ok(peer)
    }

    /// Runs a tool of Open vSwitch, such as `ovs-vsctl` or `ovs-ofctl`, to its end.
    pub fn tell(&self, tool: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.program(&format!("usr/bin/{tool}"))?;
        if tool == "ovs-vsctl" {
            command.arg("--timeout=20").arg(format!("--db=unix:{}", self.path("db.sock").display()));
        }
        run(command.args(arguments))
    }

    /// What it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The sockets that clients connect to.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        self.processes.last().map_or(0, Child::id)
    }

    /// How the process that serves has ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match self.processes.last_mut() {
            Some(process) => Ok(process.try_wait()?),
            None => Ok(None),
        }
    }

    fn new(name: &'static str) -> Result<Peer> {
        let folder = tempfile::Builder::new().prefix("sv3-peer-").tempdir()?;
        Ok(Peer { name, processes: Vec::new(), sockets: Vec::new(), folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn control(&self, name: &str) -> String {
        format!("--unixctl={}", self.path(&format!("{name}.ctl")).display())
    }

    fn program(&self, path: &str) -> Result<Command> {
        let mut command = image::program_at(Suite::Peers, path)?;
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.folder.path());
        }
        Ok(command)
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn()?);
        Ok(())
    }

    fn await_socket(&mut self, socket: &Path) -> Result<()> {
        let pid = self.pid();
        let outcome = until(&format!("{} to listen", self.name), || match self.ended()? {
            Some(status) => Err(Failure::new(format!("{} ended: {status}", self.name))),
            None => Ok(is_listening(pid, socket)?.then_some(())),
        });
        let said = fs::read_to_string(self.path("log")).unwrap_or_default();
        let said: Vec<&str> = said.lines().collect();
        let last = said.get(said.len().saturating_sub(10)..).unwrap_or_default().join("\n");
        outcome.map_err(|failure| Failure::new(format!("{failure}\n{last}")))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether somebody in a process's network namespace listens there, seen without a connection, which might be the only
/// one that is accepted.
fn is_listening(pid: u32, socket: &Path) -> Result<bool> {
    const ACCEPTS: &str = "00010000";
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    let path = socket.display().to_string();
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(lines.any(|fields| fields.get(3) == Some(&ACCEPTS) && fields.last() == Some(&path.as_str())))
}

/// The command in a network namespace of its own, where that is possible: each Open vSwitch makes a tap of the same name,
/// so a second one would fail beside the first.
fn alone(command: &Command) -> Command {
    let mut alone = Command::new("env");
    if geteuid().is_root() {
        alone.args(["unshare", "--net", "--"]);
    }
    alone.arg(command.get_program()).args(command.get_args());
    alone.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    alone
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(Failure::new(format!("{command:?}: {}", said()))) }
}

/// The folder's entry with a name that begins so.
fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let missing = || Failure::new(format!("{} has no {prefix}*", folder.display()));
    entries.into_iter().find(named).ok_or_else(missing)
}
