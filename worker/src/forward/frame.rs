//! A frame to be forwarded.

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::virtio::NET_HDR_LEN;

use super::offload::Offload;
use crate::memory::copy::Reader;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::batch::PlainFrame;
use crate::port::guard::Claimed;

/// Octets of both addresses.
pub const BEHIND_ADDRESSES: usize = 12;

/// A frame that came from a port, or a RARP frame that the worker sends in the port's name. `'t` lasts until the
/// burst is published.
pub struct Frame<'a, 't, 'm> {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Selects one queue of a receiver that has several. The same for all frames of one transmit queue.
    pub flow: u16,
    /// Checked offloads.
    pub offload: &'a Offload,
    /// The slices that hold the frame.
    pub slices: &'a [GuestSlice<'m>],
    /// Octets in the slices before the frame.
    pub skip: usize,
    /// Octets of the frame.
    pub len: usize,
    /// The octets that are delivered exactly as they were read first.
    pub snapshot: Snapshot<'a>,
    /// The same frame, if it lies in one piece with a header of [`sv3::virtio::NET_HDR_LEN`] octets.
    pub plain: Option<PlainFrame<'t>>,
    /// Whether the guard of its sender lets it pass, and the places of which its source must claim one
    /// ([`crate::port::guard::claim`]). Its snapshot has all octets that decided that.
    pub guarded: Result<&'a Claimed, DropReason>,
}

impl<'a, 'm> Frame<'a, '_, 'm> {
    /// A frame of `len` octets in the worker's own memory, behind [`NET_HDR_LEN`] others: so a VLAN tag has room.
    pub fn complete((dst, src): (MacAddr, MacAddr), slices: &'a [GuestSlice<'m>], len: usize) -> Self {
        let (offload, snapshot, skip) = (Offload::NONE, Snapshot::NOTHING, NET_HDR_LEN);
        Frame { dst, src, flow: 0, offload, slices, skip, len, snapshot, plain: None, guarded: Ok(&[]) }
    }

    /// The six octets behind the addresses, zeroes behind the frame's end.
    pub fn behind_addresses(&self) -> [u8; 6] {
        match self.snapshot {
            Snapshot::Chain(head) => head.behind_addresses(self.skip),
            Snapshot::Frame(known) => {
                let mut octets = [0; BEHIND_ADDRESSES + 6];
                Reader::new(known, self.slices, self.skip).read(&mut octets);
                let [.., a, b, c, d, e, f] = octets;
                [a, b, c, d, e, f]
            }
        }
    }
}
