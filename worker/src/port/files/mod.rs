//! Ports of open files: taps, and sockets whose messages or octets are frames.
//!
//! # Theory of operation
//!
//! Both queues of a pair share one file. The worker reads and writes it with one syscall for a frame (taps, packets) or
//! for many (streams), and never blocks.
//!
//! **In.** What is read lies in an [`input`] of the ledger, each frame behind its length, and is taken from there in
//! place. So a frame that waits, or a frame of which a part has come, is still there for the next worker. A stream is
//! read only when no whole frame is left, so a sender feels it when receivers are behind.
//!
//! A burst expects a net header of 12 octets in front of each frame. Where a socket gives none, the slice of the frame
//! begins 12 octets before it all the same. Those octets belong to other frames: the source makes the frame's head
//! without them ([`crate::port::source::Source::head`]), and all that follows uses the head.
//!
//! **Out.** A frame for a tap or a packet socket is written when it is delivered. Frames for a stream are collected and
//! written at the end of the burst ([`outbox`]), if it is sure that the socket takes them whole ([`room`]): a worker
//! that dies must not leave half of a frame in a stream. In either case the receiver may have a frame before the
//! sender's queue is published. If the worker dies in between, the next one sends the frame again.
//!
//! **Waiting.** The file is in the epoll of the thread that owns the transmit queue, edge-triggered. A queue that has
//! been read empty needs no look before the next event. So it is not polled, and an idle port costs nothing. Only while
//! a sender waits for room ([`waiting`]) the epoll also tells when a file can be written: otherwise each read of the
//! other side would wake the worker.
//!
//! The kernel, the peer and the worker before may all be hostile: lengths are checked before use, and each octet is
//! read at most once to decide something.

mod failure;
pub mod implied;
mod input;
mod open_file;
mod outbox;
mod position;
mod queue;
mod reads;
mod room;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod waiting;

pub use open_file::OpenFile;
pub use queue::FileQueue;
pub use sink::Workspace;
pub use waiting::Waiting;
