//! How a machine is built: its programs, its modules, its cards.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::initramfs::Initramfs;
use super::{Machine, modules};
use crate::failure::Result;
use crate::image::{self, Suite};
use crate::vm::{Agent, qemu};

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
    VhostUser(PathBuf),
}

impl Card {
    fn device(&self) -> &'static str {
        match self {
            Card::Igb => "igb",
            Card::Virtio | Card::VhostUser(_) => "virtio-net-pci",
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

/// As for guests (`vm.rs`), and with the IOMMU in use.
const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check mitigations=off intel_iommu=on";

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

    /// A virtio card, which is not behind the IOMMU, at the vhost-user back-end behind this socket: the next card.
    pub fn vhost_user(mut self, socket: &Path) -> Config {
        self.cards.push(Card::VhostUser(socket.to_owned()));
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
                Card::VfioUser(_) | Card::VhostUser(_) => None,
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
        all.file("/init", include_bytes!("../../../scripts/guest/init"));
        all.file("/configure", include_bytes!("configure"));
        all.file("/bin/as_user", include_bytes!("as_user"));
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
                    let wire = wire(scratch, number);
                    let netdev =
                        format!("stream,id=net{number},server=off,addr.type=unix,addr.path={}", wire.display());
                    command.arg("-netdev").arg(netdev).arg("-device").arg(emulated(card, number));
                }
                Card::VhostUser(socket) => {
                    command.arg("-chardev").arg(format!("socket,id=switch{number},path={}", socket.display()));
                    command.arg("-netdev").arg(format!("vhost-user,id=net{number},chardev=switch{number}"));
                    command.arg("-device").arg(emulated(card, number));
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

/// A card that QEMU emulates, with what is behind it named `net` and its number.
fn emulated(card: &Card, number: usize) -> String {
    let mac = Machine::address(number).map(|octet| format!("{octet:02x}")).join(":");
    let name = card.device();
    format!("{name},id=card{number},bus=port{number},netdev=net{number},romfile=,mac={mac}")
}

fn wire(scratch: &Path, number: usize) -> PathBuf {
    scratch.join(format!("wire{number}"))
}
