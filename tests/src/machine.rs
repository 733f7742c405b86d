//! A machine with an IOMMU, and network cards behind it: what hands a card to an ordinary user, and what that user does
//! with it, runs inside.
//!
//! QEMU emulates all of it, so a test needs neither hardware nor rights: an Intel 82576 (`igb`) with virtual functions,
//! and cards whose registers another process has (vfio-user). The kernel and its modules are the guests'. Programs of
//! ours run inside with the libraries of this machine. QEMU is killed when the [`Machine`] is dropped.

mod config;
mod dpdk;
pub(crate) mod initramfs;
pub(crate) mod modules;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Duration;

pub use config::Config;
pub use dpdk::Testpmd;
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::vm::{Agent, Job, Output, Qmp};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a kernel says of a card or a driver that does wrong.
const TROUBLE: [&str; 7] =
    ["handling fault", "[DMA ", "Hang", "NETDEV WATCHDOG", "Call Trace", "WARNING: CPU", "Adapter removed"];

/// A running machine.
pub struct Machine {
    qemu: Child,
    agent: Agent,
    wires: Vec<Option<UnixListener>>,
    scratch: TempDir,
}

impl Machine {
    /// A machine without cards.
    pub fn config() -> Config {
        Config::default()
    }

    /// Where a card is found, counted from 0.
    pub fn card(number: usize) -> String {
        format!("0000:{:02x}:00.0", number + 1)
    }

    /// The Ethernet address of an 82576 or of a virtio card.
    pub fn address(number: usize) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 3, number as u8]
    }

    /// The other end of the wire of an 82576 or of a virtio card, on which frames are behind their lengths; once.
    pub fn wire(&mut self, number: usize) -> Result<UnixStream> {
        let none = || Failure::new(format!("the test has no wire of card {number}"));
        let listener = self.wires.get_mut(number).and_then(Option::take).ok_or_else(none)?;
        // QEMU connected before the machine booted.
        listener.set_nonblocking(true)?;
        let (wire, _) = listener.accept()?;
        wire.set_nonblocking(false)?;
        Ok(wire)
    }

    /// The name of a card's network interface.
    pub fn interface(&mut self, number: usize) -> Result<String> {
        let device = format!("/sys/bus/pci/devices/{}", Machine::card(number));
        let name = self.sh(&format!(
            "until ls {device}/net {device}/virtio*/net 2>/dev/null | grep -v :; do usleep 20000; done"
        ))?;
        Ok(name.trim().to_string())
    }

    /// Moves a network interface to a network of its own, where its address is `address` (with the length of the
    /// prefix). What is to be put in front of commands there.
    pub fn enclose(&mut self, interface: &str, address: &str) -> Result<String> {
        let pid = self.sh("unshare -n sleep 100000 >/dev/null 2>&1 & echo $!")?;
        let pid = pid.trim();
        self.sh(&format!(
            "until [ $(readlink /proc/{pid}/ns/net) != $(readlink /proc/self/ns/net) ]; do usleep 20000; done"
        ))?;
        self.sh(&format!("ip link set {interface} netns {pid}"))?;
        let inside = format!("nsenter -t {pid} -n");
        self.sh(&format!("{inside} ip link set lo up && {inside} ip link set {interface} up"))?;
        self.sh(&format!("{inside} ip address add {address} dev {interface}"))?;
        Ok(inside)
    }

    /// QEMU's monitor.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.scratch.path().join("qmp"))
    }

    /// Runs a shell command by root, at most 30 s.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_for(command, PATIENCE)
    }

    /// Runs a shell command by root that is killed after `patience`.
    pub fn run_for(&mut self, command: &str, patience: Duration) -> Result<Output> {
        self.agent.run(command, patience).map_err(|failure| self.explain(command, &failure))
    }

    /// Runs a shell command by root that must succeed, at most 30 s; what it printed.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.run(command)?.ok().map_err(|failure| self.explain(command, &failure))
    }

    /// Runs a program by uid 1000 without capabilities, which must succeed; what it printed.
    pub fn as_user(&mut self, command: &str) -> Result<String> {
        self.sh(&format!("as_user {command}"))
    }

    /// Starts a shell command by root in the background.
    pub fn start(&mut self, command: &str) -> Result<Job> {
        self.agent.start(command, PATIENCE).map_err(|failure| self.explain(command, &failure))
    }

    /// Waits until a background command has ended.
    pub fn finish(&mut self, job: Job, patience: Duration) -> Result<Output> {
        self.agent.finish(job, patience).map_err(|failure| self.explain("a background command", &failure))
    }

    /// Writes a line to a file, by root.
    pub fn write(&mut self, line: &str, path: &str) -> Result<()> {
        self.sh(&format!("echo {line} >{path}")).map(drop)
    }

    /// Takes a function from its driver, if it has one, and binds it to vfio-pci.
    pub fn bind_to_vfio(&mut self, address: &str) -> Result<()> {
        let function = format!("/sys/bus/pci/devices/{address}");
        self.sh(&format!("[ ! -e {function}/driver ] || echo {address} >{function}/driver/unbind"))?;
        self.write("vfio-pci", &format!("{function}/driver_override"))?;
        self.write(address, "/sys/bus/pci/drivers_probe")
    }

    /// Gives the IOMMU group of a function to the user whom [`Machine::as_user`] is.
    pub fn give_to_user(&mut self, address: &str) -> Result<()> {
        self.give_to(address, "user")
    }

    /// The same for any user.
    pub fn give_to(&mut self, address: &str, user: &str) -> Result<()> {
        let group = format!("$(basename $(readlink /sys/bus/pci/devices/{address}/iommu_group))");
        self.sh(&format!("chown {user} /dev/vfio/{group}")).map(drop)
    }

    /// Fails if the kernel has told of DMA where it was not allowed, of a card that hangs, or of a fault of its own.
    pub fn check_kernel(&mut self) -> Result<()> {
        let said = self.sh("dmesg")?;
        let is_bad = |line: &&str| TROUBLE.iter().any(|words| line.contains(words));
        match said.lines().filter(is_bad).collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            lines => Err(Failure::new(format!("the machine's kernel says:\n{}", lines.join("\n")))),
        }
    }

    /// What failed, with the last output of QEMU and the machine's kernel.
    fn explain(&self, what: &str, failure: &Failure) -> Failure {
        let said = |file: &str| {
            let text = fs::read(self.scratch.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\r', "");
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
        };
        let (qemu, console) = (said("stderr"), said("console"));
        Failure::new(format!("machine: {what}: {failure}\n-- QEMU --\n{qemu}\n-- console --\n{console}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
