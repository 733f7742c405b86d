//! A machine with an IOMMU, and network cards behind it: what hands a card to an ordinary user, and what that user does
//! with it, runs inside.
//!
//! QEMU emulates all of it, so a test needs neither hardware nor rights: an Intel 82576 (`igb`) with virtual functions,
//! and cards whose registers another process has (vfio-user). The kernel and its modules are the guests'. Programs of
//! ours run inside with the libraries of this machine. QEMU is killed when the [`Machine`] is dropped.

mod dpdk;
mod initramfs;
mod modules;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

pub use dpdk::Testpmd;
use initramfs::Initramfs;
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};
use crate::vm::{Agent, Job, Output, Qmp, qemu};

/// How a machine is built.
#[derive(Debug, Clone, Default)]
pub struct Config {
    modules: Vec<&'static str>,
    programs: Vec<PathBuf>,
    debian: Vec<&'static str>,
    plugins: Vec<String>,
    files: Vec<(PathBuf, &'static str)>,
    cards: Vec<Card>,
    without_iommu: bool,
}

#[derive(Debug, Clone)]
enum Card {
    Igb,
    Virtio,
    VfioUser(PathBuf),
}

impl Card {
    fn device(&self) -> &'static str {
        match self {
            Card::Igb => "igb",
            Card::Virtio => "virtio-net-pci",
            Card::VfioUser(_) => "vfio-user-pci",
        }
    }
}

/// What hands a device to a process.
const VFIO: [&str; 2] = ["vfio_iommu_type1", "vfio_pci"];

/// With what DPDK wants, and without what costs an emulator time.
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";
const MEMORY: &str = "1024M";
/// A machine boots in about 4 s if nothing else runs.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(30);

/// As for guests (`vm.rs`), and with the IOMMU in use.
const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check mitigations=off intel_iommu=on";

/// What a kernel says of a card or a driver that does wrong.
const TROUBLE: [&str; 7] =
    ["handling fault", "[DMA ", "Hang", "NETDEV WATCHDOG", "Call Trace", "WARNING: CPU", "Adapter removed"];

impl Config {
    /// A driver, loaded at boot with all that it needs. Those of VFIO are loaded always.
    pub fn module(mut self, name: &'static str) -> Config {
        self.modules.push(name);
        self
    }

    /// A program of this machine, found by its name inside.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Config {
        self.programs.push(path.into());
        self
    }

    /// A program of bookworm by its path in the tree, found by its name inside.
    pub fn debian(mut self, path: &'static str) -> Config {
        self.debian.push(path);
        self
    }

    /// A library that a program of bookworm loads from `/debian/lib`, by its path in the tree.
    pub fn debian_plugin(mut self, path: String) -> Config {
        self.plugins.push(path);
        self
    }

    /// A file of this machine and where it is inside. Anybody may execute it.
    pub fn file(mut self, path: impl Into<PathBuf>, inside: &'static str) -> Config {
        self.files.push((path.into(), inside));
        self
    }

    /// An Intel 82576 with virtual functions: the next card. The test has the other end of its wire, see
    /// [`Machine::wire`].
    pub fn igb(mut self) -> Config {
        self.cards.push(Card::Igb);
        self
    }

    /// A virtio card, which is not behind the IOMMU: the next card, a peer for others. As for [`Config::igb`], the test
    /// has its wire.
    pub fn virtio(mut self) -> Config {
        self.modules.push("virtio_pci");
        self.modules.push("virtio_net");
        self.cards.push(Card::Virtio);
        self
    }

    /// A card whose registers the process behind this socket has: the next card.
    pub fn vfio_user(mut self, socket: &Path) -> Config {
        self.cards.push(Card::VfioUser(socket.to_owned()));
        self
    }

    /// No IOMMU: no device can be handed to anybody.
    pub fn without_iommu(mut self) -> Config {
        self.without_iommu = true;
        self
    }

    /// Starts QEMU and waits until the machine has booted.
    pub fn boot(self) -> Result<Machine> {
        let scratch = tempfile::Builder::new().prefix("sv3-machine-").tempdir()?;
        fs::write(scratch.path().join("initrd"), self.initramfs()?)?;
        let mut wires = Vec::new();
        for (number, card) in self.cards.iter().enumerate() {
            wires.push(match card {
                Card::Igb | Card::Virtio => Some(UnixListener::bind(wire(scratch.path(), number))?),
                Card::VfioUser(_) => None,
            });
        }
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = self.command(scratch.path())?;
        command
            .stdin(OwnedFd::from(theirs.try_clone()?))
            .stdout(OwnedFd::from(theirs))
            .stderr(fs::File::create(scratch.path().join("stderr"))?);
        let qemu = command.spawn()?;
        // Behind `command`, whose copies of the line would hide QEMU's end.
        drop(command);
        let mut machine = Machine { qemu, agent: Agent::new(ours), wires, scratch };
        machine.agent.ready(BOOT_PATIENCE).map_err(|failure| machine.explain("boot", &failure))?;
        Ok(machine)
    }

    fn initramfs(&self) -> Result<Vec<u8>> {
        let tree = image::tree(Suite::Bookworm)?;
        let mut all = Initramfs::default();
        all.file("/init", include_bytes!("../../scripts/guest/init"));
        all.file("/configure", include_bytes!("machine/configure"));
        all.file("/bin/as_user", include_bytes!("machine/as_user"));
        all.file("/bin/busybox", &fs::read(tree.join("usr/bin/busybox"))?);
        let names: Vec<&str> = VFIO.iter().chain(&self.modules).copied().collect();
        let mut order = String::new();
        for module in modules::in_order(&tree.join("lib/modules"), &names)? {
            let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.file(&format!("/modules/{name}.ko"), &fs::read(&module)?);
            order += &format!("{name}\n");
        }
        all.file("/modules/order", order.as_bytes());
        for program in &self.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            all.program(&format!("/bin/{name}"), program)?;
        }
        for (path, inside) in &self.files {
            all.file(inside, &fs::read(path)?);
        }
        self.debian.iter().try_for_each(|program| all.debian(program))?;
        self.plugins.iter().try_for_each(|plugin| all.debian_plugin(plugin))?;
        Ok(all.finish())
    }

    fn command(&self, scratch: &Path) -> Result<Command> {
        let mut command = qemu(Suite::Sid)?;
        command.args(["-machine", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", PROCESSOR, "-m", MEMORY]);
        command.arg("-object").arg(format!("memory-backend-memfd,id=ram,size={MEMORY},share=on"));
        if !self.without_iommu {
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        for (number, card) in self.cards.iter().enumerate() {
            // Ports in the order of their places, so that bus N + 1 has card N.
            command.arg("-device").arg(format!("pcie-root-port,id=port{number},chassis={number},addr={}", number + 1));
            match card {
                Card::Igb | Card::Virtio => {
                    let (wire, name) = (wire(scratch, number), card.device());
                    let netdev =
                        format!("stream,id=net{number},server=off,addr.type=unix,addr.path={}", wire.display());
                    let device = format!("{name},id=card{number},bus=port{number},netdev=net{number},romfile=");
                    let mac = Machine::address(number).map(|octet| format!("{octet:02x}")).join(":");
                    command.arg("-netdev").arg(netdev).arg("-device").arg(format!("{device},mac={mac}"));
                }
                Card::VfioUser(socket) => {
                    let device = serde_json::json!({
                        "driver": card.device(), "id": format!("card{number}"), "bus": format!("port{number}"),
                        "rombar": 0, "socket": { "type": "unix", "path": socket },
                    });
                    command.arg("-device").arg(device.to_string());
                }
            }
        }
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", scratch.join("qmp").display()));
        command.arg("-serial").arg(format!("file:{}", scratch.join("console").display())).args(["-serial", "stdio"]);
        command.arg("-kernel").arg(image::kernel()?.0).arg("-initrd").arg(scratch.join("initrd"));
        command.args(["-append", KERNEL_COMMAND_LINE]);
        Ok(command)
    }
}

fn wire(scratch: &Path, number: usize) -> PathBuf {
    scratch.join(format!("wire{number}"))
}

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
