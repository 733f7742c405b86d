//! The physical function, driven by hand.

use crate::Card;
use crate::registers::{self as reg};
use crate::testing::{COUNT, Driver, IXSM, TSE, TXSM, context, frame, packet};

#[test]
fn frames_go_both_ways() {
    let mut driver = Driver::running();
    for len in [60, 61, 1514, 4 * 1024, 9000] {
        assert!(driver.arrives(&frame(len)));
        let received = driver.received().unwrap();
        assert_eq!(received.frame, frame(len));
        assert_eq!(received.descriptors, len.div_ceil(2048));
        assert_eq!(driver.sends(&frame(len)).unwrap(), frame(len));
    }
    assert_eq!(driver.received(), None);
    driver.content();
}

#[test]
fn a_short_frame_is_padded() {
    let mut driver = Driver::running();
    let mut expected = frame(20);
    expected.resize(60, 0);
    assert_eq!(driver.sends(&frame(20)).unwrap(), expected);
}

#[test]
fn frames_wait_for_descriptors_and_are_dropped_if_the_queue_says_so() {
    let mut driver = Driver::running();
    for at in 0..COUNT + 3 {
        assert!(driver.arrives(&frame(60 + at as usize)));
    }
    assert_eq!(driver.get(reg::RNBC), 4);
    for at in 0..COUNT + 3 {
        assert_eq!(driver.received().unwrap().frame, frame(60 + at as usize));
    }
    driver.write(0x2100, 1 << 28 | 1 << 25 | 2);
    assert_eq!((0..COUNT).filter(|_| driver.arrives(&frame(60))).count(), COUNT as usize - 1);
    assert_eq!((driver.get(0x1430), driver.get(0x1430)), (1, 0));
    driver.content();
}

#[test]
fn a_reset_shows_itself_once_and_leaves_nothing() {
    let mut driver = Driver::running();
    let control = driver.get(reg::CTRL);
    driver.write(reg::CTRL, control | 1 << 26);
    assert_eq!(driver.get(reg::CTRL) & 1 << 26, 1 << 26);
    assert_eq!(driver.get(reg::CTRL) & 1 << 26, 0);
    assert_eq!((driver.get(0x1028), driver.get(reg::RXCTRL), driver.get(reg::RAL)), (0, 0, 0x9059_8202));
    assert!(!driver.arrives(&frame(60)));
    driver.content();
}

#[test]
fn registers_that_do_not_exist_are_told() {
    let mut driver = Driver::pf();
    driver.get(0x0004);
    driver.card.read(0x1000, 2);
    driver.write(0x1_FFFC, 1);
    driver.get(0x1000 + 0x3C);
    assert_eq!(driver.card.complaints().len(), 4, "{:?}", driver.card.complaints());
}

#[test]
fn a_descriptor_is_written_back_if_the_driver_asks_or_the_head_is() {
    let mut driver = Driver::running();
    driver.sends(&frame(60)).unwrap();
    assert_eq!(driver.sent_descriptor(0)[1] >> 32 & 1, 1);
    driver.write(0x6028, 0);
    driver.write(0x6038, crate::testing::HEAD as u32 | 1);
    driver.write(0x603C, (crate::testing::HEAD >> 32) as u32);
    driver.write(0x6028, 1 << 25);
    let (first, second) = (frame(100), frame(200));
    driver.queue_frame(&[&first, &second], 300, 0);
    driver.doorbell();
    assert_eq!(driver.card.sent().unwrap(), [first, second].concat());
    assert_eq!(driver.descriptor(crate::testing::HEAD)[0], 3);
    assert_eq!(driver.sent_descriptor(2)[1] >> 32 & 1, 0);
    driver.content();
}

#[test]
fn nothing_is_read_or_written_while_the_bus_master_is_off() {
    let mut driver = Driver::running();
    driver.card.set_bus_master(false, &mut driver.ram);
    assert!(driver.arrives(&frame(60)));
    assert_eq!(driver.sends(&frame(61)), None);
    assert_eq!(driver.received(), None);
    driver.card.set_bus_master(true, &mut driver.ram);
    assert_eq!(driver.received().unwrap().frame, frame(60));
    assert_eq!(driver.card.sent().unwrap(), frame(61));
    driver.content();
}

#[test]
fn dma_outside_of_the_memory_is_told() {
    let mut driver = Driver::running();
    driver.queue([0x1234, 60 | 3 << 20 | 3 << 24 | 1 << 29 | 60 << 46]);
    driver.doorbell();
    assert!(driver.card.complaints()[0].contains("DMA: 60 octets"), "{:?}", driver.card.complaints());
}

#[test]
fn only_frames_for_the_card_are_taken() {
    let mut driver = Driver::running();
    driver.write(reg::FCTRL, 0);
    let mut other = frame(60);
    other[5] = 1;
    assert_eq!([&frame(60), &other, &vec![0xFF; 60]].map(|frame| driver.arrives(frame)), [true, false, false]);
    driver.write(reg::FCTRL, 1 << 9 | 1 << 10);
    assert_eq!([&frame(60), &other, &vec![0xFF; 60]].map(|frame| driver.arrives(frame)), [true; 3]);
    // The second one passes by promiscuity only.
    let passes = [(); 4].map(|()| driver.received().unwrap().high & 1 << 7);
    assert_eq!(passes, [0, 0, 1 << 7, 0]);
    assert_eq!((driver.get(0x4074), driver.get(0x40D0), driver.get(0x4078)), (4, 6, 1));
    driver.content();
}

#[test]
fn checksums_are_told_and_inserted() {
    let mut driver = Driver::running();
    for (v6, kind) in [(false, 1), (false, 0), (true, 1), (true, 0)] {
        let (packet, of) = packet(v6, kind, 100, 0);
        driver.queue(context(&of, 1));
        driver.queue_frame(&[&packet[..20], &packet[20..]], packet.len(), (IXSM * u64::from(!v6)) | TXSM | 1 << 36);
        driver.doorbell();
        let mut sent = driver.card.sent().unwrap();
        assert!(driver.arrives(&sent));
        let received = driver.received().unwrap();
        let (network, transport) = (if v6 { 0x40 } else { 0x10 }, if kind == 1 { 0x100 } else { 0x200 });
        assert_eq!((received.low, received.high & 0xFFFF_FFFF), (network | transport, if v6 { 0x23 } else { 0x63 }));
        *sent.last_mut().unwrap() ^= 1;
        assert!(driver.arrives(&sent));
        assert_eq!(driver.received().unwrap().high >> 30 & 3, 1);
    }
    assert_eq!(driver.get(0x4120), 4);
    driver.content();
}

#[test]
fn a_frame_is_cut_into_segments() {
    let mut driver = Driver::running();
    for v6 in [false, true] {
        let (packet, of) = packet(v6, 1, 5000, 1400);
        driver.queue(context(&of, 0));
        driver.queue_frame(
            &[&packet[..54], &packet[54..2000], &packet[2000..]],
            5000,
            (IXSM * u64::from(!v6)) | TXSM | TSE,
        );
        driver.doorbell();
        let mut lengths = Vec::new();
        driver.card.take_sent(&mut |frame| lengths.push(frame.len() - of.header()));
        assert_eq!(lengths, [1400, 1400, 1400, 800]);
    }
    assert_eq!(driver.get(0x4080), 8);
    driver.content();
}

#[test]
fn a_flow_stays_in_the_queue_that_the_table_says() {
    let mut driver = Driver::running();
    driver.write(reg::MRQC, 1 | 1 << 17);
    assert!(driver.arrives(&packet(false, 1, 10, 0).0));
    assert_eq!(driver.received().unwrap().low & 0xF, 2);
    for at in 0..32 {
        driver.write(reg::RETA + 4 * at, 0x0101_0101);
    }
    assert!(!driver.arrives(&packet(false, 1, 10, 0).0), "queue 1 is not enabled");
    assert!(driver.arrives(&frame(60)), "no IP, queue 0");
    driver.content();
}

/// A driver whose queue joins segments, 8 descriptors at most.
fn joining() -> Driver {
    let mut driver = Driver::pf();
    driver.write(reg::RDRXCTL, 1 << 1 | 1 << 25);
    driver.write(0x102C, 1 | 2 << 2);
    driver.write(0x5480, 1 << 4);
    driver.write(0x0900, 0x80);
    driver.write(0x0898, 1 << 4 | 10 << 11);
    driver.write(0x0820, 100 << 3);
    driver.write(0x0AA0, 1);
    driver.start();
    driver.card.pass_time(1, &mut driver.ram);
    driver
}

/// Segment `index` of a stream whose segments have 1,000 octets, as the card sends it.
fn segment(index: u32, flags: u8) -> Vec<u8> {
    let (mut frame, of) = packet(false, 1, 1000, 0);
    frame[38..42].copy_from_slice(&(7 + index * 1000).to_be_bytes());
    frame[42..46].copy_from_slice(&index.to_be_bytes());
    frame[47] = flags;
    // The sum of the pseudo-header.
    let complaints = &mut crate::Complaints::default();
    crate::offload::insert(&mut frame, &of, true, true, complaints);
    frame
}

#[test]
fn segments_are_joined_until_one_pushes() {
    let mut driver = joining();
    assert!((0..4).all(|index| driver.arrives(&segment(index, if index == 3 { 0x18 } else { 0x10 }))));
    assert_eq!(driver.card.interrupts(), 1);
    let received = driver.received().unwrap();
    assert_eq!((received.frame.len(), received.descriptors), (4054, 2));
    let headers = crate::frame::Headers::of(&received.frame);
    assert_eq!(headers.end, 4054, "IP has the length of the whole");
    assert_eq!(crate::offload::check(&received.frame, &headers) & 1 << 31, 0, "and its checksum");
    assert_eq!((&received.frame[42..46], received.frame[47]), (&3u32.to_be_bytes()[..], 0x18));
    // Two segments begin in each buffer; the last descriptor tells of the second.
    assert_eq!(received.low >> 17 & 0xF, 3);
    let payload = &received.frame[54..];
    assert!((0..4).all(|index| payload[index * 1000..][..1000] == segment(0, 0)[54..]));
    driver.content();
}

#[test]
fn a_flow_closes_with_what_does_not_fit_and_with_time() {
    let mut driver = joining();
    assert!([0, 1, 3].map(|index| driver.arrives(&segment(index, 0x10))).iter().all(|taken| *taken));
    assert_eq!(driver.received().unwrap().frame.len(), 2054);
    assert!(driver.received().is_none());
    driver.card.pass_time(203, &mut driver.ram);
    assert!(driver.received().is_none());
    driver.card.pass_time(1, &mut driver.ram);
    assert_eq!(driver.received().unwrap().frame.len(), 1054);
    assert!(driver.arrives(&segment(4, 0x10)) && driver.arrives(&frame(60)) && driver.arrives(&segment(5, 0x11)));
    let frames = [(); 3].map(|()| driver.received().unwrap().frame.len());
    assert_eq!(frames, [1054, 60, 1054], "FIN is not joined");
    driver.content();
}

#[test]
fn segments_of_different_vlans_are_not_joined() {
    let mut driver = joining();
    let tagged = |index: u32, tag: u8| {
        let mut frame = segment(index, 0x10);
        frame.splice(12..12, [0x81, 0x00, 0x00, tag]);
        frame
    };
    for (index, tag) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        assert!(driver.arrives(&tagged(index, tag)));
    }
    driver.card.pass_time(1000, &mut driver.ram);
    let received = [(); 2].map(|()| driver.received_chain().unwrap());
    assert_eq!(received.each_ref().map(|it| (it.frame.len(), it.frame[15])), [(2058, 1), (2058, 2)]);
    driver.content();
}

#[test]
fn what_finds_no_room_at_all_is_missed() {
    let mut driver = Driver::running();
    let fitting = (0..2000).filter(|_| driver.arrives(&frame(1514))).count();
    assert_eq!(fitting, COUNT as usize - 1 + 512 * 1024 / 1514);
    assert_eq!((driver.get(reg::MPC), driver.get(0x0808) & 1 << 17), (2000 - fitting as u32, 1 << 17));
    driver.content();
}

#[test]
fn joined_segments_take_no_more_descriptors_than_the_driver_allows() {
    let mut driver = joining();
    assert!((0..20).all(|index| driver.arrives(&segment(index, 0x10))));
    let first = driver.received().unwrap();
    assert_eq!((first.frame.len(), first.descriptors), (16_054, 8));
    driver.content();
}

#[test]
fn a_driver_that_prepares_joining_badly_is_told() {
    let mut driver = Driver::pf();
    driver.write(0x102C, 1 | 3 << 2);
    driver.start();
    assert_eq!(driver.card.complaints().len(), 2, "{:?}", driver.card.complaints());
    assert!(driver.arrives(&segment(0, 0x10)));
    assert_eq!(driver.card.complaints().len(), 3, "no vector");
    driver.write(reg::RFCTL, 1 << 5);
    assert!(driver.arrives(&segment(1, 0x10)));
    driver.write(reg::RFCTL, 0);
    assert!(driver.arrives(&segment(2, 0x18)));
}

#[test]
fn descriptors_are_written_back_by_threshold_or_time() {
    let mut driver = Driver::running();
    driver.write(0x6028, 4 << 16);
    driver.write(0x6028, 4 << 16 | 1 << 25);
    for _ in 0..3 {
        driver.sends(&frame(60)).unwrap();
    }
    assert_eq!([0, 1, 2].map(|at| driver.sent_descriptor(at)[1] >> 32 & 1), [0; 3]);
    driver.card.pass_time(1, &mut driver.ram);
    assert_eq!([0, 1, 2].map(|at| driver.sent_descriptor(at)[1] >> 32 & 1), [1; 3]);
    driver.content();
}

#[test]
fn interrupts_tell_of_both_directions_and_of_the_link() {
    let mut driver = Driver::running();
    driver.write(0x0898, 1 << 4);
    driver.write(0x0900, 0x8180);
    driver.write(0x0A00, 0x8200);
    driver.write(0x0AA0, 3);
    driver.write(0x0880, 1 << 20);
    driver.arrives(&frame(60));
    assert_eq!(driver.card.interrupts(), 1);
    driver.sends(&frame(60)).unwrap();
    assert_eq!(driver.card.interrupts(), 2);
    driver.card.set_link(false, &mut driver.ram);
    assert_eq!((driver.card.interrupts(), driver.get(0x42A4), driver.get(0x0800) & 1 << 20), (4, 0, 1 << 20));
    assert_eq!((driver.arrives(&frame(60)), driver.sends(&frame(61))), (false, None));
    driver.card.set_link(true, &mut driver.ram);
    assert_eq!((driver.card.sent().unwrap(), driver.card.link_losses()), (frame(61), 1));
    driver.content();
}

#[test]
fn a_paused_wire_takes_what_it_is_given_leave_for() {
    let mut driver = Driver::running();
    driver.card.set_paused(true, &mut driver.ram);
    (60..65).for_each(|len| assert_eq!(driver.sends(&frame(len)), None));
    driver.card.send_some(2, &mut driver.ram);
    assert_eq!([(); 3].map(|()| driver.card.sent().map(|frame| frame.len())), [Some(60), Some(61), None]);
    assert_eq!(driver.get(0x6010), 2);
    driver.card.set_paused(false, &mut driver.ram);
    assert_eq!([(); 4].map(|()| driver.card.sent().map(|frame| frame.len())), [Some(62), Some(63), Some(64), None]);
}

#[test]
fn tags_stay_unless_the_driver_wants_them_apart() {
    let mut driver = Driver::running();
    let mut tagged = frame(100);
    tagged[12..16].copy_from_slice(&[0x81, 0x00, 0x60, 0x05]);
    assert!(driver.arrives(&tagged));
    let received = driver.received().unwrap();
    assert_eq!((received.frame, received.high >> 48, received.high >> 3 & 1), (tagged.clone(), 0x6005, 1));
    driver.write(0x1028, 1 << 30 | 1 << 25);
    assert!(driver.arrives(&tagged));
    tagged.drain(12..16);
    assert_eq!(driver.received().unwrap().frame, tagged);
    driver.content();
}

#[test]
fn damaged_frames_are_counted_and_seen_by_who_wants_them() {
    let mut driver = Driver::running();
    assert!(!driver.card.receive_damaged(&frame(60), &mut driver.ram));
    let control = driver.get(reg::FCTRL);
    driver.write(reg::FCTRL, control | reg::SBP);
    assert!(driver.card.receive_damaged(&frame(60), &mut driver.ram));
    assert_eq!((driver.received().unwrap().high >> 29 & 1, driver.get(reg::CRCERRS)), (1, 2));
    assert!(driver.arrives(&frame(60)));
    assert_eq!(driver.received().unwrap().high >> 29 & 1, 0);
    driver.content();
}

#[test]
fn a_card_that_is_gone_reads_as_ones() {
    let mut driver = Driver::running();
    driver.card.pull_out();
    driver.write(reg::CTRL, 0);
    assert_eq!(
        (driver.get(reg::STATUS), driver.arrives(&frame(60)), driver.sends(&frame(60))),
        (u32::MAX, false, None)
    );
}
