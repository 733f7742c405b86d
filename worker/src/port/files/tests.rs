//! Ports of files with sockets, served burst by burst.

mod fixture;
mod hostile;
mod kills;
mod room;
mod splits;
mod truncated;

use std::io::{Read, Write};

use fixture::{Fixture, MTU, frame, framed, mac, settings, stream};
use sv3::attachment::{FrameForm, Transport};
use sv3::drop_reason::DropReason;
use sv3::ipc::RingFault;
use sv3::virtio::*;

use crate::forward::burst::{End, Served};
use crate::poll::fair_share::TURN;
use crate::port::cost::FILE_WRITE;
use crate::port::kind::WhenEmpty;

#[test]
fn a_frame_passes_from_a_stream_to_a_stream() {
    let mut fixture = Fixture::new(&[settings(Transport::Stream, FrameForm::Plain); 2]);
    let (to_1, to_0) = (frame(mac(1), mac(0), 60), frame(mac(0), mac(1), 1514));
    fixture.peer(0).write_all(&framed(&to_1)).unwrap();
    fixture.serve(0);
    assert_eq!(stream(fixture.peer(1)), framed(&to_1));
    fixture.peer(1).write_all(&framed(&to_0)).unwrap();
    fixture.serve(1);
    assert_eq!(stream(fixture.peer(0)), framed(&to_0));
    assert_eq!(fixture.when_empty(0), WhenEmpty::LooksAgain);
    fixture.serve(0);
    assert_eq!(fixture.when_empty(0), WhenEmpty::Rests(None));
}

#[test]
fn packets_keep_their_borders_in_order() {
    let mut fixture = Fixture::new(&[settings(Transport::Packets, FrameForm::Plain); 2]);
    let frames: Vec<_> = [60, 1514, 61, 900].into_iter().map(|len| frame(mac(1), mac(0), len)).collect();
    for frame in &frames {
        fixture.peer(0).write_all(frame).unwrap();
    }
    fixture.serve(0);
    for frame in &frames {
        let mut octets = [0; 2000];
        let len = fixture.peer(1).read(&mut octets).unwrap();
        assert_eq!(&octets[..len], frame);
    }
}

#[test]
fn a_stream_cannot_have_another_make_more_writes_than_its_budget_pays() {
    let forms = [settings(Transport::Stream, FrameForm::Plain), settings(Transport::Packets, FrameForm::Plain)];
    let mut fixture = Fixture::new(&forms);
    fixture.learn(1);
    fixture.peer(0).write_all(&framed(&frame(mac(1), mac(0), 60)).repeat(100)).unwrap();
    let Served { frames, cost, .. } = fixture.serve(0);
    assert!(frames as u64 * FILE_WRITE <= 4 * TURN + FILE_WRITE, "{frames} writes");
    assert!(cost >= frames as u64 * FILE_WRITE);
}

#[test]
fn while_rings_wait_a_file_gives_one_frame_at_a_time() {
    let forms = [settings(Transport::Packets, FrameForm::Plain), settings(Transport::Stream, FrameForm::Plain)];
    let mut fixture = Fixture::new(&forms);
    assert_eq!([0, 1].map(|slot| fixture.most_of_burst(slot, true) <= 16 * 1024), [true; 2]);
    for _ in 0..10 {
        fixture.peer(0).write_all(&frame(mac(1), mac(0), 60)).unwrap();
    }
    for _ in 0..10 {
        assert_eq!(fixture.serve_within(0, true).frames, 1);
    }
}

#[test]
fn a_batch_from_a_stream_is_one_write_into_a_stream() {
    let mut fixture = Fixture::new(&[settings(Transport::Stream, FrameForm::Plain); 2]);
    let frames: Vec<u8> = (0..32).flat_map(|n| framed(&frame(mac(1), mac(0), 60 + n))).collect();
    fixture.peer(0).write_all(&frames).unwrap();
    assert_eq!(fixture.serve(0).frames, 32);
    assert_eq!(stream(fixture.peer(1)), frames);
}

#[test]
fn a_net_header_travels_and_octets_before_a_plain_frame_do_not() {
    let forms = [FrameForm::NetHeader, FrameForm::NetHeader, FrameForm::Plain].map(|f| settings(Transport::Stream, f));
    let mut fixture = Fixture::new(&forms);
    // A TCP frame of 3,000 octets of payload, to be segmented.
    let tso = fixture::tcp(mac(9), mac(0), 3000);
    let hdr = NetHdr {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gso_type: VIRTIO_NET_HDR_GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    let octets = framed(&[&hdr.to_bytes()[..], &tso].concat());
    fixture.peer(0).write_all(&octets).unwrap();
    fixture.serve(0);
    let got = stream(fixture.peer(1));
    assert_eq!(got.len(), octets.len());
    assert_eq!(NetHdr::from_bytes(*got[4..].first_chunk().unwrap()), NetHdr { num_buffers: 1, ..hdr });
    assert_eq!(got[16..], tso[..]);
    let plain = fixture::frames(&stream(fixture.peer(2)));
    assert_eq!(plain.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 134]);
    // Back: what lies before a plain frame looks like a header that asks for everything.
    fixture.peer(2).write_all(&[framed(&[0xff; 60]), framed(&frame(mac(0), mac(9), 60))].concat()).unwrap();
    fixture.serve(2);
    let back = stream(fixture.peer(0));
    assert_eq!((back.len(), &back[4..14]), (4 + 12 + 60, &[0; 10][..]));
    assert_eq!(fixture.drops(2), [(DropReason::BadSource, 1)]);
}

#[test]
fn implied_offloads_are_found_in_the_frame() {
    let forms = [settings(Transport::Stream, FrameForm::Implied), settings(Transport::Stream, FrameForm::NetHeader)];
    let mut fixture = Fixture::new(&forms);
    let cases = [
        (fixture::tcp(mac(1), mac(0), 9000), VIRTIO_NET_HDR_GSO_TCPV4, MTU as u16 - 40),
        (fixture::tcp(mac(1), mac(0), 1460), VIRTIO_NET_HDR_GSO_NONE, 0),
    ];
    for (octets, gso_type, gso_size) in cases {
        fixture.peer(0).write_all(&framed(&octets)).unwrap();
        fixture.serve(0);
        let got = stream(fixture.peer(1));
        let hdr = NetHdr::from_bytes(*got[4..].first_chunk().unwrap());
        assert_eq!((hdr.flags, hdr.csum_start, hdr.csum_offset), (VIRTIO_NET_HDR_F_NEEDS_CSUM, 34, 16));
        assert_eq!((hdr.gso_type, hdr.gso_size), (gso_type, gso_size));
        assert_eq!(got[16..], octets[..]);
    }
    // ARP, and a UDP datagram without a checksum, have none.
    fixture.peer(0).write_all(&framed(&frame(mac(1), mac(0), 60))).unwrap();
    fixture.serve(0);
    assert_eq!(stream(fixture.peer(1))[4..14], [0; 10]);
}

#[test]
fn a_frame_longer_than_the_other_side_takes_is_dropped() {
    let mut fixture = Fixture::new(&[settings(Transport::Stream, FrameForm::Plain); 2]);
    for (len, drops) in [(MTU as usize + 14 + 8, vec![]), (MTU as usize + 14 + 9, vec![(DropReason::RxTooSmall, 1)])] {
        fixture.peer(0).write_all(&framed(&frame(mac(1), mac(0), len))).unwrap();
        fixture.serve(0);
        assert_eq!(fixture.drops(1), drops);
    }
}

#[test]
fn a_sender_waits_for_a_stream_that_is_not_read_and_goes_on_when_it_is() {
    let mut fixture = Fixture::new(&[settings(Transport::Stream, FrameForm::Plain); 2]);
    fixture.learn(1);
    let octets = framed(&frame(mac(1), mac(0), 1514));
    let mut sent = 0;
    let wait = loop {
        fixture.peer(0).write_all(&octets).unwrap();
        match fixture.serve_or_wait(0).end {
            End::Waits(wait, _) => break wait,
            _ => sent += 1,
        }
        assert!(sent < 1000, "it is never full");
    };
    assert!(!fixture.is_ready(wait));
    let got = stream(fixture.peer(1));
    assert_eq!(got, octets.repeat(sent));
    fixture.look();
    assert!(fixture.is_ready(wait), "the peer has read");
    fixture.serve_or_wait(0);
    assert_eq!(stream(fixture.peer(1)), octets, "the frame that waited");
    assert!(fixture.drops(1).is_empty());
}

#[test]
fn packets_wait_as_well() {
    let mut fixture = Fixture::new(&[settings(Transport::Packets, FrameForm::Plain); 2]);
    fixture.learn(1);
    let octets = frame(mac(1), mac(0), 1514);
    let wait = loop {
        fixture.peer(0).write_all(&octets).unwrap();
        if let End::Waits(wait, _) = fixture.serve_or_wait(0).end {
            break wait;
        }
    };
    assert!(!fixture.is_ready(wait));
    let mut room = [0; 2000];
    while fixture.peer(1).read(&mut room).is_ok() {}
    fixture.look();
    assert!(fixture.is_ready(wait));
    assert_eq!(fixture.serve_or_wait(0).frames, 1);
}

#[test]
fn the_end_of_a_socket_is_told_after_the_frames_before_it() {
    for transport in [Transport::Stream, Transport::Packets] {
        let mut fixture = Fixture::new(&[settings(transport, FrameForm::Plain); 2]);
        let octets = frame(mac(1), mac(0), 60);
        let sent = if transport == Transport::Stream { framed(&octets) } else { octets };
        fixture.peer(0).write_all(&sent).unwrap();
        fixture.hang_up(0);
        assert_eq!(fixture.serve(0).frames, 1);
        assert_eq!(fixture.fails(0), Some(RingFault::Gone), "{transport:?}");
        // A receiver that is gone.
        let mut fixture = Fixture::new(&[settings(transport, FrameForm::Plain); 2]);
        fixture.hang_up(1);
        fixture.peer(0).write_all(&sent).unwrap();
        fixture.serve(0);
        assert_eq!(fixture.next_fault(), Some((1, RingFault::Gone)), "{transport:?}");
        assert_eq!(fixture.next_fault(), None);
    }
}
