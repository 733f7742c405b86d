//! The contract between sv3's processes.
//!
//! ```text
//!   QEMU ──vhost-user──▶ supervisor ──Command (bincode + fds)──▶ worker ◀──rings──▶ guests
//!                            ▲  ◀────── Report (32 bytes) ─────────┘ │
//!                            └───────────── ledger (memfd) ──────────┘
//! ```
//!
//! The **supervisor** owns names, fds and numbers. The **worker** owns bytes. Neither imports the other: this crate
//! has all that they share. Except for the mapping of the ledger and the files that a service manager passes, nothing
//! here does I/O.
//!
//! *Life of a client*: [`wire`] decodes what the front-end says. The supervisor admits the client and makes
//! [`ipc::Command`]s for the worker. The worker answers with fixed-size [`ipc::Report`]s. The same commands bring up
//! a new worker.
//!
//! *Life of a frame*: the worker takes a descriptor chain from one guest's ring, decides by its [`frame`] header, and
//! copies the frame once into buffers of another guest. Counters, drops by reason ([`drop_reason::DropReason`]), the
//! forwarding table and the crash record are in the [`ledger`].
//!
//! # A program that asks a switch
//!
//! A request is a line, and the answer is what comes until the connection closes (docs/operate/control.md says what lasts):
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//!
//! use sv3::control::ControlRequest;
//!
//! let mut switch = UnixStream::connect("/run/user/1000/sv3/control.sock")?;
//! writeln!(switch, "{}", ControlRequest::Status)?;
//! let mut answer = String::new();
//! switch.read_to_string(&mut answer)?;
//! println!("{answer}"); // JSON: a sv3::status::Status
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod attachment;
pub mod audit;
pub mod capture;
pub mod card;
pub mod card_attachment;
pub mod config;
pub mod control;
pub mod cpus;
pub mod drop_reason;
pub mod fdb;
pub mod foreign;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod group_status;
pub mod groups;
pub mod http;
pub mod ids;
pub mod ipc;
pub mod ledger;
pub mod mirror;
pub mod options;
pub mod passed;
pub mod port_set;
pub mod rules;
pub mod sealed_map;
pub mod snooping;
pub mod status;
pub mod timeslice;
pub mod trace;
pub mod virtio;
pub mod wire;

/// Most ports (connected clients) of one switch.
pub const MAX_PORTS: usize = 1024;
/// Most queue pairs of one port.
pub const MAX_QUEUE_PAIRS: usize = 16;
/// Most rings of one port: a receive and a transmit ring for each queue pair.
pub const MAX_RINGS: usize = 2 * MAX_QUEUE_PAIRS;
/// Most memory regions of one port (vhost-user `GET_MAX_MEM_SLOTS`): what QEMU asks for with memory hotplug.
pub const MAX_MEM_SLOTS: usize = 509;
/// Most memory regions of all ports together. The kernel's default allows 65,530 mappings. A new table is mapped
/// before the old one is unmapped, so half of them can be regions, less those of the worker itself.
pub const MAX_REGIONS: usize = 32_000;
/// Most descriptors of one ring (virtio 1.3, 2.7: the largest power of two that a u16 index allows).
pub const MAX_RING_SIZE: u16 = 32768;
