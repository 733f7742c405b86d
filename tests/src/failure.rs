//! Why a scenario cannot go on, as text for a person.

use std::fmt;

/// What the helpers of the scenarios return.
pub type Result<T> = std::result::Result<T, Failure>;

/// The reason, one or more lines. `Debug` prints it plainly, since that is what a test's `?` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure for this reason.
    pub fn new(reason: impl Into<String>) -> Failure {
        Failure(reason.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Failure {
        Failure(format!("{error} (at {})", std::panic::Location::caller()))
    }
}
