//! DPDK's testpmd: two ports of an independent implementation, as clients of a switch or as a switch.
//!
//! It is driven by its own prompt on a pseudo-terminal, since on a pipe its answers come late and out of order.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};

/// How testpmd runs.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The processor that both of its threads are pinned to.
    pub core: usize,
    /// Queue pairs of each port.
    pub queue_pairs: u8,
    /// Receive buffers may be merged (`VIRTIO_NET_F_MRG_RXBUF`).
    pub mergeable: bool,
    /// Rings are packed (`VIRTIO_F_RING_PACKED`).
    pub packed: bool,
    /// Memory is of huge pages, which must be free, 256 MiB of them; else a memfd of ordinary pages.
    pub huge_pages: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { core: 1, queue_pairs: 1, mergeable: true, packed: false, huge_pages: false }
    }
}

/// Frames that a port has received and transmitted, by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Frames transmitted.
    pub transmitted: u64,
    /// Frames received in each second since the last look.
    pub received_per_second: u64,
}

/// A running testpmd with ports 0 and 1, not yet forwarding.
pub struct Testpmd {
    process: Child,
    terminal: File,
}

const PROMPT: &str = "testpmd> ";
const PATIENCE: Duration = Duration::from_secs(30);

impl Testpmd {
    /// Two clients (virtio-user) of the switch behind `sockets`, one each. Port N is 52:54:00:00:01:0N, sends to the
    /// other, and has rings of 1024 entries.
    pub fn clients(sockets: [&Path; 2], config: Config) -> Result<Testpmd> {
        let mut command = command(config)?;
        for (port, socket) in sockets.iter().enumerate() {
            let (path, queues) = (socket.display(), config.queue_pairs);
            let (mergeable, packed) = (u8::from(config.mergeable), u8::from(config.packed));
            command.arg(format!(
                "--vdev=net_virtio_user{port},path={path},mac=52:54:00:00:01:0{port},queue_size=1024,queues={queues},\
                 mrg_rxbuf={mergeable},packed_vq={packed}"
            ));
        }
        command.args(["--", "--rxd=1024", "--txd=1024"]);
        command.args(["--eth-peer=0,52:54:00:00:01:01", "--eth-peer=1,52:54:00:00:01:00"]);
        Testpmd::start(command, config)
    }

    /// A switch without a table (vhost in io mode): what one client of a pair sends the other receives.
    pub fn wire(sockets: &[PathBuf], config: Config) -> Result<Testpmd> {
        let mut command = command(config)?;
        for (port, socket) in sockets.iter().enumerate() {
            let (path, queues) = (socket.display(), config.queue_pairs);
            command.arg(format!("--vdev=net_vhost{port},iface={path},queues={queues}"));
        }
        command.arg("--");
        let mut wire = Testpmd::start(command, config)?;
        wire.command("start")?;
        Ok(wire)
    }

    /// A wire between a switch, of which it is a client (virtio-user), and a client of its own (vhost): what one sends the
    /// other receives.
    pub fn extension(switch: &Path, socket: &Path, config: Config) -> Result<Testpmd> {
        let mut command = command(config)?;
        command.arg(format!("--vdev=net_vhost0,iface={}", socket.display()));
        command.arg(format!("--vdev=net_virtio_user0,path={},queue_size=1024", switch.display()));
        command.arg("--");
        let mut wire = Testpmd::start(command, config)?;
        wire.command("start")?;
        Ok(wire)
    }

    fn start(mut command: Command, config: Config) -> Result<Testpmd> {
        let queues = config.queue_pairs;
        command.args(["-i", "--no-flush-rx", "--total-num-mbufs=16384"]);
        command.args([format!("--rxq={queues}"), format!("--txq={queues}")]);
        let terminal = nix::pty::openpty(None, None)?;
        command.stdin(Stdio::from(terminal.slave.try_clone()?));
        command.stdout(Stdio::from(terminal.slave.try_clone()?)).stderr(Stdio::from(terminal.slave));
        let process = command.spawn()?;
        // The command keeps copies of the slave, which would hide the end of testpmd.
        drop(command);
        let mut testpmd = Testpmd { process, terminal: File::from(terminal.master) };
        testpmd.until_prompt("start")?;
        Ok(testpmd)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Gives a command at the prompt; what testpmd printed until the next prompt.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.terminal.write_all(format!("{command}\n").as_bytes())?;
        self.until_prompt(command)
    }

    /// What a port has counted since it was started or `clear port stats all`.
    pub fn counters(&mut self, port: usize) -> Result<Counters> {
        let text = self.command(&format!("show port stats {port}"))?;
        let number = |label: &str| {
            let (_, rest) = text.split_once(label)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        match (number("RX-packets:"), number("TX-packets:"), number("Rx-pps:")) {
            (Some(received), Some(transmitted), Some(received_per_second)) => {
                Ok(Counters { received, transmitted, received_per_second })
            }
            _ => Err(Failure::new(format!("testpmd shows no counters: {text}"))),
        }
    }

    /// Waits until a port has received that many frames.
    pub fn await_received(&mut self, port: usize, frames: u64) -> Result<Counters> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counters = self.counters(port)?;
            if counters.received >= frames {
                return Ok(counters);
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(format!("port {port} should receive {frames} frames and has: {counters:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn until_prompt(&mut self, what: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while !said.ends_with(PROMPT.as_bytes()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            let mut chunk = [0; 4096];
            let read = match poll(&mut ready, PollTimeout::try_from(left)?)? {
                0 => Err("prints nothing more"),
                // A terminal without a process behind it is EIO, not end of file.
                _ => self.terminal.read(&mut chunk).map_err(|_| "has ended"),
            };
            match read {
                Ok(read) => said.extend(chunk.iter().take(read)),
                Err(reason) => {
                    let said = String::from_utf8_lossy(&said).replace('\r', "");
                    return Err(Failure::new(format!("testpmd: {what}: it {reason}:\n{said}")));
                }
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(config: Config) -> Result<Command> {
    let drivers = image::tree(Suite::Bookworm)?.join("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0");
    let core = config.core;
    let mut command = image::program(Suite::Bookworm, "dpdk-testpmd")?;
    command.args(["--no-pci", "--no-telemetry", "-m", "256", "-d"]).arg(drivers);
    // Thread 0 serves the prompt and sleeps while thread 1 forwards.
    command.arg(format!("--lcores=0@{core},1@{core}"));
    match config.huge_pages {
        true => command.args(["--in-memory", "--single-file-segments"]),
        false => command.args(["--no-huge", "--no-shconf"]),
    };
    Ok(command)
}
