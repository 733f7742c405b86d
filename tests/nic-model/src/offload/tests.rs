//! Checksums and segments against values that are known from elsewhere, and against each other.

use super::*;
use crate::Complaints;
use crate::testing::packet;

#[test]
fn sums_are_those_of_the_literature() {
    // An IPv4 header with the checksum 0xB861.
    let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xB8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199];
    assert_eq!(fold(sum(&header, 0)), 0);
    assert_eq!(crc(b"123456789", 0xEDB8_8320), 0xCBF4_3926);
    assert_eq!(crc(b"123456789", 0x82F6_3B78), 0xE306_9283);
    // RFC 1071, section 3.
    assert_eq!(fold(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7], 0)), !0xDDF2);
}

#[test]
fn what_the_card_inserts_it_finds_right() {
    for (v6, kind, len) in [(false, 1, 0), (false, 1, 1001), (false, 0, 1), (true, 1, 999), (true, 0, 8), (false, 2, 5)]
    {
        let (mut frame, context) = packet(v6, kind, len, 0);
        let complaints = &mut Complaints::default();
        insert(&mut frame, &context, !v6, true, complaints);
        assert_eq!(complaints.all(), [] as [String; 0]);
        let headers = Headers::of(&frame);
        let expected = L4I | if v6 { 0 } else { IPCS };
        assert_eq!(check(&frame, &headers), expected, "{v6} {kind} {len}");
        for at in context.mac + if v6 { 8 } else { 12 }..frame.len() {
            let mut wrong = frame.clone();
            wrong[at] ^= 0x10;
            assert_ne!(check(&wrong, &Headers::of(&wrong)), expected, "{v6} {kind}: octet {at} is in no sum");
        }
    }
}

#[test]
fn padding_is_in_no_sum() {
    let (mut frame, context) = packet(false, 1, 2, 0);
    insert(&mut frame, &context, true, true, &mut Complaints::default());
    frame.extend_from_slice(&[0xAA; 4]);
    assert_eq!(check(&frame, &Headers::of(&frame)), L4I | IPCS);
}

#[test]
fn segments_are_right_and_carry_all_octets() {
    for (v6, kind, len, mss) in
        [(false, 1, 4000, 1448), (true, 1, 2896, 1448), (false, 0, 3001, 1000), (true, 0, 17, 4)]
    {
        let (frame, context) = packet(v6, kind, len, mss);
        let mut segments = Segments::of(&frame, context, [0x0F76_0FF6, 0x0F7F]).unwrap();
        let (mut payload, mut count) = (Vec::new(), 0);
        let mut segment = Vec::new();
        while segments.next(&mut segment) {
            let headers = Headers::of(&segment);
            assert_eq!(check(&segment, &headers) & (TCPE | IPE | L4I), L4I, "{v6} {kind} segment {count}");
            assert_eq!(headers.end, segment.len());
            payload.extend_from_slice(&segment[context.header()..]);
            count += 1;
            segment.clear();
        }
        assert_eq!((payload, count), (frame[context.header()..].to_vec(), len.div_ceil(mss)));
    }
}

#[test]
fn flags_of_tcp_and_identifications_are_those_of_their_segment() {
    let (mut frame, context) = packet(false, 1, 30, 10);
    let at = context.transport();
    // CWR, PSH, ACK and FIN; a sequence number that goes round.
    frame[at + 13] = 0x99;
    frame[at + 4..at + 8].copy_from_slice(&0xFFFF_FFFAu32.to_be_bytes());
    frame[context.mac + 4..context.mac + 6].copy_from_slice(&0xFFFFu16.to_be_bytes());
    let mut segments = Segments::of(&frame, context, [0x0F76_0FF6, 0x0F7F]).unwrap();
    let mut found = Vec::new();
    let mut segment = Vec::new();
    while segments.next(&mut segment) {
        found.push((segment[at + 13], word(&segment, at + 6).unwrap(), word(&segment, context.mac + 4).unwrap()));
        segment.clear();
    }
    assert_eq!(found, [(0x90, 0xFFFA, 0xFFFF), (0x10, 4, 0), (0x19, 14, 1)]);
}

#[test]
fn a_context_that_does_not_fit_is_told() {
    let (mut frame, context) = packet(false, 1, 10, 0);
    let complaints = &mut Complaints::default();
    insert(&mut frame, &Context { ipv4: false, ..context }, true, true, complaints);
    insert(&mut frame, &Context { kind: 0, ..context }, false, true, complaints);
    assert_eq!(complaints.all().len(), 2, "{:?}", complaints.all());
    assert!(Segments::of(&frame, context, [0; 2]).is_none(), "no MSS");
}
