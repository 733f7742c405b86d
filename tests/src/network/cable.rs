//! A cable between two sockets, on which frames are behind their lengths. It sees who sends, and what must not be sent.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::failure::{Failure, Result};

/// Octets of a frame's length.
const PREFIX: usize = 4;
/// What a test writes to memory that nobody may send from any more.
pub const POISON: u8 = 0xee;
/// Octets in a row that are a sign of it.
const SIGN: [u8; 32] = [POISON; 32];

type Address = [u8; 6];
type Sources = Arc<Mutex<BTreeSet<Address>>>;

/// The address that poison counts as.
const POISONED: Address = [POISON; 6];

/// Two cards on one wire. Cut when it is dropped.
pub struct Cable {
    ends: [UnixStream; 2],
    /// Who has sent from each end.
    sources: [Sources; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Joins the other ends of two wires.
    pub fn join(one: UnixStream, other: UnixStream) -> Result<Cable> {
        let sources = [Sources::default(), Sources::default()];
        let mut threads = Vec::new();
        for ((from, to), seen) in [(&one, &other), (&other, &one)].into_iter().zip(&sources) {
            let (from, to, seen) = (from.try_clone()?, to.try_clone()?, seen.clone());
            threads.push(std::thread::spawn(move || {
                // An end that is gone takes the other one along.
                let _ = carry(&from, &to, &seen);
                let _ = to.shutdown(Shutdown::Both);
            }));
        }
        Ok(Cable { ends: [one, other], sources, threads })
    }

    /// Fails if a frame came from the first end that bore the address of somebody who is not one of these, or [`POISON`].
    pub fn check_sources(&self, allowed: &[Address]) -> Result<()> {
        let seen = self.sources[0].lock().unwrap_or_else(PoisonError::into_inner);
        let foreign: Vec<String> =
            seen.iter().filter(|address| !allowed.contains(address)).map(|address| format!("{address:02x?}")).collect();
        if foreign.is_empty() { Ok(()) } else { Err(Failure::new(format!("foreign senders: {foreign:?}"))) }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn carry(from: &UnixStream, mut to: &UnixStream, seen: &Sources) -> io::Result<()> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    loop {
        let mut octets = vec![0; PREFIX];
        from.read_exact(&mut octets)?;
        let length = octets.first_chunk::<PREFIX>().map_or(0, |prefix| u32::from_be_bytes(*prefix) as usize);
        octets.resize(PREFIX + length, 0);
        from.read_exact(octets.get_mut(PREFIX..).unwrap_or_default())?;
        // Behind the receiver's address.
        if let Some(source) = octets.get(PREFIX + 6..).and_then(|octets| octets.first_chunk()) {
            let is_poisoned = octets.windows(SIGN.len()).step_by(SIGN.len() / 2).any(|piece| piece == SIGN);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend([*source].into_iter().chain(is_poisoned.then_some(POISONED)));
        }
        to.write_all(&octets)?;
    }
}
