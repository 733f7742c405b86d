//! The files that this process has open, as each owner lists them, for `sv3 audit`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use sv3::audit::Fd;

/// An open file.
pub struct OpenFile<'f> {
    fd: BorrowedFd<'f>,
    kind: &'static str,
    purpose: String,
}

impl<'f> OpenFile<'f> {
    /// A file, its kind as /proc shows it, and its purpose.
    pub fn new(fd: &'f impl AsFd, kind: &'static str, purpose: impl Into<String>) -> OpenFile<'f> {
        OpenFile::borrowed(fd.as_fd(), kind, purpose)
    }

    /// The same for a borrowed fd.
    pub fn borrowed(fd: BorrowedFd<'f>, kind: &'static str, purpose: impl Into<String>) -> OpenFile<'f> {
        OpenFile { fd, kind, purpose: purpose.into() }
    }
}

impl From<OpenFile<'_>> for Fd {
    fn from(file: OpenFile<'_>) -> Fd {
        Fd { fd: Some(file.fd.as_raw_fd()), kind: file.kind.to_string(), purpose: file.purpose }
    }
}
