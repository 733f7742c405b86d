//! Target `capture`: a worker that writes anything into a capture's ring, at any time.

use std::sync::atomic::Ordering::Relaxed;

use super::Input;
use crate::capture::reader::Reader;
use crate::capture::writer::Writer;
use crate::capture::{CaptureMap, Passage, RING_OCTETS, Record};
use crate::virtio::NetHdr;

/// Most frames that are read between two steps.
const FRAMES: usize = 64;

/// Steps of an octet each: an honest frame (length: 2 octets), a word (place: 2, value: 8), the head (8), the head near the
/// last one (2).
pub fn capture(octets: &[u8]) {
    let mut input = Input::new(octets);
    let file = CaptureMap::create(c"sv3-fuzz").unwrap().1;
    let ring = &file.rings[0];
    let (mut reader, mut writer, mut frame, mut lied) = (Reader::new(ring), Writer::default(), Vec::new(), false);
    while !input.is_empty() {
        let mut honest = None;
        match input.u8() % 4 {
            0 => {
                let captured = u32::from(input.u16());
                let record = Record {
                    captured,
                    len: captured,
                    slot: 7,
                    passage: Passage::In,
                    dropped: None,
                    time_ns: 9,
                    hdr: NetHdr::NONE,
                };
                writer.begin(ring);
                honest = writer.write(ring, &record).map(|_| record);
                writer.publish(ring);
            }
            1 => {
                let at = usize::from(input.u16());
                ring.words.0[at].store(input.u64(), Relaxed);
                lied = true;
            }
            2 => {
                ring.head.octets.store(input.u64(), Relaxed);
                lied = true;
            }
            _ => {
                let head = ring.head.octets.load(Relaxed);
                ring.head.octets.store(head.wrapping_add(u64::from(input.u16())), Relaxed);
                lied = true;
            }
        }
        for _ in 0..FRAMES {
            let Some(record) = reader.peek() else { break };
            reader.take(&record, &mut frame);
            assert!(frame.len() == record.captured as usize && frame.len() < RING_OCTETS);
            assert!(record.captured <= record.len);
            if let Some(honest) = honest.take().filter(|_| !lied) {
                assert_eq!(record, honest);
            }
        }
        assert!(lied || honest.is_none() && reader.broken() == 0, "an honest frame is read at once");
    }
}
