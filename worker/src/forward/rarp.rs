//! RARP announcements (vhost-user `SEND_RARP`). After a live migration the worker broadcasts the guest's address in
//! its name, so that switches learn its new port (the frame of RFC 903, as QEMU sends it).
//!
//! An announcement is a frame to all ports that costs its client a message and no buffer, and is sent outside of the
//! shares by which the loop divides its turns. So a port has one in [`PAUSE_NS`], and those between are passed over:
//! QEMU sends five, 50 ms and more apart. While another thread has a receiver's queue, an announcement is [`Pending`]
//! and the control thread tries again in its next turn.

use std::collections::VecDeque;

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;

use super::fdb::Address;
use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::Unsent;
use super::sending::Sending;
use crate::memory::slice::GuestSlice;
use crate::port::Port;
use crate::port::guard::Guard;
use crate::port::traffic_rules::{InVlan, Passage, TrafficRules};
use sv3::virtio::NET_HDR_LEN;

/// Octets of the frame, padded to the minimum of Ethernet.
const LEN: usize = 60;
/// Octets with those in front of it.
const ROOM: usize = NET_HDR_LEN + LEN;

/// The broadcast address.
const ALL: MacAddr = MacAddr::new([0xff; 6]);

/// Shortest time between two announcements of a port, in nanoseconds.
pub const PAUSE_NS: u64 = 10_000_000;
/// Longest time for which an announcement is pending, in nanoseconds. An older one is lost: its station may be
/// elsewhere.
const KEEP_NS: u64 = 1_000_000_000;

/// When a port may announce itself again.
#[derive(Default)]
pub struct Pause {
    until_ns: u64,
}

impl Pause {
    /// Whether the port may announce itself at `now_ns`. If so, a new pause begins.
    pub fn is_over(&mut self, now_ns: u64) -> bool {
        let over = now_ns >= self.until_ns;
        if over {
            self.until_ns = now_ns.saturating_add(PAUSE_NS);
        }
        over
    }
}

/// Announcements that wait for a receiver's queue, the oldest first; at most one for each port.
#[derive(Default)]
pub struct Pending {
    waiting: VecDeque<Announcement>,
}

struct Announcement {
    slot: u16,
    mac: [u8; 6],
    until_ns: u64,
}

impl Pending {
    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// An announcement waits from `now_ns` on, in the place of an earlier one of the same port.
    pub fn add(&mut self, slot: u16, mac: [u8; 6], now_ns: u64) {
        let announcement = Announcement { slot, mac, until_ns: now_ns.saturating_add(KEEP_NS) };
        match self.waiting.iter_mut().find(|one| one.slot == slot) {
            Some(earlier) => *earlier = announcement,
            None => self.waiting.push_back(announcement),
        }
    }

    /// The port is gone.
    pub fn forget(&mut self, slot: u16) {
        self.waiting.retain(|one| one.slot != slot);
    }

    /// Tries the oldest one again; it stays if `send` returns false.
    pub fn retry(&mut self, now_ns: u64, send: impl FnOnce(u16, [u8; 6]) -> bool) {
        self.waiting.retain(|one| now_ns < one.until_ns);
        if let Some(Announcement { slot, mac, .. }) = self.waiting.front()
            && send(*slot, *mac)
        {
            self.waiting.pop_front();
        }
    }
}

/// Broadcasts a RARP request for `mac` from a port, which is held to `rules` as if its guest had sent the frame: whoever
/// speaks for the port may be as hostile. False: another thread has a receiver's queue, and nothing was sent.
#[must_use]
pub fn announce(
    forwarder: &mut Forwarder,
    (port, rules): (&'static Port, Option<&TrafficRules>),
    mac: [u8; 6],
) -> bool {
    let mut octets = frame(mac);
    let guard = rules.and_then(|rules| rules.guard.as_ref());
    let sent_octets = octets.get(NET_HDR_LEN..).unwrap_or_default();
    let claimed = &port.counters().claimed;
    let check =
        |guard: &Guard| guard.check(sent_octets, LEN, claimed).map(|_| guard.claims(MacAddr::new(mac), claimed));
    let guarded = guard.map_or(Ok(&[][..]), check);
    let slices = [GuestSlice::of_host(&mut octets)];
    let frame = Frame { guarded, ..Frame::complete((ALL, MacAddr::new(mac)), &slices, LEN) };
    let is_mirror = forwarder.view.ports.is_mirror(port.slot());
    let mut sending = Sending::begin(forwarder, (port, rules), false);
    let sent = if is_mirror { Err(DropReason::MirrorPort.into()) } else { sending.forward(&frame) };
    if let Err(Unsent::Dropped(reason)) = sent {
        sending.count_drop(reason);
    }
    sending.publish();
    sent != Err(Unsent::Busy)
}

/// What became of an announcement to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It was sent, to uplinks that had room for it.
    Sent,
    /// Another thread has an uplink's queue. Nothing was sent.
    Busy,
    /// No uplink runs, or no guest that runs has the address at this port any more.
    Pointless,
}

/// Sends a RARP request for an address of port `slot` out of all uplinks of its VLAN.
pub fn announce_to_uplinks(forwarder: &mut Forwarder, slot: u16, address: Address) -> Announced {
    let (ports, mac) = (forwarder.view.ports, address.mac());
    let (port, is_here) = (ports.get(slot), forwarder.fdb.find(address, forwarder.now_s) == Some(slot));
    let Some(port) = port.filter(|_| is_here && ports.is_guest(slot) && ports.uplinks().next().is_some()) else {
        return Announced::Pointless;
    };
    let mut octets = frame(mac.octets());
    let slices = [GuestSlice::of_host(&mut octets)];
    let frame = Frame::complete((ALL, mac), &slices, LEN);
    let mut sending = Sending::begin(forwarder, (port, None), false);
    let sent = sending.deliver_all(&frame, &Passage::of_switch(InVlan::untagged(address.vid())), || ports.uplinks());
    sending.publish();
    if sent == Err(Unsent::Busy) { Announced::Busy } else { Announced::Sent }
}

fn frame(mac: [u8; 6]) -> [u8; ROOM] {
    let mut out = [0; ROOM];
    // Ethernet type RARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 3 (request reverse).
    let fixed = [0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03];
    let parts: [(usize, &[u8]); 5] = [(0, &[0xff; 6]), (6, &mac), (12, &fixed), (22, &mac), (32, &mac)];
    for (at, part) in parts {
        for (to, from) in out.iter_mut().skip(NET_HDR_LEN + at).zip(part) {
            *to = *from;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use sv3::rules::{PortRules, Sources};

    use super::*;
    use crate::forward::burst::tests::{fixture, run_split};

    const STATION: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_port_announces_itself_once_in_a_pause() {
        let mut pause = Pause::default();
        let sent = (0..1000).filter(|n| pause.is_over(5 + n * PAUSE_NS / 100)).count();
        assert_eq!(sent, 10);
    }

    #[test]
    fn an_announcement_needs_the_queues_of_all_receivers() {
        let (mut fixture, driver) = fixture(2, 2048);
        run_split(&fixture, 0, 1, &driver);
        let sender = fixture.ports.get(0).unwrap();
        let lease_of_another_thread = fixture.ports.get(2).unwrap().receive(0).unwrap().lease(1).unwrap();
        assert!(!announce(&mut fixture.forwarder, (sender, None), STATION));
        assert_eq!(fixture.delivered(), 0);
        drop(lease_of_another_thread);
        assert!(announce(&mut fixture.forwarder, (sender, None), STATION));
        assert_eq!(fixture.delivered(), 2);
    }

    /// The client of a port asks for announcements (`SEND_RARP`): its guest's rules are its own.
    #[test]
    fn an_announcement_is_held_to_the_rules_of_its_port() {
        let (mut fixture, driver) = fixture(2, 2048);
        run_split(&fixture, 0, 1, &driver);
        let sender = fixture.ports.get(0).unwrap();
        let guard = sv3::rules::Guard { macs: Sources::Listed(vec![STATION]), ..Default::default() };
        let rules = TrafficRules::of(&PortRules { guard, ..PortRules::default() });
        let other = [2, 0, 0, 0, 0, 8];
        for (mac, delivered) in [(other, 0), (STATION, 2)] {
            assert!(announce(&mut fixture.forwarder, (sender, rules.as_deref()), mac));
            assert_eq!(fixture.delivered(), delivered);
        }
        assert_eq!(fixture.forwarder.find(MacAddr::new(other)), None, "nothing is learnt");
        // A port that gets a mirror's copies says nothing.
        fixture.ports.set_mirror(0, true);
        assert!(announce(&mut fixture.forwarder, (sender, None), other));
        assert_eq!((fixture.delivered(), fixture.forwarder.find(MacAddr::new(other))), (2, None));
    }

    #[test]
    fn an_announcement_is_pending_until_it_is_sent_or_too_old_or_its_port_is_gone() {
        let mut pending = Pending::default();
        for (slot, last) in [(1, 1), (2, 2), (3, 3), (1, 4)] {
            pending.add(slot, [2, 0, 0, 0, 0, last], u64::from(last));
        }
        pending.forget(2);
        let retry = |pending: &mut Pending, now_ns, sent| {
            let mut tried = None;
            pending.retry(now_ns, |slot, mac| {
                tried = Some((slot, mac[5]));
                sent
            });
            tried
        };
        assert_eq!(retry(&mut pending, 10, false), Some((1, 4)), "the later one of port 1");
        assert_eq!(retry(&mut pending, 10, true), Some((1, 4)), "it was kept");
        assert_eq!(retry(&mut pending, 2 + KEEP_NS, false), Some((3, 3)));
        assert_eq!(retry(&mut pending, 3 + KEEP_NS, false), None, "too old");
        assert!(pending.is_empty());
    }
}
