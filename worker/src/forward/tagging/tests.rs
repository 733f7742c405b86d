//! An edited frame has the octets of the frame, with one tag more, less or another, wherever the frame was cut.

use proptest::prelude::*;
use sv3::frame::MacAddr;
use sv3::virtio::{NET_HDR_LEN, NET_HDR_LEN_LEGACY, NetHdr, VIRTIO_NET_HDR_GSO_TCPV4};

use super::*;
use crate::memory::copy::Writer;
use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;
use crate::port::sink::Outgoing;

/// How the frame's first octets are known.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Head,
    Octets(usize),
    Nothing,
}

fn known() -> impl Strategy<Value = Known> {
    prop_oneof![Just(Known::Head), (18..300usize).prop_map(Known::Octets), Just(Known::Nothing)]
}

proptest! {
    #[test]
    fn octets_are_those_of_the_frame_but_for_the_tag(
        frame in proptest::collection::vec(any::<u8>(), 18..700),
        cuts in proptest::collection::vec(1usize..40, 0..6),
        known in known(),
        legacy: bool,
        cut: bool,
        put in prop_oneof![Just(0u32), 1u32..],
    ) {
        let header_len = if legacy && known != Known::Nothing { NET_HDR_LEN_LEGACY } else { NET_HDR_LEN };
        let mut rest = [vec![0; header_len], frame.clone()].concat();
        let mut pieces = Vec::new();
        for cut in cuts {
            let tail = rest.split_off(cut.min(rest.len()));
            pieces.push(std::mem::replace(&mut rest, tail));
        }
        pieces.push(rest);
        let slices: Vec<_> = pieces.iter_mut().map(|piece| GuestSlice::of_host(piece)).collect();
        let head = FrameHead::read(&slices);
        let mac = MacAddr::from_bits(2);
        let whole = Frame { skip: header_len, ..Frame::complete((mac, mac), &slices, frame.len()) };
        let snapshot = match known {
            Known::Head => Snapshot::Chain(&head),
            Known::Octets(count) => Snapshot::Frame(&frame[..count.min(frame.len()).min(HEAD)]),
            Known::Nothing => Snapshot::NOTHING,
        };
        let whole = Frame { snapshot, ..whole };
        prop_assert_eq!(&whole.behind_addresses()[..], &frame[12..18]);
        // What was looked at must not be read again.
        if known == Known::Head {
            slices.iter().fold(header_len + 18, |left, slice| left.saturating_sub(slice.write(0, &vec![0xee; left])));
        }
        let edit = Edit { cut, put };
        let (offload, mut room) = (offload(&whole, edit), [0; ROOM]);
        let edited = edited(&whole, edit, &offload, &mut room);
        let tag = if put == 0 { vec![] } else { put.to_be_bytes().to_vec() };
        let wanted = [&frame[..12], &tag, &frame[if cut { 16 } else { 12 }..]].concat();
        prop_assert_eq!(edited.len, wanted.len());
        let Frame { slices, skip, len, snapshot, .. } = edited;
        let mut got = vec![0; len];
        let hdr = &NetHdr::NONE;
        let buffers = [GuestSlice::of_host(&mut got)];
        Outgoing { hdr, slices, skip, len, snapshot, plain: None }.write_frame(Writer::new(&buffers));
        prop_assert_eq!(got, wanted);
    }
}

fn asks(csum_start: u16, len: usize) -> (NetHdr, usize) {
    (NetHdr { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start, csum_offset: 6, ..NetHdr::NONE }, len)
}

#[test]
fn offloads_that_an_edit_would_make_wrong_are_refused() {
    let (tagged, mac) = (InVlan::of_tag(7, 0x8100_0007), MacAddr::from_bits(2));
    for (vlan, (hdr, len), result) in [
        (tagged, asks(18, 100), Ok(())),
        (tagged, asks(17, 100), Err(DropReason::BadOffload)),
        (InVlan::untagged(7), asks(14, 100), Ok(())),
        (InVlan::untagged(7), asks(65_531, MAX_FRAME - 4), Ok(())),
        (InVlan::untagged(7), asks(65_532, MAX_FRAME - 4), Err(DropReason::BadOffload)),
        (InVlan::untagged(7), asks(20, MAX_FRAME - 3), Err(DropReason::LongFrame)),
        (tagged, asks(20, MAX_FRAME), Ok(())),
    ] {
        let offload = Offload::of(hdr);
        let frame = Frame { offload: &offload, ..Frame::complete((mac, mac), &[], len) };
        assert_eq!(may_be_edited(&frame, &vlan), result, "{hdr:?} {len}");
    }
}

#[test]
fn offsets_move_with_the_tag_and_what_is_not_said_stays_unsaid() {
    let hdr = NetHdr { gso_type: VIRTIO_NET_HDR_GSO_TCPV4, hdr_len: 58, gso_size: 1448, ..asks(38, 0).0 };
    let mac = MacAddr::from_bits(2);
    let moved = |hdr, edit| {
        let offload = Offload::of(hdr);
        super::offload(&Frame { offload: &offload, ..Frame::complete((mac, mac), &[], 100) }, edit).hdr
    };
    let (cut, put) = (Edit { cut: true, put: 0 }, Edit { cut: false, put: 0x8100_0001 });
    assert_eq!(moved(hdr, put), NetHdr { csum_start: 42, hdr_len: 62, ..hdr });
    assert_eq!(moved(hdr, cut), NetHdr { csum_start: 34, hdr_len: 54, ..hdr });
    assert_eq!(moved(hdr, Edit { cut: true, put: 0x88a8_0001 }), hdr);
    assert_eq!(moved(asks(14, 0).0, put), asks(18, 0).0, "a checksum without segmentation");
    assert_eq!(moved(NetHdr::VERIFIED, put), NetHdr::VERIFIED);
}
