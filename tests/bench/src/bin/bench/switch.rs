//! The switches that are measured, all started in the same way, on one processor.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::peers::{OvsTuning, Peer};
use sv3_tests::switch::{Switch as Sv3, send};
use sv3_tests::testpmd::{Config, Testpmd};
use tempfile::TempDir;

use crate::place::SWITCH;

/// The switches that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Sv3,
    /// testpmd's net_vhost in io mode: a wire between ports 0 and 1, 2 and 3 and so on.
    Vhost,
    /// Open vSwitch with its data path of DPDK.
    Ovs,
}

impl Kind {
    /// All of them, ours first.
    pub const ALL: [Kind; 3] = [Kind::Sv3, Kind::Vhost, Kind::Ovs];

    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sv3 => "sv3",
            Kind::Vhost => "net_vhost io",
            Kind::Ovs => "OVS-DPDK",
        }
    }

    /// It looks at addresses, and so can have any number of ports.
    pub fn is_switch(self) -> bool {
        self != Kind::Vhost
    }
}

/// What a load asks of a switch.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Guests.
    pub ports: usize,
    /// Its own memory is of huge pages where it can have them.
    pub huge: bool,
    /// Octets of the longest frame.
    pub longest: usize,
    /// More of sv3's command line.
    pub options: &'static [&'static str],
}

/// A running switch.
pub enum Switch {
    /// Ours.
    Sv3(Sv3),
    /// testpmd, its sockets, and their folder, which goes with it.
    Vhost(Testpmd, Vec<PathBuf>, #[allow(dead_code, reason = "keeps the folder")] TempDir),
    /// Open vSwitch.
    Ovs(Peer),
}

impl Switch {
    /// Starts one. This thread must be on the switch's processor, which what it starts inherits.
    pub fn start(kind: Kind, needs: Needs) -> Result<Switch> {
        match kind {
            Kind::Sv3 => {
                let switch = Sv3::with(needs.options)?;
                switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
                Ok(Switch::Sv3(switch))
            }
            Kind::Vhost => {
                let folder = tempfile::tempdir()?;
                let sockets: Vec<_> = (0..needs.ports).map(|port| folder.path().join(port.to_string())).collect();
                let config = Config { core: SWITCH, huge_pages: needs.huge, ..Config::default() };
                Ok(Switch::Vhost(Testpmd::wire(&sockets, config)?, sockets, folder))
            }
            Kind::Ovs => {
                let mtu = needs.longest.saturating_sub(14).max(1500).try_into()?;
                let tuning = OvsTuning {
                    spins_on: Some(SWITCH),
                    huge_pages: needs.huge,
                    mtu: Some(mtu),
                    ..OvsTuning::default()
                };
                Ok(Switch::Ovs(Peer::ovs_dpdk_tuned(needs.ports, &tuning)?))
            }
        }
    }

    /// Gives a command of the switch's own: `sv3` or a tool of Open vSwitch with its arguments.
    pub fn tell(&self, command: &str) -> Result<()> {
        let (tool, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let arguments: Vec<&str> = arguments.split(' ').collect();
        match self {
            Switch::Sv3(switch) => {
                let output = switch.home().sv3(&arguments).arg("--control").arg(switch.control()).output()?;
                let said = || format!("{command}: {}", String::from_utf8_lossy(&output.stderr));
                if output.status.success() { Ok(()) } else { Err(Failure::new(said())) }
            }
            Switch::Vhost(..) => Err(Failure::new("net_vhost takes no commands")),
            Switch::Ovs(peer) => peer.tell(tool, &arguments),
        }
    }

    /// The socket of a guest: on sv3 that of the port `v0`, `v1` and so on if it is declared, else the front door.
    pub fn socket(&self, guest: usize) -> Result<PathBuf> {
        match self {
            Switch::Sv3(switch) => {
                let declared = switch.home().path(&format!("ports/v{guest}.sock"));
                Ok(if declared.exists() { declared } else { switch.socket().to_path_buf() })
            }
            Switch::Vhost(_, sockets, _) => sockets.get(guest).cloned().ok_or_else(too_many),
            Switch::Ovs(peer) => peer.sockets().get(guest).cloned().ok_or_else(too_many),
        }
    }

    /// All of its processes.
    pub fn processes(&self) -> Result<Vec<u32>> {
        match self {
            Switch::Sv3(switch) => {
                let status = switch.status()?;
                let workers = [status.worker.pid, status.worker.standby_pid];
                Ok([status.supervisor.pid].into_iter().chain(workers.into_iter().flatten()).collect())
            }
            Switch::Vhost(testpmd, ..) => Ok(vec![testpmd.pid()]),
            Switch::Ovs(peer) => Ok(vec![peer.pid()]),
        }
    }

    /// Lets it run, or stops it: those that spin would take the processor from the others.
    pub fn run(&self, on: bool) -> Result<()> {
        let signal = if on { "CONT" } else { "STOP" };
        match self {
            Switch::Sv3(_) => Ok(()),
            Switch::Vhost(testpmd, ..) => send(testpmd.pid(), signal),
            Switch::Ovs(peer) => send(peer.pid(), signal),
        }
    }
}

/// How long each thread of some processes has run, by its number.
pub fn run_times(processes: &[u32]) -> Result<BTreeMap<u32, Duration>> {
    let mut times = BTreeMap::new();
    for process in processes {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            let text = fs::read_to_string(task.path().join("schedstat"))?;
            let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
            times.insert(task.file_name().to_string_lossy().parse()?, Duration::from_nanos(nanoseconds));
        }
    }
    Ok(times)
}

fn too_many() -> Failure {
    Failure::new("the switch has no socket for so many guests")
}
