//! The contract between sv3's processes.
//!
//! ```text
//!   QEMU ──vhost-user──▶ supervisor ──Command (bincode + fds)──▶ worker ◀──rings──▶ guests
//!                            ▲  ◀────── Report (32 bytes) ─────────┘ │
//!                            └───────────── ledger (memfd) ──────────┘
//! ```
//!
//! The **supervisor** owns names, fds and numbers; the **worker** owns bytes. Neither imports the other: all that they
//! share stands here, and except for the mapping of the ledger nothing here does I/O.
//!
//! *Life of a client*: [`wire`] decodes what the front-end says, the supervisor admits it and turns it into
//! [`ipc::Command`]s for the worker, which answers with fixed-size [`ipc::Report`]s. A fresh worker is brought up by the
//! same commands.
//!
//! *Life of a frame*: the worker takes a descriptor chain from one guest's ring, decides by its [`frame`] header, and
//! copies it once into buffers of another guest. Counters, drops by reason ([`drop_reason::DropReason`]), the forwarding table and the
//! crash record live in the [`ledger`].

pub mod audit;
pub mod control;
pub mod cpus;
pub mod drop_reason;
pub mod foreign;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod ids;
pub mod ipc;
pub mod ledger;
pub mod options;
pub mod status;
pub mod timeslice;
pub mod virtio;
pub mod wire;

/// Most ports (connected clients) of one switch.
pub const MAX_PORTS: usize = 1024;
/// Most queue pairs of one port.
pub const MAX_QUEUE_PAIRS: usize = 16;
/// Most rings of one port: a receive and a transmit ring for each queue pair.
pub const MAX_RINGS: usize = 2 * MAX_QUEUE_PAIRS;
/// Most memory regions of one port; what QEMU asks for with memory hotplug (vhost-user `GET_MAX_MEM_SLOTS`).
pub const MAX_MEM_SLOTS: usize = 509;
/// Most memory regions of all ports together: half of 65,530 mappings, which is the kernel's default, since a table is
/// replaced by mapping the new one beside the old one; less what the worker itself takes.
pub const MAX_REGIONS: usize = 32_000;
/// Most descriptors of one ring (virtio 1.3, 2.7: the largest power of two that a u16 index allows).
pub const MAX_RING_SIZE: u16 = 32768;
