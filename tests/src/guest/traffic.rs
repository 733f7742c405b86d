//! A driver's usual work: it sends frames, receives frames, and checks what the device owes it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::feature::*;
use super::header::*;
use super::{Guest, Received, Shape};
use crate::patience::PATIENCE;

impl Guest {
    /// Sends a frame by the first queue pair.
    #[track_caller]
    #[inline]
    pub fn send(&mut self, frame: &[u8]) {
        self.send_on(0, &NetHdr::default(), frame, Shape::default());
    }

    /// Sends a frame with a header, in a chain of this shape, by the first queue pair.
    #[track_caller]
    pub fn send_with(&mut self, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) {
        self.send_on(0, hdr, frame, shape);
    }

    /// Sends a frame by any queue pair. Waits while the ring is full.
    #[track_caller]
    pub fn send_on(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) {
        assert!(self.try_send_on(pair, hdr, frame, shape) || self.wait_and_send(pair, hdr, frame, shape), "{STUCK}");
        self.publish(2 * pair + 1);
    }

    #[track_caller]
    fn wait_and_send(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.await_used(&[2 * pair + 1], deadline).is_some() {
            self.reap(pair);
            if self.try_send_on(pair, hdr, frame, shape) {
                return true;
            }
        }
        false
    }

    /// Adds a frame that the device does not see before [`Guest::publish`]. False: the ring is full.
    #[track_caller]
    #[inline]
    pub fn try_send_on(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) -> bool {
        self.reap(pair);
        let hdr = hdr.octets();
        let hdr = hdr.get(..self.header_len()).unwrap_or(&hdr);
        let Some(queue) = self.queues.get_mut(usize::from(2 * pair + 1)) else { return false };
        let added = queue.add_octets(&self.memory, [hdr, frame], shape);
        self.sent += u64::from(added);
        added
    }

    /// Shows the device what was added to a ring, and kicks it if it wants that.
    #[inline]
    pub fn publish(&mut self, ring: u16) {
        let queue = &mut self.queues[usize::from(ring)];
        queue.publish(&self.memory);
    }

    /// Takes back chains that were sent.
    #[track_caller]
    #[inline]
    fn reap(&mut self, pair: u16) {
        let Some(queue) = self.queues.get_mut(usize::from(2 * pair + 1)) else { return };
        while let Some(used) = queue.ring.take(&self.memory) {
            assert_eq!(used.len, 0, "the device says that it wrote to a buffer that it may only read");
        }
    }

    /// Waits until every chain that was sent has come back.
    #[track_caller]
    pub fn await_sent(&mut self) {
        assert_eq!(self.await_sent_within(PATIENCE), 0, "{STUCK}");
    }

    /// Waits for every chain that was sent to come back; how many have not.
    #[track_caller]
    pub fn await_sent_within(&mut self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut left = 0;
        for pair in 0..self.queues.len() as u16 / 2 {
            let ring = 2 * pair + 1;
            self.reap(pair);
            while self.queues[usize::from(ring)].ring.in_flight() > 0 && self.await_used(&[ring], deadline).is_some() {
                self.reap(pair);
            }
            left += self.queues[usize::from(ring)].ring.in_flight();
        }
        left
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Receives a frame by any queue pair; there must be one.
    #[track_caller]
    pub fn receive(&mut self) -> Received {
        match self.receive_within(PATIENCE) {
            Some(received) => received,
            None => panic!("no frame came in {PATIENCE:?}"),
        }
    }

    /// The frame that is received next, which must have no offloads left to do.
    #[track_caller]
    pub fn receive_frame(&mut self) -> Vec<u8> {
        let received = self.receive();
        let plain = NetHdr { num_buffers: received.hdr.num_buffers, ..NetHdr::default() };
        assert_eq!(received.hdr, plain);
        received.frame
    }

    /// Receives a frame by any queue pair, if one comes in time.
    #[track_caller]
    pub fn receive_within(&mut self, patience: Duration) -> Option<Received> {
        let rings: Vec<u16> = self.queues.iter().filter(|queue| queue.started).map(|queue| queue.index).collect();
        let rings: Vec<u16> = rings.into_iter().filter(|ring| ring % 2 == 0).collect();
        let ring = self.await_used(&rings, Instant::now() + patience)?;
        self.try_receive_on(ring / 2)
    }

    /// Receives a frame that is there already, by the first queue pair.
    #[track_caller]
    pub fn try_receive(&mut self) -> Option<Received> {
        self.try_receive_on(0)
    }

    /// Receives a frame that is there already.
    #[track_caller]
    pub fn try_receive_on(&mut self, pair: u16) -> Option<Received> {
        let mut octets = Vec::new();
        let (hdr, buffers) = self.receive_into(pair, &mut octets)?;
        let frame = octets.split_off(self.header_len());
        Some(Received { hdr, frame, pair, buffers })
    }

    /// Receives a frame that is there already into `octets`, behind its header. Returns the header and the number of
    /// buffers, which are offered to the device again.
    #[track_caller]
    #[inline]
    pub fn receive_into(&mut self, pair: u16, octets: &mut Vec<u8>) -> Option<(NetHdr, usize)> {
        let header_len = self.header_len();
        let (features, memory) = (self.features, &self.memory);
        let queue = self.queues.get_mut(usize::from(2 * pair))?;
        let first = queue.ring.take(memory)?;
        octets.clear();
        queue.read_buffer(memory, first, octets);
        assert!(octets.len() >= header_len, "{first:?} is too short for a header");
        let hdr = NetHdr::parse(&octets[..header_len]);
        check_header(&hdr, features);
        let buffers = if features & MRG_RXBUF != 0 { usize::from(hdr.num_buffers) } else { 1 };
        for at in 1..buffers {
            // 5.1.6.4: the driver may rely on all of them being there.
            let next = queue.ring.take(memory);
            let next = next.unwrap_or_else(|| panic!("a frame has {buffers} buffers, but only {at} came back"));
            assert!(next.len > 0, "buffer {at} of {buffers} is empty");
            queue.read_buffer(memory, next, octets);
        }
        queue.add_buffers(memory);
        queue.publish(memory);
        Some((hdr, buffers))
    }

    /// Waits for a buffer to come back on one of the rings, and says on which.
    #[track_caller]
    pub(super) fn await_used(&mut self, rings: &[u16], deadline: Instant) -> Option<u16> {
        loop {
            for ring in rings {
                let queue = &mut self.queues[usize::from(*ring)];
                if queue.ring.has_used(&self.memory) || queue.ring.want_calls(&self.memory, true) {
                    queue.ring.want_calls(&self.memory, false);
                    return Some(*ring);
                }
            }
            let queues = rings.iter().map(|ring| &self.queues[usize::from(*ring)]);
            let mut fds: Vec<_> = queues.map(|queue| PollFd::new(queue.call_fd(), PollFlags::POLLIN)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let called = poll(&mut fds, timeout).expect("poll");
            let queues = || rings.iter().map(|ring| &self.queues[usize::from(*ring)]);
            if called == 0 {
                for queue in queues() {
                    let back = queue.ring.has_used(&self.memory);
                    assert!(!back, "ring {}: buffers came back, but the call that is due did not", queue.index);
                }
                return None;
            }
            for queue in queues() {
                queue.clear_calls();
            }
        }
    }

    /// Waits for a buffer to come back on one of the rings, or for one of the files to have something to read.
    #[track_caller]
    pub fn await_used_or(&mut self, rings: &[u16], files: &[BorrowedFd<'_>], patience: Duration) {
        let mut back = false;
        for ring in rings {
            let queue = &mut self.queues[usize::from(*ring)];
            back |= queue.ring.has_used(&self.memory) || queue.ring.want_calls(&self.memory, true);
        }
        if !back {
            let calls = rings.iter().map(|ring| self.queues[usize::from(*ring)].call_fd());
            let mut fds: Vec<_> =
                calls.chain(files.iter().copied()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)).expect("poll");
        }
        for ring in rings {
            let queue = &mut self.queues[usize::from(*ring)];
            queue.clear_calls();
            queue.ring.want_calls(&self.memory, false);
        }
    }

    /// Octets of the header in front of each frame (5.1.6.1).
    #[inline]
    pub fn header_len(&self) -> usize {
        if self.features & (MRG_RXBUF | VERSION_1) != 0 { 12 } else { 10 }
    }
}

const STUCK: &str = "chains that were sent do not come back";

#[track_caller]
fn check_header(hdr: &NetHdr, features: u64) {
    let partial = hdr.flags & NEEDS_CSUM != 0;
    let needed = match hdr.gso_type & !GSO_ECN {
        GSO_NONE if hdr.gso_type == GSO_NONE => 0,
        GSO_TCPV4 => GUEST_TSO4,
        GSO_TCPV6 => GUEST_TSO6,
        // Which of them is a matter of the frame.
        GSO_UDP_L4 if hdr.gso_type == GSO_UDP_L4 && features & (GUEST_USO4 | GUEST_USO6) != 0 => 0,
        _ => panic!("{hdr:?} is of an unknown type"),
    };
    let ecn = if hdr.gso_type & GSO_ECN != 0 { GUEST_ECN } else { 0 };
    let csum = if hdr.flags != 0 { GUEST_CSUM } else { 0 };
    let missing = (needed | ecn | csum) & !features;
    assert_eq!(missing, 0, "{hdr:?} has what was not negotiated");
    assert!(hdr.flags & !(NEEDS_CSUM | DATA_VALID) == 0, "{hdr:?} has unknown flags");
    assert!(hdr.gso_type == GSO_NONE || (partial && hdr.gso_size > 0), "{hdr:?}");
    if features & MRG_RXBUF != 0 {
        assert!(hdr.num_buffers > 0, "{hdr:?} in no buffer");
    } else if features & VERSION_1 != 0 {
        assert_eq!(hdr.num_buffers, 1, "5.1.6.4.1: without MRG_RXBUF");
    }
}
