//! The files that a machine boots with, as the archive that the kernel unpacks (`cpio`, format `newc`;
//! Documentation/driver-api/early-userspace/buffer-format.rst of Linux).
//!
//! Everything belongs to root. Folders are 0755, the topmost one too, so that others get to the devices.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::failure::{Failure, Result};
use crate::image::{self, Suite};

/// An archive that is being filled.
#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
    folders: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

/// Where programs of bookworm are.
const DEBIAN: &str = "/debian";

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

impl Initramfs {
    /// Adds a file that anybody may execute, with the folders above it. The first one at a path stays.
    pub fn file(&mut self, at: &str, octets: &[u8]) {
        let at = Path::new(at.trim_start_matches('/'));
        self.folder(at.parent().unwrap_or(Path::new("")));
        if self.files.insert(at.to_owned()) {
            self.entry(at, FILE, octets);
        }
    }

    /// Adds a program of this machine, with the shared libraries that it loads where it looks for them.
    pub fn program(&mut self, at: &str, program: &Path) -> Result<()> {
        self.file(at, &read(program)?);
        for library in libraries(program)? {
            self.file(&library, &read(Path::new(&library))?);
        }
        Ok(())
    }

    /// Adds a program of bookworm, whatever the libraries of this machine are; run by `/bin/NAME`.
    pub fn debian(&mut self, path: &str) -> Result<()> {
        let tree = image::tree(Suite::Bookworm)?;
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        self.file(&format!("{DEBIAN}/bin/{name}"), &read(&tree.join(path))?);
        self.debian_libraries(path)?;
        self.file(&format!("{DEBIAN}/loader"), &read(&tree.join("lib64/ld-linux-x86-64.so.2"))?);
        let run = format!("#!/bin/sh\nexec {DEBIAN}/loader --library-path {DEBIAN}/lib {DEBIAN}/bin/{name} \"$@\"\n");
        self.file(&format!("/bin/{name}"), run.as_bytes());
        Ok(())
    }

    /// Adds a library that such a program loads by its path, `/debian/lib/NAME`.
    pub fn debian_plugin(&mut self, path: &str) -> Result<()> {
        let file = image::tree(Suite::Bookworm)?.join(path);
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.file(&format!("{DEBIAN}/lib/{name}"), &read(&file)?);
        self.debian_libraries(path)
    }

    fn debian_libraries(&mut self, path: &str) -> Result<()> {
        let tree = image::tree(Suite::Bookworm)?;
        let mut loader = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"));
        loader.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
        let output = loader.arg("--list").arg(tree.join(path)).output()?;
        for library in paths(&output) {
            let name = Path::new(&library).file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.file(&format!("{DEBIAN}/lib/{name}"), &read(Path::new(&library))?);
        }
        Ok(())
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.archive
    }

    fn folder(&mut self, at: &Path) {
        if self.folders.contains(at) {
            return;
        }
        if let Some(above) = at.parent() {
            self.folder(above);
        }
        self.folders.insert(at.to_owned());
        let name = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        self.entry(name, FOLDER, &[]);
    }

    fn entry(&mut self, name: &Path, mode: u32, octets: &[u8]) {
        self.entries += 1;
        let name = [name.as_os_str().as_encoded_bytes(), b"\0"].concat();
        let links = if mode == FOLDER { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, 4 numbers of devices, namesize, check.
        let numbers = [self.entries, mode, 0, 0, links, 0, octets.len() as u32, 0, 0, 0, 0, name.len() as u32, 0];
        self.archive.extend_from_slice(b"070701");
        for number in numbers {
            self.archive.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        for part in [name.as_slice(), octets] {
            self.archive.extend_from_slice(part);
            self.archive.resize(self.archive.len().next_multiple_of(4), 0);
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Failure::new(format!("{}: {error}; programs are built by `cargo build --workspace`", path.display()))
    })
}

/// The shared libraries of a program, and its loader; none if it is static.
fn libraries(program: &Path) -> Result<Vec<String>> {
    Ok(paths(&Command::new("ldd").arg(program).output()?))
}

/// The paths in what a loader lists: `NAME => PATH (ADDRESS)`, or the loader alone, `PATH (ADDRESS)`.
fn paths(list: &Output) -> Vec<String> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_string);
    String::from_utf8_lossy(&list.stdout).lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_folder_and_file_once() {
        let mut all = Initramfs::default();
        all.file("/bin/one", b"first");
        all.file("/bin/one", b"second");
        all.file("/bin/two", b"");

        let text = String::from_utf8(all.finish()).unwrap_or_default();

        let entries: Vec<&str> = text.split("070701").skip(1).collect();
        let names = entries.iter().map(|entry| entry[104..].split('\0').next().unwrap_or_default());
        assert_eq!(names.collect::<Vec<_>>(), [".", "bin", "bin/one", "bin/two", "TRAILER!!!"]);
        assert!(entries[0].contains("000041ED") && entries[2].contains("000081ED"));
        assert!(text.contains("first") && !text.contains("second"));
        assert_eq!(text.len() % 4, 0);
    }
}
