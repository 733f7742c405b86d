//! A hostile front-end makes one kind of attack after the other on a switch of sv3, and a well-behaved one checks that
//! it is still served. Other back-ends are not attacked: [`case::Target`] refuses them.
//!
//! # Theory of operation
//!
//! A [`case::Case`] is one kind of attack. [`run::run`] makes it, with as many connections as it takes, and notes what
//! the switch does each time ([`reaction`]). Then a well-behaved client connects ([`probe`]): it must be served within
//! the time that was given, first while the attacker is still connected, then after it has disconnected. A switch that
//! does not serve it is hung; one whose process or socket is gone has died.
//!
//! Nothing here panics at what the switch does: the code checks it and never relies on it.

pub mod attacker;
pub mod case;
pub mod cases;
pub mod client;
pub mod peer;
pub mod probe;
pub mod reaction;
pub mod ring;
pub mod run;
