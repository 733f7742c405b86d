//! A frame with another VLAN tag, or without one, for a receiver.
//!
//! Neither the sender's memory nor the frame's other octets are touched. The edited frame has a snapshot of its own, which
//! begins with the addresses and goes on behind the tag, and its slices are read from where that snapshot ends. So every
//! kind of receiver delivers it as it delivers any frame that lies in several pieces. The offsets of a partial checksum and
//! the length of the headers move with the tag.
//!
//! A frame whose offloads would be wrong with the tag put in or taken off is refused when it comes in ([`may_be_edited`]),
//! so that the receiver makes no difference to the sender.

use sv3::drop_reason::DropReason;
use sv3::frame::MAX_FRAME;
use sv3::virtio::VIRTIO_NET_HDR_F_NEEDS_CSUM;

use super::frame::{BEHIND_ADDRESSES, Frame};
use super::offload::{HEAD, Offload};
use crate::memory::copy::Reader;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::port::traffic_rules::{Edit, InVlan, TAG_LEN};

/// Room for the first octets of an edited frame.
pub const ROOM: usize = HEAD + TAG_LEN;

/// Whether a frame can have any tag in the place of its own.
pub fn may_be_edited(frame: &Frame<'_, '_, '_>, vlan: &InVlan) -> Result<(), DropReason> {
    let (tag_len, hdr) = (vlan.tag_len(), &frame.offload.hdr);
    if frame.len - tag_len > MAX_FRAME - TAG_LEN {
        return Err(DropReason::LongFrame);
    }
    // A checksum from within the tag or before it would begin elsewhere without it.
    let first = BEHIND_ADDRESSES + 2 + tag_len;
    let places = first..=usize::from(u16::MAX) - TAG_LEN;
    let moves = hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 || places.contains(&usize::from(hdr.csum_start));
    moves.then_some(()).ok_or(DropReason::BadOffload)
}

/// The offload of the frame after an edit.
pub fn offload(frame: &Frame<'_, '_, '_>, edit: Edit) -> Offload {
    frame.offload.moved(edit.growth())
}

/// The frame after an edit. `room` gets its first octets; `offload`: see [`offload`].
pub fn edited<'a, 't, 'm>(
    frame: &Frame<'a, 't, 'm>,
    edit: Edit,
    offload: &'a Offload,
    room: &'a mut [u8; ROOM],
) -> Frame<'a, 't, 'm> {
    let mut head = [0; HEAD_LEN];
    let known = frame.snapshot.octets((frame.skip, frame.len), &mut head);
    let (cut, tag) = (if edit.cut { TAG_LEN } else { 0 }, edit.put.to_be_bytes());
    let put = if edit.put == 0 { &[][..] } else { &tag[..] };
    let mut reader = Reader::new(known, frame.slices, frame.skip);
    let (addresses, behind) = room.split_at_mut(BEHIND_ADDRESSES);
    let (place, rest) = behind.split_at_mut(put.len());
    reader.read(addresses);
    reader.read([0; TAG_LEN].get_mut(..cut).unwrap_or_default());
    place.copy_from_slice(put);
    // Nothing that was looked at is read again.
    let looked_at = known.len().saturating_sub(BEHIND_ADDRESSES + cut).min(rest.len());
    let read = reader.read(rest.get_mut(..looked_at).unwrap_or_default());
    let len = BEHIND_ADDRESSES + put.len() + read;
    let snapshot: &'a [u8] = room;
    Frame {
        offload,
        // The slices go on behind the snapshot, wherever that begins.
        skip: frame.skip + BEHIND_ADDRESSES + cut + read - len,
        len: frame.len + put.len() - cut,
        snapshot: Snapshot::Frame(snapshot.get(..len).unwrap_or_default()),
        plain: None,
        ..*frame
    }
}

#[cfg(test)]
mod tests;
