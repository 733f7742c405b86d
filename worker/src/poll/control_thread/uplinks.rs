//! Uplinks and guarded ports: loop probes, announcements of guests' addresses, and reports of what other threads noted.

use sv3::frame::MacAddr;
use sv3::ipc::{Report, ReportKind};

use super::{ControlThread, NO_PORT};
use crate::forward::announcer::{Announcer, Next};
use crate::forward::loop_probe;
use crate::port::flaps::Flap;

/// What the control thread has to do for uplinks.
pub struct Uplinks {
    announcer: Announcer,
    /// Uplinks whose probe waits for their queue.
    probes: Vec<u16>,
    /// The worker takes over: queues that start have run before.
    pub(super) takes_over: bool,
}

impl Uplinks {
    /// Nothing but what an earlier worker left.
    pub fn new() -> Uplinks {
        Uplinks { announcer: Announcer::new(), probes: Vec::new(), takes_over: false }
    }

    /// A port is gone.
    pub fn forget(&mut self, slot: u16) {
        self.probes.retain(|probe| *probe != slot);
    }
}

impl ControlThread {
    /// Looks for a loop out of an uplink. A standby only gets to know the token: the probe may be under way when the
    /// worker that sent it dies.
    pub(super) fn probe(&mut self, slot: u16, token: u64) -> nix::Result<()> {
        let port = self.port(slot).filter(|port| port.rules.is_uplink()).ok_or(NO_PORT)?;
        port.rules.set_token(token);
        if !self.standby && !self.uplinks.probes.contains(&slot) {
            self.uplinks.probes.push(slot);
        }
        Ok(())
    }

    /// Sends probes and announcements that wait. Returns whether there is more to do at once, and sets the alarm for
    /// what is to be done later.
    pub(super) fn tend_uplinks(&mut self) -> bool {
        if self.standby {
            return false;
        }
        let ports = &self.threads.ports;
        let mut probes = std::mem::take(&mut self.uplinks.probes);
        probes.retain(|slot| {
            let (vid, forwarder) = (self.own_vlan(*slot), &mut self.poller.forwarder);
            let port = ports.get(*slot).filter(|port| port.receiver(0).is_some());
            port.is_some_and(|port| !loop_probe::send(forwarder, (port, vid), port.rules.token()))
        });
        self.uplinks.probes = probes;
        let next = self.uplinks.announcer.go_on(&mut self.poller.forwarder);
        self.poller.alarm = if let Next::At(at) = next { Some(at) } else { None };
        next == Next::Now || !self.uplinks.probes.is_empty()
    }

    /// Takes what this thread and others noted while they moved frames.
    pub(super) fn take_notes(&mut self) {
        let threads = self.threads;
        self.questions.wake();
        if threads.ports.marked.take() {
            self.uplinks.announcer.wake();
            self.cards.guest_came();
        }
        if let Some(Flap { address, ports: (from, to), moves }) = threads.ports.flaps.take() {
            let report = Report { port: to, ring: from, value: address, ..Report::new(ReportKind::AddressFlaps, 0) };
            // The next look notices a supervisor that is gone.
            let _ = self.link.report(Report { detail: moves.into(), ..report });
        }
        for port in threads.ports.all() {
            let slot = port.slot();
            if let Some(key) = port.rules.take_conflict() {
                let (owner, mac) = ((key >> 48) as u16, MacAddr::from_bits(key));
                self.report_of(ReportKind::AddressConflict, (slot, owner), mac.bits());
            }
            if let Some(token) = port.rules.take_loop() {
                self.report_of(ReportKind::LoopFound, (slot, 0), token);
            }
        }
    }

    pub(super) fn report_of(&mut self, kind: ReportKind, (port, ring): (u16, u16), value: u64) {
        // The next look notices a supervisor that is gone.
        let _ = self.link.report(Report { port, ring, value, ..Report::new(kind, 0) });
    }

    /// A port that did not receive does so now. The network may have learnt meanwhile that its addresses are elsewhere,
    /// and an uplink that was away has missed all announcements.
    pub(super) fn receives_again(&mut self, slot: u16) {
        let ports = &self.threads.ports;
        if self.uplinks.takes_over || ports.uplinks().next().is_none() {
            return;
        }
        let is_uplink = ports.get(slot).is_some_and(|port| port.rules.is_uplink());
        let of = |port: u16| (is_uplink || port == slot) && ports.is_guest(port);
        if self.poller.forwarder.mark_all(of) {
            self.uplinks.announcer.wake();
        }
    }
}
