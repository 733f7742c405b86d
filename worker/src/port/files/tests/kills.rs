//! A reader of a stream is killed at any moment, and the next one goes on: no octet is lost and none comes twice.
#![allow(unsafe_code)] // fork

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use sv3::ledger::{INPUTS, LedgerMap};

use crate::memory::file_io;
use crate::port::files::input::{Input, LENGTH, Step};

const KILLS: u32 = 300;
/// Longest life of a reader.
const LIFE: Duration = Duration::from_millis(4);

/// Reads frames whose octets count up, until it is killed. The ledger says how far it came: `next` and its number are
/// noted in another input's state, before the frame is given back.
fn read(ledger: &'static LedgerMap, socket: &UnixStream) -> Result<(), String> {
    let noted = &ledger.inputs[INPUTS - 1].state;
    let mut input = Input::open(&ledger.inputs[0], 1, 69_632).map_err(|fault| format!("{fault:?}"))?;
    let mut next = noted.load(Relaxed);
    let mut first = true;
    loop {
        let at = input.start();
        match input.step(at).map_err(|fault| format!("{fault:?}"))? {
            Step::Body(len) => {
                let mut octets = vec![0; len];
                input.octets(at + LENGTH, at + LENGTH + len).read(0, &mut octets);
                let number = octets.first_chunk::<8>().map(|number| u64::from_be_bytes(*number));
                let is_next = number == Some(next) && octets[8..].iter().all(|octet| *octet == next as u8);
                // The last reader may have noted a frame and died before it gave it back.
                let is_again = first && number == Some(next.wrapping_sub(1));
                if !is_next && !is_again {
                    return Err(format!("frame {number:?} of {len} octets in the place of {next}"));
                }
                if is_next {
                    next += 1;
                    noted.store(next, Relaxed);
                }
                first = false;
                input.complete(LENGTH + len);
                input.publish();
            }
            _ => drop(input.receive(|message, room| {
                let most = 1 + (next as usize).wrapping_mul(7919) % 9000;
                file_io::receive(socket.as_fd(), message, &room[..most.min(room.len())])
            })),
        }
    }
}

#[test]
fn a_reader_is_killed_at_any_moment_and_the_next_one_goes_on() {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let (mut peer, socket) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let writer = std::thread::spawn(move || {
        for number in 0u64.. {
            let len = 8 + (number as usize).wrapping_mul(2_654_435_761) % 3000;
            let mut octets = ((len as u32).to_be_bytes()).to_vec();
            octets.extend(number.to_be_bytes());
            octets.resize(4 + len, number as u8);
            if peer.write_all(&octets).is_err() {
                break;
            }
        }
    });
    let mut seed = 12345u32;
    for number in 0..KILLS {
        // SAFETY: the child uses no lock of another thread but the allocator's, which glibc takes over at a fork.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let reason = read(ledger, &socket).unwrap_err();
                ledger.workers[0].crash.write_message(&reason);
                crate::process::crash::end(1)
            }
        };
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let until = Instant::now() + LIFE * (seed >> 16 & 0xff) / 255;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        let said = ledger.workers[0].crash.read_message();
        assert!(said.is_empty(), "reader {number}: {said}");
    }
    let frames = ledger.inputs[INPUTS - 1].state.load(Relaxed);
    assert!(frames > u64::from(KILLS), "{frames} frames in {KILLS} lives");
    drop(socket);
    writer.join().unwrap();
}
