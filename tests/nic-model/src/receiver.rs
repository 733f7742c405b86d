//! The receive side of a function: its queues, the frames that wait for descriptors, and those that are being joined.

use crate::frame::Headers;
use crate::interrupts::Interrupts;
use crate::receive::{Put, ReceiveQueue, Report};
use crate::rsc::{Flows, Joined, Target};
use crate::wire::Frames;
use crate::{Complaints, Memory};

/// Octets of the packet buffer (data sheet, 7.1.2.6).
const PACKET_BUFFER: usize = 512 * 1024;
/// RSCCTL: segments are joined.
const RSCEN: u32 = 1;

/// Queues and what waits for them.
pub struct Receiver {
    /// The queues.
    pub queues: Vec<ReceiveQueue>,
    /// Frames for which there was no descriptor.
    pub waiting: Frames,
    flows: Flows,
}

/// What a frame's receiver acts on beside itself.
pub struct Around<'a> {
    /// Rings and buffers.
    pub memory: &'a mut dyn Memory,
    /// Errors of the driver.
    pub complaints: &'a mut Complaints,
    /// Interrupts of queues.
    pub interrupts: &'a mut Interrupts,
}

impl Around<'_> {
    /// A flow ends with the timer of its queue's interrupt, so there must be one, and it must be longer than the delay.
    fn doubt_timer(&mut self, queue: usize) {
        let delay = self.interrupts.rsc_delay();
        match self.interrupts.interval(queue) {
            None => self.complaints.add("RSC in a queue without a vector (4.6.7.2.2)".into()),
            Some(interval) if interval <= delay => {
                self.complaints.add(format!("RSC: EITR is {interval} us, RSC_DELAY {delay} us (7.3.2.1.1)"));
            }
            Some(_) => {}
        }
    }
}

/// A frame that has passed all filters.
pub struct Arrival<'a> {
    /// The frame, with its check sequence if that is not stripped.
    pub frame: &'a [u8],
    /// What it is made of.
    pub headers: Headers,
    /// Its queue.
    pub queue: usize,
    /// What the card tells of it.
    pub report: Report,
    /// It may be joined to others, if its queue joins.
    pub joins: bool,
}

impl Receiver {
    /// So many queues.
    pub fn new(queues: usize) -> Receiver {
        Receiver { queues: vec![ReceiveQueue::default(); queues], waiting: Frames::default(), flows: Flows::default() }
    }

    /// After a reset.
    pub fn reset(&mut self) {
        self.queues.fill(ReceiveQueue::default());
        self.waiting.clear();
        self.flows.forget(None);
    }

    /// The driver writes a register of a queue. False: there is none.
    pub fn write(&mut self, queue: usize, offset: u32, value: u32, complaints: &mut Complaints) -> bool {
        let Some(it) = self.queues.get_mut(queue) else { return false };
        let known = it.write(offset, value, complaints);
        if offset == 0x28 && !it.ring.enabled {
            self.flows.forget(Some(queue));
        }
        known
    }

    /// Stores a frame, or joins it to others, and raises the interrupt.
    pub fn store(&mut self, arrival: &Arrival<'_>, around: &mut Around<'_>) -> Put {
        let Some(queue) = self.queues.get_mut(arrival.queue) else { return Put::Lost };
        if arrival.joins && queue.rscctl & RSCEN != 0 {
            let (memory, complaints) = (&mut *around.memory, &mut *around.complaints);
            let mut target = Target { number: arrival.queue, queue, memory, complaints };
            match self.flows.join(arrival.frame, &arrival.headers, &arrival.report, &mut target) {
                Joined::Open => {
                    around.doubt_timer(arrival.queue);
                    return Put::Stored;
                }
                Joined::Closed => {
                    around.interrupts.queue(arrival.queue, false);
                    return Put::Stored;
                }
                Joined::Alone(true) => around.interrupts.queue(arrival.queue, false),
                Joined::Alone(false) => {}
            }
        }
        let Some(queue) = self.queues.get_mut(arrival.queue) else { return Put::Lost };
        let put = queue.put(arrival.frame, &arrival.report, around.memory, around.complaints);
        if put == Put::Stored {
            around.interrupts.queue(arrival.queue, false);
        }
        put
    }

    /// A frame waits. False: there is no room for it.
    pub fn wait(&mut self, frame: &[u8]) -> bool {
        if self.waiting.octets() + frame.len() > PACKET_BUFFER {
            return false;
        }
        let mut buffer = self.waiting.buffer();
        buffer.extend_from_slice(frame);
        self.waiting.push(buffer);
        true
    }

    /// Time passes for flows: those as old as the interval of their queue's interrupt are closed.
    pub fn pass_time(&mut self, microseconds: u32, around: &mut Around<'_>) {
        if self.flows.is_empty() {
            return;
        }
        for (number, queue) in self.queues.iter_mut().enumerate().filter(|(_, queue)| queue.rscctl & RSCEN != 0) {
            let interval = around.interrupts.interval(number).unwrap_or(u32::MAX);
            let (memory, complaints) = (&mut *around.memory, &mut *around.complaints);
            let mut target = Target { number, queue, memory, complaints };
            if self.flows.pass_time(microseconds, interval, &mut target) {
                around.interrupts.queue(number, false);
            }
        }
    }
}
