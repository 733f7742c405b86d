//! Counts of files and memory regions.

/// Files and regions that a client holds, or that are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open files.
    pub fds: usize,
    /// Memory regions.
    pub regions: usize,
}

impl Holdings {
    /// Nothing.
    pub const NONE: Holdings = Holdings { fds: 0, regions: 0 };
    /// No bound.
    pub const UNBOUNDED: Holdings = Holdings { fds: usize::MAX, regions: usize::MAX };
}
