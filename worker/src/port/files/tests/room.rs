//! What the room of a stream promises: a write that it allows is never cut.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::memory::file_io;
use crate::port::files::room::Room;

/// A generator of numbers (Numerical Recipes).
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }
}

fn writes(send_buffer: usize, count: u32, slow: bool) -> (u32, u32) {
    let (mut reader, writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    setsockopt(&writer, sockopt::SndBuf, &send_buffer).unwrap();
    let size = nix::sys::socket::getsockopt(&writer, sockopt::SndBuf).unwrap();
    let reading = std::thread::spawn(move || {
        let (mut dice, mut room, mut total) = (Dice(7), vec![0; 100_000], 0u64);
        loop {
            let most = if slow { 1 + dice.below(3000) } else { 100_000 };
            match reader.read(&mut room[..most as usize]).unwrap() {
                0 => return total,
                octets => total += octets as u64,
            }
            if slow && dice.below(8) == 0 {
                std::thread::sleep(Duration::from_micros(dice.below(60)));
            }
        }
    });
    let (mut dice, octets, mut room) = (Dice(42), vec![0x5a; 140_000], Room::new(size));
    let (mut written, mut refused, mut total) = (0, 0, 0u64);
    while written < count {
        let len = match dice.below(8) {
            0..4 => 1 + dice.below(4000),
            4..7 => 1 + dice.below(20_000),
            _ => 1 + dice.below(100_000),
        } as usize;
        if !room.is_enough(len) {
            continue;
        }
        if !room.takes(writer.as_fd(), len) {
            refused += 1;
            std::thread::yield_now();
            continue;
        }
        match file_io::write(writer.as_fd(), &[&octets[..len]], (&[], 0, 0)) {
            Ok(octets) => assert_eq!(octets, len, "a write was cut, after {written}, SO_SNDBUF {size}"),
            Err(Errno::EAGAIN) => panic!("a write was refused, after {written}, SO_SNDBUF {size}"),
            Err(errno) => panic!("{errno}"),
        }
        room.note(len);
        (written, total) = (written + 1, total + len as u64);
    }
    drop(writer);
    assert_eq!(reading.join().unwrap(), total);
    (written, refused)
}

#[test]
fn a_write_that_has_room_is_never_cut() {
    for (send_buffer, slow) in [(106_496, false), (106_496, true), (2304, true), (9000, false), (500_000, true)] {
        let (_, refused) = writes(send_buffer, 6_000, slow);
        assert!(!slow || refused > 0, "the socket was never full");
    }
}

/// The same for long. Some 20 s.
#[test]
#[ignore = "long"]
fn hundred_thousands_of_writes_are_never_cut() {
    for send_buffer in [2304, 5000, 9000, 20_000, 40_000, 80_000, 106_496, 212_992, 1_000_000] {
        for slow in [false, true] {
            println!("{send_buffer} {slow} {:?}", writes(send_buffer, 30_000, slow));
        }
    }
}
