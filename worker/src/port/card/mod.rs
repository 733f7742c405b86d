//! Ports of network cards that the worker drives ([`crate::nic`]).
//!
//! # Theory of operation
//!
//! A queue pair of the port is one of the card's. Frames are copied: from the card's buffers to their receivers, and from
//! their senders into the card's memory. The card reaches no other memory.
//!
//! **In.** A frame lies in one buffer of the card, or in several. A burst expects a net header of 12 octets in front of it.
//! The first slice begins 12 octets before the buffer, as with files ([`super::files`]): the source makes the frame's head
//! without them. The header says that the checksum is right if the card has verified it, and of joined frames (RSC) how to
//! segment them again. A queue of a new worker first gives what the worker before has left.
//!
//! **Out.** A frame is copied whole, and the card is asked for what its sender left to the device: the checksum of TCP or
//! UDP, and segments of TCP. What else there is (segments of UDP; with a virtual function, ECN) is not among the port's
//! features, so it is done before. Frames wait for the card in its memory while it is off, so a take-over loses none.
//!
//! **Waiting.** The card's vector of the pair is masked while the queue is polled: it masks itself when it is raised.
//! Before the thread sleeps it is unmasked, and the queue is looked at once more. A sender that waits for room unmasks it
//! as well.

mod output;
mod queue;
mod source;
mod staying;
#[cfg(test)]
mod tests;

pub use queue::{CardQueue, Registers};
