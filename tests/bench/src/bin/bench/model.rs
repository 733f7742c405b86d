//! The upper bound for a switch on two processors: a device that copies frames from one split ring to another and does
//! nothing else. It reads no headers, has no table and makes no checks; one source, one destination, batches of 32.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, fence};
use std::thread::{JoinHandle, park, spawn};

use sv3_tests::failure::{Failure, Result};

use crate::guest::BATCH;
use crate::memory::Memory;
use crate::place::pin;
use crate::ring::Place;

const RUN: u8 = 0;
const REST: u8 = 1;
const END: u8 = 2;

/// Octets of a frame that the processor is asked for before any of the batch is copied; it asks for more by itself.
const PREFETCHED: u32 = 256;

/// The device, a thread of this process, between two guests.
pub struct Model {
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    /// Takes from one guest's ring and puts into another's, on a processor.
    pub fn new(tx: (&Memory, Place), rx: (&Memory, Place), core: usize) -> Result<Model> {
        let state = Arc::new(AtomicU8::new(RUN));
        let wanted = state.clone();
        let mut tx = End::new(tx.0, tx.1)?;
        let mut rx = End::new(rx.0, rx.1)?;
        let thread = spawn(move || {
            if pin(core).is_err() {
                return;
            }
            loop {
                match wanted.load(Relaxed) {
                    RUN => serve(&mut tx, &mut rx),
                    REST => park(),
                    _ => return,
                }
            }
        });
        Ok(Model { state, thread: Some(thread) })
    }

    /// Goes on, or rests.
    pub fn run(&self, on: bool) -> Result<()> {
        let thread = self.thread.as_ref().filter(|thread| !thread.is_finished());
        let thread = thread.ok_or_else(|| Failure::new("the model has ended"))?;
        self.state.store(if on { RUN } else { REST }, Relaxed);
        thread.thread().unpark();
        Ok(())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.state.store(END, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A device's end of a ring.
struct End {
    memory: Memory,
    /// The guest's address of the memory's begin.
    base: u64,
    place: Place,
    next: u16,
    seen: u16,
}

impl End {
    fn new(memory: &Memory, place: Place) -> Result<End> {
        let end = End { base: memory.addr(0), memory: memory.again()?, place, next: 0, seen: 0 };
        // No kicks.
        end.memory.word16(place.device).store(1, Relaxed);
        Ok(end)
    }

    /// Buffers that are available.
    #[inline(always)]
    fn ready(&mut self) -> u16 {
        if self.seen.wrapping_sub(self.next) < BATCH as u16 {
            self.seen = u16::from_le(self.memory.word16(self.place.driver + 2).load(Acquire));
        }
        self.seen.wrapping_sub(self.next)
    }

    /// The head, place and octets of the available buffer that is so many ahead.
    #[inline(always)]
    fn buffer(&self, ahead: u16) -> (u16, usize, u32) {
        let slot = self.place.slot(self.next.wrapping_add(ahead).into());
        let head = u16::from_le(self.memory.word16(self.place.driver + 4 + 2 * slot).load(Relaxed));
        let at = self.place.descriptors + 16 * usize::from(head);
        let addr = u64::from_le(self.memory.word64(at).load(Relaxed));
        let octets = u64::from_le(self.memory.word64(at + 8).load(Relaxed)) as u32;
        (head, addr.wrapping_sub(self.base) as usize, octets)
    }

    #[inline(always)]
    fn complete(&self, ahead: u16, head: u16, octets: u32) {
        let at = self.place.device + 4 + 8 * self.place.slot(self.next.wrapping_add(ahead).into());
        self.memory.word32(at).store(u32::from(head).to_le(), Relaxed);
        self.memory.word32(at + 4).store(octets.to_le(), Relaxed);
    }

    #[inline(always)]
    fn publish(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
        self.memory.word16(self.place.device + 2).store(self.next.to_le(), Release);
        fence(Release);
    }
}

#[inline(always)]
fn serve(tx: &mut End, rx: &mut End) {
    let count = tx.ready().min(rx.ready()).min(BATCH as u16);
    if count == 0 {
        return;
    }
    for ahead in 0..count {
        let ((_, from, octets), (_, to, _)) = (tx.buffer(ahead), rx.buffer(ahead));
        let last = (octets as usize).saturating_sub(1);
        for line in (0..octets.min(PREFETCHED) as usize).step_by(64).chain([last]) {
            tx.memory.prefetch(from + line);
            rx.memory.prefetch_to_write(to + line);
        }
    }
    for ahead in 0..count {
        let ((sent, from, octets), (received, to, _)) = (tx.buffer(ahead), rx.buffer(ahead));
        rx.memory.copy(to, &tx.memory, from, octets as usize);
        rx.complete(ahead, received, octets);
        tx.complete(ahead, sent, 0);
    }
    rx.publish(count);
    tx.publish(count);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::{Duration, Instant};

    use crate::arena::Contestant;
    use crate::clock::cycles_of;
    use crate::frame::Shape;
    use crate::guest::Plan;
    use crate::ring::Ring;
    use crate::split::Split;
    use crate::stream::{Flow, Stations, Stream, Tally, flow};

    fn model(shape: Shape) -> Contestant<Split> {
        let plan = Plan { shape, entries: 64, rx_buffer: 2048, rx_buffers: 64, huge: false };
        Contestant::model(plan).unwrap().unwrap()
    }

    fn run(model: &mut Contestant<Split>, shape: Shape) -> Tally {
        model.run(true).unwrap();
        let stations = Stations { ports: (0, 1), count: 1 };
        let window = if shape.tso { 16 } else { 64 };
        let mut flows = [Flow { from: 0, to: 1, stream: Stream::new(&model.guests[0], stations, shape, window) }];
        let deadline = Instant::now() + Duration::from_secs(20);
        while flows[0].stream.tally.sampled < 20 && Instant::now() < deadline {
            flow(&mut model.guests, &mut flows, cycles_of(Duration::from_millis(20)));
        }
        flows[0].stream.tally
    }

    #[test]
    fn frames_of_all_sizes_come_as_they_were_sent() {
        for shape in [Shape::plain(64), Shape::plain(1518), Shape::plain(9000), Shape::large_segment()] {
            let mut model = model(shape);
            let tally = run(&mut model, shape);
            // On a busy machine some frames may be counted as lost, and come later.
            assert!(tally.sampled >= 20 && tally.damaged == 0 && tally.lost == tally.late, "{tally:?}");
            assert_eq!(model.guests.iter().map(|guest| guest.strange()).sum::<u64>(), 0);
        }
    }

    #[test]
    fn a_frame_that_is_not_as_it_was_sent_is_noticed() {
        let shape = Shape::plain(64);
        let mut model = model(shape);
        let sender = &model.guests[0];
        for slot in 0..64 {
            sender.memory.word64(sender.tx.place().buffer(slot) + 48).fetch_xor(1 << 33, Relaxed);
        }
        let tally = run(&mut model, shape);
        assert!(tally.sampled >= 20 && tally.damaged == tally.sampled, "{tally:?}");
    }
}
