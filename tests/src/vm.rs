//! A real guest: Debian's kernel under QEMU, attached to a vhost-user socket or a tap, driven by shell commands.
//!
//! QEMU uses KVM where the processor and `/dev/kvm` allow it and emulates otherwise. It is killed when the [`Vm`] is
//! dropped.

mod agent;
mod attachment;
mod hardware;
mod measure;
mod memory;
mod migration;
mod noise;
mod qmp;
mod snapshot;
mod update;

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

pub use agent::{Agent, Job, Output};
pub use attachment::Attachment;
use hardware::Hardware;
pub use measure::{Ping, Stream};
pub use migration::{Moved, Stage};
pub use qmp::Qmp;
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};
use crate::machine::initramfs::Initramfs;
use crate::machine::modules;

/// How a guest is built.
#[derive(Debug, Clone)]
pub struct Config {
    number: u8,
    qemu: Suite,
    machine: &'static str,
    device: String,
    queue_pairs: u8,
    memory_mib: u32,
    memory_slots: u8,
    awaits_guest: bool,
    has_iommu: bool,
    modules: Vec<&'static str>,
    hardware: Hardware,
}

impl Config {
    /// The network device's properties, beyond what attaching it takes, such as `mrg_rxbuf=off,csum=off`.
    pub fn device(self, properties: &str) -> Config {
        Config { device: format!(",{properties}"), ..self }
    }

    /// The release whose QEMU runs it; the newest by default.
    pub fn qemu(self, qemu: Suite) -> Config {
        Config { qemu, ..self }
    }

    /// The machine's type; the newest `q35` of its QEMU by default.
    pub fn machine(self, machine: &'static str) -> Config {
        Config { machine, ..self }
    }

    /// Queue pairs and virtual processors; one by default.
    pub fn queue_pairs(self, queue_pairs: u8) -> Config {
        Config { queue_pairs, ..self }
    }

    /// Memory in MiB, 512 by default.
    pub fn memory_mib(self, memory_mib: u32) -> Config {
        Config { memory_mib, ..self }
    }

    /// Empty slots for memory that is plugged in later, see [`Vm::plug_memory`]; none by default.
    pub fn memory_slots(self, memory_slots: u8) -> Config {
        Config { memory_slots, ..self }
    }

    /// The machine has an IOMMU, and the kernel uses it. The network device is not behind it, unless its properties say so.
    pub fn iommu(self) -> Config {
        Config { has_iommu: true, ..self }
    }

    /// A module of the kernel, loaded with all that it needs before [`Vm::booted`] returns; not again after a reboot.
    pub fn module(mut self, name: &'static str) -> Config {
        self.modules.push(name);
        self
    }

    /// Starts QEMU on the switch's socket and waits until the guest has booted.
    pub fn boot(self, socket: &Path) -> Result<Vm> {
        self.start(socket)?.booted()
    }

    /// Starts QEMU and returns at once; [`Vm::booted`] waits for the guest.
    pub fn start(self, socket: &Path) -> Result<Vm> {
        self.start_on(&Attachment::VhostUser(socket))
    }

    /// The same on any attachment.
    pub fn start_on(self, attachment: &Attachment) -> Result<Vm> {
        let scratch = tempfile::Builder::new().prefix("sv3-vm-").tempdir()?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = self.command(attachment, scratch.path())?;
        command
            .stdin(OwnedFd::from(theirs.try_clone()?))
            .stdout(OwnedFd::from(theirs))
            .stderr(fs::File::create(scratch.path().join("stderr"))?);
        let qemu = command.spawn()?;
        let (agent, words) = (Agent::new(ours), command.get_args().map(ToOwned::to_owned).collect());
        Ok(Vm { number: self.number, qemu, words, agent, scratch, has_modules: !self.modules.is_empty() })
    }

    fn command(&self, attachment: &Attachment, scratch: &Path) -> Result<Command> {
        let (kernel, initrd) = image::kernel()?;
        let initrd = if self.modules.is_empty() { initrd } else { self.with_modules(&initrd, scratch)? };
        let mut command = qemu(self.qemu)?;
        // KVM remaps interrupts only with this.
        let split = if self.has_iommu && has_kvm() { ",kernel-irqchip=split" } else { "" };
        let properties = format!("{},memory-backend=ram{split}{}", self.machine, self.hardware.machine);
        command.arg("-machine").arg(properties);
        command.args(if has_kvm() { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg", "-cpu", "qemu64"] });
        command.arg("-smp").arg(self.queue_pairs.to_string());
        command.arg("-m").arg(match self.memory_slots {
            0 => format!("{}M", self.memory_mib),
            slots => format!("{}M,slots={slots},maxmem={}G", self.memory_mib, self.hardware.maximal_memory_gib),
        });
        let (backend, mebibytes) = (&self.hardware.memory, self.memory_mib);
        command.arg("-object").arg(format!("memory-backend-{backend},id=ram,size={mebibytes}M,share=on"));
        command.args(&self.hardware.arguments);
        if self.awaits_guest {
            command.args(["-incoming", "defer"]);
        }
        if self.has_iommu {
            // Before the devices that it is for.
            command.args(["-device", "intel-iommu,intremap=on,device-iotlb=on"]);
        }
        command.args(attachment.arguments(self.qemu, self.queue_pairs));
        command.arg("-device").arg(self.network_device());
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", scratch.join("qmp").display()));
        command.arg("-serial").arg(format!("file:{}", scratch.join("console").display())).args(["-serial", "stdio"]);
        let kernel = if self.hardware.compressed_kernel { image::compressed_kernel()? } else { kernel };
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        let iommu = if self.has_iommu { " intel_iommu=on" } else { "" };
        command.arg("-append").arg(format!("{KERNEL_COMMAND_LINE} sv3.address={}{iommu}", self.number));
        Ok(command)
    }

    /// The initramfs and a second archive behind it, in which the modules are. The kernel unpacks one after the other.
    fn with_modules(&self, initrd: &Path, scratch: &Path) -> Result<PathBuf> {
        let mut more = Initramfs::default();
        let files = modules::in_order(&image::tree(Suite::Bookworm)?.join("lib/modules"), &self.modules)?;
        for (number, file) in files.iter().enumerate() {
            more.file(&format!("{MORE_MODULES}/{number:02}.ko"), &fs::read(file)?);
        }
        let mut all = fs::read(initrd)?;
        // An archive begins at a multiple of 4 octets.
        all.resize(all.len().next_multiple_of(4), 0);
        all.extend(more.finish());
        let path = scratch.join("initrd");
        fs::write(&path, all)?;
        Ok(path)
    }

    fn network_device(&self) -> String {
        // QEMU 7.2 crashes under TCG when a vhost-user device starts with MSI-X.
        let vectors = match self.qemu {
            Suite::Bookworm if !has_kvm() => ",vectors=0",
            _ if self.queue_pairs > 1 => ",mq=on",
            _ => "",
        };
        let (mac, device) = (self.number, &self.device);
        format!("virtio-net-pci,id=nic,netdev=net,romfile=,mac=52:54:00:00:00:{mac:02x}{vectors}{device}")
    }
}

/// QEMU of a release, without devices.
pub fn qemu(suite: Suite) -> Result<Command> {
    let tree = image::tree(suite)?;
    let mut command = image::program(suite, "qemu-system-x86_64")?;
    command.env("QEMU_MODULE_DIR", tree.join("usr/lib/x86_64-linux-gnu/qemu"));
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(tree.join(folder));
    }
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    Ok(command)
}

/// Hardware virtualisation works here; `/dev/kvm` alone proves nothing.
pub fn has_kvm() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split(' ').any(|flag| flag == "vmx" || flag == "svm")
        && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// The kernel's self tests would take a third of an emulated guest's boot. Its check of the timer panics on a busy
/// host, where emulated interrupts come late. Its mitigations of speculation cost an emulated processor a quarter of
/// its time, and protect nothing here.
const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 memhp_default_state=online cryptomgr.notests no_timer_check mitigations=off";

/// Where the guest has the modules of [`Config::module`].
const MORE_MODULES: &str = "/modules/more";

/// A running guest.
pub struct Vm {
    number: u8,
    qemu: Child,
    /// How QEMU was started.
    words: Vec<OsString>,
    agent: Agent,
    scratch: TempDir,
    has_modules: bool,
}

/// Default time limit of a command.
const PATIENCE: Duration = Duration::from_secs(30);
/// A guest boots in about 4 s under TCG on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

impl Vm {
    /// A guest with 512 MiB and the addresses 10.0.0.NUMBER, fd00::NUMBER, and 52:54:00:00:00:NUMBER.
    pub fn number(number: u8) -> Config {
        let (qemu, device) = (Suite::Sid, String::new());
        let (machine, awaits_guest, has_iommu, modules) = ("q35", false, false, Vec::new());
        let (queue_pairs, memory_mib, memory_slots, hardware) = (1, 512, 0, Hardware::default());
        Config {
            number,
            qemu,
            machine,
            device,
            queue_pairs,
            memory_mib,
            memory_slots,
            awaits_guest,
            has_iommu,
            modules,
            hardware,
        }
    }

    /// Waits until the guest takes commands.
    pub fn booted(mut self) -> Result<Vm> {
        self.agent.ready(BOOT_PATIENCE).map_err(|failure| self.explain("boot", &failure))?;
        if self.has_modules {
            // The network card's driver has brought some of them already.
            let load = "insmod $module 2>/tmp/said || grep -q 'File exists' /tmp/said || { cat /tmp/said; exit 1; }";
            self.sh(&format!("for module in {MORE_MODULES}/*; do {load}; done"))?;
        }
        Ok(self)
    }

    /// The guest's IPv4 address.
    pub fn address(&self) -> String {
        format!("10.0.0.{}", self.number)
    }

    /// The guest's IPv6 address.
    pub fn address6(&self) -> String {
        format!("fd00::{}", self.number)
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// The threads, by their ids, that run the guest's processors; all others of QEMU's serve its devices.
    pub fn processor_threads(&self) -> Result<Vec<u32>> {
        let processors = self.qmp()?.execute("query-cpus-fast", serde_json::json!({}))?;
        let ids = processors.as_array().into_iter().flatten().filter_map(|processor| processor["thread-id"].as_u64());
        ids.map(|id| Ok(u32::try_from(id)?)).collect()
    }

    fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.scratch.path().join("qmp"))
    }

    /// Runs a shell command, at most 30 s.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_for(command, PATIENCE)
    }

    /// Runs a shell command that is killed after `patience`.
    pub fn run_for(&mut self, command: &str, patience: Duration) -> Result<Output> {
        self.agent.run(command, patience).map_err(|failure| self.explain(command, &failure))
    }

    /// Runs a shell command that must succeed, at most 30 s; what it printed.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.run(command)?.ok().map_err(|failure| self.explain(command, &failure))
    }

    /// Starts a shell command in the background.
    pub fn start(&mut self, command: &str) -> Result<Job> {
        self.agent.start(command, PATIENCE).map_err(|failure| self.explain(command, &failure))
    }

    /// Waits until a background command has ended.
    pub fn finish(&mut self, job: Job, patience: Duration) -> Result<Output> {
        self.agent.finish(job, patience).map_err(|failure| self.explain("a background command", &failure))
    }

    /// Asks for an address by DHCP, beside those that the guest has; the address.
    pub fn lease(&mut self) -> Result<String> {
        let said = self.sh("udhcpc -i eth0 -f -n -q -t 10 -T 1 -s /lease")?;
        let lease = said.lines().find_map(|line| line.strip_prefix("lease "));
        lease.map(str::to_string).ok_or_else(|| Failure::new(format!("no lease: {said}")))
    }

    /// Starts to fetch a page `count` times, four times a second.
    pub fn start_fetching(&mut self, url: &str, count: u32) -> Result<Job> {
        self.start(&format!(
            "for i in $(seq {count}); do timeout 5 wget -q -O - {url} && echo fetched; sleep 0.25; done"
        ))
    }

    /// How often the page came, of that many times.
    pub fn finish_fetching(&mut self, job: Job, count: u32) -> Result<u32> {
        let text = self.finish(job, Duration::from_secs(u64::from(count)) + PATIENCE)?.text;
        Ok(text.matches("fetched").count() as u32)
    }

    /// Pings `count` times, ten times a second.
    pub fn ping(&mut self, address: &str, count: u32) -> Result<Ping> {
        let job = self.start_ping(address, count)?;
        self.finish_ping(job, count)
    }

    /// Starts to ping `count` times, ten times a second.
    pub fn start_ping(&mut self, address: &str, count: u32) -> Result<Job> {
        self.start(&format!("ping -i 0.1 -W 2 -c {count} {address}"))
    }

    /// What a ping of that many requests saw.
    pub fn finish_ping(&mut self, job: Job, count: u32) -> Result<Ping> {
        Ping::parse(&self.finish(job, Duration::from_millis(u64::from(count) * 100) + PATIENCE)?.text)
    }

    /// Starts an iperf3 server, which stays.
    pub fn serve_iperf3(&mut self) -> Result<()> {
        self.sh("iperf3 -s -D").map(drop)
    }

    /// A TCP stream to another guest's server, or from it with `-R` among the options.
    pub fn iperf3(&mut self, address: &str, seconds: u32, options: &str) -> Result<Stream> {
        let job = self.start_iperf3(address, seconds, options)?;
        self.finish_iperf3(job, seconds)
    }

    /// Starts a TCP stream.
    pub fn start_iperf3(&mut self, address: &str, seconds: u32, options: &str) -> Result<Job> {
        self.start(&format!("iperf3 -J -c {address} -t {seconds} {options}"))
    }

    /// What a TCP stream of that many seconds reached.
    pub fn finish_iperf3(&mut self, job: Job, seconds: u32) -> Result<Stream> {
        let text = self.finish(job, Duration::from_secs(seconds.into()) + PATIENCE)?.text;
        Stream::parse(&text).map_err(|failure| self.explain("iperf3", &failure))
    }

    /// How often eth0's carrier came or went since the driver was bound.
    pub fn carrier_changes(&mut self) -> Result<u32> {
        Ok(self.sh("cat /sys/class/net/eth0/carrier_changes")?.trim().parse()?)
    }

    /// The virtio features that driver and device agreed on, bit n as the spec numbers it.
    pub fn features(&mut self) -> Result<u64> {
        let bits = self.sh("cat /sys/class/net/eth0/device/features")?;
        Ok(bits.trim().chars().enumerate().filter(|(_, bit)| *bit == '1').fold(0, |all, (n, _)| all | 1 << n))
    }

    /// Reboots the guest and waits for it.
    pub fn reboot(&mut self) -> Result<()> {
        self.agent.send("reboot -f", PATIENCE)?;
        self.agent.ready(BOOT_PATIENCE).map_err(|failure| self.explain("reboot", &failure))
    }

    /// Takes the network driver from the device and gives it back.
    pub fn rebind_driver(&mut self) -> Result<()> {
        let driver = "/sys/bus/virtio/drivers/virtio_net";
        self.sh(&format!("cd {driver} && echo virtio0 >unbind && echo virtio0 >bind && /configure {}", self.number))
            .map(drop)
    }

    /// The processors' registers, as QEMU has them.
    fn registers(&self) -> Result<String> {
        let mut qmp = self.qmp()?;
        let line = serde_json::json!({"command-line": "info registers -a"});
        let text = qmp.execute("human-monitor-command", line)?;
        let text = text.as_str().unwrap_or_default().replace('\r', "");
        Ok(text.lines().filter(|line| line.contains("RIP") || line.contains("CPU#")).collect::<Vec<_>>().join("\n"))
    }

    /// What failed, with the last output of QEMU and the guest's kernel.
    fn explain(&self, what: &str, failure: &Failure) -> Failure {
        let said = |file: &str| {
            let text = fs::read(self.scratch.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\r', "");
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
        };
        let (number, qemu, console) = (self.number, said("stderr"), said("console"));
        // A QEMU that waits for its back-end does not answer either.
        let state = self.registers().unwrap_or_else(|failure| format!("QEMU does not answer: {failure}"));
        Failure::new(format!("guest {number}: {what}: {failure}\n-- QEMU --\n{qemu}{state}\n-- console --\n{console}"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
