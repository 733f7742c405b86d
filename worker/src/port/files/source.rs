//! Frames from a file.

use sv3::attachment::FrameForm;
use sv3::ipc::RingFault;
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use super::failure;
use super::implied;
use super::input::{LENGTH, Step};
use super::queue::FileQueue;
use crate::memory::copy::gather;
use crate::memory::file_io;
use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;
use crate::port::batch::{Batch, Taken};
use crate::port::cost::{DELIVERY, DESCRIPTOR, FILE_READ, FRAME};
use crate::port::source::Source;
use crate::process::clock;

/// Most reads of a stream in one burst without a whole frame. A peer can make each read give one octet.
const READS: usize = 16;
/// Most messages without octets in a row. At its end a socket gives nothing else.
const EMPTY_MESSAGES: usize = 8;
/// How long a frame may be incomplete, in nanoseconds.
pub const UNFINISHED_NS: u64 = 5_000_000_000;

/// A queue, for one burst.
pub struct FileSource<'q> {
    queue: &'q mut FileQueue,
}

impl FileQueue {
    /// Its frames, for a burst.
    pub fn source(&mut self) -> FileSource<'_> {
        FileSource { queue: self }
    }

    /// Reads until there is a whole frame, or nothing to read. Returns the cost.
    fn fill(&mut self, places: usize, budget: u64) -> Result<u64, RingFault> {
        // Only a read of this burst counts: an event that came since the last one may be gone.
        self.was_empty = false;
        let Some(input) = &self.input else { return Ok(0) };
        if let Step::Body(_) = input.step(input.start())? {
            return Ok(0);
        }
        self.has_more = true;
        if self.file.is_stream() { self.fill_by_octets(budget) } else { self.fill_by_frames(places, budget) }
    }

    fn fill_by_octets(&mut self, budget: u64) -> Result<u64, RingFault> {
        let FileQueue { file, input: Some(input), begun_ns, has_more, reads, .. } = self else { return Ok(0) };
        let (mut cost, mut begin) = (0, clock::now_ns());
        for _ in 0..READS {
            let most = reads.most();
            let received =
                input.receive(|message, room| file_io::receive(file.fd(), message, room.get(..most).unwrap_or(room)));
            let end = clock::now_ns();
            match received {
                Ok(0) => return Err(RingFault::Gone),
                Ok(octets) => cost += reads.note(octets, end.saturating_sub(begin)),
                Err(errno) => {
                    cost += FILE_READ;
                    *has_more = !failure::is_empty(errno)?;
                    break;
                }
            }
            if let Step::Body(_) = input.step(input.start())? {
                *begun_ns = None;
                return Ok(cost);
            }
            if cost >= budget {
                break;
            }
            begin = end;
        }
        // A frame has begun, or nothing has.
        *begun_ns = match (input.step(input.start())?, *begun_ns) {
            (Step::Part, None) => Some(clock::now_ns()),
            (Step::Part, Some(begun)) if clock::now_ns() >= begun.saturating_add(UNFINISHED_NS) => {
                return Err(RingFault::Unfinished);
            }
            (Step::Part, begun) => begun,
            _ => None,
        };
        Ok(cost)
    }

    fn fill_by_frames(&mut self, places: usize, budget: u64) -> Result<u64, RingFault> {
        let FileQueue { file, input: Some(input), has_more, was_empty, .. } = self else { return Ok(0) };
        let (mut cost, mut frames, mut empty) = (0, 0, 0);
        while frames < places && cost < budget && input.has_room() {
            match input.read(|room| file_io::read(file.fd(), room)) {
                // A message without octets is no frame.
                Ok(0) if empty < EMPTY_MESSAGES => empty += 1,
                Ok(0) if frames > 0 => break,
                Ok(0) => return Err(RingFault::Gone),
                Ok(octets) => {
                    (frames, empty) = (frames + 1, 0);
                    cost += FILE_READ + (octets / 2) as u64;
                }
                Err(errno) => match failure::is_empty(errno) {
                    Ok(is_empty) => {
                        (*has_more, *was_empty) = (!is_empty, is_empty);
                        break;
                    }
                    // A fault waits until the frames before it are served.
                    Err(_) if frames > 0 => break,
                    Err(fault) => return Err(fault),
                },
            }
        }
        Ok(cost)
    }
}

impl<'m> Source<'m> for FileSource<'_> {
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        // What reading costs is charged, and does not keep this burst from taking what was read.
        let read = self.queue.fill(batch.places.len(), budget)?;
        let has_header = self.queue.file.has_header();
        let Some(input) = &self.queue.input else { return Ok(0) };
        let (mut at, mut cost, mut ahead) = (input.start(), 0, 0);
        while let Some(place) = batch.places.get_mut(batch.count) {
            if batch.count > 0 && cost + ahead >= budget {
                break;
            }
            let len = match input.step(at) {
                Ok(Step::Body(len)) => len,
                Ok(Step::Part | Step::Nothing) => break,
                // A fault waits until the frames before it are served.
                Err(_) if batch.count > 0 => break,
                Err(fault) => return Err(fault),
            };
            let (body, from) = (at + LENGTH, batch.slices.len());
            at = body + len;
            // See the theory of operation: the octets before a frame without a header are not its own.
            let begin = if has_header { body } else { body - NET_HDR_LEN };
            if !batch.slices.push(input.octets(begin, at)) {
                break;
            }
            place.lies(Some(at - begin), from, 1);
            batch.count += 1;
            cost += FRAME + DESCRIPTOR;
            ahead += DELIVERY + len as u64;
        }
        Ok(read + cost)
    }

    #[inline]
    fn head(&self, _: &Taken, slices: &[GuestSlice<'m>]) -> FrameHead {
        let (head, settings) = (FrameHead::read(slices), &self.queue.file.settings);
        match settings.form {
            FrameForm::NetHeader => head.without_claims(),
            FrameForm::Plain => head.with_net_hdr(NetHdr::NONE),
            FrameForm::Implied => head.with_net_hdr(implied_header(slices, settings.mtu as usize)),
        }
    }

    fn complete(&mut self, done: &[Taken]) {
        let in_front = if self.queue.file.has_header() { 0 } else { NET_HDR_LEN };
        let octets = |taken: &Taken| LENGTH + taken.len().map_or(0, |len| len.saturating_sub(in_front));
        if let Some(input) = &mut self.queue.input {
            input.complete(done.iter().map(octets).sum());
        }
    }
}

fn implied_header(slices: &[GuestSlice<'_>], mtu: usize) -> NetHdr {
    let mut octets = [0; implied::HEAD];
    let known = gather(slices, NET_HDR_LEN, &mut octets);
    let len = slices.iter().map(GuestSlice::len).sum::<usize>().saturating_sub(NET_HDR_LEN);
    implied::header(octets.get(..known).unwrap_or(&[]), len, mtu)
}
