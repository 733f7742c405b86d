//! Breaches of the protocol by a worker.

/// A worker sent an impossible report, for this reason, and must be replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach(pub &'static str);
