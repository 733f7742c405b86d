//! The least that a port of files costs: one thread that moves frames between two files and looks at nothing.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;
use sv3_tests::failure::Result;
use sv3_tests::network::Tap;

use crate::place::pin;

/// Most frames that one side has before it is the other's turn.
const TURN: usize = 64;
/// The longest frame that a tap gives, with its header.
const LONGEST: usize = 65_536 + 64;
/// How long a relay sleeps at most when it has nothing to do; so it notices its end.
const LOOK_MS: u16 = 100;

/// A relay, a thread of this process. It ends when this is dropped.
pub struct Relay {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    id: u32,
}

impl Relay {
    /// Between two taps: a read and a write for each frame, with its header as it is.
    pub fn between_taps(taps: [Tap; 2]) -> Result<Relay> {
        let files = taps.map(Tap::into_file);
        let mut frame = vec![0; LONGEST];
        Relay::start(None, move |over| {
            while !over.load(Relaxed) {
                let [a, b] = &files;
                if !move_frames(a, b, &mut frame) & !move_frames(b, a, &mut frame) {
                    rest(&files);
                }
            }
        })
    }

    /// Between two streams, on a processor: at most so many octets at a time, which need not be whole frames.
    pub fn between_streams(streams: [UnixStream; 2], octets: usize, core: usize) -> Result<Relay> {
        for stream in &streams {
            stream.set_nonblocking(true)?;
        }
        let mut buffer = vec![0; octets];
        Relay::start(Some(core), move |over| {
            while !over.load(Relaxed) {
                let [a, b] = &streams;
                if !move_octets(a, b, &mut buffer) & !move_octets(b, a, &mut buffer) {
                    rest(&streams);
                }
            }
        })
    }

    /// A thread that does this again and again.
    pub fn start(core: Option<usize>, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<Relay> {
        let (over, id) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (its_over, its_id) = (over.clone(), id.clone());
        let thread = std::thread::spawn(move || {
            let pinned = core.is_none_or(|core| pin(core).is_ok());
            its_id.store(gettid().as_raw().unsigned_abs(), Relaxed);
            if pinned {
                work(&its_over);
            }
        });
        while id.load(Relaxed) == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        Ok(Relay { over, thread: Some(thread), id: id.load(Relaxed) })
    }

    /// The thread's id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves what waits in a tap, at most [`TURN`] frames; false: nothing did.
fn move_frames(mut from: &File, mut to: &File, frame: &mut [u8]) -> bool {
    for count in 0..TURN {
        match from.read(frame) {
            // Frames that the other side does not take are lost, as in a switch.
            Ok(octets) => drop(to.write(frame.get(..octets).unwrap_or_default())),
            Err(_) => return count > 0,
        }
    }
    true
}

/// Moves what waits in a stream, once; false: nothing did.
fn move_octets(mut from: &UnixStream, mut to: &UnixStream, buffer: &mut [u8]) -> bool {
    let mut left = match from.read(buffer) {
        Ok(octets @ 1..) => buffer.get(..octets).unwrap_or_default(),
        _ => return false,
    };
    while !left.is_empty() {
        match to.write(left) {
            Ok(octets) => left = left.get(octets..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(LOOK_MS));
            }
            Err(_) => return true,
        }
    }
    true
}

fn rest(files: &[impl AsFd; 2]) {
    let [a, b] = files;
    let mut files = [a, b].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut files, PollTimeout::from(LOOK_MS));
}
