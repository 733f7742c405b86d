use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::reader::Reader;
use super::writer::Writer;
use super::*;
use crate::drop_reason::DropReason;
use crate::frame::MAX_FRAME;
use crate::virtio::NetHdr;

fn file() -> CaptureMap {
    CaptureMap::create(c"sv3-capture").unwrap().1
}

fn record(captured: u32, slot: u16) -> Record {
    let hdr = NetHdr { flags: 1, gso_type: 4, gso_size: 1440, csum_start: 54, csum_offset: 16, ..NetHdr::NONE };
    let dropped = slot.is_multiple_of(2).then_some(DropReason::MirrorPort);
    Record { captured, len: captured + 7, slot, passage: Passage::Out, dropped, time_ns: 1 << 60, hdr }
}

/// Writes frame number `slot` if there is room.
fn write(writer: &mut Writer, ring: &Ring, captured: u32, slot: u16) -> bool {
    let Some((words, _)) = writer.write(ring, &record(captured, slot)) else { return false };
    assert_eq!(words.len(), (captured as usize).div_ceil(STEP));
    words.iter().for_each(|word| word.store(u64::from(slot) * 0x0101_0101_0101_0101, Relaxed));
    true
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let file = file();
    let (ring, mut writer, mut frame) = (&file.rings[63], Writer::default(), Vec::new());
    let mut reader = Reader::new(ring);
    writer.begin(ring);
    let (_, what) = writer.write(ring, &record(60, 1023)).unwrap();
    let late = Record { dropped: Some(DropReason::Hairpin), ..record(60, 1023) };
    ring.words.0[what].store(late.what(), Relaxed);
    assert_eq!(reader.peek(), None, "it is not published");
    writer.publish(ring);
    assert_eq!(reader.peek(), Some(late));
    reader.take(&late, &mut frame);
    assert_eq!((frame.len(), reader.peek()), (60, None));
}

#[test]
fn a_reader_that_stops_loses_frames_which_are_counted_and_the_rest_is_in_order() {
    let file = file();
    let (ring, mut writer, mut frame) = (&file.rings[0], Writer::default(), Vec::new());
    let mut reader = Reader::new(ring);
    let (mut written, mut lost) = (VecDeque::new(), 0);
    for round in 0..40u16 {
        writer.begin(ring);
        for n in 0..300u32 {
            let captured = n * 31 % 9000;
            match write(&mut writer, ring, captured, round) {
                true => written.push_back((captured, round)),
                false => lost += 1,
            }
        }
        writer.publish(ring);
        while round % 9 == 8
            && let Some(record) = reader.peek()
        {
            reader.take(&record, &mut frame);
            assert_eq!(written.pop_front(), Some((record.captured, record.slot)));
            assert!(
                frame.len() == record.captured as usize && frame.iter().all(|octet| u16::from(*octet) == record.slot)
            );
        }
    }
    assert!(lost > 0 && reader.lost() == lost && reader.broken() == 0, "{lost}");
}

#[test]
fn a_worker_that_dies_leaves_nothing_of_its_burst_and_the_next_one_goes_on() {
    let file = file();
    let (ring, mut first, mut next, mut frame) = (&file.rings[0], Writer::default(), Writer::default(), Vec::new());
    let mut reader = Reader::new(ring);
    first.begin(ring);
    write(&mut first, ring, 100, 1);
    first.publish(ring);
    first.begin(ring);
    write(&mut first, ring, 200, 2);
    next.begin(ring);
    write(&mut next, ring, 300, 3);
    next.publish(ring);
    let mut slots = Vec::new();
    while let Some(record) = reader.peek() {
        reader.take(&record, &mut frame);
        slots.push(record.slot);
    }
    assert_eq!(slots, [1, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The reader writes any tail at any time: the writer stays inside of the ring, and so does the next reader.
    #[test]
    fn a_reader_that_lies_costs_records_only(
        steps in proptest::collection::vec((any::<u64>(), 0u32..MAX_FRAME as u32, 0u8..4), 1..200),
        head in any::<u64>(),
    ) {
        let file = file();
        let (ring, mut writer) = (&file.rings[5], Writer::default());
        ring.head.octets.store(head, Relaxed);
        for (tail, captured, kind) in steps {
            let honest = ring.head.octets.load(Relaxed);
            let tail = match kind {
                0 => tail,
                1 => honest.wrapping_sub(tail % (2 * RING_OCTETS as u64)),
                2 => honest.wrapping_add(tail % 64),
                _ => honest,
            };
            ring.tail.octets.store(tail, Relaxed);
            writer.begin(ring);
            write(&mut writer, ring, captured, 9);
            writer.publish(ring);
        }
        let neighbours = [&file.rings[4], &file.rings[6]];
        prop_assert!(neighbours.iter().all(|ring| ring.head.octets.load(Relaxed) == 0));
    }

    /// A worker writes anything: the reader reads on and ends.
    #[test]
    fn a_worker_that_lies_costs_the_capture_only(
        words in proptest::collection::vec((0usize..64, any::<u64>()), 0..64),
        heads in proptest::collection::vec(any::<u64>(), 1..20),
        near in any::<bool>(),
    ) {
        let file = file();
        let ring = &file.rings[0];
        let mut reader = Reader::new(ring);
        for (at, value) in words {
            ring.words.0[at].store(if near { value % 512 } else { value }, Relaxed);
        }
        let mut frame = Vec::new();
        for head in heads {
            ring.head.octets.store(if near { head % 512 } else { head }, Relaxed);
            for _ in 0..100 {
                let Some(record) = reader.peek() else { break };
                reader.take(&record, &mut frame);
                prop_assert!(frame.len() == record.captured as usize && frame.len() < RING_OCTETS);
            }
        }
    }
}
