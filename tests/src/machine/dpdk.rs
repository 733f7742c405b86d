//! DPDK of bookworm in a machine: its testpmd answers pings through a card that is bound to vfio-pci.

use std::time::Duration;

use super::{Config, Machine};
use crate::failure::{Failure, Result};

/// What testpmd loads for any card of PCI.
const PLUGINS: [&str; 2] = ["librte_bus_pci.so.23", "librte_mempool_ring.so.23"];

/// Long enough for its start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Config {
    /// testpmd with a driver, such as `librte_net_ixgbe.so.23`.
    pub fn testpmd(self, driver: &'static str) -> Config {
        let all = PLUGINS.iter().chain([&driver]);
        let config = self.debian("usr/bin/dpdk-testpmd");
        all.fold(config, |config, name| config.debian_plugin(format!("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/{name}")))
    }
}

impl Machine {
    /// Binds a card to vfio-pci, and has testpmd answer ARP and pings through it, whatever they ask for. It runs until
    /// the machine ends. `options` are more options of testpmd.
    pub fn start_testpmd(&mut self, number: usize, driver: &str, options: &str) -> Result<Testpmd> {
        self.start_testpmd_in("--no-huge --no-shconf", (number, driver), options)
    }

    /// The same, where the card has the memory's physical addresses: it is not behind the IOMMU.
    pub fn start_testpmd_past_iommu(&mut self, number: usize, driver: &str, options: &str) -> Result<Testpmd> {
        self.sh("echo 80 >/proc/sys/vm/nr_hugepages && mkdir -p /huge && mount -t hugetlbfs none /huge")?;
        self.start_testpmd_in("--in-memory --iova-mode=pa", (number, driver), options)
    }

    fn start_testpmd_in(&mut self, memory: &str, (number, driver): (usize, &str), options: &str) -> Result<Testpmd> {
        let address = Machine::card(number);
        self.bind_to_vfio(&address)?;
        let plugins = PLUGINS.iter().chain([&driver]).map(|name| format!("-d /debian/lib/{name}"));
        let plugins: Vec<String> = plugins.collect();
        // One processor does both of its threads. It ends with its input.
        let environment = format!("--lcores=0@0,1@0 {memory} -m 128 --no-telemetry");
        let mode = "--forward-mode=icmpecho --auto-start --total-num-mbufs=4096";
        let output = format!("/tmp/testpmd{number}");
        let command = format!(
            "tail -f /dev/null | dpdk-testpmd {environment} -a {address} {} -- {mode} {options} >{output} 2>&1",
            plugins.join(" ")
        );
        self.start(&command)?;
        Ok(Testpmd { output })
    }
}

/// A running testpmd.
pub struct Testpmd {
    output: String,
}

impl Testpmd {
    /// Waits until it answers a ping, by a command that succeeds then. It says little about its start, as it writes to a
    /// file.
    pub fn await_answer(&self, machine: &mut Machine, ping: &str) -> Result<()> {
        let end = format!("grep -q 'exiting with code' {}", self.output);
        let output = machine.run_for(&format!("until {ping}; do {end} && exit 1; usleep 50000; done"), PATIENCE)?;
        match output.status {
            0 => Ok(()),
            _ => Err(Failure::new(format!("testpmd does not answer:\n{}", self.said(machine)?))),
        }
    }

    /// What it has printed and the kernel has got.
    pub fn said(&self, machine: &mut Machine) -> Result<String> {
        machine.sh(&format!("cat {}", self.output))
    }
}
