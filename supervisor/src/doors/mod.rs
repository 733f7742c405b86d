//! Where others come in: the front door for clients, the control socket for people, and the metrics' HTTP door.

pub mod control;
pub mod http;
pub mod listener;
