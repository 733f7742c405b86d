//! RARP announcements (vhost-user `SEND_RARP`): after a live migration the guest's address is broadcast in its name, so
//! that switches learn where it is now (RFC 903's frame, as QEMU sends it).
//!
//! An announcement is a frame to everybody that costs its client a message and no buffer, and is sent outside of the shares by
//! which the loop divides its turns. So a port has one in [`PAUSE_NS`], and those between are passed over: QEMU sends
//! five, 50 ms and more apart, since any may be lost.

use sv3::frame::MacAddr;

use super::forwarder::Forwarder;
use super::frame::Frame;
use super::leases::Unsent;
use super::sending::Sending;
use crate::forward::offload::Offload;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::Port;

/// Octets of the frame, padded to Ethernet's least.
const LEN: usize = 60;

/// Least time between two announcements of a port, in nanoseconds.
pub const PAUSE_NS: u64 = 10_000_000;
/// How often one is tried while other threads have receivers' rings; each try waits some microseconds. One that does not get
/// through is lost, as one that finds no buffers.
const TRIES: usize = 16;

/// When a port may announce itself again.
#[derive(Default)]
pub struct Pause {
    until_ns: u64,
}

impl Pause {
    /// Whether it may now, at `now_ns`; if so, it has.
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
