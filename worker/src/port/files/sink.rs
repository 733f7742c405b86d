//! Frames into a file.

use sv3::drop_reason::DropReason;
use sv3::frame::MAX_FRAME;
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use super::failure;
use super::outbox::Piece;
use super::queue::FileQueue;
use crate::memory::copy::gather;
use crate::memory::file_io;
use crate::memory::frame_head::{HEAD_LEN, Snapshot};
use crate::memory::slice::GuestSlice;
use crate::port::batch::PlainFrame;
use crate::port::cost::{DELIVERY, FILE_WRITE};
use crate::port::sink::{Delivered, DeliveryState, Outgoing, Sink, Undelivered};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};

/// A frame in more slices is gathered: a write has at most 1,024 pieces.
const SLICES: usize = 1000;

/// Room for a frame in many slices.
pub struct Workspace(Box<[u8]>);

impl Workspace {
    /// Room for one thread.
    pub fn new() -> Workspace {
        Workspace(vec![0; MAX_FRAME].into_boxed_slice())
    }
}

impl FileQueue {
    fn send(&mut self, state: &mut DeliveryState<'_>, frame: &Outgoing<'_, '_, '_>) -> Result<(), Undelivered> {
        state.cost += DELIVERY + frame.len as u64;
        if frame.len > self.file.longest_taken() {
            return Err(Undelivered::Dropped(DropReason::RxTooSmall));
        }
        let hdr = NetHdr { num_buffers: 1, ..*frame.hdr }.to_bytes();
        let mut room = [0; HEAD_LEN];
        let first = frame.snapshot.octets((frame.skip, frame.len), &mut room);
        let own = [if self.file.has_header() { &hdr[..] } else { &[] }, first];
        let piece = Piece { own, rest: (frame.slices, frame.skip + first.len(), frame.len - first.len()) };
        let sent = match &mut self.outbox {
            Some(outbox) => outbox.put(self.file.fd(), &piece),
            None => {
                state.cost += FILE_WRITE;
                file_io::write(self.file.fd(), &piece.own, piece.rest).map(drop).map_err(failure::of_write)
            }
        };
        match sent {
            Ok(()) => self.note_sent(),
            Err(Undelivered::Dropped(DropReason::RxNoBuffers)) => return Err(self.wait(state, frame.len)),
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn note_sent(&mut self) {
        if self.outbox.is_none() {
            pass(CrashPoint::FileWritten);
        }
        self.position = self.position.wrapping_add(1);
        if std::mem::take(&mut self.asked) {
            self.waiting.unask(self.file.fd());
        }
    }

    /// There is no room for a frame of `len` octets.
    #[cold]
    fn wait(&mut self, state: &mut DeliveryState<'_>, len: usize) -> Undelivered {
        if self.outbox.as_ref().is_some_and(|outbox| !outbox.could_take(NET_HDR_LEN + len)) {
            return Undelivered::Dropped(DropReason::RxTooSmall);
        }
        // An event that came while the frame was tried may have been for less room.
        if !self.asked || self.waiting.is_over() {
            self.waiting.ask(self.file.fd());
            self.asked = true;
        }
        state.missed = self.position;
        Undelivered::Dropped(DropReason::RxNoBuffers)
    }
}

impl Sink for FileQueue {
    type Workspace = Workspace;

    fn deliver<'t>(
        &mut self,
        Workspace(room): &mut Workspace,
        state: &mut DeliveryState<'t>,
        frame: &Outgoing<'_, 't, '_>,
    ) -> Result<(), Undelivered> {
        if frame.slices.len() <= SLICES {
            return self.send(state, frame);
        }
        let room = room.get_mut(..frame.len).ok_or(Undelivered::Dropped(DropReason::RxTooSmall))?;
        let mut head = [0; HEAD_LEN];
        let known = frame.snapshot.octets((frame.skip, frame.len), &mut head);
        let (first, rest) = room.split_at_mut(known.len());
        first.copy_from_slice(known);
        gather(frame.slices, frame.skip + known.len(), rest);
        let slices = &[GuestSlice::of_host(room)];
        self.send(state, &Outgoing { slices, skip: 0, snapshot: Snapshot::NOTHING, plain: None, ..*frame })
    }

    fn deliver_plain<'t>(
        &mut self,
        state: &mut DeliveryState<'t>,
        frames: impl Iterator<Item = PlainFrame<'t>>,
        most: usize,
        verified: bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        for plain in frames.take(most) {
            let (hdr, slices) = (NetHdr::of_complete(verified), &[*plain.slice]);
            let (snapshot, skip, len) = plain.outgoing();
            let frame = Outgoing { hdr, slices, skip, len, snapshot, plain: None };
            if crash::with_current(&plain.head.0, || self.send(state, &frame)).is_err() {
                break;
            }
            delivered.frames += 1;
            delivered.octets += len as u64;
        }
        delivered
    }

    fn position(&self) -> u16 {
        self.position
    }

    fn is_ready(&self, cursor: u16) -> bool {
        self.position != cursor || self.waiting.is_over()
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        self.is_ready(cursor)
    }
}
