//! Frames to multicast groups, in a switch that snoops ([`crate::forward::snooping`]).
//!
//! What decides where a frame goes is read once, and delivered as it was read: a sender that changes its frame meanwhile
//! must not have one host's report pass as another frame, which would silence other hosts.

use sv3::frame::ETHERNET_LEN;
use sv3::groups::Family;
use sv3::rules::Isolation;

use super::Sending;
use crate::forward::frame::Frame;
use crate::forward::leases::Unsent;
use crate::forward::snooping::message::{self, MESSAGE_MAX, Message};
use crate::forward::snooping::{Route, Slots, has};
use crate::memory::copy::Reader;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::meddling::looked;
use crate::port::traffic_rules::{Cast, Passage, TAG_LEN};

/// Octets that tell a message from any other frame: those up to IPv4's protocol, with a tag. No packet is shorter.
const KIND_LEN: usize = ETHERNET_LEN + TAG_LEN + 10;

impl<'t> Sending<'_, 't> {
    /// Delivers a frame to those who want it.
    #[inline(never)]
    pub(super) fn send_to_group(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage) -> Result<(), Unsent> {
        let Some(family) = Family::of(frame.dst) else { return self.flood_all(frame, passage) };
        // The tag of a VLAN that the switch knows is no part of the packet.
        let begin = ETHERNET_LEN + passage.vlan.tag_len();
        let mut room = [0; KIND_LEN];
        let known = read(frame, &mut room);
        let octets = room.get(..known).unwrap_or_default();
        let Some((ethernet, packet)) = octets.split_at_checked(begin).filter(|_| known == KIND_LEN) else {
            return self.flood_all(frame, passage);
        };
        if !ethernet.ends_with(&family.ethertype().to_be_bytes()) {
            return self.flood_all(frame, passage);
        }
        let snapshot = match frame.snapshot {
            Snapshot::Frame(read) if read.len() >= KIND_LEN => frame.snapshot,
            _ => Snapshot::Frame(octets),
        };
        let frame = Frame { snapshot, plain: None, ..*frame };
        match message::may_be_one(family, packet) {
            true => self.hear(&frame, passage, family),
            false => self.send_to_members(&frame, passage),
        }
    }

    /// Reads what may be a message, and delivers it.
    fn hear(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage, family: Family) -> Result<(), Unsent> {
        let mut octets = [0; MESSAGE_MAX];
        let known = read(frame, &mut octets);
        let octets = octets.get(..known).unwrap_or(&[]);
        // To read and sum it costs as much as to copy it once more.
        self.state.cost += known as u64;
        let snapshot = match frame.snapshot {
            Snapshot::Frame(read) if read.len() >= octets.len() => frame.snapshot,
            _ => Snapshot::Frame(octets),
        };
        let frame = Frame { snapshot, ..*frame };
        let packet = octets.get(ETHERNET_LEN + passage.vlan.tag_len()..).unwrap_or(&[]);
        let message = message::parse(frame.dst, family, packet, frame.offload.is_none());
        let (slot, now_ns) = (self.from.slot(), self.forwarder.now_ns);
        let table = self.forwarder.snooping.table;
        if frame.len > known && message::may_report(family, packet) {
            table.open(slot, now_ns.saturating_add(table.member_ns(passage.vlan.vid, family)));
        }
        // Ports that may not speak to the sender do not hear it, and would not be asked by anybody.
        if passage.isolation != Isolation::Open && matches!(message, Message::Query(_)) {
            return self.flood_all(&frame, passage);
        }
        let (route, has_news) = table.hear((slot, passage.vlan.vid), family, &message, now_ns);
        self.forwarder.has_noted |= has_news;
        match route {
            Route::All => self.flood_all(&frame, passage),
            Route::Group => self.send_to_members(&frame, passage),
            Route::Routers => {
                let routers = table.routers(passage.vlan.vid, family, self.forwarder.view.ports, now_ns);
                self.send_to_slots(&frame, passage, &routers)
            }
        }
    }

    fn send_to_members(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage) -> Result<(), Unsent> {
        let (ports, now_ns) = (self.forwarder.view.ports, self.forwarder.now_ns);
        match self.forwarder.snooping.wanted(passage.vlan.vid, frame.dst, ports, now_ns) {
            Some(slots) => self.send_to_slots(frame, passage, &slots),
            None => self.flood_all(frame, passage),
        }
    }

    /// Delivers to those of these ports that receive. That there are none is no fault of the frame.
    fn send_to_slots(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage, slots: &Slots) -> Result<(), Unsent> {
        let (ports, from) = (self.forwarder.view.ports, self.from.slot());
        let to = || ports.receivers(passage.vlan.vid).filter(|to| *to != from && has(slots, *to));
        // Their ports have said that they want it: that is no flood.
        self.deliver_all(frame, &Passage { cast: Cast::Known, ..*passage }, to).map(drop)
    }
}

/// Reads a frame's first octets, as they were read before as far as they were. Returns how many.
fn read(frame: &Frame<'_, '_, '_>, octets: &mut [u8]) -> usize {
    let mut room = [0; HEAD_LEN];
    let snapshot = frame.snapshot.octets((frame.skip, frame.len), &mut room);
    let known = Reader::new(snapshot, frame.slices, frame.skip).read(octets).min(frame.len);
    looked(|at| at(frame.slices, frame.skip + known));
    known
}
