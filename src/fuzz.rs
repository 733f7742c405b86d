//! Fuzz targets of this crate, and what all crates' targets share.
//!
//! A target is a function of octets. It panics if a condition fails that must hold for any octets. The workspace in
//! `fuzz/` runs it under libFuzzer; an ordinary test replays its corpus, `fuzz/corpus/NAME/`. A target reads its
//! octets front to back, so that people can write an input by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target panics when something is wrong")]

mod capture;
mod frame;
mod ipc;
mod wire;

use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use capture::capture;
pub use frame::frame;
pub use ipc::ipc;
pub use wire::wire;

/// The rest of a target's octets. After their end come zeroes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All octets of an input.
    pub fn new(octets: &'a [u8]) -> Input<'a> {
        Input(octets)
    }

    /// Whether no octets are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octets, at most `count`.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next `N` octets.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// The next octet.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next number of 16 bits, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next number of 32 bits, little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next number of 64 bits, little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// The next octet as a choice among `count`, 1 to 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.u8()) % count
    }
}

/// Fds that show whether one of them is still open: all are the writing end of one pipe.
pub struct Fds {
    reader: PipeReader,
    writer: OwnedFd,
}

impl Default for Fds {
    fn default() -> Fds {
        let (reader, writer) = std::io::pipe().unwrap();
        Fds { reader, writer: writer.into() }
    }
}

impl Fds {
    /// One more fd.
    pub fn one(&self) -> OwnedFd {
        self.writer.try_clone().unwrap()
    }

    /// Panics unless all of them are closed.
    pub fn assert_closed(mut self) {
        drop(self.writer);
        nix::fcntl::fcntl(&self.reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        assert_eq!(self.reader.read(&mut [0]).ok(), Some(0), "an fd was leaked");
    }
}

/// Runs a target with every file of its corpus, and names the file on which it panics.
pub fn replay(target: &str, body: fn(&[u8])) {
    struct Names(PathBuf);
    impl Drop for Names {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("of the input {}", self.0.display());
            }
        }
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        let octets = std::fs::read(&file).unwrap();
        let _names = Names(file);
        body(&octets);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora() {
        super::replay("capture", super::capture);
        super::replay("frame", super::frame);
        super::replay("ipc", super::ipc);
        super::replay("wire", super::wire);
    }
}
