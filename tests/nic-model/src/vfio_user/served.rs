//! A card that is served, by a thread of its own.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Function;
use super::device::Device;
use super::message::Message;
use super::wire::Wire;

use crate::Card;

/// A card behind a socket, to which one client after the other connects. It is gone when this is dropped.
pub struct Served {
    shared: Arc<Shared>,
    /// Closed to end the thread. An octet is an order.
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

const LINK_DOWN: u8 = 0;
const LINK_UP: u8 = 1;
const PULL_OUT: u8 = 2;

#[derive(Default)]
struct Shared {
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
        let shared = Arc::<Shared>::default();
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
        self.order(if up { LINK_UP } else { LINK_DOWN });
    }

    /// The card is pulled out, see [`Card::pull_out`]. Returns before it is.
    pub fn pull_out(&self) {
        self.order(PULL_OUT);
    }

    fn order(&self, order: u8) {
        if let Some(mut bell) = self.bell.as_ref() {
            // The thread takes orders all the time, so there is room.
            let _ = io::Write::write(&mut bell, &[order]);
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
        let mut orders = [0; 64];
        let count = io::Read::read(&mut self.bell, &mut orders)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Device { card, dma, .. } = &mut self.device;
        for order in orders.iter().take(count) {
            match *order {
                PULL_OUT => card.pull_out(),
                order => card.set_link(order == LINK_UP, dma),
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
