//! Errors of the driver, in words.

/// Most complaints that are kept. The first ones matter; a driver that goes wrong may go wrong a million times.
const MOST: usize = 256;

/// What the driver did wrong, oldest first, each once.
#[derive(Default)]
pub struct Complaints(Vec<String>);

impl Complaints {
    /// Keeps a complaint that is new.
    #[cold]
    pub fn add(&mut self, complaint: String) {
        if self.0.len() < MOST && !self.0.contains(&complaint) {
            self.0.push(complaint);
        }
    }

    /// All that are kept.
    pub fn all(&self) -> &[String] {
        &self.0
    }
}
