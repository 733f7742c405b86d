//! Clients that are slow, or leave at the worst moment.

use std::io::Read;
use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::guest::wire::{SET_FEATURES, header};
use sv3_tests::guest::{Config, Guest, NetHdr, Shape};
use sv3_tests::honest::Honest;

const TX: u16 = 1;

#[test]
fn clients_vanish_within_a_burst() -> Result<()> {
    let mut honest = Honest::new()?;
    for round in 0..60u32 {
        let mut guest = Guest::config().ring_size(64).connect(honest.socket());
        let mut n = 0;
        while guest.try_send_on(0, &NetHdr::default(), &noise(BROADCAST, mac(3), 1500, n), Shape::default()) {
            n += 1;
        }
        guest.publish(TX);
        // Sometimes the worker has begun with its frames, sometimes it has not.
        if round % 2 == 0 {
            std::thread::yield_now();
        }
        guest.vanish();
        for index in [0, 1] {
            while honest.guest(index).try_receive().is_some() {}
        }
        if round == 30 {
            // Allocators keep memory that they have.
            honest.remember()?;
        }
    }
    honest.assert_undisturbed()
}

#[test]
fn half_a_message_is_not_waited_for_for_ever() -> Result<()> {
    let mut honest = Honest::new()?;
    let start = Instant::now();
    let mut slow = Config::default().ring_size(16).build(honest.socket())?;
    for octet in header(SET_FEATURES, 1, 8).iter().take(7) {
        slow.raw().send_octets(&[*octet], &[])?;
        honest.talk();
    }
    slow.raw().socket().set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut socket, mut heard) = (slow.raw().socket(), Vec::new());
    // Reads to the end, whatever signal comes in between.
    socket.read_to_end(&mut heard)?;
    assert!(heard.is_empty(), "it is sent away");
    assert!(start.elapsed() >= Duration::from_secs(9), "after {:?}", start.elapsed());
    honest.await_event(&["refuse", "did not finish a message"])?;
    honest.assert_undisturbed()
}
