//! A network namespace.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};
use crate::switch::USER;
use crate::vm::Ping;

/// A network of its own: a kernel's interfaces, addresses and sockets. It ends when this, every process in it and every
/// socket of it are gone.
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// An empty network in which the loopback is up. It has no IPv6, whose discovery sends frames of its own.
    pub fn new() -> Result<Namespace> {
        let handle = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Failure::new(format!("a network namespace: {errno}; run this as root")))?;
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
            }
            Ok(File::open("/proc/thread-self/ns/net")?)
        })?;
        let namespace = Namespace { handle };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name for programs, while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }

    /// Does something in the network. Files and sockets that it opens stay in it.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
            act()
        })
    }

    /// A program that runs in the network.
    pub fn command(&self, program: &str) -> Command {
        self.enclose(&Command::new(program))
    }

    /// The same command, in the network. Its standard input is empty.
    pub fn enclose(&self, command: &Command) -> Command {
        let mut all = Command::new("nsenter");
        all.arg(format!("--net={}", self.path())).arg("--").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => all.env(key, value),
                None => all.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            all.current_dir(folder);
        }
        all.stdin(Stdio::null());
        all
    }

    /// Runs `ip` with these words, which must succeed; what it printed.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run("ip", words)
    }

    /// Runs a program with these words, which must succeed; what it printed.
    pub fn run(&self, program: &str, words: &str) -> Result<String> {
        let output = self.command(program).args(words.split_whitespace()).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                Err(Failure::new(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
            }
        }
    }

    /// Pings an address so many times, ten times a second.
    pub fn ping(&self, address: &str, count: u32) -> Result<Ping> {
        let busybox = image::tree(Suite::Bookworm)?.join("bin/busybox");
        let mut command = self.command(&busybox.display().to_string());
        let output = command.args(["ping", "-i", "0.1", "-W", "2", "-c", &count.to_string(), address]).output()?;
        Ping::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Makes a tap that the user of the switch owns, with an Ethernet address and an IPv4 address (`10.9.0.1/24`), and
    /// sets it up. `more`: `multi_queue` or nothing.
    pub fn make_tap(&self, name: &str, mac: &str, address: &str, more: &str) -> Result<()> {
        self.ip(&format!("tuntap add dev {name} mode tap user {USER} vnet_hdr {more}"))?;
        self.ip(&format!("link set dev {name} address {mac}"))?;
        if !address.is_empty() {
            self.ip(&format!("address add {address} dev {name}"))?;
        }
        self.ip(&format!("link set dev {name} up")).map(drop)
    }

    /// Lays a cable to another network: an interface of this name on either side, both up.
    pub fn cable(&self, name: &str, other: &Namespace) -> Result<()> {
        self.ip(&format!("link add {name} type veth peer name {name} netns {}", other.path()))?;
        self.ip(&format!("link set {name} up"))?;
        other.ip(&format!("link set {name} up")).map(drop)
    }

    /// What an interface has counted so far: `rx_bytes`, `rx_packets`, `rx_dropped`, `tx_bytes`, `tx_packets` or
    /// `tx_dropped`.
    pub fn figure(&self, interface: &str, name: &str) -> Result<u64> {
        const COLUMNS: [(&str, usize); 6] = [
            ("rx_bytes", 0),
            ("rx_packets", 1),
            ("rx_dropped", 3),
            ("tx_bytes", 8),
            ("tx_packets", 9),
            ("tx_dropped", 11),
        ];
        let text = self.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let column = COLUMNS.iter().find(|(known, _)| *known == name).map(|(_, column)| *column);
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let value = line.zip(column).and_then(|(line, column)| line.split_whitespace().nth(column)?.parse().ok());
        value.ok_or_else(|| Failure::new(format!("{interface} shows no {name}: {text}")))
    }

    /// Whether an interface has its carrier, and how often that came or went.
    pub fn carrier(&self, interface: &str) -> Result<(bool, u64)> {
        let text = self.ip(&format!("-json -s -s link show {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let missing = || Failure::new(format!("{interface} shows no carrier: {text}"));
        let link = links.get(0).ok_or_else(missing)?;
        let flags = link["flags"].as_array().ok_or_else(missing)?;
        let changes = link["stats64"]["tx"]["carrier_changes"].as_u64().ok_or_else(missing)?;
        Ok((!flags.iter().any(|flag| flag == "NO-CARRIER"), changes))
    }
}

/// A thread for what changes the network of a thread.
fn on_a_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let panicked = || Err(Failure::new("a thread in a network namespace panicked"));
    std::thread::scope(|scope| scope.spawn(act).join().unwrap_or_else(|_| panicked()))
}
