//! The forwarding of one burst: it looks up and learns addresses, and delivers frames to their receivers.
//!
//! Most frames of a burst go to one receiver. So the last look-up is kept, and consecutive frames with the same
//! egress are delivered together ([`Sending::repeat`]).

mod groups;
mod sorting;

use sv3::drop_reason::DropReason;
use sv3::frame::{MAX_FRAME, MacAddr};
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use super::fdb::{Address, Learnt, Speaker};
use super::forwarder::Forwarder;
use super::frame::Frame;
pub use super::leases::Room;
use super::leases::{Unsent, Way};
use super::loop_probe;
use super::observation;
use super::tagging;
use crate::memory::edited_head::EditedHead;
use crate::memory::frame_head::{FrameHead, Window};
use crate::port::Port;
use crate::port::batch::PlainFrame;
use crate::port::cost::PASSED_BY;
use crate::port::guard;
use crate::port::observers::Observed;
use crate::port::sink::{Delivered, DeliveryState, Outgoing, Stay};
use crate::port::traffic_rules::{Cast, Edit, InVlan, Passage, TAG_LEN, TrafficRules};

/// A burst of one port's frames, which stay in their buffers for `'t`. Receivers see nothing of it before
/// [`Sending::publish`]. Each burst that is begun must be published: if it is dropped before, its deferred copies are
/// abandoned and its leases stay until the next burst. Only a panic does that, and a panic ends the worker.
pub struct Sending<'f, 't> {
    forwarder: &'f mut Forwarder,
    state: DeliveryState<'t>,
    from: &'static Port,
    /// What its frames are held to.
    rules: Option<&'f TrafficRules>,
    /// The windows of all taken frames, if the frames are held to what is in them.
    pub windows: &'t [Window],
    /// Room for frames with other tags.
    pub edited: std::slice::IterMut<'t, EditedHead>,
    /// The transmit queue may be paused.
    pub may_pause: bool,
    /// The last address that was learnt. All frames come from one port within one second.
    last_learnt: Option<Address>,
    /// The last look-up. Cleared when the table changes.
    last_found: Option<(Address, Option<u16>)>,
    /// How the last frame went, and its VLAN, if it went to one port and the next one may take the same way.
    last_egress: Option<(Way, InVlan)>,
    /// Who observes what the sender sends.
    observed: Observed,
}

/// The port and ring that frames of one destination take.
#[derive(Clone, Copy)]
pub struct Egress {
    /// Index of the leased queue.
    at: usize,
    /// Slot of the receiver.
    to: u16,
    /// What each frame costs in addition ([`crate::port::kind::Kind::frame_cost`]).
    pub frame_cost: u64,
    /// The VLAN of the frames, and how they say so.
    vlan: InVlan,
    /// What becomes of their tags.
    pub edit: Edit,
}

impl Egress {
    /// Whether a frame of the same sender that begins so and has so many octets is in the same VLAN and says it by the same
    /// octets: so it goes out unchanged as well. Its header has [`NET_HDR_LEN`] octets.
    #[inline]
    pub fn admits(&self, rules: &TrafficRules, head: &FrameHead, len: usize) -> bool {
        len <= self.longest() && rules.vlan.classify(head.behind_addresses(NET_HDR_LEN), len) == Ok(self.vlan)
    }

    /// Which bits behind the addresses ([`FrameHead::word_behind_addresses`]) say the VLAN of a frame: all frames that have
    /// the same ones are in the same VLAN. Without a tag it is the type, else the tag and the type behind it.
    #[inline]
    pub fn vlan_bits(&self) -> u64 {
        if self.vlan.is_bare() { !0 << 48 } else { !0 << 16 }
    }

    /// Most octets of a frame in this VLAN, with the tag that it has.
    #[inline]
    pub fn longest(&self) -> usize {
        if self.vlan.vid == 0 { MAX_FRAME } else { MAX_FRAME - TAG_LEN + self.vlan.tag_len() }
    }
}

impl<'f, 't> Sending<'f, 't> {
    /// Begins a burst of port `from`, whose frames are held to `rules` and whose transmit queue may be paused if
    /// `may_pause`.
    #[inline]
    pub fn begin(
        forwarder: &'f mut Forwarder,
        (from, rules): (&'static Port, Option<&'f TrafficRules>),
        may_pause: bool,
    ) -> Sending<'f, 't> {
        // If they are being changed, nobody observes this one. A burst waits for that before it begins.
        let _ = forwarder.begin_observing();
        let observed = observation::of_sender(forwarder, from.slot());
        let (deferred, now_ns) = (forwarder.leases.deferred.begin(), forwarder.now_ns);
        Sending {
            forwarder,
            state: DeliveryState { deferred, cost: 0, missed: 0, now_ns, stay: Stay::OFF },
            from,
            rules,
            windows: &[],
            edited: [].iter_mut(),
            may_pause,
            last_learnt: None,
            last_found: None,
            last_egress: None,
            observed,
        }
    }

    /// Cost of deliveries and signals so far ([`crate::port::cost`]).
    #[inline]
    pub fn cost(&self) -> u64 {
        self.state.cost
    }

    /// A card may read frames of this burst where they are, unless their way is other than the plain one: those of a
    /// sender with rules are copied, and all while somebody observes.
    pub fn let_stay(&mut self, stay: Stay) {
        let may = stay.may && self.rules.is_none() && !self.is_observed();
        self.state.stay = Stay { may, ..stay };
    }

    /// What became of that.
    pub fn stay(&self) -> &Stay {
        &self.state.stay
    }

    /// The time, in nanoseconds of CLOCK_MONOTONIC.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.state.now_ns
    }

    /// Counts a dropped frame against its sender.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.forwarder.view.counting.drop(self.from.counters(), reason);
    }

    /// Learns the sender's address, if its port may take it, and delivers the frame to its receivers. A returned drop is charged to the sender;
    /// drops charged to receivers are counted here.
    #[inline(always)]
    pub fn forward(&mut self, frame: &Frame<'_, 't, '_>) -> Result<(), Unsent> {
        self.last_egress = None;
        if frame.src.is_group() || frame.src.is_zero() {
            return Err(DropReason::BadSource.into());
        }
        if frame.dst.is_group()
            && let Some(reason) = self.refuses_group(frame)
        {
            return Err(reason.into());
        }
        // Compiled for open ports apart, where nothing of a passage is left.
        match self.rules {
            None => self.pass(frame, &Passage::OPEN),
            Some(rules) => self.forward_held(rules, frame),
        }
    }

    /// The same for a port with rules.
    #[inline(never)]
    fn forward_held(&mut self, rules: &TrafficRules, frame: &Frame<'_, 't, '_>) -> Result<(), Unsent> {
        let passage = Sending::admit(rules, frame)?;
        self.pass(frame, &passage)
    }

    #[inline(always)]
    fn pass(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage) -> Result<(), Unsent> {
        let vid = passage.vlan.vid;
        self.learn(Address::new(frame.src, vid))?;
        match self.find(Address::new(frame.dst, vid)) {
            Some(to) if to == self.from.slot() => Err(DropReason::Hairpin.into()),
            Some(to) => self.unicast(to, frame, passage),
            None => self.flood(frame, *passage),
        }
    }

    /// Holds a frame to the rules of its sender, before its source is learnt.
    #[inline(never)]
    pub fn admit(rules: &TrafficRules, frame: &Frame<'_, 't, '_>) -> Result<Passage, DropReason> {
        let vlan = rules.vlan.classify(frame.behind_addresses(), frame.len)?;
        if vlan.vid != 0 {
            tagging::may_be_edited(frame, &vlan)?;
        }
        if !guard::claim(frame.guarded?, frame.src) {
            return Err(DropReason::GuardMac);
        }
        Ok(Passage { vlan, isolation: rules.isolation, cast: Cast::Known })
    }

    /// Why a frame to this group is not forwarded, if it is not.
    #[inline(never)]
    fn refuses_group(&mut self, frame: &Frame<'_, 't, '_>) -> Option<DropReason> {
        if frame.dst.is_link_local() {
            return Some(DropReason::LinkLocal);
        }
        if frame.dst != loop_probe::GROUP || !self.from.rules.is_uplink() {
            return None;
        }
        let token = loop_probe::token(frame)?;
        let Forwarder { view, now_ns, .. } = *self.forwarder;
        if view.ports.sent_token(token) && self.from.rules.note_loop(token, now_ns) {
            self.forwarder.has_noted = true;
        }
        Some(DropReason::LoopProbe)
    }

    /// Learns a source address. A frame whose source is refused must not be forwarded.
    #[inline]
    fn learn(&mut self, src: Address) -> Result<(), DropReason> {
        if self.last_learnt != Some(src) {
            let Forwarder { fdb, now_s, view, .. } = &*self.forwarder;
            let speaker = Speaker { port: self.from.slot(), rules: self.rules, ports: view.ports };
            match fdb.learn(src, speaker, *now_s) {
                Learnt::Same => {}
                news => self.take_news(news)?,
            }
            self.last_learnt = Some(src);
        }
        Ok(())
    }

    /// The table has changed, or the source was refused.
    #[inline(never)]
    fn take_news(&mut self, news: Learnt) -> Result<(), DropReason> {
        self.last_found = None;
        self.forwarder.has_noted |= self.forwarder.view.ports.flaps.has_note();
        if news == Learnt::Full {
            return Err(DropReason::AddressLimit);
        }
        let Learnt::Refused(key) = news else {
            self.forwarder.has_noted |= news == Learnt::Marked && self.forwarder.view.ports.marked.set();
            return Ok(());
        };
        if self.from.rules.is_uplink() {
            return Err(DropReason::UplinkEcho);
        }
        self.forwarder.has_noted |= self.from.rules.note_conflict(key);
        Err(DropReason::AddressConflict)
    }

    #[inline]
    fn find(&mut self, dst: Address) -> Option<u16> {
        if dst.mac().is_group() {
            return None;
        }
        match self.last_found {
            Some((address, found)) if address == dst => found,
            _ => {
                let found = self.forwarder.fdb.find(dst, self.forwarder.now_s);
                self.last_found = Some((dst, found));
                found
            }
        }
    }

    fn flood(&mut self, frame: &Frame<'_, 't, '_>, passage: Passage) -> Result<(), Unsent> {
        let passage = Passage { cast: Cast::of_flood(frame.dst), ..passage };
        let storm = self.rules.and_then(|rules| rules.storms.of_cast(passage.cast));
        if storm.is_some_and(|storm| storm.take(1, self.state.now_ns).is_err()) {
            return Err(DropReason::Storm.into());
        }
        let flooded = match frame.dst.is_group() && self.forwarder.snooping.is_on() {
            true => self.send_to_group(frame, &passage),
            false => self.flood_all(frame, &passage),
        };
        // The frame comes again.
        if let (Some(storm), Err(Unsent::Busy)) = (storm, &flooded) {
            storm.give_back(1);
        }
        flooded
    }

    fn flood_all(&mut self, frame: &Frame<'_, 't, '_>, passage: &Passage) -> Result<(), Unsent> {
        let (ports, from) = (self.forwarder.view.ports, self.from.slot());
        match self.deliver_all(frame, passage, || ports.receivers(passage.vlan.vid).filter(|to| *to != from))? {
            0 => Err(DropReason::NoDestination.into()),
            _ => Ok(()),
        }
    }

    /// Delivers to all of these ports that may get the frame, or to none, and learns nothing. Returns how many receive.
    pub fn deliver_all<I: Iterator<Item = u16>>(
        &mut self,
        frame: &Frame<'_, 't, '_>,
        passage: &Passage,
        ports: impl Fn() -> I,
    ) -> Result<usize, Unsent> {
        let Forwarder { view, leases, .. } = &mut *self.forwarder;
        let (mut receivers, mut hops) = (0, false);
        // All receivers get the frame now, or none: so nobody must remember which ones got it. All threads lease in
        // the same order.
        for to in ports() {
            let Some(at) = leases.lease(view, to, frame.flow, &mut self.state)? else { continue };
            match leases.way_to(at, passage) {
                Ok(_) => receivers += 1,
                Err(reason) => {
                    self.state.cost += PASSED_BY;
                    hops |= reason == DropReason::VlanHop;
                }
            }
        }
        if receivers == 0 && hops {
            return Err(DropReason::VlanHop.into());
        }
        if leases.observers.is_some() {
            observation::lease_mirrors_of_all(self.forwarder, &mut self.state, frame.flow, ports())?;
        }
        let Forwarder { view, leases, .. } = &mut *self.forwarder;
        for to in ports() {
            let Some(way) = leases.find(to).and_then(|at| leases.way_to(at, passage).ok()) else { continue };
            // A flooded frame does not wait for one receiver: the others would wait too. Nor does it wait for a card.
            self.state.without_stay(|state| leases.deliver(way, state, frame, false, view.counting))?;
        }
        Ok(receivers)
    }

    /// Delivers to one port.
    #[inline(always)]
    fn unicast(&mut self, to: u16, frame: &Frame<'_, 't, '_>, passage: &Passage) -> Result<(), Unsent> {
        let Forwarder { view, leases, .. } = &mut *self.forwarder;
        match leases.lease(view, to, frame.flow, &mut self.state)? {
            Some(at) => {
                let way = leases.way_to(at, passage)?;
                if leases.observers.is_some() {
                    self.lease_mirrors_of(at, to, frame.flow)?;
                }
                let Forwarder { view, leases, .. } = &mut *self.forwarder;
                leases.deliver(way, &mut self.state, frame, self.may_pause, view.counting)?;
                let is_repeatable = frame.offload.is_none() && !way.is_limited;
                self.last_egress = is_repeatable.then_some((way, passage.vlan));
            }
            None if !view.ports.is_there(to) => return Err(DropReason::PortAbsent.into()),
            None => {
                if let Some(counters) = view.counters(to) {
                    view.counting.drop(counters, DropReason::RxDown);
                }
                observation::down(&mut leases.observers, to, frame);
            }
        }
        Ok(())
    }

    /// The egress of the last frame, if it went to one port and the next one may take the same way.
    #[inline]
    pub fn last_egress(&mut self) -> Option<Egress> {
        let (Way { at, edit, .. }, vlan) = self.last_egress.take()?;
        let (to, frame_cost) = self.forwarder.leases.receiver(at)?;
        Some(Egress { at, to, frame_cost, vlan, edit })
    }

    /// Whether a frame with these addresses has the same egress. Its source must be known at the sender's port. A new
    /// source is learnt only when its frame is sent: frames before it, which may have to wait, must not see it.
    #[inline]
    pub fn goes_to(&mut self, egress: &Egress, (dst, src): (MacAddr, MacAddr)) -> bool {
        let (from, vid) = (self.from.slot(), egress.vlan.vid);
        let (dst, src) = (Address::new(dst, vid), Address::new(src, vid));
        let is_known = || self.forwarder.fdb.find(src, self.forwarder.now_s) == Some(from);
        if dst.mac().is_group() || self.last_learnt != Some(src) && !is_known() {
            return false;
        }
        self.learn(src).is_ok() && egress.to != from && self.find(dst) == Some(egress.to)
    }

    /// Delivers up to `most` frames without offloads, whose checksums were `verified` or not, to this egress. Stops at the
    /// first frame that needs more work.
    #[inline]
    pub fn repeat(
        &mut self,
        egress: &Egress,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        self.forwarder.leases.deliver_plain(egress.at, &mut self.state, frames, most, verified)
    }

    /// The same with other tags. Returns the frames' octets as they were sent.
    #[inline]
    pub fn repeat_edited(
        &mut self,
        egress: &Egress,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        let Delivered { frames, octets } = self.repeat(egress, frames, most, verified);
        let growth = i64::from(egress.edit.growth()) * frames as i64;
        Delivered { frames, octets: octets.saturating_add_signed(-growth) }
    }

    /// Publishes to all receivers, signals the guests that ask for it, and gives back the leases. Returns the cost of
    /// the whole burst.
    #[inline]
    pub fn publish(mut self) -> u64 {
        let Forwarder { view, leases, thread, .. } = &mut *self.forwarder;
        leases.publish(&mut self.state, thread, view.counting);
        self.forwarder.end_observing();
        self.state.cost
    }
}

/// What captures and mirrors need to know of a burst ([`super::observation`]).
impl<'t> Sending<'_, 't> {
    /// Whether there are captures or mirrors, of any port.
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.forwarder.leases.observers.is_some()
    }

    /// The sender's next frame.
    pub fn begin_frame(&mut self, frame: &Outgoing<'_, '_, '_>) {
        if let Some(observers) = &mut self.forwarder.leases.observers {
            self.state.cost += if self.observed.captures == 0 { 0 } else { frame.len as u64 };
            observers.take((self.from.slot(), self.observed), frame);
        }
    }

    /// What became of that frame: it was dropped for this reason, or stays in its ring.
    pub fn end_frame(&mut self, dropped: Option<DropReason>) {
        match (&mut self.forwarder.leases.observers, dropped) {
            (Some(observers), Some(reason)) => observers.drop_taken(reason),
            (Some(observers), None) => observers.undo_taken(),
            (None, _) => {}
        }
    }

    /// Whether the sender's port gets a mirror's copies. Else leases the ports that get copies of what it sends.
    pub fn begin_mirroring(&mut self, flow: u16) -> Result<(), Unsent> {
        if self.forwarder.view.ports.is_mirror(self.from.slot()) {
            return Err(DropReason::MirrorPort.into());
        }
        let observed = self.observed;
        observation::lease_mirrors(self.forwarder, &mut self.state, flow, |_| observed)
    }

    /// Leases the ports that get copies of what a port gets, whose leased queue has index `at`. A port that gets copies
    /// gets nothing else, even if it has static addresses.
    #[cold]
    fn lease_mirrors_of(&mut self, at: usize, to: u16, flow: u16) -> Result<(), Unsent> {
        if self.forwarder.view.ports.is_mirror(to) {
            return Err(DropReason::NoDestination.into());
        }
        observation::lease_mirrors(self.forwarder, &mut self.state, flow, |leases| leases.observed(at))
    }

    /// Copies a frame that was forwarded to the mirrors that want it.
    pub fn copy_to_mirrors(&mut self, frame: &Frame<'_, 't, '_>) {
        observation::copy_to_mirrors(self.forwarder, &mut self.state, frame);
    }

    /// Whether mirrors want frames that the sender sends to this egress.
    pub fn is_mirrored(&self, egress: &Egress) -> bool {
        self.observed.mirrors | self.forwarder.leases.observed(egress.at).mirrors != 0
    }

    /// Records a frame that [`Sending::repeat`] has delivered to this egress.
    pub fn record_repeated(&mut self, egress: &Egress, frame: &Outgoing<'_, '_, '_>, delivered: &NetHdr) {
        let observed = (self.observed, self.forwarder.leases.observed(egress.at));
        let slots = (self.from.slot(), egress.to);
        observation::repeated(&mut self.forwarder.leases.observers, slots, observed, frame, delivered);
    }

    /// Whether captures want frames that the sender sends to this egress.
    pub fn is_captured(&self, egress: &Egress) -> bool {
        self.observed.captures | self.forwarder.leases.observed(egress.at).captures != 0
    }
}

impl Drop for Sending<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.forwarder.leases.deferred.end(&mut self.state.deferred);
    }
}

#[cfg(test)]
mod tests;
