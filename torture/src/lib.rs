//! A hostile vhost-user front-end for any back-end that serves virtio-net, and the means that a front-end in software
//! needs: the wire, guest memory, the bits. They are written from the specifications and share no code with the switch.
//!
//! # Theory of operation
//!
//! A [`case::Case`] is one kind of attack. [`run::run`] makes it, with as many connections as it takes, and notes what the
//! back-end does each time ([`reaction`]). Then a well-behaved client comes ([`probe`]): it must be served within the
//! patience that was given, first while the attacker is still connected, if the back-end has a place for both, then after
//! it has gone. A back-end that does not serve it is hung; one whose process or socket is gone has died.
//!
//! Nothing here panics at what a back-end does: it is looked at, and never relied on.

pub mod attacker;
pub mod case;
pub mod cases;
pub mod client;
pub mod failure;
pub mod feature;
// What a front-end takes for granted of its own memory is asserted, at the caller's line.
#[allow(clippy::panic, clippy::expect_used)]
pub mod memory;
pub mod peer;
pub mod probe;
pub mod reaction;
pub mod report;
pub mod ring;
pub mod run;
pub mod wire;
