//! Neighbours that take what they can: guests whose rings are always full, at nearly no cost to the test.
//!
//! A ring is filled once. What comes back is made available again as it is: one index to read, one to write, and the
//! switch has as much to do as it can.

use crate::frames::{mac, noise};
use crate::guest::split::{Descriptor, NEXT};
use crate::guest::{Config, Guest, NetHdr, Shape};
use crate::switch::Switch;

const SENDER: u8 = 100;
const RECEIVER: u8 = 101;
const RX: u16 = 0;
const TX: u16 = 1;

/// What a neighbour does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Silent,
    /// Frames of 64 octets, one descriptor each.
    Small,
    /// Frames of 64 octets in 64 descriptors.
    Pieces,
    /// Frames of 64 KiB.
    Long,
    /// Frames to a receiver that takes none and has a full call eventfd.
    Slow,
    /// Broadcasts to 16 ports and the honest two.
    Broadcast,
    /// Broadcasts to 16 ports that ask to be called for each, and the honest two.
    Called,
    /// Chains of as many descriptors as there are, none of which has an octet, and which never end.
    Loops,
}

/// A neighbour with the guests that it needs.
pub struct Neighbour {
    kind: Kind,
    sender: Guest,
    receivers: Vec<Guest>,
    /// The receiver whose turn is next.
    next: usize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] =
        [Kind::Silent, Kind::Small, Kind::Pieces, Kind::Long, Kind::Slow, Kind::Broadcast, Kind::Called, Kind::Loops];

    /// Connects such a neighbour; it has begun.
    #[track_caller]
    pub fn connect(self, switch: &Switch) -> Neighbour {
        let config = || Guest::config().memory(256 << 20);
        let config = |size| if self == Kind::Long { config().rx_buffer(66_000) } else { config() }.ring_size(size);
        let size = if self == Kind::Loops { 1024 } else { 256 };
        let count = if matches!(self, Kind::Broadcast | Kind::Called) { 16 } else { 1 };
        let connect = |config: Config| config.connect(switch.socket());
        let mut neighbour = Neighbour { kind: self, sender: connect(config(size)), receivers: vec![], next: 0 };
        neighbour.receivers.extend((0..count).map(|_| connect(config(256))));
        neighbour.begin();
        neighbour
    }
}

impl Neighbour {
    #[track_caller]
    fn begin(&mut self) {
        let Neighbour { kind, sender, receivers, .. } = self;
        if *kind == Kind::Silent {
            return;
        }
        if let Some(receiver) = receivers.first_mut() {
            // So that its address is learnt.
            receiver.send(&noise(mac(SENDER), mac(RECEIVER), 64, 0));
            receiver.await_sent();
            if *kind == Kind::Slow {
                let full = (u64::MAX - 1).to_ne_bytes();
                let written = nix::unistd::write(receiver.queue(RX).call_fd(), &full);
                assert!(written.is_ok() || written == Err(nix::errno::Errno::EAGAIN), "{written:?}");
            }
        }
        if *kind == Kind::Loops {
            let (size, (_, _, available)) = (1024u16, sender.queue(TX).ring.addrs());
            for at in 0..size {
                sender.describe(TX, at, Descriptor { addr: 0, len: 0, flags: NEXT, next: (at + 1) % size });
                sender.memory().store16(available + 4 + 2 * u64::from(at), at);
            }
            sender.claim(TX, size);
            return;
        }
        let to = if matches!(kind, Kind::Broadcast | Kind::Called) { [0xff; 6] } else { mac(RECEIVER) };
        let frame = noise(to, mac(SENDER), if *kind == Kind::Long { 65_000 } else { 64 }, 0);
        let pieces: &[u32] = if *kind == Kind::Pieces { &[1; 63] } else { &[] };
        while sender.try_send_on(0, &NetHdr::default(), &frame, Shape { pieces, indirect: *kind == Kind::Pieces }) {}
        sender.publish(TX);
        sender.kick(TX);
    }

    /// Makes what came back available again.
    #[inline]
    pub fn refill(&mut self) {
        if self.kind == Kind::Silent {
            return;
        }
        // One receiver a time: serving many would take longer than what is measured.
        if refill(&self.sender, TX) {
            self.sender.kick(TX);
        }
        self.next = (self.next + 1) % self.receivers.len().max(1);
        if let Some(receiver) = self.receivers.get(self.next).filter(|_| self.kind != Kind::Slow) {
            refill(receiver, RX);
            if self.kind == Kind::Called {
                ask_for_call(receiver);
            }
        }
    }
}

/// True: the ring was empty.
#[inline]
fn refill(guest: &Guest, ring: u16) -> bool {
    let queue = guest.queue(ring);
    let (memory, size) = (guest.memory(), queue.ring.size());
    let (_, used, available) = queue.ring.addrs();
    let (back, offered) = (memory.load16(used + 2), memory.load16(available + 2));
    memory.store16(available + 2, back.wrapping_add(size));
    back == offered
}

/// Wants to be called for the next frame.
fn ask_for_call(guest: &Guest) {
    let queue = guest.queue(RX);
    let (memory, (_, used, available)) = (guest.memory(), queue.ring.addrs());
    memory.store16(available + 4 + 2 * u64::from(queue.ring.size()), memory.load16(used + 2));
}
