//! What an operator declares, in words: settings of ports and users, in a file or on the command line.
//!
//! A setting is a key and some words ([`keys`]). A [`draft::Draft`] collects them and becomes what the switch gets. The
//! same settings are written again by [`show`], so that what is in force can be read as a file, and compared by
//! [`difference`].

pub mod difference;
pub mod door;
pub mod draft;
pub mod file;
pub mod give;
pub mod keys;
pub mod one_port;
pub mod rate;
pub mod show;
pub mod snooping;
pub mod words;
