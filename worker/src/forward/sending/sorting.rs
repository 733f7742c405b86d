//! What a burst asks whose frames are sorted by receiver ([`crate::forward::burst`]).

use sv3::frame::MacAddr;

use super::{Address, Delivered, Forwarder, Passage, PlainFrame, Room, Sending};

impl<'t> Sending<'_, 't> {
    /// Whether the source is known at the sender's port. A new one is learnt only when its frame is sent alone.
    #[inline]
    pub fn has_learnt(&mut self, src: MacAddr) -> bool {
        let src = Address::from(src);
        let is_known = || self.forwarder.fdb.find(src, self.forwarder.now_s) == Some(self.from.slot());
        self.last_learnt == Some(src) || is_known() && self.learn(src).is_ok()
    }

    /// Index of the leased queue to which frames for this address go as they are. `None`: they need more work.
    pub fn receiver(&mut self, dst: MacAddr, flow: u16) -> Option<usize> {
        let Forwarder { view, leases, fdb, now_s, .. } = &mut *self.forwarder;
        let to = fdb.find(dst, *now_s).filter(|to| !dst.is_group() && *to != self.from.slot())?;
        let at = leases.lease(view, to, flow, &mut self.state).ok()??;
        leases.way_to(at, &Passage::OPEN).is_ok_and(|way| way.is_plain()).then_some(at)
    }

    /// For how many plain frames, `most` at most, a leased queue has room now. `None`: it cannot say, or for none.
    pub fn room(&mut self, at: usize, most: usize) -> Option<Room> {
        self.forwarder.leases.room(at, most)
    }

    /// Delivers up to `most` frames to a leased queue, as [`Sending::repeat`] does.
    #[inline]
    pub fn deliver_run(
        &mut self,
        at: usize,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        self.forwarder.leases.deliver_plain(at, &mut self.state, frames, most, verified)
    }
}
