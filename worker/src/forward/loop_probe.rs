//! Frames that look for loops: two uplinks in one network would pass each flooded frame round for ever.
//!
//! A probe goes out of one uplink. If it comes in at an uplink of the same switch, there is a loop. It looks like this:
//!
//! | octets | are |
//! |---|---|
//! | 6 | destination: a group address that is locally administered. Bridges flood it, as they flood broadcasts, and stations drop it. It is none of 01-80-C2-00-00-0x, which bridges keep, and none of IP's, which bridges that snoop send to subscribers only |
//! | 6 | source: locally administered, 24 bits of its own for each uplink of each switch. So no bridge on the way sees one address at two ports of it, unless there is a loop |
//! | 2 | EtherType for local experiments (IEEE 802, 9.2.3), which no station takes |
//! | 8 | the token, highest octet first |
//! | 38 | zeroes, up to the minimum of Ethernet |
//!
//! A probe goes out in one VLAN of the uplink: that of frames without a tag, or else the first. So a loop that other VLANs
//! alone have is not found.
//!
//! An uplink knows probes by destination and EtherType, behind a VLAN tag as well. It neither learns nor forwards them. Only a token that an uplink
//! of this switch has sent is noted, so other probes, forged ones as well, cost no more than any dropped frame. At any
//! other port a probe is an ordinary frame.

use std::iter::once;

use sv3::frame::{ETHERNET_LEN, MacAddr};

use super::forwarder::Forwarder;
use super::frame::{BEHIND_ADDRESSES, Frame};
use super::leases::Unsent;
use super::sending::Sending;
use crate::memory::copy::Reader;
use crate::memory::frame_head::HEAD_LEN;
use crate::memory::slice::GuestSlice;
use crate::port::Port;
use crate::port::traffic_rules::{InVlan, Passage, TAG_LEN};
use sv3::rules::Vid;
use sv3::virtio::NET_HDR_LEN;

/// Destination of all probes: "sv3" in ASCII, which has the bits of a locally administered group address.
pub const GROUP: MacAddr = MacAddr::new([0x73, 0x76, 0x33, 0, 0, 1]);
/// The first octets of their sources: the same without the group bit.
const SOURCE: u64 = 0x7276_3300_0000;
/// The EtherType of local experiments.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Octets of the frame.
const LEN: usize = 60;
/// Octets with those in front of it.
const ROOM: usize = NET_HDR_LEN + LEN;
/// Octets up to the end of the token, without a VLAN tag.
const TOKEN_END: usize = ETHERNET_LEN + 8;
/// What a VLAN tag begins with.
const TAGS: [[u8; 2]; 2] = [[0x81, 0], [0x88, 0xa8]];

/// The token of a frame to [`GROUP`], if it is a probe, with a VLAN tag or without; 0 if it is too short for one.
pub fn token(frame: &Frame<'_, '_, '_>) -> Option<u64> {
    let (mut octets, mut room) = ([0; TOKEN_END + TAG_LEN], [0; HEAD_LEN]);
    let snapshot = frame.snapshot.octets((frame.skip, frame.len), &mut room);
    let known = Reader::new(snapshot, frame.slices, frame.skip).read(&mut octets).min(frame.len);
    let octets = octets.get(..known).unwrap_or_default();
    let has_tag = octets.get(BEHIND_ADDRESSES..ETHERNET_LEN).is_some_and(|kind| TAGS.iter().any(|tag| tag == kind));
    let behind = octets.get(BEHIND_ADDRESSES + if has_tag { TAG_LEN } else { 0 }..)?;
    let token = behind.strip_prefix(&ETHER_TYPE)?.first_chunk();
    Some(token.map_or(0, |token| u64::from_be_bytes(*token)))
}

/// Sends a probe out of an uplink, in one of its VLANs. False: another thread has the uplink's queue, and nothing was sent.
#[must_use]
pub fn send(forwarder: &mut Forwarder, (port, vid): (&'static Port, Vid), token: u64) -> bool {
    let src = MacAddr::from_bits(SOURCE | forwarder.fdb.pseudonym(port.slot()));
    let mut octets = octets(src, token);
    let slices = [GuestSlice::of_host(&mut octets)];
    let frame = Frame::complete((GROUP, src), &slices, LEN);
    let mut sending = Sending::begin(forwarder, (port, None), false);
    let sent = sending.deliver_all(&frame, &Passage::of_switch(InVlan::untagged(vid)), || once(port.slot()));
    sending.publish();
    sent != Err(Unsent::Busy)
}

fn octets(src: MacAddr, token: u64) -> [u8; ROOM] {
    let mut out = [0; ROOM];
    let (dst, src, token) = (GROUP.octets(), src.octets(), token.to_be_bytes());
    let all = dst.iter().chain(&src).chain(&ETHER_TYPE).chain(&token);
    out.iter_mut().skip(NET_HDR_LEN).zip(all).for_each(|(to, from)| *to = *from);
    out
}
