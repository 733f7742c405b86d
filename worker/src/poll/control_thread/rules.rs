//! The rules of ports: they are staged, and then all hold at once.
//!
//! A commit leases all queues of all ports that change, then gives each its new rules, then gives the leases back. A burst
//! holds the leases of its sender's queue and of its receivers until its last frame is published. So when the control
//! thread has all leases, no frame is between two of these ports, and the next frame meets the new rules at both ends.
//! Other threads never wait for a lease while they have one, so it does no harm that the control thread waits with many.

use std::sync::Arc;

use nix::errno::Errno;
use sv3::ids::QueueId;
use sv3::rules::{PortRules, Vid};

use super::{ControlThread, NO_PORT};
use crate::port::traffic_rules::{Domain, TrafficRules};
use crate::port::{Port, QueueLease};

/// A port whose rules change.
struct Change {
    port: &'static Port,
    before: Option<Arc<TrafficRules>>,
    rules: Option<Arc<TrafficRules>>,
}

fn vlan(rules: Option<&TrafficRules>) -> &Domain {
    rules.map_or(&Domain::Unaware, |rules| &rules.vlan)
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
        // What is learnt from now on is learnt by the new rules.
        if !self.standby && !moved.is_empty() {
            self.poller.forwarder.retain(|slot| !moved.contains(&slot));
        }
    }

    /// Takes the staged rules of all ports, and notes them as those in force.
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

    /// A port that is gone has no rules.
    pub(super) fn forget_rules(&mut self, slot: u16) {
        let before = self.rules_of(slot);
        self.threads.ports.members.change(slot, vlan(before.as_deref()), &Domain::Unaware);
    }

    /// The rules in force.
    pub(super) fn rules_of(&self, slot: u16) -> Option<Arc<TrafficRules>> {
        self.clients.get(usize::from(slot))?.as_ref()?.rules.clone()
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
