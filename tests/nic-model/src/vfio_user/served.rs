//! A card that is served, by a thread of its own.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::Message;
use super::wire::Wire;
use super::{Device, Function};
use crate::Card;

/// A card behind a socket, to which one client after the other connects. It is gone when this is dropped.
pub struct Served {
    shared: Arc<Shared>,
    /// Closed to wake the thread; an octet wakes it too.
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    link: AtomicBool,
    complaints: Mutex<Vec<String>>,
}

impl Served {
    /// Serves a card behind `socket`, which is made. The other end of `wire` is the network.
    pub fn start(
        function: Function,
        card: Box<dyn Card + Send>,
        socket: &Path,
        wire: UnixStream,
    ) -> io::Result<Served> {
        let listener = UnixListener::bind(socket)?;
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let shared = Arc::new(Shared { link: AtomicBool::new(true), complaints: Mutex::default() });
        let wire = Wire::new(wire)?;
        let ours = shared.clone();
        let thread = std::thread::spawn(move || {
            let device = Device::new(function, card);
            let (client, last, quiet) = (None, Instant::now(), 0);
            let mut server = Server { device, wire, listener, client, bell: heard, shared: ours, last, quiet };
            while server.turn().is_ok() {}
        });
        Ok(Served { shared, bell: Some(bell), thread: Some(thread) })
    }

    /// The wire is plugged in or pulled out. Returns before the card knows.
    pub fn set_link(&self, up: bool) {
        self.shared.link.store(up, SeqCst);
        if let Some(mut bell) = self.bell.as_ref() {
            // A bell that is full rings already.
            let _ = io::Write::write(&mut bell, &[0]);
        }
    }

    /// All that the card has complained about, see [`crate::Card::complaints`].
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the thread runs still; it ends by itself only if it fails.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    device: Device,
    wire: Wire,
    listener: UnixListener,
    client: Option<UnixStream>,
    bell: UnixStream,
    shared: Arc<Shared>,
    /// When the card last knew the time.
    last: Instant,
    /// Ticks since something happened.
    quiet: u32,
}

/// How often the card is told the time, in milliseconds.
const TICK: u8 = 1;
/// The longest timer of a card is 1 ms (EITR).
const TICKS: u32 = 4;

impl Server {
    /// Waits for something, and does it. An error: the end.
    fn turn(&mut self) -> io::Result<()> {
        let client = self.client.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd);
        let wanted = if self.wire.is_full() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let wanted = if self.wire.is_closed() { PollFlags::empty() } else { wanted };
        let mut sources = [
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(client, PollFlags::POLLIN),
            PollFd::new(self.wire.as_fd(), wanted),
        ];
        // A closed wire is always ready.
        let count = if self.wire.is_closed() { 2 } else { 3 };
        let patience = if self.quiet < TICKS { TICK.into() } else { PollTimeout::NONE };
        let happened = poll(sources.get_mut(..count).unwrap_or_default(), patience)?;
        self.quiet = if happened > 0 { 0 } else { self.quiet + 1 };
        let ready = sources.map(|source| source.any().unwrap_or_default());
        let [bell, client, wire] = ready;
        if bell {
            self.rung()?;
        }
        if wire {
            self.wire.hear();
            self.wire.flush();
        }
        if client {
            self.client();
        }
        self.device.turn(&mut self.wire, self.last.elapsed());
        self.last = Instant::now();
        let new = self.device.complaints();
        if !new.is_empty() {
            self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
        }
        Ok(())
    }

    fn rung(&mut self) -> io::Result<()> {
        match io::Read::read(&mut self.bell, &mut [0; 64]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                let Device { card, dma, .. } = &mut self.device;
                card.set_link(self.shared.link.load(SeqCst), dma);
            }
        }
        Ok(())
    }

    fn client(&mut self) {
        let Some(socket) = &mut self.client else {
            self.client = self.listener.accept().ok().map(|(socket, _)| socket);
            return;
        };
        let served = match Message::receive(socket) {
            Ok(Some(mut message)) => self.device.serve(&mut message, socket).is_ok(),
            Ok(None) | Err(_) => false,
        };
        if !served {
            self.client = None;
            self.device.forget_client();
        }
    }
}
