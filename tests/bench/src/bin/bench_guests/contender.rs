//! The switches that are compared, each with two guests on it.

use std::path::PathBuf;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::peers::{OvsTuning, Peer};
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Attachment, Vm};

use crate::bridge::{self, Bridge, TAPS};
use crate::meter::Meter;

/// A switch that can be measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// sv3 as it comes.
    Sv3,
    /// The kernel's bridge and taps, with all offloads; by vhost-net where it is, else by QEMU.
    Bridge,
    /// OVS-DPDK as it comes: it never sleeps and segments nothing.
    Ovs,
    /// The same that may sleep a little when it finds nothing, so that it leaves processors to the guests.
    OvsSleep,
    /// As it comes but for `userspace-tso-enable`.
    OvsTso,
}

impl Contender {
    /// All, sv3 first.
    pub const ALL: [Contender; 5] =
        [Contender::Sv3, Contender::Bridge, Contender::Ovs, Contender::OvsSleep, Contender::OvsTso];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Sv3 => "sv3",
            Contender::Bridge => "bridge",
            Contender::Ovs => "ovs",
            Contender::OvsSleep => "ovs-sleep",
            Contender::OvsTso => "ovs-tso",
        }
    }

    /// Its name in a table.
    pub fn words(self) -> &'static str {
        match self {
            Contender::Sv3 => "sv3",
            Contender::Bridge if bridge::has_vhost_net() => "kernel bridge, vhost-net",
            Contender::Bridge => "kernel bridge, tap",
            Contender::Ovs => "OVS-DPDK",
            Contender::OvsSleep => "OVS-DPDK, may sleep",
            Contender::OvsTso => "OVS-DPDK, TSO",
        }
    }

    /// Makes interfaces, which must not be the host's.
    pub fn needs_namespace(self) -> bool {
        self == Contender::Bridge
    }

    /// As [`Contender::start`], again when an OVS-DPDK does not serve a guest that came before its port was ready.
    pub fn start_surely(self, rx_ring: Option<u16>) -> Result<Pair> {
        self.start(rx_ring).or_else(|_| self.start(rx_ring)).or_else(|_| self.start(rx_ring))
    }

    /// Starts it, and two guests on it with receive rings of that size; QEMU's own by default.
    fn start(self, rx_ring: Option<u16>) -> Result<Pair> {
        match self {
            Contender::Sv3 => {
                let switch = Switch::start()?;
                let status = switch.status()?;
                let processes = [Some(status.supervisor.pid), Some(switch.worker_pid()?), status.worker.standby_pid];
                let socket = switch.socket().to_path_buf();
                let ends = [Attachment::VhostUser(&socket), Attachment::VhostUser(&socket)];
                Pair::boot(Running::Sv3(switch), ends, rx_ring, processes.into_iter().flatten().collect())
            }
            Contender::Bridge => {
                let ends = TAPS.map(|name| Attachment::Tap { name, vhost: bridge::has_vhost_net() });
                Pair::boot(Running::Bridge(Bridge::start()?), ends, rx_ring, Vec::new())
            }
            Contender::Ovs => Pair::on_ovs(rx_ring, Peer::ovs_dpdk_tuned(2, &OvsTuning::default())?),
            Contender::OvsSleep => Pair::on_ovs(rx_ring, Peer::ovs_dpdk(2)?),
            Contender::OvsTso => {
                let other_config = &["userspace-tso-enable=true"];
                let tuning = OvsTuning { connects: true, other_config, ..OvsTuning::default() };
                let peer = Peer::ovs_dpdk_tuned(2, &tuning)?;
                let [first, second] = two(peer.sockets())?;
                let ends = [Attachment::VhostUserListen(&first), Attachment::VhostUserListen(&second)];
                let pid = peer.pid();
                Pair::boot(Running::Ovs(peer), ends, rx_ring, vec![pid])
            }
        }
    }
}

/// Two guests and what is between them. The guests end first.
pub struct Pair {
    /// The one that sends and asks.
    pub first: Vm,
    /// The one that serves iperf3 and netperf.
    pub second: Vm,
    /// Which processes and threads belong to which part.
    pub meter: Meter,
    _switch: Running,
}

/// Most failed attempts of guests to reach each other; each takes seconds.
const MOST_SILENT: u32 = 3;

/// Kept for as long as it shall run.
#[allow(dead_code)]
enum Running {
    Sv3(Switch),
    Bridge(Bridge),
    Ovs(Peer),
}

impl Pair {
    fn on_ovs(rx_ring: Option<u16>, peer: Peer) -> Result<Pair> {
        let ([first, second], pid) = (two(peer.sockets())?, peer.pid());
        let ends = [Attachment::VhostUser(&first), Attachment::VhostUser(&second)];
        Pair::boot(Running::Ovs(peer), ends, rx_ring, vec![pid])
    }

    fn boot(
        switch: Running,
        [first, second]: [Attachment; 2],
        rx_ring: Option<u16>,
        processes: Vec<u32>,
    ) -> Result<Pair> {
        let guest = |number| match rx_ring {
            Some(size) => Vm::number(number).device(&format!("rx_queue_size={size}")),
            None => Vm::number(number),
        };
        let (first, second) = (guest(1).start_on(&first)?, guest(2).start_on(&second)?);
        let (mut first, mut second) = (first.booted()?, second.booted()?);
        let mut processors = first.processor_threads()?;
        processors.extend(second.processor_threads()?);
        let meter = Meter { switch: processes, guests: vec![first.pid(), second.pid()], processors };
        second.serve_iperf3()?;
        second.sh("netserver")?;
        // OVS-DPDK tries to connect but now and then.
        let mut silent = 0;
        while first.ping(&second.address(), 5)?.lost() > 1 {
            silent += 1;
            if silent == MOST_SILENT {
                return Err(Failure::new("the guests do not reach each other"));
            }
        }
        Ok(Pair { first, second, meter, _switch: switch })
    }
}

fn two(sockets: &[PathBuf]) -> Result<[PathBuf; 2]> {
    sockets.to_vec().try_into().map_err(|_| Failure::new("OVS-DPDK has no two ports"))
}
