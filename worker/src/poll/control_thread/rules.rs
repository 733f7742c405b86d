//! The rules of ports: they are staged, and then all hold at once.
//!
//! A commit leases all queues of all ports that change, then gives each its new rules, then gives the leases back. A burst
//! holds the leases of its sender's queue and of its receivers until its last frame is published. So when the control
//! thread has all leases, no frame is between two of these ports, and the next frame meets the new rules at both ends.
//! Other threads never wait for a lease while they have one, so it does no harm that the control thread waits with many.

use std::sync::Arc;

use nix::errno::Errno;
use sv3::MAX_PORTS;
use sv3::fdb::FdbLine;
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::rules::{PortRules, VID_MAX, Vid};

use super::{Client, ControlThread, NO_PORT};
use crate::forward::fdb::Address;
use crate::port::guard::Guard;
use crate::port::traffic_rules::{Domain, TrafficRules};
use crate::port::{Port, QueueLease};

/// A port whose rules change.
struct Change {
    port: &'static Port,
    before: Option<Arc<TrafficRules>>,
    rules: Option<Arc<TrafficRules>>,
}

impl Change {
    /// Whether addresses that the port had may be forbidden now.
    fn may_forbid(&self) -> bool {
        let (before, now) = (self.before.as_deref(), self.rules.as_deref());
        let learns = now.is_none_or(|rules| rules.learning);
        !learns || vlan(before) != vlan(now) || guard(before) != guard(now)
    }
}

fn vlan(rules: Option<&TrafficRules>) -> &Domain {
    rules.map_or(&Domain::Unaware, |rules| &rules.vlan)
}

fn guard(rules: Option<&TrafficRules>) -> Option<&Guard> {
    rules?.guard.as_ref()
}

/// Whether these rules let a port have an address that was learnt of it.
fn may_have(rules: Option<&TrafficRules>, port: Option<&Port>, line: &FdbLine) -> bool {
    let is_its = |guard: &Guard| port.is_some_and(|port| guard.may_have(line.mac, &port.counters().claimed));
    let learns = rules.is_none_or(|rules| rules.learning);
    learns && vlan(rules).contains(line.vid) && guard(rules).is_none_or(is_its)
}

impl ControlThread {
    /// Keeps rules for the next commit.
    pub(super) fn stage_rules(&mut self, slot: u16, rules: Box<PortRules>) -> nix::Result<()> {
        rules.check().map_err(|_| Errno::EINVAL)?;
        self.client(slot)?.staged_rules = Some(rules);
        Ok(())
    }

    /// All staged rules hold from now on.
    pub(super) fn commit_rules(&mut self) {
        let changes = self.changes();
        let mut leases: Vec<(&Change, QueueLease)> = Vec::new();
        for change in &changes {
            let queues = change.port.used().filter_map(|queue| change.port.seize(queue, || self.poller.beat()));
            leases.extend(queues.map(|lease| (change, lease)));
        }
        for (change, lease) in &mut leases {
            *lease.rules() = change.rules.clone();
        }
        let members = &self.threads.ports.members;
        let mut moved = Vec::new();
        for Change { port, before, rules } in &changes {
            let (before, now) = (vlan(before.as_deref()), vlan(rules.as_deref()));
            if before != now {
                members.change(port.slot(), before, now);
                moved.push(port.slot());
            }
        }
        if !self.standby {
            self.forget_forbidden(&changes, moved);
        }
    }

    /// Forgets addresses and groups that the new rules forbid. What is learnt from now on is learnt by the new rules.
    /// `moved`: the ports whose VLANs changed.
    fn forget_forbidden(&mut self, changes: &[Change], mut moved: Vec<u16>) {
        let changes: Vec<&Change> = changes.iter().filter(|change| change.may_forbid()).collect();
        if changes.is_empty() {
            return;
        }
        moved.sort_unstable();
        let has_moved = |slot: u16| moved.binary_search(&slot).is_ok();
        let of_slot = |slot: u16| changes.binary_search_by_key(&slot, |change| change.port.slot()).ok();
        self.poller.forwarder.retain(|line| {
            let change = of_slot(line.port).and_then(|at| changes.get(at));
            let may = |change: &&Change| may_have(change.rules.as_deref(), Some(change.port), line);
            line.is_static || !has_moved(line.port) && change.is_none_or(may)
        });
        self.poller.forwarder.retain_groups(|slot| !has_moved(slot));
        // Their guests are members in other VLANs now.
        let receives = |slot: &u16| self.threads.ports.get(*slot).is_some_and(|port| port.receiver(0).is_some());
        moved.retain(receives);
        moved.into_iter().for_each(|slot| self.greet(slot));
    }

    /// Takes the staged rules of all ports, in the order of slots, and notes them as those in force.
    fn changes(&mut self) -> Vec<Change> {
        let ports = &self.threads.ports;
        let staged = (0..).zip(&mut self.clients).filter_map(|(slot, client)| {
            let client = client.as_mut()?;
            let rules = TrafficRules::of(&*client.staged_rules.take()?);
            let before = std::mem::replace(&mut client.rules, rules.clone());
            Some(Change { port: ports.get(slot)?, before, rules })
        });
        staged.collect()
    }

    /// A port that is gone has no rules. Static addresses stay at its slot until the supervisor removes them.
    pub(super) fn forget_rules(&mut self, slot: u16) {
        let before = self.rules_of(slot);
        self.threads.ports.members.change(slot, vlan(before.as_deref()), &Domain::Unaware);
    }

    /// The rules in force.
    pub(super) fn rules_of(&self, slot: u16) -> Option<Arc<TrafficRules>> {
        self.clients.get(usize::from(slot))?.as_ref()?.rules.clone()
    }

    /// An address is at a slot from now on, whether there is a port or not. A standby only gets to know it.
    pub(super) fn add_address(&mut self, slot: u16, vid: Vid, mac: [u8; 6]) -> nix::Result<()> {
        let mac = MacAddr::new(mac);
        if mac.is_group() || mac.is_zero() || vid > VID_MAX {
            return Err(Errno::EINVAL);
        }
        if usize::from(slot) >= MAX_PORTS {
            return Err(NO_PORT);
        }
        let address = Address::new(mac, vid);
        if !self.standby && !self.poller.forwarder.add(address, slot) {
            return Err(Errno::ENOSPC);
        }
        self.addresses.insert(address, slot);
        Ok(())
    }

    /// The opposite.
    pub(super) fn remove_address(&mut self, slot: u16, vid: Vid, mac: [u8; 6]) -> nix::Result<()> {
        let address = Address::new(MacAddr::new(mac), vid);
        if self.addresses.get(&address) != Some(&slot) {
            return Err(Errno::ENOENT);
        }
        self.addresses.remove(&address);
        if !self.standby {
            self.poller.forwarder.remove(address, slot);
        }
        Ok(())
    }

    /// Forgets addresses that were learnt: of a port, in a VLAN, or this one.
    pub(super) fn flush_addresses(&mut self, port: Option<u16>, vid: Option<Vid>, mac: Option<[u8; 6]>) {
        if self.standby {
            return;
        }
        let mac = mac.map(MacAddr::new);
        let is_meant = |line: &FdbLine| {
            let (port, vid) = (port.is_none_or(|port| port == line.port), vid.is_none_or(|vid| vid == line.vid));
            port && vid && mac.is_none_or(|mac| mac == line.mac)
        };
        self.poller.forwarder.retain(|line| line.is_static || !is_meant(line));
    }

    /// Corrects what the last worker left in the forwarding table: it may have died before it did what this one was told.
    pub(super) fn correct_addresses(&mut self) {
        let (clients, addresses, forwarder) = (&self.clients, &self.addresses, &self.poller.forwarder);
        let ports = &self.threads.ports;
        forwarder.recount();
        forwarder.retain(|line| {
            let client = clients.get(usize::from(line.port)).and_then(Option::as_ref);
            let may = |client: &Client| may_have(client.rules.as_deref(), ports.get(line.port), line);
            match line.is_static {
                true => addresses.get(&Address::new(line.mac, line.vid)) == Some(&line.port),
                false => client.is_some_and(|client| may(client)),
            }
        });
        // The last worker may have died before it forgot a port that was removed.
        forwarder.retain_groups(|slot| clients.get(usize::from(slot)).is_some_and(Option::is_some));
        for (address, slot) in addresses {
            // One that found no room was told when it came.
            let _ = forwarder.add(*address, *slot);
        }
    }

    /// The VLAN in which the switch itself speaks out of a port.
    pub(super) fn own_vlan(&self, slot: u16) -> Vid {
        vlan(self.rules_of(slot).as_deref()).own()
    }

    /// The port of a client that is connected, which has this queue pair from now on. The pair has the port's rules.
    pub(super) fn make_pair(&self, slot: u16, pair: u16) -> nix::Result<&'static Port> {
        let port = self.port(slot).ok_or(NO_PORT)?;
        let is_new = port.receive(pair).is_none();
        if !port.make_pair(pair) {
            return Err(NO_PORT);
        }
        for queue in [QueueId::receive(slot, pair), QueueId::transmit(slot, pair)].into_iter().filter(|_| is_new) {
            let mut lease = port.seize(queue, || self.poller.beat()).ok_or(NO_PORT)?;
            *lease.rules() = self.rules_of(slot);
        }
        Ok(port)
    }
}
