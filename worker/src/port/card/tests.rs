//! A card's port beside a guest's, on the model of the 82599.

mod fixture;
mod kills;
mod offloads;
mod stays;

use sv3::virtio::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_HDR_F_DATA_VALID};

use fixture::*;

#[test]
fn frames_go_both_ways() {
    both().into_iter().for_each(both_ways);
}

fn both_ways(settings: sv3::card::CardSettings) {
    let mut fixture = Fixture::new(settings, GUEST_ALL);
    for round in 0..60 {
        let lens = [60, 64, 1514, 2048, 2049, 9000];
        for len in lens {
            assert!(fixture.model.receive(&frame(GUEST, OUTSIDE, round, len)));
            fixture.guest_sends(frame(OUTSIDE, GUEST, round, len));
        }
        fixture.serve();
        let got: Vec<_> = fixture.guest_got().into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(got, lens.map(|len| frame(GUEST, OUTSIDE, round, len)));
        assert_eq!(fixture.model.sent(), lens.map(|len| frame(OUTSIDE, GUEST, round, len)));
    }
    fixture.model.assert_content();
}

#[test]
fn a_short_frame_is_padded_and_a_long_one_is_dropped() {
    let mut fixture = Fixture::new(settings(), GUEST_ALL);
    for len in [18, 30, 9022, 9023] {
        fixture.guest_sends(frame(OUTSIDE, GUEST, 1, len));
    }
    fixture.serve();
    let padded = |len| [&frame(OUTSIDE, GUEST, 1, len)[..], &[0; 60]].concat()[..60].to_vec();
    assert_eq!(fixture.model.sent(), [padded(18), padded(30), frame(OUTSIDE, GUEST, 1, 9022)]);
    assert_eq!(fixture.drops(CARD, sv3::drop_reason::DropReason::RxTooSmall), 1);
}

#[test]
fn a_checksum_that_the_card_has_verified_is_told_to_guests_that_want_to_know() {
    for (features, flags) in [(VIRTIO_NET_F_GUEST_CSUM.mask(), VIRTIO_NET_HDR_F_DATA_VALID), (0, 0)] {
        let mut fixture = Fixture::new(settings(), features);
        let good = offloads::whole_tcp(GUEST, OUTSIDE, 100);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        let other = frame(GUEST, OUTSIDE, 7, 100);
        let all = [&good, &good, &bad, &other, &good];
        assert!(all.into_iter().all(|frame| fixture.model.receive(frame)));
        fixture.serve();
        let got = fixture.guest_got();
        assert_eq!(got.iter().map(|(hdr, _)| hdr.flags).collect::<Vec<_>>(), [flags, flags, 0, 0, flags]);
        assert!(got.iter().zip(all).all(|((_, got), sent)| got == sent));
    }
}

#[test]
fn a_sender_waits_for_the_wire_and_loses_nothing() {
    let mut fixture =
        Fixture::new(sv3::card::CardSettings { descriptors: 128, transmit: 256 << 10, ..settings() }, GUEST_ALL);
    fixture.pause_wire(true);
    (0..200).for_each(|number| fixture.guest_sends(frame(OUTSIDE, GUEST, number, 1514)));
    fixture.serve();
    assert!(fixture.model.sent().is_empty());
    assert!(fixture.guest_has_left() > 60, "they wait");
    fixture.pause_wire(false);
    let mut sent = fixture.model.sent();
    for _ in 0..10 {
        fixture.serve();
        sent.extend(fixture.model.sent());
    }
    assert_eq!(sent, (0..200).map(|number| frame(OUTSIDE, GUEST, number, 1514)).collect::<Vec<_>>());
}
