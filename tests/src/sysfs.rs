//! A folder that looks like a machine with network cards, for the scripts that change such machines.
//!
//! The scripts look into it in place of `/` ([`Machine::run`]). A program in it does what the kernel does with what they
//! write, as far as they can see it, and keeps a record. Programs that change or show a machine (`ip`, `chown`) are
//! replaced alike, so nobody needs root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::failure::{Failure, Result};

const KERNEL: &str = include_str!("sysfs/kernel");
const PROGRAMS: &str = include_str!("sysfs/programs/do");
const NAMES: [&str; 8] = ["chown", "stat", "id", "uname", "modprobe", "ip", "nmcli", "networkctl"];
const DEVICES: &str = "sys/bus/pci/devices";

/// The machine. As made it has an IOMMU, VFIO's modules, and no devices.
pub struct Machine {
    folder: TempDir,
}

/// What a script said and how it ended.
pub struct Said {
    /// Whether it succeeded.
    pub success: bool,
    /// Both outputs.
    pub text: String,
}

impl Machine {
    /// With root at its keyboard, and the users alice and bob.
    pub fn new() -> Result<Machine> {
        let machine = Machine { folder: tempfile::tempdir()? };
        machine.program("kernel", KERNEL)?;
        machine.program("programs/do", PROGRAMS)?;
        for name in NAMES {
            symlink("do", machine.path("programs").join(name))?;
        }
        for driver in ["igb", "igbvf", "ixgbe", "vfio-pci", "pcieport", "ahci"] {
            fs::create_dir_all(machine.path("sys/bus/pci/drivers").join(driver))?;
        }
        for folder in ["dev/vfio", "owners", "addresses", "sys/class/net", "sys/module/vfio_iommu_type1", DEVICES] {
            fs::create_dir_all(machine.path(folder))?;
        }
        // Another device's group, so that the IOMMU is on.
        fs::create_dir_all(machine.path("sys/kernel/iommu_groups/0/devices"))?;
        machine.write("proc/interrupts", "  24:  0  IR-PCI-MSI 32768-edge  PCIe PME\n")?;
        machine.process(1000, 8192)?;
        for (file, text) in [("uid", "0"), ("routes", ""), ("fails", "")] {
            machine.write(file, text)?;
        }
        Ok(machine)
    }

    /// Adds a device: its address, its class as sysfs has it, its driver or none, and its IOMMU group.
    pub fn device(&self, address: &str, class: &str, driver: &str, group: u32) -> Result<()> {
        let device = format!("{DEVICES}/{address}");
        for (file, text) in [("class", class), ("driver_override", "(null)"), ("native", driver), ("modalias", "pci:v")]
        {
            self.write(&format!("{device}/{file}"), text)?;
        }
        if !driver.is_empty() {
            self.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"))?;
        }
        let members = format!("sys/kernel/iommu_groups/{group}/devices");
        fs::create_dir_all(self.path(&members))?;
        self.link(&format!("{device}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"))?;
        self.link(&format!("{members}/{address}"), &format!("../../../../bus/pci/devices/{address}"))
    }

    /// Adds a network card with driver igb and an interface.
    pub fn card(&self, address: &str, interface: &str, group: u32) -> Result<()> {
        self.device(address, "0x020000", "igb", group)?;
        fs::create_dir_all(self.path(&format!("{DEVICES}/{address}/net/{interface}")))?;
        self.write(&format!("sys/class/net/{interface}/address"), "00:1b:21:aa:bb:cc")?;
        let device = format!("../../../bus/pci/devices/{address}");
        self.link(&format!("sys/class/net/{interface}/device"), &device)
    }

    /// Makes a card able to have virtual functions: seven.
    pub fn with_functions(&self, address: &str) -> Result<()> {
        for (file, text) in [("sriov_totalvfs", "7"), ("sriov_numvfs", "0"), ("sriov_drivers_autoprobe", "1")] {
            self.write(&format!("{DEVICES}/{address}/{file}"), text)?;
        }
        Ok(())
    }

    /// Adds a program of a user that may lock so many KiB of memory.
    pub fn process(&self, uid: u32, locked: u64) -> Result<()> {
        let octets = 1024 * locked;
        self.write(&format!("proc/{locked}/status"), &format!("Name:\tsh\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"))?;
        self.write(&format!("proc/{locked}/limits"), &format!("Max locked memory  {octets}  {octets}  bytes\n"))
    }

    /// A program has a group open, so nobody else can open it, until the socket is dropped.
    pub fn open_group(&self, group: u32) -> Result<UnixListener> {
        let node = format!("dev/vfio/{group}");
        self.remove(&node)?;
        self.write("proc/77/comm", "qemu")?;
        fs::create_dir_all(self.path("proc/77/fd"))?;
        self.link("proc/77/fd/9", &format!("/{node}"))?;
        Ok(UnixListener::bind(self.path(&node))?)
    }

    /// Makes the kernel refuse what is written to a file, or `ip` a command line.
    pub fn fail(&self, what: &str) -> Result<()> {
        self.write("fails", what)
    }

    /// Makes a file have a text and a newline.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(path, format!("{text}\n"))?)
    }

    /// The text of a file, without the last newline; nothing if there is no file.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_default().trim_end().to_string()
    }

    /// Makes a link.
    pub fn link(&self, file: &str, target: &str) -> Result<()> {
        let path = self.path(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(symlink(target, path)?)
    }

    /// Removes a file or a folder with all in it.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.path(file);
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        Ok(removed?)
    }

    /// Whether there is such a file.
    pub fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The driver of a device, or nothing.
    pub fn driver(&self, address: &str) -> Option<String> {
        let link = fs::read_link(self.path(&format!("{DEVICES}/{address}/driver"))).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The user of a group's device.
    pub fn owner(&self, group: u32) -> String {
        self.read(&format!("owners/{group}"))
    }

    /// What was done to the machine since this was called last, one act a line.
    pub fn record(&self) -> Result<String> {
        let record = self.read("record");
        self.write("record", "")?;
        Ok(record.trim_start().to_string())
    }

    /// Runs one of the project's scripts in it: `vfio-rebind --check eth0`.
    pub fn run(&self, line: &str) -> Result<Said> {
        let mut words = line.split(' ');
        let script =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts")).join(words.next().unwrap_or_default());
        let shell = std::env::var("SV3_TEST_SHELL").unwrap_or("sh".to_string());
        let path = format!("{}:{}", self.path("programs").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell_words = shell.split(' ');
        let output = Command::new(shell_words.next().unwrap_or("sh"))
            .args(shell_words)
            .arg(script)
            .args(words)
            .env("SV3_ROOT", self.folder.path())
            .env("PATH", path)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(Said { success: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn program(&self, file: &str, text: &str) -> Result<()> {
        self.write(file, text)?;
        Ok(fs::set_permissions(self.path(file), fs::Permissions::from_mode(0o755))?)
    }
}

impl Said {
    /// That it succeeded.
    pub fn ok(self) -> Result<String> {
        if self.success { Ok(self.text) } else { Err(Failure::new(format!("the script failed: {}", self.text))) }
    }

    /// That it failed and said all of this.
    pub fn refused(self, words: &[&str]) -> Result<String> {
        match words.iter().find(|word| !self.text.contains(**word)) {
            _ if self.success => Err(Failure::new(format!("the script did not fail: {}", self.text))),
            Some(word) => Err(Failure::new(format!("'{word}' is not in: {}", self.text))),
            None => Ok(self.text),
        }
    }
}
