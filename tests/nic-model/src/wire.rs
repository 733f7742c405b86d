//! The wire: frames that the card has sent, and frames that wait in its packet buffer for descriptors.

use std::collections::VecDeque;

/// Buffers that are kept to be used again.
const SPARE: usize = 256;

/// Frames in order. Buffers are used again, so that a frame costs no allocation.
#[derive(Default)]
pub struct Frames {
    queue: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    octets: usize,
}

impl Frames {
    /// An empty buffer.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// The frame is the last one.
    pub fn push(&mut self, frame: Vec<u8>) {
        self.octets += frame.len();
        self.queue.push_back(frame);
    }

    /// The first frame.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.queue.pop_front()?;
        self.octets -= frame.len();
        Some(frame)
    }

    /// The frame is the first one again.
    pub fn put_back(&mut self, frame: Vec<u8>) {
        self.octets += frame.len();
        self.queue.push_front(frame);
    }

    /// Gives each frame to `to`, in order.
    pub fn take(&mut self, to: &mut dyn FnMut(&[u8])) {
        while let Some(frame) = self.pop() {
            to(&frame);
            self.recycle(frame);
        }
    }

    /// Frames.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Keeps only those frames from `first` on that `keep` wants. Returns how many went.
    pub fn retain_from(&mut self, first: usize, keep: impl Fn(&[u8]) -> bool) -> u32 {
        let (mut at, mut gone) = (first, 0);
        while let Some(frame) = self.queue.get(at) {
            if keep(frame) {
                at += 1;
            } else if let Some(frame) = self.queue.remove(at) {
                self.octets -= frame.len();
                self.recycle(frame);
                gone += 1;
            }
        }
        gone
    }

    /// Octets of all frames.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// No frame waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All frames are lost.
    pub fn clear(&mut self) {
        while let Some(frame) = self.pop() {
            self.recycle(frame);
        }
    }
}
