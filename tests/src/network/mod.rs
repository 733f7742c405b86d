//! What lies beyond the switch: networks of the kernel's own with their taps, and peers behind sockets.
//!
//! All of it belongs to the test's process and ends with it, however it ends: a network has no name, only an open file.
//! Networks are for root.

mod cable;
#[allow(clippy::panic)]
pub mod exchange;
mod namespace;
mod peer;
pub mod ports;
#[allow(unsafe_code)] // packet sockets
mod raw;
mod station;
#[allow(unsafe_code)] // the ioctls of a tap
mod tap;

pub use cable::{Cable, POISON};
pub use namespace::Namespace;
pub use peer::{Form, PacketPeer, StreamPeer, packet_pair};
pub use raw::RawSocket;
pub use station::Station;
pub use tap::{OFFLOADS, Tap};
