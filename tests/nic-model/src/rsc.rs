//! Joining segments of TCP before the driver sees them (RSC; data sheet, 7.11).
//!
//! # Theory of operation
//!
//! A segment that may be joined opens a flow: it takes a descriptor, and its octets go into the buffer. The payload of the
//! next segment follows there, and in the buffers of further descriptors. Other frames take descriptors in between, so
//! each descriptor names the next one of its flow (NEXTP), and how many segments began in its buffer (RSCCNT is one more).
//! The flow closes when a segment pushes, when the next one does not fit to it, when it is as long as the driver allows, or
//! with the timer of the queue's interrupt. Only then are the descriptors written back, and the first header says what the
//! whole is: IP has its length and its checksum, TCP the last acknowledgment, window and time stamp. TCP's checksum is
//! still that of the first segment.
//!
//! The card joins IPv4 only.

use crate::frame::{Headers, Network, Transport, word};
use crate::offload;
use crate::receive::{ReceiveQueue, Report, middle, write_back};
use crate::{Complaints, Memory};

/// Flows at once.
const FLOWS: usize = 32;
/// Segments that begin in one buffer.
const SEGMENTS: u32 = 14;
/// Octets of an IP packet.
const LONGEST: usize = 65_535;
/// Flags of TCP.
const ACK: u8 = 1 << 4;
const PSH: u8 = 1 << 3;

/// What segments of one flow have in common: addresses, ports and tag.
type Key = [u8; 14];

/// A segment that may be joined.
struct Segment<'a> {
    key: Key,
    sequence: u32,
    pushes: bool,
    /// Where IP and TCP begin, and where the payload does.
    network: usize,
    transport: usize,
    begin: usize,
    payload: &'a [u8],
}

/// One buffer of a flow.
struct Piece {
    descriptor: u32,
    buffer: u64,
    len: usize,
    segments: u32,
}

/// Segments that are being joined.
struct Flow {
    queue: usize,
    key: Key,
    next: u32,
    /// The headers of the first segment, as they will be.
    header: Vec<u8>,
    network: usize,
    transport: usize,
    /// Octets of all headers and payload.
    len: usize,
    pieces: Vec<Piece>,
    report: Report,
    /// Microseconds since it was opened.
    age: u32,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It is part of a flow, which is still open.
    Open,
    /// It is part of a flow, which is closed now.
    Closed,
    /// It is for the queue as it is. True: a flow had to be closed before.
    Alone(bool),
}

/// All flows.
#[derive(Default)]
pub struct Flows(Vec<Flow>);

/// The segment, if the card may join it.
fn segment<'a>(frame: &'a [u8], headers: &Headers, report: &Report) -> Option<Segment<'a>> {
    let (Network::V4 { options: false }, network) = headers.network? else { return None };
    let (Transport::Tcp, transport) = headers.transport? else { return None };
    if headers.fragment || report.status & (offload::TCPE | offload::IPE) != 0 {
        return None;
    }
    let header = usize::from(frame.get(transport + 12)? >> 4) * 4;
    let payload = frame.get(transport + header..headers.end)?;
    let flags = *frame.get(transport + 13)?;
    // No options but a time stamp; no congestion that the other end must learn of.
    let stamped = header == 32 && frame.get(transport + 20..transport + 24)? == [1, 1, 8, 10];
    let congested = frame.get(network + 1)? & 3 == 3;
    if !(header == 20 || stamped) || payload.is_empty() || flags & !PSH != ACK || congested {
        return None;
    }
    let sequence = u32::from(word(frame, transport + 4)?) << 16 | u32::from(word(frame, transport + 6)?);
    Some(Segment {
        key: key(frame, headers, report)?,
        sequence,
        pushes: flags & PSH != 0,
        network,
        transport,
        begin: transport + header,
        payload,
    })
}

/// The flow that a frame of TCP belongs to, joined or not.
fn key(frame: &[u8], headers: &Headers, report: &Report) -> Option<Key> {
    let ((Network::V4 { .. }, network), (Transport::Tcp, transport)) = (headers.network?, headers.transport?) else {
        return None;
    };
    let mut key = [0; 14];
    key[..8].copy_from_slice(frame.get(network + 12..network + 20)?);
    key[8..12].copy_from_slice(frame.get(transport..transport + 4)?);
    key[12..].copy_from_slice(&report.vlan.to_be_bytes());
    Some(key)
}

/// Where a frame goes, and where errors do.
pub struct Target<'a> {
    /// The number of the queue.
    pub number: usize,
    /// The queue.
    pub queue: &'a mut ReceiveQueue,
    /// Where its ring and buffers are.
    pub memory: &'a mut dyn Memory,
    /// Where errors of the driver go.
    pub complaints: &'a mut Complaints,
}

impl Flows {
    /// Joins a frame to its flow, or opens one, if it can.
    pub fn join(&mut self, frame: &[u8], headers: &Headers, report: &Report, target: &mut Target<'_>) -> Joined {
        let Some(key) = key(frame, headers, report) else { return Joined::Alone(false) };
        let segment = segment(frame, headers, report);
        let found = self.0.iter().position(|flow| flow.queue == target.number && flow.key == key);
        if let Some(at) = found {
            if let Some(segment) = &segment
                && self.0[at].append(frame, segment, target)
            {
                if segment.pushes {
                    self.0.swap_remove(at).close(target);
                    return Joined::Closed;
                }
                return Joined::Open;
            }
            self.0.swap_remove(at).close(target);
        }
        match segment {
            Some(segment) if !segment.pushes && self.0.len() < FLOWS && target.queue.ring.ready() > 0 => {
                match Flow::open(frame, segment, *report, target) {
                    Some(flow) => self.0.push(flow),
                    None => return Joined::Alone(found.is_some()),
                }
                if found.is_some() { Joined::Closed } else { Joined::Open }
            }
            _ => Joined::Alone(found.is_some()),
        }
    }

    /// Time passes for flows of a queue: those that are as old as `interval` are closed. True: there was one.
    pub fn pass_time(&mut self, microseconds: u32, interval: u32, target: &mut Target<'_>) -> bool {
        let number = target.number;
        for flow in self.0.iter_mut().filter(|flow| flow.queue == number) {
            flow.age = flow.age.saturating_add(microseconds);
        }
        let mut closed = false;
        while let Some(at) = self.0.iter().position(|flow| flow.queue == number && flow.age >= interval) {
            self.0.remove(at).close(target);
            closed = true;
        }
        closed
    }

    /// All flows of a queue, or of all queues, are lost: it was disabled.
    pub fn forget(&mut self, queue: Option<usize>) {
        self.0.retain(|flow| queue.is_some_and(|queue| queue != flow.queue));
    }

    /// No flow is open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Flow {
    fn open(frame: &[u8], segment: Segment<'_>, report: Report, target: &mut Target<'_>) -> Option<Flow> {
        let mut flow = Flow {
            queue: target.number,
            key: segment.key,
            next: segment.sequence.wrapping_add(segment.payload.len() as u32),
            header: frame.get(..segment.begin)?.to_vec(),
            network: segment.network,
            transport: segment.transport,
            len: 0,
            pieces: Vec::new(),
            report,
            age: 0,
        };
        flow.take(target)?;
        flow.pieces.last_mut()?.segments = 1;
        flow.write(frame.get(..segment.begin + segment.payload.len())?, target);
        Some(flow)
    }

    /// Takes the next descriptor of the ring.
    fn take(&mut self, target: &mut Target<'_>) -> Option<()> {
        let descriptor = target.queue.ring.head;
        let at = target.queue.ring.address(descriptor);
        let buffer = target.queue.fetch(at, target.memory, target.complaints)?;
        target.queue.ring.advance(1);
        self.pieces.push(Piece { descriptor, buffer, len: 0, segments: 0 });
        Some(())
    }

    /// Writes octets behind those that are there. There is room.
    fn write(&mut self, mut octets: &[u8], target: &mut Target<'_>) {
        let size = target.queue.buffer();
        while !octets.is_empty() {
            if self.pieces.last().is_none_or(|piece| piece.len == size) && self.take(target).is_none() {
                return;
            }
            let Some(piece) = self.pieces.last_mut() else { return };
            let (now, later) = octets.split_at(octets.len().min(size - piece.len));
            if !target.memory.write(piece.buffer + piece.len as u64, now) {
                target.complaints.add(format!("DMA: segments cannot be joined at {:#x}", piece.buffer));
            }
            piece.len += now.len();
            self.len += now.len();
            octets = later;
        }
    }

    /// Joins a segment. False: it does not fit.
    fn append(&mut self, frame: &[u8], segment: &Segment<'_>, target: &mut Target<'_>) -> bool {
        let size = target.queue.buffer();
        let Some(last) = self.pieces.last() else { return false };
        let new = (segment.payload.len().saturating_sub(size - last.len)).div_ceil(size);
        let most = [1, 4, 8, 16][(target.queue.rscctl >> 2 & 3) as usize];
        let header = self.header.len() - self.transport;
        let like = segment.begin - segment.transport == header;
        let fits = self.len + segment.payload.len() - self.network <= LONGEST
            && self.pieces.len() + new <= most
            && target.queue.ring.ready() as usize >= new
            && last.segments < SEGMENTS;
        if segment.sequence != self.next || !like || !fits {
            return false;
        }
        // A segment begins in the buffer that has its first octet.
        if last.len == size && self.take(target).is_none() {
            return false;
        }
        if let Some(last) = self.pieces.last_mut() {
            last.segments += 1;
        }
        self.write(segment.payload, target);
        self.next = self.next.wrapping_add(segment.payload.len() as u32);
        self.update(frame, segment);
        true
    }

    /// The latest acknowledgment, flags, window and time stamp are the whole's.
    fn update(&mut self, frame: &[u8], segment: &Segment<'_>) {
        for range in [8..12, 13..16, 20..32] {
            let (to, from) = (self.transport + range.start, segment.transport + range.start);
            if let (Some(to), Some(from)) =
                (self.header.get_mut(to..to + range.len()), frame.get(from..from + range.len()))
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// The headers and the descriptors are written.
    fn close(mut self, target: &mut Target<'_>) {
        let total = (self.len - self.network) as u16;
        if let Some(header) = self.header.get_mut(self.network..self.transport) {
            header[2..4].copy_from_slice(&total.to_be_bytes());
            offload::renew_ip(header);
        }
        if let Some(first) = self.pieces.first()
            && !target.memory.write(first.buffer, &self.header)
        {
            target.complaints.add(format!("DMA: joined headers cannot be written at {:#x}", first.buffer));
        }
        target.queue.frames = target.queue.frames.wrapping_add(1);
        target.queue.octets = target.queue.octets.wrapping_add(self.len as u64);
        let next = self.pieces.iter().skip(1).map(|piece| Some(piece.descriptor)).chain([None]);
        for (piece, next) in self.pieces.iter().zip(next) {
            let count = (piece.segments + 1) << 17;
            let done = match next {
                Some(next) => middle(piece.len, next, count),
                None => write_back(piece.len, &Report { info: self.report.info | count, ..self.report }),
            };
            let at = target.queue.ring.address(piece.descriptor);
            if !target.memory.write(at, &done) {
                target.complaints.add(format!("DMA: no descriptor can be written at {at:#x}"));
            }
        }
    }
}
