//! A sender that truncates its memory while its frame is written to a stream.
#![allow(unsafe_code)] // a mapping that is truncated

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU8;

use memmap2::MmapOptions;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use sv3::drop_reason::DropReason;

use super::fixture::{frames, stream};
use crate::memory::slice::GuestSlice;
use crate::port::files::outbox::{Outbox, Piece};
use crate::port::sink::Undelivered;

const LEN: usize = 65_000;

/// Sends a small frame, a long one from memory of which `left` octets are left, and a small one. Returns what came of
/// the long one, and the frames that arrive.
fn send(left: usize) -> (Result<(), Undelivered>, Vec<Vec<u8>>) {
    let file = memfd_create(c"guest", MFdFlags::empty()).unwrap();
    ftruncate(&file, 128 * 1024).unwrap();
    let map = MmapOptions::new().len(128 * 1024).map_raw(&file).unwrap();
    // SAFETY: the mapping lives to the end of this function. Nothing but the kernel reads what is cut off.
    let octets = unsafe { std::slice::from_raw_parts(map.as_mut_ptr().cast::<AtomicU8>(), LEN) };
    octets.iter().for_each(|octet| octet.store(0xa5, std::sync::atomic::Ordering::Relaxed));
    ftruncate(&file, left as i64).unwrap();

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    [&ours, &theirs].iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut outbox = Outbox::new(212_992);
    let (first, last) = ([1; 60], [2; 60]);
    let small = |octets| Piece { own: [octets, &[]], rest: (&[], 0, 0) };
    outbox.put(ours.as_fd(), &small(&first)).unwrap();
    let long = Piece { own: [&[7; 20], &[]], rest: (&[GuestSlice::of_shared(octets)], 0, LEN) };
    let result = outbox.put(ours.as_fd(), &long);
    outbox.put(ours.as_fd(), &small(&last)).unwrap();
    outbox.flush(ours.as_fd()).unwrap();
    (result, frames(&stream(&mut theirs)))
}

#[test]
fn the_frame_ends_in_zeroes_or_is_dropped_and_the_stream_stays_in_step() {
    for pages in 1..16 {
        let (result, frames) = send(pages * 4096);
        let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
        match result {
            Ok(()) => {
                assert_eq!(lengths, [60, 20 + LEN, 60], "{pages} pages");
                let sent = 20 + pages * 4096;
                let (frame, tail) = (&frames[1], frames[1].iter().rev().take_while(|octet| **octet == 0).count());
                assert!(frame[20..].iter().all(|octet| [0, 0xa5].contains(octet)));
                assert!(pages == 15 || tail >= 20 + LEN - sent, "{pages} pages: {tail} zeroes");
            }
            Err(Undelivered::Unsendable(DropReason::BadChain)) => assert_eq!(lengths, [60, 60], "{pages} pages"),
            other => panic!("{pages} pages: {other:?}"),
        }
        assert_eq!(frames.last().unwrap(), &[2; 60]);
    }
}

/// Sends long frames to a peer that reads nothing until there is no room, the last one from memory that has been
/// truncated. `small` frames are there before. Returns whether a truncated frame was completed.
fn fill(small: usize) -> bool {
    let file = memfd_create(c"guest", MFdFlags::empty()).unwrap();
    ftruncate(&file, 128 * 1024).unwrap();
    let map = MmapOptions::new().len(128 * 1024).map_raw(&file).unwrap();
    // SAFETY: the mapping lives to the end of this function. Nothing but the kernel reads what is cut off.
    let octets = unsafe { std::slice::from_raw_parts(map.as_mut_ptr().cast::<AtomicU8>(), LEN) };
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    [&ours, &theirs].iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut outbox = Outbox::new(212_992);
    let one = Piece { own: [&[1; 3000], &[]], rest: (&[], 0, 0) };
    for _ in 0..small {
        outbox.put(ours.as_fd(), &one).unwrap();
        outbox.flush(ours.as_fd()).unwrap();
    }
    ftruncate(&file, 40 * 1024).unwrap();
    let long = Piece { own: [&[7; 20], &[]], rest: (&[GuestSlice::of_shared(octets)], 0, LEN) };
    let mut count = 0;
    loop {
        match outbox.put(ours.as_fd(), &long) {
            Ok(()) => count += 1,
            Err(Undelivered::Dropped(DropReason::RxNoBuffers)) => break,
            other => panic!("{other:?} after {small} small frames and {count} long ones"),
        }
    }
    let lengths: Vec<usize> = frames(&stream(&mut theirs)).iter().map(Vec::len).collect();
    assert_eq!(lengths, [vec![3000; small], vec![20 + LEN; count]].concat());
    count > 0
}

#[test]
fn a_sender_that_truncates_its_memory_does_not_break_a_receiver_that_is_almost_full() {
    let completed = (0..40).filter(|small| fill(*small)).count();
    assert!(completed > 10, "{completed}");
}
