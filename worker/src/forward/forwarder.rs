//! Forwarding: all ports and the forwarding table. One frame comes in, none or several go out. Each thread has its
//! own view.

use sv3::fdb::FdbLine;
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::ledger::{Ledger, ThreadState};
use sv3::rules::Vid;

use super::fdb::{Address, Fdb, Foreseen, Speaker};
use super::leases::Leases;
use super::snooping::{Slots, Snooping, querier};
use crate::port::view::View;

/// What one thread needs to forward frames.
pub struct Forwarder {
    /// All ports.
    pub view: View,
    pub(super) fdb: Fdb<'static>,
    /// The ledger's state of this thread.
    pub(super) thread: &'static ThreadState,
    pub(super) leases: Leases,
    /// Who is a member of which group.
    pub snooping: Snooping,
    /// Current time in seconds. The loop updates it.
    pub now_s: u64,
    /// Current time in nanoseconds.
    pub now_ns: u64,
    /// Something was noted for the control thread.
    pub(super) has_noted: bool,
}

impl Forwarder {
    /// The forwarder of one thread. It uses the forwarding table of the ledger.
    pub fn new(ledger: &'static Ledger, thread: &'static ThreadState, view: View, leases: Leases) -> Forwarder {
        let fdb = Fdb::new(ledger);
        // The number of no port.
        let snooping = Snooping::new(ledger, querier::station(fdb.pseudonym(u16::MAX)));
        Forwarder { view, fdb, thread, leases, snooping, now_s: 0, now_ns: 0, has_noted: false }
    }

    /// Notes that an address was seen on a port.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn learn(&self, mac: MacAddr, port: u16) {
        let speaker = Speaker { port, rules: None, ports: self.view.ports };
        self.fdb.learn(mac.into(), speaker, self.now_s);
    }

    /// The port that an address was last seen on.
    pub fn find(&self, address: impl Into<Address>) -> Option<u16> {
        self.fdb.find(address, self.now_s)
    }

    /// What would become of the table if a port spoke for an address.
    pub fn foresee(&self, address: Address, speaker: Speaker<'_>) -> Foreseen {
        self.fdb.foresee(address, speaker, self.now_s)
    }

    /// Whether the switch snoops on IGMP and MLD.
    pub fn snoops(&self) -> bool {
        self.snooping.is_on()
    }

    /// The ports that want the frames of a group in a VLAN; `None`: all do, as far as is known.
    pub fn wanted(&mut self, vid: Vid, group: MacAddr) -> Option<Slots> {
        self.snooping.wanted(vid, group, self.view.ports, self.now_ns)
    }

    /// Forgets the addresses that were learnt of a port, and its groups. Its static addresses stay.
    pub fn forget(&self, slot: u16) {
        self.fdb.retain(|line| line.port != slot || line.is_static);
        self.snooping.table.forget(slot);
    }

    /// Forgets all entries of the table but these.
    pub fn retain(&self, keep: impl Fn(&FdbLine) -> bool) {
        self.fdb.retain(keep);
    }

    /// Forgets the groups of all other ports than these.
    pub fn retain_groups(&self, keep: impl Fn(u16) -> bool) {
        self.snooping.table.retain(keep);
    }

    /// Adds a static address. False: there is no room for it.
    #[must_use]
    pub fn add(&self, address: Address, port: u16) -> bool {
        self.fdb.add(address, port, self.now_s)
    }

    /// Removes a static address of a port. False: there is none.
    pub fn remove(&self, address: Address, port: u16) -> bool {
        self.fdb.remove(address, port)
    }

    /// The addresses of these ports.
    pub fn addresses(&self, of: impl Fn(u16) -> bool) -> impl Iterator<Item = MacAddr> {
        self.fdb.addresses(self.now_s, of)
    }

    /// Marks the addresses of these ports, to be announced to the network. True: there are some.
    pub fn mark_all(&self, of: impl Fn(u16) -> bool) -> bool {
        self.fdb.mark_all(self.now_s, of)
    }

    /// Whether something was noted for the control thread since the last call: a port's notes
    /// ([`crate::port::rules`]), or a mark.
    pub fn take_noted(&mut self) -> bool {
        std::mem::take(&mut self.has_noted)
    }

    /// Clears what a dead worker left half done in the forwarding table, and counts its entries again, before the worker
    /// serves.
    pub fn recount(&self) {
        self.fdb.recount();
    }

    /// Leases the thread's captures and mirrors for a burst, if there are some. False: they are being changed.
    #[inline]
    #[must_use]
    pub fn begin_observing(&mut self) -> bool {
        if !self.view.ports.observers.is_on() || self.leases.observers.is_some() {
            return true;
        }
        self.leases.observers = self.view.ports.observers.lease(self.view.number);
        self.leases.observers.is_some()
    }

    /// Ends that, and shows readers of captures what was recorded.
    #[inline]
    pub fn end_observing(&mut self) {
        if let Some(mut observers) = self.leases.observers.take() {
            observers.publish();
        }
    }

    /// The next queue that broke. Each is reported once.
    pub fn next_fault(&mut self) -> Option<(QueueId, RingFault)> {
        self.leases.next_fault()
    }

    /// Notes that a queue broke. It no longer runs.
    pub fn note_fault(&mut self, queue: QueueId, fault: RingFault) {
        self.leases.note_fault(queue, fault);
    }
}
