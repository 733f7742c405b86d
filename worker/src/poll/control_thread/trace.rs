//! Traces: what would become of a frame ([`sv3::trace`]).
//!
//! The control thread decides by what bursts decide by: the rules in force, which it alone changes, and the forwarding
//! table, in the order of `Sending::forward`. It delivers nothing, counts nothing and learns nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MacAddr};
use sv3::groups::Family;
use sv3::trace::{FRAME_MAX, Step};
use sv3::virtio::NET_HDR_LEN;

use super::ControlThread;
use crate::forward::fdb::{Address, Foreseen, Speaker};
use crate::forward::frame::Frame;
use crate::forward::sending::Sending;
use crate::forward::snooping::{Slots, has, message};
use crate::memory::slice::GuestSlice;
use crate::port::bucket::Bucket;
use crate::port::observers::Mirror;
use crate::port::traffic_rules::{Cast, Passage, TAG_LEN};
use crate::process::clock;
use crate::process::link::LinkEnd;

/// Octets that tell a message of IGMP or MLD, as in `crate::forward::sending`.
const KIND_LEN: usize = ETHERNET_LEN + TAG_LEN + 10;

/// To which ports a frame to many goes.
enum Spread {
    /// To all that take such frames.
    All,
    /// To those that want the group's.
    Members(Slots),
    /// That depends on what the message says.
    ByMessage,
}

impl ControlThread {
    /// Reports what would become of a frame that begins so and comes from a port; nothing if there is no such port.
    pub(super) fn trace(&mut self, seq: u64, slot: u16, octets: &[u8]) -> Result<(), LinkEnd> {
        let mut steps = Vec::new();
        if self.port(slot).is_some() {
            match self.follow(slot, octets, &mut steps) {
                Ok(()) => self.copied(slot, &mut steps),
                Err(reason) => steps.push(Step::Dropped(reason)),
            }
        }
        steps.into_iter().try_for_each(|step| self.link.report(step.report(seq)))
    }

    /// Adds the steps. An error is the last one.
    fn follow(&mut self, slot: u16, octets: &[u8], steps: &mut Vec<Step>) -> Result<(), DropReason> {
        let octets = octets.get(..FRAME_MAX).unwrap_or(octets);
        if !self.has_tokens(self.rules_of(slot).as_deref().and_then(|rules| rules.from_port.as_ref()), octets.len()) {
            steps.push(Step::Held);
        }
        if self.threads.ports.is_mirror(slot) {
            return Err(DropReason::MirrorPort);
        }
        let (dst, src) = addresses(octets).ok_or(DropReason::ShortFrame)?;
        if src.is_group() || src.is_zero() {
            return Err(DropReason::BadSource);
        }
        if dst.is_link_local() {
            return Err(DropReason::LinkLocal);
        }
        let (rules, passage) = (self.rules_of(slot), self.admitted(slot, (dst, src), octets)?);
        let (forwarder, ports) = (&self.poller.forwarder, &self.threads.ports);
        let vid = passage.vlan.vid;
        steps.push(Step::Admitted(vid));
        match forwarder.foresee(Address::new(src, vid), Speaker { port: slot, rules: rules.as_deref(), ports }) {
            Foreseen::Known => steps.push(Step::SourceKnown),
            Foreseen::New => steps.push(Step::SourceNew),
            Foreseen::Moves(from) => steps.push(Step::SourceMoves(from)),
            Foreseen::Ignored => steps.push(Step::SourceIgnored),
            Foreseen::Full => return Err(DropReason::AddressLimit),
            Foreseen::Refused if ports.get(slot).is_some_and(|port| port.rules.is_uplink()) => {
                return Err(DropReason::UplinkEcho);
            }
            Foreseen::Refused => return Err(DropReason::AddressConflict),
        }
        let found = if dst.is_group() { None } else { forwarder.find(Address::new(dst, vid)) };
        match found {
            Some(to) if to == slot => Err(DropReason::Hairpin),
            Some(to) if !ports.is_there(to) || ports.is_mirror(to) => {
                steps.push(Step::Found(to));
                Err(if ports.is_there(to) { DropReason::NoDestination } else { DropReason::PortAbsent })
            }
            Some(to) => {
                steps.push(Step::Found(to));
                let runs = ports.get(to).is_some_and(|port| port.receiver(0).is_some());
                steps.push(match runs {
                    true => self.delivered(to, &passage, octets.len())?,
                    false => Step::Withheld { port: to, reason: DropReason::RxDown },
                });
                Ok(())
            }
            None => {
                steps.push(if dst.is_group() { Step::Group } else { Step::Unknown });
                let flood = Passage { cast: Cast::of_flood(dst), ..passage };
                let storm = rules.as_deref().and_then(|rules| rules.storms.of_cast(flood.cast));
                if storm.is_some_and(|storm| !storm.has(1, clock::now_ns())) {
                    return Err(DropReason::Storm);
                }
                match self.spread(dst, &passage, octets) {
                    Spread::All => match self.flooded((slot, octets.len()), &flood, None, steps)? {
                        0 => Err(DropReason::NoDestination),
                        _ => Ok(()),
                    },
                    Spread::Members(slots) => {
                        // They have said that they want it: that is no flood.
                        let known = Passage { cast: Cast::Known, ..flood };
                        self.flooded((slot, octets.len()), &known, Some(&slots), steps).map(drop)
                    }
                    Spread::ByMessage => {
                        steps.push(Step::Message);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Holds the frame to the rules of its sender, as a burst does.
    fn admitted(&self, slot: u16, addresses: (MacAddr, MacAddr), octets: &[u8]) -> Result<Passage, DropReason> {
        let Some(rules) = self.rules_of(slot) else { return Ok(Passage::OPEN) };
        let mut room = [0; NET_HDR_LEN + FRAME_MAX];
        let len = octets.len();
        // A copy: a trace makes no address the port's own.
        let claimed = self.port(slot).map(|port| port.counters().claimed.each_ref());
        let claimed: Vec<AtomicU64> =
            claimed.into_iter().flatten().map(|address| AtomicU64::new(address.load(Relaxed))).collect();
        let guard = rules.guard.as_ref();
        let guarded = guard.map_or(Ok(&[][..]), |guard| {
            guard.check(octets, len, &claimed).map(|_| guard.claims(addresses.1, &claimed))
        });
        let place = room.iter_mut().skip(NET_HDR_LEN);
        place.zip(octets).for_each(|(place, octet)| *place = *octet);
        let slices = [GuestSlice::of_host(&mut room)];
        Sending::admit(&rules, &Frame { guarded, ..Frame::complete(addresses, &slices, len) })
    }

    /// The way to a port that runs; or why not.
    fn delivered(&self, to: u16, passage: &Passage, len: usize) -> Result<Step, DropReason> {
        let rules = self.rules_of(to);
        let edit = passage.way_to(rules.as_deref())?;
        match self.has_tokens(rules.as_deref().and_then(|rules| rules.to_port.as_ref()), len) {
            true => Ok(Step::Delivered { port: to, cut: edit.cut, put: edit.put }),
            false => Ok(Step::Withheld { port: to, reason: DropReason::RxLimit }),
        }
    }

    /// Whether a limit has room for a frame of so many octets now. A trace takes none.
    fn has_tokens(&self, limit: Option<&Bucket>, len: usize) -> bool {
        limit.is_none_or(|limit| limit.has(limit.tokens(1, len as u64), clock::now_ns()))
    }

    /// The mirrors that get a copy of a frame that was forwarded.
    fn copied(&self, slot: u16, steps: &mut Vec<Step>) {
        let got = |step: &Step| if let Step::Delivered { port, .. } = step { Some(*port) } else { None };
        let receivers: Vec<u16> = steps.iter().filter_map(got).collect();
        let is_due =
            |mirror: &Mirror| mirror.senders.has(slot) || receivers.iter().any(|port| mirror.receivers.has(*port));
        let due = self.threads.ports.observers.mirrors().into_iter().filter(|(_, mirror)| is_due(mirror));
        steps.extend(due.map(|(mirror, at)| Step::Copied { mirror, port: at.to }));
    }

    /// To which ports a frame to many goes, as `Sending::send_to_group` decides.
    fn spread(&mut self, dst: MacAddr, passage: &Passage, octets: &[u8]) -> Spread {
        let forwarder = &mut self.poller.forwarder;
        let Some(family) = Family::of(dst).filter(|_| dst.is_group() && forwarder.snoops()) else { return Spread::All };
        let head = octets.get(..KIND_LEN).and_then(|head| head.split_at_checked(ETHERNET_LEN + passage.vlan.tag_len()));
        match head {
            Some((ethernet, packet)) if ethernet.ends_with(&family.ethertype().to_be_bytes()) => {
                if message::may_be_one(family, packet) {
                    return Spread::ByMessage;
                }
                forwarder.wanted(passage.vlan.vid, dst).map_or(Spread::All, Spread::Members)
            }
            _ => Spread::All,
        }
    }

    /// The ways to those of `among`, or to all, that run and are in the frame's VLAN. Returns how many get it.
    fn flooded(
        &self,
        (slot, len): (u16, usize),
        passage: &Passage,
        among: Option<&Slots>,
        steps: &mut Vec<Step>,
    ) -> Result<usize, DropReason> {
        let (mut receivers, mut hops) = (0, false);
        let is_meant = |to: &u16| *to != slot && among.is_none_or(|slots| has(slots, *to));
        for to in self.threads.ports.receivers(passage.vlan.vid).filter(is_meant) {
            steps.push(match self.delivered(to, passage, len) {
                Ok(step) => {
                    receivers += 1;
                    step
                }
                Err(reason) => {
                    hops |= reason == DropReason::VlanHop;
                    Step::Withheld { port: to, reason }
                }
            });
        }
        if receivers == 0 && hops { Err(DropReason::VlanHop) } else { Ok(receivers) }
    }
}

/// Destination and source.
fn addresses(octets: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let head = octets.get(..ETHERNET_LEN)?;
    let (dst, rest) = head.split_first_chunk::<6>()?;
    let (src, _) = rest.split_first_chunk::<6>()?;
    Some((MacAddr::new(*dst), MacAddr::new(*src)))
}
