//! A front-end in software that carries the frames of a tap to a switch and back, with all offloads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::{Guest, NEEDS_CSUM, NetHdr, Shape};
use sv3_tests::network::Tap;
use sv3_tests::patience::PATIENCE;

const RX: u16 = 0;
const TX: u16 = 1;
/// Frames that one direction may take before the other has its turn.
const TURN: usize = 64;

/// The front-end, on a thread of its own. It vanishes when dropped.
pub struct Front {
    orders: Option<Sender<Order>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// To move to another switch, which then hears this address, and whom to tell when it is done.
type Order = (PathBuf, [u8; 6], Sender<()>);

impl Front {
    /// Connects a tap to a switch.
    pub fn connect(tap: Tap, socket: &Path) -> Result<Front> {
        let ((orders, mailbox), (ready, connected)) = (channel(), channel());
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (socket, woken, tap) = (socket.to_path_buf(), wake.clone(), tap.into_file());
        let thread = std::thread::spawn(move || {
            let carrier = Carrier { guest: Guest::connect(&socket), tap, waiting: None };
            let _ = ready.send(());
            carrier.carry(&woken, &mailbox);
        });
        let front = Front { orders: Some(orders), wake, thread: Some(thread) };
        connected.recv_timeout(PATIENCE).map_err(|_| gone())?;
        Ok(front)
    }

    /// Stops at the one switch, starts at another and asks that one for a RARP, as QEMU does at the end of a migration.
    pub fn move_to(&self, socket: &Path, mac: [u8; 6]) -> Result<()> {
        let (done, moved) = channel();
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        orders.send((socket.to_path_buf(), mac, done)).map_err(|_| gone())?;
        self.wake.write(1)?;
        moved.recv_timeout(PATIENCE).map_err(|_| gone())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> Failure {
    Failure::new("a front-end has ended")
}

/// What is on the thread.
struct Carrier {
    guest: Guest,
    tap: File,
    /// A frame of the tap, with its header, for which the ring has no room.
    waiting: Option<Vec<u8>>,
}

impl Carrier {
    /// Carries frames until nobody gives orders any more.
    fn carry(mut self, wake: &EventFd, mailbox: &Receiver<Order>) {
        loop {
            match mailbox.try_recv() {
                Ok((socket, mac, done)) => {
                    self.guest.move_to(&socket);
                    self.guest.send_rarp(mac);
                    let _ = done.send(());
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let busy = self.deliver() | self.transmit();
            if busy {
                continue;
            }
            let (rings, files): (&[u16], Vec<_>) = match self.waiting {
                None => (&[RX], vec![self.tap.as_fd(), wake.as_fd()]),
                Some(_) => (&[RX, TX], vec![wake.as_fd()]),
            };
            self.guest.await_used_or(rings, &files, Duration::from_secs(1));
            let _ = wake.read();
        }
    }

    /// Frames of the switch; whether there were some.
    fn deliver(&mut self) -> bool {
        let mut octets = Vec::new();
        for turn in 0..TURN {
            if self.guest.receive_into(0, &mut octets).is_none() {
                return turn > 0;
            }
            // The kernel drops what it does not like.
            let _ = self.tap.write(&octets);
        }
        true
    }

    /// Frames of the tap; whether there were some.
    fn transmit(&mut self) -> bool {
        let mut sent = false;
        for _ in 0..TURN {
            let Some(octets) = self.waiting.take().or_else(|| self.read_tap()) else { break };
            let (hdr, frame) = octets.split_at(self.guest.header_len());
            let hdr = NetHdr::parse(hdr);
            // What a driver may not say: that a checksum is known to be right, and a number of buffers.
            let hdr = NetHdr { flags: hdr.flags & NEEDS_CSUM, num_buffers: 0, ..hdr };
            if !self.guest.try_send_on(0, &hdr, frame, Shape::default()) {
                self.waiting = Some(octets);
                break;
            }
            sent = true;
        }
        if sent {
            self.guest.publish(TX);
        }
        sent
    }

    fn read_tap(&mut self) -> Option<Vec<u8>> {
        let mut octets = vec![0; 70_000];
        // An error: there is nothing to read. The tap lives as long as its network, thus longer than this.
        let count = self.tap.read(&mut octets).ok()?;
        octets.truncate(count);
        Some(octets)
    }
}
