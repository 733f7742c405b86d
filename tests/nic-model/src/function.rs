//! What both functions have: queues, interrupts, the wire, and who may use them when.

use crate::interrupts::Interrupts;
use crate::receive::Put;
use crate::receiver::{Around, Arrival, Receiver};
use crate::statistics::Tally;
use crate::transmit::{Lane, TransmitQueue};
use crate::wire::Frames;
use crate::{Complaints, Memory};

/// Queues of both directions and what surrounds them.
pub struct Function {
    /// Receive queues.
    pub receiver: Receiver,
    /// Transmit queues.
    pub transmit: Vec<TransmitQueue>,
    /// Vectors.
    pub interrupts: Interrupts,
    /// Frames on the wire.
    pub sent: Frames,
    /// Errors of the driver.
    pub complaints: Complaints,
    /// Frames received and sent since the registers were brought up to date.
    pub tallies: [Tally; 2],
    /// DTXTCPFLGL and DTXTCPFLGH.
    pub flags: [u32; 2],
    /// The other end takes nothing.
    pub paused: bool,
    /// The function may reach memory.
    pub bus_master: bool,
    /// The card is not in its slot.
    pub gone: bool,
}

impl Function {
    /// So many queues of each direction.
    pub fn new(queues: usize) -> Function {
        Function {
            receiver: Receiver::new(queues),
            transmit: vec![TransmitQueue::default(); queues],
            interrupts: Interrupts::default(),
            sent: Frames::default(),
            complaints: Complaints::default(),
            tallies: [Tally::default(); 2],
            flags: [0x0FF6_0FF6, 0x0F7F],
            paused: false,
            bus_master: true,
            gone: false,
        }
    }

    /// All queues are as after power on. What is on the wire stays there.
    pub fn reset(&mut self) {
        self.receiver.reset();
        self.transmit.fill(TransmitQueue::default());
        self.interrupts.reset();
        self.tallies = [Tally::default(); 2];
    }

    /// Sends what a queue holds, at most `most` frames.
    pub fn send(&mut self, queue: usize, most: u32, memory: &mut dyn Memory) {
        let Some(it) = self.transmit.get_mut(queue).filter(|_| self.bus_master && !self.gone) else { return };
        let (to, complaints) = (&mut self.sent, &mut self.complaints);
        let mut lane = Lane { to, memory, complaints, flags: self.flags, tally: std::mem::take(&mut self.tallies[1]) };
        if it.send(&mut lane, most) {
            self.interrupts.queue(queue, true);
        }
        self.tallies[1] = lane.tally;
    }

    /// Stores a frame that has passed all filters.
    pub fn store(&mut self, arrival: &Arrival<'_>, memory: &mut dyn Memory) -> Put {
        if !self.bus_master {
            return Put::Waits;
        }
        let (complaints, interrupts) = (&mut self.complaints, &mut self.interrupts);
        let put = self.receiver.store(arrival, &mut Around { memory, complaints, interrupts });
        if put == Put::Stored {
            self.tallies[0].count(arrival.frame);
        }
        put
    }

    /// Time passes for all that waits for it.
    pub fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory) {
        if self.bus_master && !self.gone {
            let (complaints, interrupts) = (&mut self.complaints, &mut self.interrupts);
            self.receiver.pass_time(microseconds, &mut Around { memory, complaints, interrupts });
            for (number, queue) in self.transmit.iter_mut().enumerate().filter(|(_, queue)| queue.ring.enabled) {
                if queue.tell(memory, &mut self.complaints) {
                    self.interrupts.queue(number, true);
                }
            }
        }
        self.interrupts.pass_time(microseconds);
    }
}

/// Octets of the shortest frame on the wire, without its check sequence.
const SHORTEST: usize = 60;

/// Gives `act` a frame as it comes from the wire: those that are too short were padded by who sent them.
pub fn padded<R>(frame: &[u8], act: impl FnOnce(&[u8]) -> R) -> R {
    let mut short = [0; SHORTEST];
    match short.get_mut(..frame.len()).filter(|_| frame.len() < SHORTEST) {
        None => act(frame),
        Some(begin) => {
            begin.copy_from_slice(frame);
            act(&short)
        }
    }
}
