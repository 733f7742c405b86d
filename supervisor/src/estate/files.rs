//! The files of a record. The record has their numbers.

use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};
use sv3::foreign::ForeignFd;

use super::{Unfit, unfit};

/// A file's number in the list that goes with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileNumber(u32);

/// The files that a record names, as its writer collects them.
#[derive(Default)]
pub struct Files<'f>(Vec<BorrowedFd<'f>>);

impl<'f> Files<'f> {
    /// Adds a file.
    pub fn add(&mut self, file: &'f impl AsFd) -> FileNumber {
        self.add_borrowed(file.as_fd())
    }

    /// The same for a borrowed fd.
    pub fn add_borrowed(&mut self, file: BorrowedFd<'f>) -> FileNumber {
        let number = FileNumber(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(file);
        number
    }

    /// All of them, by number.
    pub fn all(&self) -> &[BorrowedFd<'f>] {
        &self.0
    }
}

/// The files that came with a record. Each can be taken once; those that nobody takes are closed.
#[derive(Debug, Default)]
pub struct Heirlooms(Vec<Option<ForeignFd>>);

impl Heirlooms {
    /// Files, by number.
    pub fn new(files: Vec<ForeignFd>) -> Heirlooms {
        Heirlooms(files.into_iter().map(Some).collect())
    }

    /// Takes the file of a number.
    pub fn take(&mut self, FileNumber(number): FileNumber) -> Result<ForeignFd, Unfit> {
        let place = usize::try_from(number).ok().and_then(|at| self.0.get_mut(at));
        match place.and_then(Option::take) {
            Some(file) => Ok(file),
            None => unfit(format!("file {number} is missing, or is named twice")),
        }
    }

    /// How many files nobody has taken.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn left(&self) -> usize {
        self.0.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn each_file_is_taken_once() {
        let file = || ForeignFd::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut files = Heirlooms::new(vec![file(), file()]);
        assert!(files.take(FileNumber(1)).is_ok() && files.take(FileNumber(1)).is_err());
        assert!(files.take(FileNumber(2)).is_err() && files.take(FileNumber(u32::MAX)).is_err());
        assert_eq!(files.left(), 1);
    }
}
