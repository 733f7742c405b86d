//! A TCP connection of two kernels, over which numbers run both ways until it is told to end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Namespace;
use crate::failure::{Failure, Result};
use crate::patience::PATIENCE;

/// Octets that are written at a time.
const CHUNK: usize = 32 << 10;

/// The connection. Each octet is checked at the other end, so one that is lost, doubled or changed is found.
pub struct Exchange {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Octets that came, by direction.
    came: [AtomicU64; 2],
}

impl Exchange {
    /// Connects from one network to an IPv4 address of another.
    pub fn start(from: &Namespace, to: &Namespace, address: &str) -> Result<Exchange> {
        let listener = to.inside(|| Ok(TcpListener::bind((address, 0))?))?;
        let place: SocketAddr = listener.local_addr()?;
        let client = from.inside(move || Ok(TcpStream::connect_timeout(&place, PATIENCE)?))?;
        let (server, _) = listener.accept()?;
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for (direction, (out, back)) in [(&client, &server), (&server, &client)].into_iter().enumerate() {
            for socket in [out, back] {
                socket.set_read_timeout(Some(3 * PATIENCE))?;
                socket.set_write_timeout(Some(3 * PATIENCE))?;
            }
            let (out, back) = (out.try_clone()?, back.try_clone()?);
            let (ours, theirs) = (shared.clone(), shared.clone());
            threads.push(std::thread::spawn(move || write_all(out, &ours)));
            threads.push(std::thread::spawn(move || check_all(back, &theirs.came[direction])));
        }
        Ok(Exchange { shared, threads })
    }

    /// Octets that came, by direction.
    pub fn came(&self) -> [u64; 2] {
        self.shared.came.each_ref().map(|count| count.load(SeqCst))
    }

    /// Waits until more has come both ways.
    pub fn await_progress(&self) -> Result<()> {
        let (before, deadline) = (self.came(), Instant::now() + PATIENCE);
        while self.came().iter().zip(before).any(|(now, before)| *now < before + CHUNK as u64) {
            if Instant::now() > deadline || self.threads.iter().any(JoinHandle::is_finished) {
                return Err(Failure::new(format!("the connection stands: {before:?}, now {:?}", self.came())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends the connection in order: what is under way comes. How many octets came, by direction.
    pub fn finish(mut self) -> Result<[u64; 2]> {
        self.shared.over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|_| Err(Failure::new("a thread of a connection panicked")))?;
        }
        Ok(self.came())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
    }
}

/// What stands at a place of a direction's octets.
fn octet(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn write_all(mut socket: TcpStream, shared: &Shared) -> Result<()> {
    let mut place = 0;
    while !shared.over.load(SeqCst) {
        let octets: Vec<u8> = (place..place + CHUNK as u64).map(octet).collect();
        socket.write_all(&octets)?;
        place += CHUNK as u64;
    }
    Ok(socket.shutdown(std::net::Shutdown::Write)?)
}

fn check_all(mut socket: TcpStream, came: &AtomicU64) -> Result<()> {
    let (mut place, mut octets) = (0, vec![0; 2 * CHUNK]);
    loop {
        let count = socket.read(&mut octets)?;
        let Some(read) = octets.get(..count).filter(|read| !read.is_empty()) else { return Ok(()) };
        if let Some(at) = read.iter().zip(place..).position(|(read, place)| *read != octet(place)) {
            return Err(Failure::new(format!("octet {} of a connection is wrong", place + at as u64)));
        }
        place += count as u64;
        came.store(place, SeqCst);
    }
}
