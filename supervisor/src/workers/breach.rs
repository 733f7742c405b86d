//! What a worker must not do.

/// A worker reported what cannot be: it is replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach(pub &'static str);
