//! Builds `sv3 status` from the clients' devices and the ledger.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use sv3::attachment::Transport;
use sv3::card::Statistic;
use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::ledger::{Ledger, PauseCounters, PortCounters};
use sv3::status::*;
use sv3::virtio::{VIRTIO_F_RING_PACKED, feature_names};

use crate::clients::class::ClientClass;
use crate::clients::client::Client;
use crate::ports::admission::{Memory, present};
use crate::ports::card::CardPort;
use crate::ports::device::Device;
use crate::ports::files::FilePort;
use crate::ports::kernel::{Kernel, seal_names};
use crate::ports::port::DOWN;
use crate::ports::ring::Ring;

/// The hint for a client that has rings and no memory.
pub const NO_MEMORY: &str = "it has rings but no memory: start QEMU with a shared memory backend, such as \
    -object memory-backend-memfd,id=m,size=512M,share=on -machine memory-backend=m";

/// The hint for a client whose rings wait for a log.
const NO_LOG: &str = "its rings wait: the client has acknowledged VHOST_F_LOG_ALL, which says that its guest migrates, and \
    has not sent SET_LOG_BASE. It must send a log, or take VHOST_F_LOG_ALL back by SET_FEATURES";

/// The status of one port.
pub fn port(client: &Client, ledger: &Ledger) -> Option<PortStatus> {
    let device = client.device();
    let counters = ledger.ports.get(usize::from(device.port.slot))?;
    Some(PortStatus {
        name: device.port.to_string(),
        files: None,
        card: None,
        slot: device.port.slot,
        client_pid: client.id.pid,
        client_uid: client.uid,
        link: if client.quarantine.is_some() { Link::Down } else { link(device) },
        features: feature_names(device.features),
        quarantine_s: client.quarantine.map(seconds_until),
        standby_lacks: None,
        quarantine_why: client.quarantine.map(|_| quarantine_why(client.suspect)),
        migrating: device.is_migrating(),
        protocol_features: client.session.protocol_feature_names(),
        hint: device.lacks_memory().then_some(NO_MEMORY).or(device.lacks_log().then_some(NO_LOG)).map(str::to_string),
        mtu: client.session.mtu(),
        rings: rings(device, counters),
        memory: device.memory.iter().map(region).collect(),
        memory_use: memory_use(device),
        from_guest: traffic(&counters.from_guest_frames, &counters.from_guest_bytes),
        to_guest: traffic(&counters.to_guest_frames, &counters.to_guest_bytes),
        drops: drops(counters),
        calls: counters.calls.load(Relaxed),
        kicks: counters.kicks.load(Relaxed),
        paused: pauses(&counters.paused),
        paused_others: pauses(&counters.paused_others),
        moves: counters.moves.load(Relaxed),
    })
}

/// The status of a port of open files.
pub fn files(port: &FilePort, ledger: &Ledger) -> Option<PortStatus> {
    let mtu = (port.attachment.transport != Transport::Tap).then_some(port.attachment.mtu.into());
    Some(PortStatus {
        files: Some(port.status()),
        link: if port.runs() { Link::Up } else { Link::Down },
        quarantine_s: port.quarantine.map(seconds_until),
        quarantine_why: port.quarantine.map(|_| quarantine_why(port.suspect)),
        hint: hint(port),
        mtu,
        ..attached(port.name(), port.slot, port.owner, ledger)?
    })
}

/// The status of a port of a network card.
pub fn card(port: &CardPort, ledger: &Ledger) -> Option<PortStatus> {
    let counters = ledger.ports.get(usize::from(port.slot))?;
    let name = port.name();
    let down = (!port.terms.up).then(|| DOWN.to_string());
    let link = match (port.runs(), port.link) {
        (true, Some(speed)) if speed > 0 => Link::Up,
        (true, None) => Link::Starting,
        _ => Link::Down,
    };
    let why = port.stopped.as_ref().or(down.as_ref());
    let hint = why.map(|why| match port.is_empty() {
        _ if port.stopped.is_none() => format!("{why}; `sv3 port up {name}` puts it into service"),
        true => format!("{why}; attach it again (`sv3 attach nic`), or detach it (`sv3 detach {name}`)"),
        false => format!("{why}; `sv3 port release {name}` starts it again"),
    });
    let mac = counters.card.mac.load(Relaxed);
    let statistics = Statistic::ALL.iter().zip(&counters.card.statistics);
    let card = CardStatus {
        address: port.attachment.address.clone(),
        model: port.model().map(str::to_string),
        mac: (mac != 0).then(|| MacAddr::from_bits(mac).to_string()),
        queues: port.attachment.pairs,
        zero_copy: port.attachment.zero_copy,
        speed_mbit: port.link,
        stopped: port.stopped.clone().or(down),
        statistics: statistics.map(|((_, name), count)| (name.to_string(), count.load(Relaxed))).collect(),
    };
    Some(PortStatus {
        card: Some(card),
        link,
        hint,
        mtu: Some(port.attachment.mtu.into()),
        ..attached(name, port.slot, port.owner, ledger)?
    })
}

/// What all ports have that were attached: counters, and no vrings.
fn attached(name: &str, slot: u16, (client_pid, client_uid): (i32, u32), ledger: &Ledger) -> Option<PortStatus> {
    let counters = ledger.ports.get(usize::from(slot))?;
    Some(PortStatus {
        name: name.to_string(),
        files: None,
        card: None,
        slot,
        client_pid,
        client_uid,
        link: Link::Down,
        features: Vec::new(),
        quarantine_s: None,
        standby_lacks: None,
        quarantine_why: None,
        migrating: false,
        protocol_features: Vec::new(),
        hint: None,
        mtu: None,
        rings: Vec::new(),
        memory: Vec::new(),
        memory_use: MemoryUse::default(),
        from_guest: traffic(&counters.from_guest_frames, &counters.from_guest_bytes),
        to_guest: traffic(&counters.to_guest_frames, &counters.to_guest_bytes),
        drops: drops(counters),
        calls: counters.calls.load(Relaxed),
        kicks: counters.kicks.load(Relaxed),
        paused: pauses(&counters.paused),
        paused_others: pauses(&counters.paused_others),
        moves: counters.moves.load(Relaxed),
    })
}

/// What is to be done about a port of open files that does not run, or not wholly.
fn hint(port: &FilePort) -> Option<String> {
    let name = port.name();
    match &port.stopped {
        None if !port.terms.up => Some(format!("{DOWN}; `sv3 port up {name}` puts it into service")),
        Some(_) if port.is_empty() => {
            Some(format!("attach it again with new files, or detach it (`sv3 detach {name}`)"))
        }
        Some(why) => Some(format!("{why}; `sv3 port release {name}` starts it again")),
        None => port.conflict.clone(),
    }
}

fn seconds_until(until: Instant) -> u64 {
    until.saturating_duration_since(Instant::now()).as_secs()
}

fn quarantine_why(suspect: Option<ClientClass>) -> String {
    match suspect {
        Some(class) => format!("{class} caused deaths of workers; {}", class.remedy()),
        None => "it caused deaths of workers".to_string(),
    }
}

fn pauses(counters: &PauseCounters) -> Pauses {
    Pauses { times: counters.times.load(Relaxed), us: counters.ns.load(Relaxed) / 1000 }
}

fn link(device: &Device) -> Link {
    let passes = |ring: &Ring| ring.started && ring.fault.is_none() && device.is_enabled(ring);
    let up = |parity: u16| device.rings().any(|(index, ring)| index % 2 == parity && passes(ring));
    match (up(0) && up(1), device.ever_started) {
        (true, _) => Link::Up,
        (false, true) => Link::Down,
        (false, false) => Link::Starting,
    }
}

fn rings(device: &Device, counters: &PortCounters) -> Vec<RingStatus> {
    let known = device.rings().filter(|(_, ring)| ring.size.is_some());
    known
        .map(|(index, ring)| RingStatus {
            index,
            kind: if VIRTIO_F_RING_PACKED.of(device.features) { "packed" } else { "split" }.to_string(),
            size: ring.size.unwrap_or(0),
            started: ring.started && ring.fault.is_none(),
            enabled: device.is_enabled(ring),
            fault: ring.fault.map(|fault| fault.words().to_string()),
            used: counters.rings.get(usize::from(index)).map_or(0, |counters| counters.used.load(Relaxed) & 0xffff),
        })
        .collect()
}

fn region(memory: &Memory) -> RegionStatus {
    RegionStatus {
        guest_addr: memory.region.guest_addr,
        size: memory.region.size,
        offset: memory.region.offset,
        file_size: memory.file_size,
        seals: seal_names(memory.seals),
    }
}

fn memory_use(device: &Device) -> MemoryUse {
    let (present, present_before) = present(&device.memory, &Kernel);
    let mapped = device.memory.iter().fold(0, |sum: u64, memory| sum.saturating_add(memory.region.size));
    MemoryUse { mapped, present, present_before, leaving_regions: device.pending_unmaps.own() }
}

fn traffic(frames: &AtomicU64, bytes: &AtomicU64) -> Traffic {
    Traffic { frames: frames.load(Relaxed), bytes: bytes.load(Relaxed) }
}

fn drops(counters: &PortCounters) -> BTreeMap<String, u64> {
    let counters = DropReason::ALL.iter().zip(&counters.drops);
    let counts = counters.map(|(reason, counter)| (reason.name().to_string(), counter.load(Relaxed)));
    counts.filter(|(_, count)| *count > 0).collect()
}
