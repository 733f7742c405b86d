//! `sv3 status`: the attached clients, their traffic, and dropped frames by reason.

use std::fmt::Write;

use clap::Args;
use sv3::control::ControlRequest;
use sv3::mirror::Mirror;
use sv3::status::{
    CaptureStatus, CardStatus, DeclaredPort, FilesStatus, FlapStatus, Link, MemoryUse, PortStatus, RegionStatus,
    RingStatus, Status,
};

use crate::control::Control;
use crate::output::{harmless, print};

/// Show a running switch: processes, ports, traffic, drops.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/use/status.md
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let mut answer = self.control.ask(&ControlRequest::Status)?;
        add_kernel_drops(&mut answer);
        let text = if self.json {
            serde_json::to_string_pretty(&answer).map_err(|e| e.to_string())? + "\n"
        } else {
            let status = serde_json::from_value(harmless(answer))
                .map_err(|e| format!("the switch is of another version ({e}); use --json"))?;
            table(&status)
        };
        print(&text)
    }
}

/// Adds what the kernel dropped at each tap of this network namespace.
fn add_kernel_drops(answer: &mut serde_json::Value) {
    let ports = answer.get_mut("ports").and_then(serde_json::Value::as_array_mut);
    for files in ports.into_iter().flatten().filter_map(|port| port.get_mut("files")?.as_object_mut()) {
        let Some(device) = files.get("device").and_then(|device| device.as_str()) else { continue };
        // A device's name has no slash (linux/if.h), but the answer may be of anybody.
        if device.contains('/') || device.starts_with('.') {
            continue;
        }
        let drops = std::fs::read_to_string(format!("/sys/class/net/{device}/statistics/tx_dropped"));
        if let Some(drops) = drops.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            files.insert("kernel_drops".to_string(), drops.into());
        }
    }
}

fn table(status: &Status) -> String {
    let mut out = String::new();
    let worker = &status.worker;
    let abi = |abi: u32| if abi == 0 { "no landlock".to_string() } else { format!("landlock ABI {abi}") };
    let supervisor = &status.supervisor;
    let _ = writeln!(out, "socket      {}", status.socket);
    let _ = writeln!(
        out,
        "supervisor  pid {}, up {}, {}",
        supervisor.pid,
        duration(supervisor.uptime_s),
        abi(supervisor.landlock_abi)
    );
    let worker_words = match worker.pid {
        Some(pid) => format!("pid {pid}, up {}, {}", duration(worker.uptime_s), abi(worker.landlock_abi)),
        None => "starting".to_string(),
    };
    let _ = writeln!(out, "worker      {worker_words}");
    if worker.threads > 1 {
        let _ = writeln!(out, "threads     {}", worker.threads);
    }
    if let Some(cpus) = &worker.cpus {
        let _ = writeln!(out, "processors  {cpus}, by --cpus");
    }
    let standby = worker.standby_pid.map_or("starting".to_string(), |pid| format!("pid {pid}"));
    let _ = writeln!(out, "standby     {standby}");
    let last = worker.last_death.as_ref().map_or(String::new(), |death| format!(", the last one: {death}"));
    let _ = writeln!(out, "restarts    {}{last}", worker.restarts);
    if status.ports.is_empty() {
        let _ = writeln!(out, "ports       none");
    }
    for Mirror { name, from, direction, to } in &status.mirrors {
        let _ = writeln!(out, "mirror      {name}: {} ({}) to {to}", from.join(", "), direction.word());
    }
    for CaptureStatus { pid, uid, ports, .. } in &status.captures {
        let whose = if ports.is_empty() { "all ports".to_string() } else { ports.join(", ") };
        let _ = writeln!(out, "capture     {whose}, read by pid {pid} uid {uid}");
    }
    for FlapStatus { address, vlan, ports: [from, to], moves, ago_s } in &status.flaps {
        let within = if *vlan == 0 { String::new() } else { format!(" of VLAN {vlan}") };
        let often = format!("moves between {from} and {to}, {moves} times, the last {} ago", duration(*ago_s));
        let _ = writeln!(out, "loop?       {address}{within} {often}");
    }
    for at in &status.ports {
        out.push('\n');
        port(&mut out, at);
    }
    for at in status.declared.iter().filter(|at| !at.attached) {
        out.push('\n');
        declared(&mut out, at);
    }
    out
}

/// A declared port to which nothing is attached.
fn declared(out: &mut String, port: &DeclaredPort) {
    let state = if port.up { "nothing is attached" } else { "down, and nothing is attached" };
    let _ = writeln!(out, "{}  {state}", port.name);
    if !port.description.is_empty() {
        let _ = writeln!(out, "  about       {}", port.description);
    }
    if let Some(socket) = &port.socket {
        let _ = writeln!(out, "  socket      {socket}");
    }
    if !port.up {
        let _ = writeln!(out, "  hint        `sv3 port up {}` puts it into service", port.name);
    }
}

fn port(out: &mut String, port: &PortStatus) {
    let link = match port.link {
        Link::Up => "up",
        Link::Starting => "starting",
        Link::Down => "down",
    };
    let mtu = port.mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
    let _ = writeln!(out, "{}  {link}, client pid {} uid {}{mtu}", port.name, port.client_pid, port.client_uid);
    if let Some(files) = &port.files {
        let _ = writeln!(out, "  files       {}", files_words(files));
    }
    if let Some(card) = &port.card {
        let _ = writeln!(out, "  card        {}", card_words(card));
        let counted: Vec<_> = card.statistics.iter().filter(|(_, count)| **count > 0).collect();
        for (name, count) in counted {
            let _ = writeln!(out, "    {name:<26} {count}");
        }
    }
    if let Some(seconds) = port.quarantine_s {
        let _ = writeln!(out, "  quarantine  {seconds} s more; `sv3 port release {}` ends it", port.name);
        if let Some(why) = &port.quarantine_why {
            let _ = writeln!(out, "              {why}");
        }
    }
    if port.migrating {
        let _ = writeln!(out, "  migration   its guest is on its way to somewhere else");
    }
    if let Some(why) = &port.standby_lacks {
        let _ = writeln!(out, "  standby     lacks it: {why}");
    }
    if let Some(hint) = &port.hint {
        let _ = writeln!(out, "  hint        {hint}");
    }
    if port.files.is_none() && port.card.is_none() {
        let _ = writeln!(out, "  features    {}", names(&port.features, "VIRTIO_"));
        let _ = writeln!(out, "  protocol    {}", names(&port.protocol_features, "VHOST_USER_PROTOCOL_F_"));
    }
    for ring in &port.rings {
        let _ = writeln!(out, "  ring {:<6} {}", ring.index, ring_words(ring));
    }
    for region in &port.memory {
        let _ = writeln!(out, "  memory      {}", region_words(region));
    }
    let MemoryUse { mapped, present, leaving_regions, .. } = port.memory_use;
    if !port.memory.is_empty() || leaving_regions > 0 {
        let leaving = match leaving_regions {
            0 => String::new(),
            count => format!("; {count} removed regions are being unmapped"),
        };
        let _ = writeln!(out, "  in use      {} of {} exist{leaving}", size(present), size(mapped));
    }
    let (from, to) = (port.from_guest, port.to_guest);
    let _ = writeln!(out, "  from guest  {} frames, {} bytes", from.frames, from.bytes);
    let _ = writeln!(out, "  to guest    {} frames, {} bytes", to.frames, to.bytes);
    let drops: Vec<String> = port.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    let _ = writeln!(out, "  drops       {}", if drops.is_empty() { "none".to_string() } else { drops.join(", ") });
}

fn ring_words(ring: &RingStatus) -> String {
    let way = if ring.index.is_multiple_of(2) { "receive" } else { "transmit" };
    let state = match (&ring.fault, ring.started, ring.enabled) {
        (Some(fault), ..) => format!("stopped: {fault}"),
        (None, true, true) => "runs".to_string(),
        (None, true, false) => "disabled".to_string(),
        (None, false, _) => "not started".to_string(),
    };
    format!("{way}, {} of {}, {state}", ring.kind, ring.size)
}

fn region_words(region: &RegionStatus) -> String {
    let seals = if region.seals.is_empty() { "none".to_string() } else { region.seals.join(", ") };
    format!("{} at {:#x}, file of {}, seals: {seals}", size(region.size), region.guest_addr, size(region.file_size))
}

/// Names without their common prefix, in lines of a terminal's width.
fn names(names: &[String], prefix: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for name in names {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        if column > 0 && column + name.len() > 90 {
            out.push_str("\n              ");
            column = 0;
        } else if column > 0 {
            out.push(' ');
        }
        out.push_str(name);
        column += name.len() + 1;
    }
    if out.is_empty() { "none".to_string() } else { out }
}

/// An exact size in the largest unit that divides it.
fn size(octets: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if octets >= unit && octets.is_multiple_of(unit) {
            return format!("{} {name}", octets / unit);
        }
    }
    format!("{octets} bytes")
}

/// A time in words.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn card_words(card: &CardStatus) -> String {
    let model = card.model.as_deref().unwrap_or("no card");
    let mac = card.mac.as_ref().map_or(String::new(), |mac| format!(", {mac}"));
    let queues = match card.queues {
        1 => "1 queue".to_string(),
        queues => format!("{queues} queues"),
    };
    let link = match (&card.stopped, card.speed_mbit) {
        (Some(why), _) => format!("stopped: {why}"),
        (None, None) => "starting".to_string(),
        (None, Some(0)) => "no link".to_string(),
        (None, Some(speed)) => format!("{speed} Mbit/s"),
    };
    format!("{model} at {}{mac}, {queues}; {link}", card.address)
}

fn files_words(files: &FilesStatus) -> String {
    let FilesStatus { transport, form, learning, queues, device, stopped, kernel_drops, .. } = files;
    let device = device.as_ref().map_or(String::new(), |device| format!(" {device}"));
    let queues = if *queues == 1 { "1 queue".to_string() } else { format!("{queues} queues") };
    let stopped = stopped.as_ref().map_or(String::new(), |why| format!("; stopped: {why}"));
    let drops = kernel_drops.filter(|drops| *drops > 0).map_or(String::new(), |drops| {
        format!("; the kernel dropped {drops} frames to it, because 1,000 waited for the switch")
    });
    format!("{transport}{device}, {form}, {learning}, {queues}{stopped}{drops}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> serde_json::Value {
        let document = include_str!("../../docs/use/status.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn the_document_shows_every_field_and_every_reason() {
        let status: Status = serde_json::from_value(example()).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), example());
        let document = include_str!("../../docs/use/status.md");
        for reason in sv3::drop_reason::DropReason::ALL {
            assert!(
                document.contains(&format!("| `{}` |", reason.name())),
                "docs/use/status.md has no row of the drop reason {}",
                reason.name()
            );
        }
    }

    #[test]
    fn people_see_who_is_attached_and_what_was_dropped() {
        let text = table(&serde_json::from_value(example()).unwrap());
        for shown in [
            "supervisor  pid 4711, up 24 h 0 min, landlock ABI 7",
            "threads     2",
            "processors  2-3, by --cpus",
            "standby     pid 4720",
            "restarts    1, the last one: killed by SIGBUS",
            "p0  up, client pid 5005 uid 1000, MTU 1500",
            "features    NET_F_CSUM NET_F_MRG_RXBUF F_VERSION_1",
            "ring 1      transmit, split of 256, runs",
            "memory      512 MiB at 0x0, file of 512 MiB, seals: shrink, grow, seal",
            "drops       no_rx_buffers 3",
            "loop?       52:54:00:00:00:07 of VLAN 10 moves between p0 and host, 4021 times, the last 3 s ago",
            "host  up, client pid 5100 uid 1000",
            "files       tap tap0, net-header, uplink, 1 queue; the kernel dropped 7 frames to it",
            "hint        the address 52:54:00:00:00:01 belongs to p0",
        ] {
            assert!(text.contains(shown), "{shown}\n{text}");
        }
    }

    #[test]
    fn sizes_and_times_are_exact_and_short() {
        assert_eq!(
            (size(512 << 20), size(3 << 30), size(4097)),
            ("512 MiB".into(), "3 GiB".into(), "4097 bytes".into())
        );
        assert_eq!(
            (duration(59), duration(61), duration(7260)),
            ("59 s".into(), "1 min 1 s".into(), "2 h 1 min".into())
        );
    }

    #[test]
    fn long_lists_of_names_are_wrapped() {
        let list: Vec<String> = (0..30).map(|n| format!("VIRTIO_NET_F_{n}")).collect();
        let text = names(&list, "VIRTIO_");
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.len() <= 110));
        assert!(!text.contains("VIRTIO_"));
    }
}
