//! The ports of a switch: who cannot be served, and why.
//!
//! A guest whose memory is not shared never attaches: QEMU says nothing, and the guest only sees that it has no carrier.
//! The supervisor sees rings without memory, which it tells as the port's hint.

use sv3::status::{Link, PortStatus, Status};

use crate::doctor::finding::{Cost, Finding};
use crate::doctor::machine::Machine;

/// Frames of others may wait for a receiver for so large a part of the time before it is told.
const SLOW: u64 = 100;

/// Looks.
pub fn probe(machine: &Machine, status: &Status) -> Vec<Finding> {
    let uptime_us = status.supervisor.uptime_s.saturating_mul(1_000_000);
    let mut found = Vec::new();
    for port in &status.ports {
        let of_port = [
            quarantine(port),
            hint(port),
            faults(port),
            card(port),
            starting(port),
            standby(port),
            slow(port, uptime_us),
            kernel_drops(machine, port),
            unsealed(port),
        ];
        let before = found.len();
        found.extend(of_port.into_iter().flatten().map(|finding| finding.of(&port.name)));
        if found.len() == before {
            let state = match port.link {
                Link::Up => "is up",
                Link::Starting => "starts",
                Link::Down => "is down: the guest is off, starts again, or has switched its card off",
            };
            found.push(Finding::good("port", state).of(&port.name));
        }
    }
    found
}

fn quarantine(port: &PortStatus) -> Option<Finding> {
    let seconds = port.quarantine_s?;
    let why = port.quarantine_why.as_deref().unwrap_or("it caused deaths of workers");
    let act = format!("mend its cause first; then `sv3 port release {}` ends it at once", port.name);
    Some(Finding::fault("port", format!("is in quarantine for {seconds} s more: {why}")).to(Cost::Command, act))
}

fn hint(port: &PortStatus) -> Option<Finding> {
    if let Some(files) = &port.files {
        if let Some(why) = &files.stopped {
            let act = format!(
                "mend what is behind it, then attach it again with `--name {}`, or `sv3 detach {}`",
                port.name, port.name
            );
            return Some(Finding::fault("port", format!("is stopped: {why}")).to(Cost::Command, act));
        }
        let why = files.conflict.as_ref()?;
        return Some(
            Finding::fault("port", why.clone()).to(Cost::Guest, "give one of the two machines another address (MAC)"),
        );
    }
    let hint = port.hint.as_ref()?;
    // The hint goes on with what to do.
    let what = hint.split(": ").next().unwrap_or(hint);
    let act = "share its memory. QEMU: -object memory-backend-memfd,id=m,size=512M,share=on -machine memory-backend=m; \
               libvirt: <memoryBacking> with <source type='memfd'/> and <access mode='shared'/>";
    Some(
        Finding::fault("port", format!("{what}: the guest's memory is not shared, and the guest sees no carrier"))
            .to(Cost::Guest, act),
    )
}

fn faults(port: &PortStatus) -> Option<Finding> {
    let ring = port.rings.iter().find(|ring| ring.fault.is_some())?;
    let why = ring.fault.as_deref().unwrap_or_default();
    let message = format!("its ring {} is stopped for a fault of the guest: {why}", ring.index);
    Some(
        Finding::fault("port", message)
            .to(Cost::Guest, "start the guest's driver again (reboot it); if it comes back, update the driver"),
    )
}

fn card(port: &PortStatus) -> Option<Finding> {
    let card = port.card.as_ref()?;
    if let Some(why) = &card.stopped {
        let act = format!(
            "`sv3 attach nic {}` with `--name {}` tries again; `sv3 detach {}` gives it up",
            card.address, port.name, port.name
        );
        return Some(Finding::fault("port", format!("its card is stopped: {why}")).to(Cost::Command, act));
    }
    let no_link = card.speed_mbit == Some(0);
    no_link.then(|| {
        Finding::fault("port", "its card has no link").to(Cost::Host, "look at the cable and at the other end")
    })
}

fn starting(port: &PortStatus) -> Option<Finding> {
    let waits = port.link == Link::Starting && port.hint.is_none() && port.files.is_none() && port.card.is_none();
    let act = "boot the guest, or wait until it has; it needs a driver for virtio-net, which Windows has not by itself";
    (waits && port.quarantine_s.is_none()).then(|| {
        Finding::advice("port", "is connected, and its guest has not started the card yet").to(Cost::Guest, act)
    })
}

fn standby(port: &PortStatus) -> Option<Finding> {
    let why = port.standby_lacks.as_ref()?;
    let message = format!("the standby goes on without it, so a death of the worker costs it a longer gap: {why}");
    Some(Finding::advice("port", message).to(Cost::Command, "`sv3 restart` tries again with a new worker"))
}

fn slow(port: &PortStatus, uptime_us: u64) -> Option<Finding> {
    let waited = port.paused_others;
    (waited.us > 0 && waited.us.saturating_mul(SLOW) >= uptime_us).then(|| {
        let message = format!(
            "receives slowly: frames of others waited for its buffers {} times, {} ms in all",
            waited.times,
            waited.us / 1000
        );
        let act = "give it longer rings (`rx_queue_size=1024` at the device), more queues (`queues=`, `mq=on`), or a \
                   processor of its own";
        Finding::advice("port", message).to(Cost::Guest, act)
    })
}

fn kernel_drops(machine: &Machine, port: &PortStatus) -> Option<Finding> {
    let device = port.files.as_ref()?.device.as_ref()?;
    // A device's name has no slash (linux/if.h), but the answer may be of anybody.
    if device.contains('/') || device.starts_with('.') {
        return None;
    }
    let drops = machine.number(format!("sys/class/net/{device}/statistics/tx_dropped")).filter(|drops| *drops > 0)?;
    let message = format!("the kernel dropped {drops} frames to {device}, because 1,000 waited for the switch");
    Some(
        Finding::advice("port", message)
            .to(Cost::Switch, "give the switch processors of its own (`--cpus`), or more threads (`--threads`)"),
    )
}

fn unsealed(port: &PortStatus) -> Option<Finding> {
    let open = port.memory.iter().any(|region| !region.seals.iter().any(|seal| seal == "shrink"));
    open.then(|| {
        let message = "its memory can be truncated: if its owner does that, a worker dies and the guest loses its port";
        Finding::advice("port", message)
            .to(Cost::Guest, "QEMU: memory-backend-memfd, which is sealed (libvirt: <source type='memfd'/>). DPDK does not seal its memory")
    })
}

#[cfg(test)]
mod tests {
    use sv3::status::Pauses;

    use super::*;
    use crate::doctor::finding::State;
    use crate::doctor::machine::fake::Fake;
    use crate::doctor::switch::example::healthy;

    /// What is said of the port at `slot` when it is changed so: the state, the sentence, and what to do.
    fn said(slot: usize, change: impl FnOnce(&mut PortStatus)) -> (State, String) {
        let mut status = healthy();
        change(&mut status.ports[slot]);
        let name = status.ports[slot].name.clone();
        let fake = Fake::with(&[("sys/class/net/tap0/statistics/tx_dropped", "9")]);
        let found = probe(&fake.machine, &status);
        let one = found.iter().find(|one| one.port.as_deref() == Some(&name)).unwrap();
        let act = one.remedy.as_ref().map_or("", |remedy| remedy.act.as_str());
        (one.state, format!("{} | {act}", one.message))
    }

    #[test]
    fn each_trouble_of_a_port_is_told_with_what_helps() {
        let (guest, tap, card) = (0, 1, 2);
        let cases: [((State, String), State, &[&str]); 13] = [
            (said(guest, |_| ()), State::Good, &["is up"]),
            (
                said(guest, |port| {
                    (port.quarantine_s, port.quarantine_why) = (Some(9), Some("it truncates".to_string()))
                }),
                State::Fault,
                &["9 s more: it truncates", "sv3 port release p0"],
            ),
            (
                said(guest, |port| {
                    port.hint = Some("it has rings but no memory: start QEMU with share=on".to_string())
                }),
                State::Fault,
                &[
                    "it has rings but no memory: the guest's memory is not shared",
                    "share=on",
                    "<access mode='shared'/>",
                ],
            ),
            (
                said(guest, |port| port.rings[1].fault = Some("a cycle".to_string())),
                State::Fault,
                &["ring 1", "a cycle"],
            ),
            (
                said(guest, |port| port.link = Link::Starting),
                State::Advice,
                &["has not started the card", "virtio-net"],
            ),
            (said(guest, |port| port.link = Link::Down), State::Good, &["is down: the guest is off"]),
            (
                said(guest, |port| port.standby_lacks = Some("no room".to_string())),
                State::Advice,
                &["no room", "sv3 restart"],
            ),
            (
                said(guest, |port| port.paused_others = Pauses { times: 7, us: 86_400_000_000 }),
                State::Advice,
                &["waited for its buffers 7 times", "rx_queue_size"],
            ),
            (
                said(guest, |port| port.memory[0].seals.clear()),
                State::Advice,
                &["can be truncated", "memory-backend-memfd"],
            ),
            (
                said(tap, |port| port.files.as_mut().unwrap().stopped = Some("its device is gone".to_string())),
                State::Fault,
                &["is stopped: its device is gone", "sv3 detach host"],
            ),
            (
                said(tap, |port| port.files.as_mut().unwrap().conflict = Some("the address belongs to p0".to_string())),
                State::Fault,
                &["belongs to p0", "another address"],
            ),
            (
                said(tap, |port| port.files.as_mut().unwrap().device = Some("tap0".to_string())),
                State::Advice,
                &["dropped 9 frames to tap0", "--threads"],
            ),
            (said(card, |port| port.card.as_mut().unwrap().speed_mbit = Some(0)), State::Fault, &["no link", "cable"]),
        ];
        for ((state, said), wanted, words) in cases {
            assert!(state == wanted && words.iter().all(|word| said.contains(word)), "{words:?}: {state:?} {said}");
        }
        let (state, words) = said(card, |port| port.card.as_mut().unwrap().stopped = Some("it is gone".to_string()));
        assert!(state == State::Fault && words.contains("it is gone") && words.contains("sv3 attach nic 0000:02:00.1"));
    }

    #[test]
    fn a_device_of_another_name_reads_no_other_file() {
        let words = said(1, |port| port.files.as_mut().unwrap().device = Some("../net/tap0".to_string())).1;
        assert!(words.contains("is up"), "{words}");
    }
}
