//! What a guest's machine has beside its network card, and what happens to it while it runs: memory that comes and
//! goes, sleep, a cable that is pulled, a card that is taken out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{BOOT_PATIENCE, Config, PATIENCE, Vm};
use crate::failure::{Failure, Result};

/// Beside processors, memory and network card.
#[derive(Debug, Clone)]
pub(super) struct Hardware {
    /// Properties of the machine, each behind a comma.
    pub(super) machine: String,
    /// The kind of the memory's back-end, and its properties beyond those that it has always.
    pub(super) memory: String,
    /// More arguments of QEMU.
    pub(super) arguments: Vec<String>,
    pub(super) compressed_kernel: bool,
    /// With slots for memory: all memory at most.
    pub(super) maximal_memory_gib: u32,
}

impl Default for Hardware {
    fn default() -> Hardware {
        let (machine, memory) = (String::new(), "memfd".to_string());
        Hardware { machine, memory, arguments: Vec::new(), compressed_kernel: false, maximal_memory_gib: 4 }
    }
}

/// Where a card is that can be taken out.
const SLOT: &str = "pcie-root-port,id=port1,chassis=1,slot=1";

impl Config {
    /// Arguments of QEMU beyond those that it has always.
    pub fn arguments(mut self, arguments: &[&str]) -> Config {
        self.hardware.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// More properties of the machine, such as `aux-ram-share=on`.
    pub fn machine_with(mut self, properties: &str) -> Config {
        self.hardware.machine += &format!(",{properties}");
        self
    }

    /// Another back-end of the memory, such as `memfd,hugetlb=on`.
    pub fn memory_backend(mut self, kind: &str) -> Config {
        self.hardware.memory = kind.to_string();
        self
    }

    /// Debian's kernel as it is, which wakes up from S3.
    pub fn compressed_kernel(mut self) -> Config {
        self.hardware.compressed_kernel = true;
        self
    }

    /// With slots for memory, or virtio-mem: how much memory the guest has at most, 4 GiB by default.
    pub fn maximal_memory_gib(mut self, gibibytes: u32) -> Config {
        self.hardware.maximal_memory_gib = gibibytes;
        self
    }

    /// The network card can be taken out, see [`Vm::take_card_out`].
    pub fn removable_card(self) -> Config {
        self.arguments(&["-device", SLOT]).device("bus=port1")
    }

    /// A virtio-mem device `id` of so many MiB, of which the guest has none at first; `properties` are those of its
    /// memory.
    pub fn virtio_mem(self, id: &str, mebibytes: u32, properties: &str) -> Config {
        let memory = format!("memory-backend-{properties},id={id}-memory,size={mebibytes}M,share=on");
        let device = format!("virtio-mem-pci,id={id},memdev={id}-memory,requested-size=0,block-size=2M");
        self.arguments(&["-object", &memory, "-device", &device]).module("virtio_mem")
    }

    /// A balloon that reports free pages too.
    pub fn balloon(self) -> Config {
        self.arguments(&["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on"]).module("virtio_balloon")
    }
}

/// Memory.
impl Vm {
    /// Plugs memory into one of the free slots.
    pub fn plug_memory(&mut self, id: &str, mebibytes: u32) -> Result<()> {
        let mut qmp = self.qmp()?;
        let bytes = u64::from(mebibytes) << 20;
        let backend = json!({"qom-type": "memory-backend-memfd", "id": id, "size": bytes, "share": true});
        qmp.execute("object-add", backend)?;
        qmp.execute("device_add", json!({"driver": "pc-dimm", "id": format!("{id}-slot"), "memdev": id})).map(drop)
    }

    /// Takes plugged memory out again. The guest must agree, which it does if nothing that cannot move lies there.
    pub fn unplug_memory(&mut self, id: &str) -> Result<()> {
        self.take_out(&format!("{id}-slot"))?;
        self.qmp()?.execute("object-del", json!({"id": id})).map(drop)
    }

    /// The guest's memory in KiB, as its kernel tells it.
    pub fn total_memory(&mut self) -> Result<u64> {
        Ok(self.sh("awk '/^MemTotal/ { print $2 }' /proc/meminfo")?.trim().parse()?)
    }

    /// Has a virtio-mem device give the guest so many MiB, and waits until it has no more than these, or as many.
    pub fn resize_memory(&mut self, id: &str, mebibytes: u64) -> Result<()> {
        let (path, wanted) = (format!("/machine/peripheral/{id}"), mebibytes << 20);
        let size = |property: &str| json!({"path": path, "property": property});
        let before = self.qmp()?.execute("qom-get", size("size"))?.as_u64().unwrap_or_default();
        let mut change = size("requested-size");
        change["value"] = wanted.into();
        self.qmp()?.execute("qom-set", change)?;
        let done = |now: u64| if before < wanted { now >= wanted } else { now <= wanted };
        self.await_monitor("the memory's size", "qom-get", size("size"), |now| done(now.as_u64().unwrap_or_default()))
    }

    /// Has the balloon take so many MiB from the guest, and waits until it has. How many octets the guest had.
    pub fn inflate_balloon(&mut self, mebibytes: u64) -> Result<u64> {
        let before = self.qmp()?.execute("query-balloon", json!({}))?["actual"].as_u64().unwrap_or_default();
        self.set_balloon(before.saturating_sub(mebibytes << 20))?;
        Ok(before)
    }

    /// Has the balloon leave the guest so many octets, and waits until it does.
    pub fn set_balloon(&mut self, octets: u64) -> Result<()> {
        self.qmp()?.execute("balloon", json!({ "value": octets }))?;
        self.await_monitor("the balloon", "query-balloon", json!({}), |now| now["actual"] == octets)
    }
}

/// Power, cable and card.
impl Vm {
    /// Resets the machine, as a button does, and waits until the guest has booted.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp()?.execute("system_reset", json!({}))?;
        self.agent.ready(BOOT_PATIENCE).map_err(|failure| self.explain("reset", &failure))
    }

    /// The guest falls asleep (S3). It says nothing on its line any more, not when it is awake again either.
    pub fn fall_asleep(&mut self) -> Result<()> {
        self.agent.send("echo mem >/sys/power/state", PATIENCE)?;
        self.await_monitor("sleep", "query-status", json!({}), |now| now["status"] == "suspended")
    }

    /// Wakes the guest up.
    pub fn wake_up(&mut self) -> Result<()> {
        self.qmp()?.execute("system_wakeup", json!({}))?;
        self.await_monitor("the guest", "query-status", json!({}), |now| now["status"] == "running")
    }

    /// The guest writes its memory to its disk and turns its machine off (S4); waits until QEMU has ended.
    pub fn hibernate(&mut self) -> Result<()> {
        self.agent.send("echo disk >/sys/power/state", PATIENCE)?;
        let deadline = Instant::now() + BOOT_PATIENCE;
        while self.qemu.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(self.explain("hibernate", &Failure::new("QEMU goes on")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A guest that has booted goes on from where it hibernated, on this disk. As before, it says nothing then.
    pub fn resume_from(&mut self, disk: &str) -> Result<()> {
        self.agent.send(&format!("cat /sys/block/{disk}/dev >/sys/power/resume"), PATIENCE).map(drop)
    }

    /// Pulls the cable, or puts it in.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.qmp()?.execute("set_link", json!({"name": "nic", "up": up}))?;
        let state = u8::from(up);
        self.sh(&format!("until [ $(cat /sys/class/net/eth0/carrier) = {state} ]; do usleep 20000; done")).map(drop)
    }

    /// Takes the card of [`Config::removable_card`] out.
    pub fn take_card_out(&mut self) -> Result<()> {
        self.take_out("nic")
    }

    /// Puts it in again, and gives it its addresses.
    pub fn put_card_in(&mut self) -> Result<()> {
        let mac = format!("52:54:00:00:00:{:02x}", self.number);
        let card = json!({
            "driver": "virtio-net-pci", "id": "nic", "netdev": "net", "romfile": "", "bus": "port1", "mac": mac,
        });
        self.qmp()?.execute("device_add", card)?;
        let number = self.number;
        self.sh(&format!("until [ -e /sys/class/net/eth0 ]; do usleep 20000; done; /configure {number}")).map(drop)
    }

    fn take_out(&mut self, id: &str) -> Result<()> {
        self.qmp()?.execute("device_del", json!({ "id": id }))?;
        let all = json!({"path": "/machine/peripheral"});
        self.await_monitor(&format!("the end of {id}"), "qom-list", all, |now| {
            now.as_array().into_iter().flatten().all(|device| device["name"] != id)
        })
    }

    fn await_monitor(
        &mut self,
        what: &str,
        command: &str,
        arguments: Value,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<()> {
        let mut qmp = self.qmp()?;
        let deadline = Instant::now() + BOOT_PATIENCE;
        loop {
            let now = qmp.execute(command, arguments.clone())?;
            if wanted(&now) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.explain(what, &Failure::new(now.to_string())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
