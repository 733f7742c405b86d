//! The frames of senders that are held to rules: guard, limits, and bursts of frames that go the same way.
//!
//! A guard looks at more than a frame's head. What it looks at is read once, for the whole burst ([`Window`]), or for the
//! current frame, and is delivered as it was read: a guest that changes its frame meanwhile changes nothing that was
//! checked.

use sv3::drop_reason::DropReason;
use sv3::frame::ETHERNET_LEN;
use sv3::virtio::{NET_HDR_LEN, VIRTIO_NET_HDR_F_NEEDS_CSUM};

use super::{Checked, Sender, Unsent};
use crate::forward::frame::Frame;
use crate::forward::offload::{self, Offload};
use crate::forward::sending::{Egress, Sending};
use crate::memory::copy::Reader;
use crate::memory::frame_head::{Snapshot, WINDOW_LEN, Window};
use crate::memory::meddling::looked;
use crate::memory::slice_list::SliceList;
use crate::port::batch::Taken;
use crate::port::bucket::{Bucket, Short};
use crate::port::guard::{self, Claimed, Example, Guard};
use crate::port::sink::Delivered;
use crate::port::traffic_rules::{Edit, TAG_LEN, TrafficRules};
use crate::process::crash;

/// Octets of the shortest frame with a tag.
const SHORTEST_TAGGED: usize = ETHERNET_LEN + TAG_LEN;

/// Room for what a guard looks at, which the check of an offload looks at as well.
const _: () = assert!(guard::WINDOW == offload::HEAD);

/// Reads the windows of all taken frames.
#[inline(never)]
pub(super) fn look<'w>(windows: &'w mut [Window], taken: &[Taken], slices: &SliceList<'_, '_>) -> &'w [Window] {
    let all = slices.all();
    for (window, one) in windows.iter_mut().zip(taken) {
        window.fill(&one.head, one.slices(all));
    }
    looked(|at| taken.iter().for_each(|one| at(one.slices(slices.all()), WINDOW_LEN)));
    windows
}

impl Sender<'_> {
    /// What the frames are held to.
    #[inline]
    pub(super) fn guard(&self) -> Option<&Guard> {
        self.rules?.guard.as_ref()
    }

    fn claimed(&self) -> &'static Claimed {
        &self.port.counters().claimed
    }

    #[inline]
    fn limit(&self) -> Option<&Bucket> {
        self.rules?.from_port.as_ref()
    }

    fn tokens(&self, limit: &Bucket, one: &Taken) -> u64 {
        limit.tokens(1, one.len().unwrap_or(0).saturating_sub(self.header_len) as u64)
    }

    /// Takes a frame off what the sender may send.
    #[inline]
    pub(super) fn pay(&self, one: &Taken, now_ns: u64) -> Result<(), Short> {
        self.limit().map_or(Ok(()), |limit| limit.take(self.tokens(limit, one), now_ns))
    }

    /// The frame was not sent, and comes again.
    pub(super) fn pay_back(&self, one: &Taken) {
        if let Some(limit) = self.limit() {
            limit.give_back(self.tokens(limit, one));
        }
    }

    /// Sends one frame of `len` octets. `OBSERVED`: there are captures or mirrors.
    #[inline(never)]
    pub(super) fn send_guarded<'t, const OBSERVED: bool>(
        &self,
        guard: &Guard,
        sending: &mut Sending<'_, 't>,
        (at, one): (usize, &'t Taken),
        slices: &'t SliceList<'_, '_>,
        len: usize,
    ) -> Result<(), Unsent> {
        let (skip, head, asks) = (self.header_len, &one.head, one.head.asks());
        let window = sending.windows.get(at).ok_or(DropReason::BadChain)?;
        let (dst, src) = head.addresses(skip);
        let pieces = one.slices(slices.all());
        let is_usual = (asks == 0 || asks == self.verified)
            && (skip, len >= WINDOW_LEN - NET_HDR_LEN) == (NET_HDR_LEN, true)
            && guard.is_usual(window, self.claimed());
        let checked;
        let (offload, octets, guarded) = match is_usual {
            true if asks == 0 => (Offload::NONE, window.0.get(skip..), Ok(&[][..])),
            true => (Offload::VERIFIED, window.0.get(skip..), Ok(&[][..])),
            false => {
                let guarded;
                (checked, guarded) = self.check_guarded(guard, window, one, slices, len)?;
                (&checked.offload, checked.octets.get(..checked.known), guarded)
            }
        };
        let plain = if is_usual { one.plain_with(slices, window) } else { None };
        let (flow, snapshot) = (self.flow, Snapshot::Frame(octets.unwrap_or_default()));
        let frame = Frame { dst, src, flow, offload, snapshot, slices: pieces, skip, len, plain, guarded };
        if OBSERVED {
            sending.begin_mirroring(flow)?;
        }
        crash::with_current(&head.0, || sending.forward(&frame))?;
        if OBSERVED {
            sending.copy_to_mirrors(&frame);
        }
        Ok(())
    }

    /// Checks offload and guard by the same octets, which are read once.
    fn check_guarded(
        &self,
        guard: &Guard,
        window: &Window,
        one: &Taken,
        slices: &SliceList<'_, '_>,
        len: usize,
    ) -> Result<(Checked, Result<&'static Claimed, DropReason>), DropReason> {
        let (skip, pieces) = (self.header_len, one.slices(slices.all()));
        let mut octets = [0; offload::HEAD];
        let begin = window.0.get(skip..(skip + len).min(WINDOW_LEN)).unwrap_or_default();
        let known = Reader::new(begin, pieces, skip).read(&mut octets).min(len);
        looked(|at| at(pieces, skip + known));
        let begin = octets.get(..known).unwrap_or_default();
        let offload = match one.head.asks() {
            0 => *Offload::NONE,
            asks if asks == self.verified => *Offload::VERIFIED,
            _ => offload::check(&one.head.net_hdr(skip), begin, len, self.features)
                .map_err(|_| DropReason::BadOffload)?,
        };
        let hdr = offload.hdr;
        let field = usize::from(hdr.csum_start) + usize::from(hdr.csum_offset);
        let is_partial = hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
        // Who completes the checksum would overwrite what was checked.
        let guarded = guard
            .check(begin, len, self.claimed())
            .and_then(|decided| (!is_partial || decided.spares(field)).then_some(()).ok_or(DropReason::BadOffload))
            .map(|()| guard.claims(one.head.addresses(skip).1, self.claimed()));
        Ok((Checked { offload, octets, known }, guarded))
    }

    /// Sends those of `others` that go where `one` went and that the rules let pass as they are. `first`: the number of
    /// the first one.
    #[inline(never)]
    pub(super) fn repeat_by_rules<'t>(
        &self,
        rules: &TrafficRules,
        sending: &mut Sending<'_, 't>,
        egress: &Egress,
        (one, others, first): (&Taken, &'t [Taken], usize),
        slices: &'t SliceList<'_, '_>,
    ) -> Delivered {
        let (windows, now_ns) = (sending.windows.get(first..).unwrap_or_default(), sending.now_ns());
        let paid = |len: usize| match &rules.from_port {
            None => true,
            Some(limit) => limit.take(limit.tokens(1, len as u64), now_ns).is_ok(),
        };
        let (longest, bits) = (egress.longest(), egress.vlan_bits());
        let known = one.head.word_behind_addresses();
        let admits = |next: &Taken, len| match (next.head.word_behind_addresses() ^ known) & bits {
            0 => (SHORTEST_TAGGED..=longest).contains(&len) || egress.admits(rules, &next.head, len),
            _ => egress.admits(rules, &next.head, len),
        };
        let verified = self.is_verified(one);
        let (most, octets) = match &rules.guard {
            None => self.alike(sending, egress, one, others, (|_, next: &Taken, len, _| admits(next, len), paid)),
            Some(guard) => {
                let (claimed, mut example) = (self.claimed(), None::<Example<'_>>);
                let is_usual = |at: usize, next: &Taken, len: usize, same_addresses: bool| {
                    let Some(window) = windows.get(at).filter(|_| len >= WINDOW_LEN - NET_HDR_LEN) else {
                        return false;
                    };
                    // Of the same type, so in the same VLAN: no usual frame has a tag.
                    let is_like = || example.is_some_and(|example| example.stands_for(window));
                    if same_addresses && len <= longest && is_like() {
                        return true;
                    }
                    let is_usual = admits(next, len) && guard.is_usual(window, claimed);
                    example = is_usual.then(|| Example::of(window));
                    is_usual
                };
                self.alike(sending, egress, one, others, (is_usual, paid))
            }
        };
        let delivered = match (&rules.guard, egress.edit == Edit::NONE) {
            (None, true) => {
                let plain = others.iter().map_while(|next| next.plain(slices));
                sending.repeat(egress, plain, most, verified)
            }
            (Some(_), true) => {
                let plain = others.iter().zip(windows).map_while(|(next, window)| next.plain_with(slices, window));
                sending.repeat(egress, plain, most, verified)
            }
            (guard, false) => {
                let windows = if guard.is_some() { windows } else { &[] };
                repeat_edited(sending, egress, (others, windows), slices, (most, verified))
            }
        };
        if let Some(limit) = &rules.from_port {
            let left = most.saturating_sub(delivered.frames as usize) as u64;
            limit.give_back(limit.tokens(left, octets.saturating_sub(delivered.octets)));
        }
        delivered
    }
}

/// Delivers up to `most` of `others` to this egress, with other tags. `windows`: what was looked at of them; none: their
/// heads.
#[inline(never)]
fn repeat_edited<'t>(
    sending: &mut Sending<'_, 't>,
    egress: &Egress,
    (others, windows): (&'t [Taken], &'t [Window]),
    slices: &'t SliceList<'_, '_>,
    (most, verified): (usize, bool),
) -> Delivered {
    let mut edited = std::mem::take(&mut sending.edited);
    let places = edited.by_ref();
    let tag = (egress.edit.cut, egress.edit.put);
    let plain = others
        .iter()
        .enumerate()
        .map_while(|(at, next)| next.plain_edited(slices, windows.get(at), tag, places.next()?));
    let delivered = sending.repeat_edited(egress, plain, most, verified);
    sending.edited = edited;
    delivered
}
