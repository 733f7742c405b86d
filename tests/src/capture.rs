//! `sv3 capture` under test: runs it, and reads the pcapng that it writes.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

use crate::failure::{Failure, Result};
use crate::image::Suite;
use crate::patience::until;
use crate::switch::{Switch, send};
use crate::uplink::readable;

/// A running `sv3 capture`, which writes to a file.
pub struct Capture {
    process: Child,
    file: PathBuf,
    said: PathBuf,
}

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Name of the interface.
    pub port: String,
    /// Octets of the frame when it was sent.
    pub len: u32,
    /// `epb_flags`.
    pub flags: u32,
    /// All comments.
    pub comments: Vec<String>,
    /// The octets that were kept.
    pub frame: Vec<u8>,
}

impl Captured {
    /// Whether it came from the port.
    pub fn is_inbound(&self) -> bool {
        self.flags & 3 == 1
    }

    /// Whether it was meant for the port.
    pub fn is_outbound(&self) -> bool {
        self.flags & 3 == 2
    }

    /// Whether a comment says so.
    pub fn says(&self, comment: &str) -> bool {
        self.comments.iter().any(|said| said.contains(comment))
    }
}

impl Capture {
    /// `sv3 capture` with these words, as the user of the switch. It has begun when this returns.
    pub fn start(switch: &Switch, name: &str, words: &[&str]) -> Result<Capture> {
        let home = switch.home();
        let (file, said) = (home.path(name), home.path(&format!("{name}.said")));
        let before = switch.status()?.captures.len();
        let (control, out) = (switch.control().display().to_string(), file.display().to_string());
        let options = ["capture", "--control", &control, "-w", &out];
        let mut command = home.sv3(&[&options, words].concat());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", home.path(".").display()));
        let process = command.stderr(fs::File::create(&said)?).spawn()?;
        let mut capture = Capture { process, file, said };
        until("a capture", || {
            if let Some(status) = capture.process.try_wait()? {
                return Err(Failure::new(format!("sv3 capture ended: {status}: {}", capture.said()?)));
            }
            Ok((switch.status()?.captures.len() > before).then_some(()))
        })?;
        Ok(capture)
    }

    /// What it wrote to stderr.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.said)?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by a signal, and reads what it wrote.
    pub fn end(mut self) -> Result<Vec<Captured>> {
        send(self.process.id(), "TERM")?;
        self.wait()
    }

    /// Waits until it ends by itself, and reads what it wrote.
    pub fn wait(&mut self) -> Result<Vec<Captured>> {
        let status = until("the end of a capture", || Ok(self.process.try_wait()?))?;
        match status.success() {
            true => read(&fs::read(&self.file)?),
            false => Err(Failure::new(format!("sv3 capture: {status}: {}", self.said()?))),
        }
    }

    /// The file.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Puts tcpdump where [`Capture::start`] finds it. Returns its path.
pub fn tcpdump(switch: &Switch) -> Result<String> {
    readable(switch.home(), Suite::Tcpdump, "tcpdump")
}

/// Reads pcapng of one section, in the order of its octets.
fn read(octets: &[u8]) -> Result<Vec<Captured>> {
    let bad = || Failure::new("this is no pcapng".to_string());
    let word = |at: usize, of: &[u8]| of.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let (mut rest, mut ports, mut all) = (octets, Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (kind, len) = (word(0, rest).ok_or_else(bad)?, word(4, rest).ok_or_else(bad)? as usize);
        let body = rest.get(8..len.checked_sub(4).ok_or_else(bad)?).ok_or_else(bad)?;
        match kind {
            1 => {
                let names = options(body.get(8..).ok_or_else(bad)?);
                let name = names.into_iter().find(|(code, _)| *code == 2).ok_or_else(bad)?.1;
                ports.push(String::from_utf8_lossy(&name).to_string());
            }
            6 => {
                let field = |at: usize| word(at, body).ok_or_else(bad);
                let (captured, len) = (field(12)? as usize, field(16)?);
                let frame = body.get(20..20 + captured).ok_or_else(bad)?.to_vec();
                let options = options(body.get(20 + captured.next_multiple_of(4)..).ok_or_else(bad)?);
                let flags = options.iter().find(|(code, _)| *code == 2).and_then(|(_, value)| word(0, value));
                let comments = options.iter().filter(|(code, _)| *code == 1);
                let comments = comments.map(|(_, text)| String::from_utf8_lossy(text).to_string()).collect();
                let port = ports.get(field(0)? as usize).cloned().ok_or_else(bad)?;
                all.push(Captured { port, len, flags: flags.ok_or_else(bad)?, comments, frame });
            }
            _ => {}
        }
        rest = rest.get(len..).ok_or_else(bad)?;
    }
    Ok(all)
}

fn options(mut octets: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(([a, b, c, d], rest)) = octets.split_first_chunk::<4>() {
        let (code, len) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        if code == 0 {
            break;
        }
        all.push((code, rest.get(..len).unwrap_or_default().to_vec()));
        octets = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}
