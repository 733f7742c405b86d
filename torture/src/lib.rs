//! A hostile vhost-user front-end for any back-end that serves virtio-net, and the means that a front-end in software
//! needs: the wire, guest memory, the bits. They are written from the specifications and share no code with the switch.

pub mod failure;
pub mod feature;
// What a front-end takes for granted of its own memory is asserted, at the caller's line.
#[allow(clippy::panic, clippy::expect_used)]
pub mod memory;
pub mod wire;
