//! Traces: what would become of a frame ([`sv3::trace`]).
//!
//! The control thread decides by what bursts decide by: the rules in force, which it alone changes, and the forwarding
//! table, in the order of `Sending::forward`. It delivers nothing, counts nothing and learns nothing.

use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MacAddr};
use sv3::trace::{FRAME_MAX, Step};
use sv3::virtio::NET_HDR_LEN;

use super::ControlThread;
use crate::forward::fdb::{Address, Foreseen, Speaker};
use crate::forward::frame::Frame;
use crate::forward::sending::Sending;
use crate::memory::slice::GuestSlice;
use crate::port::traffic_rules::{Cast, Passage};
use crate::process::link::LinkEnd;

impl ControlThread {
    /// Reports what would become of a frame that begins so and comes from a port; nothing if there is no such port.
    pub(super) fn trace(&mut self, seq: u64, slot: u16, octets: &[u8]) -> Result<(), LinkEnd> {
        let mut steps = Vec::new();
        if self.port(slot).is_some()
            && let Err(reason) = self.follow(slot, octets, &mut steps)
        {
            steps.push(Step::Dropped(reason));
        }
        steps.into_iter().try_for_each(|step| self.link.report(step.report(seq)))
    }

    /// Adds the steps. An error is the last one.
    fn follow(&self, slot: u16, octets: &[u8], steps: &mut Vec<Step>) -> Result<(), DropReason> {
        let (forwarder, ports) = (&self.poller.forwarder, &self.threads.ports);
        let (dst, src) = addresses(octets).ok_or(DropReason::ShortFrame)?;
        if src.is_group() || src.is_zero() {
            return Err(DropReason::BadSource);
        }
        if dst.is_link_local() {
            return Err(DropReason::LinkLocal);
        }
        let (rules, passage) = (self.rules_of(slot), self.admitted(slot, (dst, src), octets)?);
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
            Some(to) => {
                steps.push(Step::Found(to));
                let runs = ports.get(to).is_some_and(|port| port.receiver(0).is_some());
                steps.push(match runs {
                    true => self.delivered(to, &passage)?,
                    false => Step::Withheld { port: to, reason: DropReason::RxDown },
                });
                Ok(())
            }
            None => {
                steps.push(if dst.is_group() { Step::Group } else { Step::Unknown });
                self.flooded(slot, &Passage { cast: Cast::of_flood(dst), ..passage }, steps)
            }
        }
    }

    /// Holds the frame to the rules of its sender, as a burst does.
    fn admitted(&self, slot: u16, addresses: (MacAddr, MacAddr), octets: &[u8]) -> Result<Passage, DropReason> {
        let Some(rules) = self.rules_of(slot) else { return Ok(Passage::OPEN) };
        let mut room = [0; NET_HDR_LEN + FRAME_MAX];
        let len = octets.len().min(FRAME_MAX);
        let place = room.iter_mut().skip(NET_HDR_LEN);
        place.zip(octets).for_each(|(place, octet)| *place = *octet);
        let slices = [GuestSlice::of_host(&mut room)];
        Sending::admit(&rules, &Frame::complete(addresses, &slices, len))
    }

    /// The way to a port that runs; or why not.
    fn delivered(&self, to: u16, passage: &Passage) -> Result<Step, DropReason> {
        let edit = passage.way_to(self.rules_of(to).as_deref())?;
        Ok(Step::Delivered { port: to, cut: edit.cut, put: edit.put })
    }

    fn flooded(&self, slot: u16, passage: &Passage, steps: &mut Vec<Step>) -> Result<(), DropReason> {
        let (mut receivers, mut hops) = (0, false);
        for to in self.threads.ports.receivers(passage.vlan.vid).filter(|to| *to != slot) {
            steps.push(match self.delivered(to, passage) {
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
        match (receivers, hops) {
            (0, true) => Err(DropReason::VlanHop),
            (0, false) => Err(DropReason::NoDestination),
            _ => Ok(()),
        }
    }
}

/// Destination and source.
fn addresses(octets: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let head = octets.get(..ETHERNET_LEN)?;
    let (dst, rest) = head.split_first_chunk::<6>()?;
    let (src, _) = rest.split_first_chunk::<6>()?;
    Some((MacAddr::new(*dst), MacAddr::new(*src)))
}
