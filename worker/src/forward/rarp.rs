//! RARP announcements (vhost-user `SEND_RARP`). After a live migration the worker broadcasts the guest's address in
//! its name, so that switches learn its new port (the frame of RFC 903, as QEMU sends it).
//!
//! An announcement is a frame to all ports that costs the client one message and no buffer, and it does not count in
//! the shares by which the loop divides its turns. So a port may send one in each [`PAUSE_NS`], and the worker
//! ignores others. QEMU sends five, at least 50 ms apart, since any of them may be lost.

use sv3::frame::MacAddr;

use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::Unsent;
use super::sending::Sending;
use crate::forward::offload::Offload;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::Port;

/// Octets of the frame, padded to the minimum of Ethernet.
const LEN: usize = 60;

/// Shortest time between two announcements of a port, in nanoseconds.
pub const PAUSE_NS: u64 = 10_000_000;
/// How often the worker tries an announcement while other threads lease receivers' rings. Each try waits some
/// microseconds. After the last try the announcement is lost, like one that finds no buffers.
const TRIES: usize = 16;

/// When a port may announce itself again.
#[derive(Default)]
pub struct Pause {
    until_ns: u64,
}

impl Pause {
    /// Whether the port may announce itself at `now_ns`. If so, a new pause begins.
    pub fn is_over(&mut self, now_ns: u64) -> bool {
        let over = now_ns >= self.until_ns;
        if over {
            self.until_ns = now_ns.saturating_add(PAUSE_NS);
        }
        over
    }
}

/// Broadcasts a RARP request for `mac` from a port.
pub fn announce(forwarder: &mut Forwarder, port: &'static Port, mac: [u8; 6]) {
    let mut octets = frame(mac);
    let frame = Frame {
        dst: MacAddr::new([0xff; 6]),
        src: MacAddr::new(mac),
        flow: 0,
        offload: Offload::NONE,
        slices: &[GuestSlice::of_host(&mut octets)],
        skip: 0,
        len: LEN,
        snapshot: Snapshot::NOTHING,
        plain: None,
    };
    for _ in 0..TRIES {
        let mut sending = Sending::begin(forwarder, port, false);
        let sent = sending.forward(&frame);
        if let Err(Unsent::Dropped(reason)) = sent {
            sending.count_drop(reason);
        }
        sending.publish();
        if sent != Err(Unsent::Busy) {
            return;
        }
    }
}

fn frame(mac: [u8; 6]) -> [u8; LEN] {
    let mut out = [0; LEN];
    // Ethernet type RARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 3 (request reverse).
    let fixed = [0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03];
    let parts: [(usize, &[u8]); 5] = [(0, &[0xff; 6]), (6, &mac), (12, &fixed), (22, &mac), (32, &mac)];
    for (at, part) in parts {
        for (to, from) in out.iter_mut().skip(at).zip(part) {
            *to = *from;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_announces_itself_once_in_a_pause() {
        let mut pause = Pause::default();
        let sent = (0..1000).filter(|n| pause.is_over(5 + n * PAUSE_NS / 100)).count();
        assert_eq!(sent, 10);
    }
}
