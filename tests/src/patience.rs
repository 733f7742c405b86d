//! Waiting for a condition, with a deadline instead of a fixed sleep.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Long enough for everything that a healthy switch does, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_millis(2);

/// Calls `look` again and again until it returns something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("waited {PATIENCE:?} for {what}, which did not come")));
        }
        std::thread::sleep(STEP);
    }
}
