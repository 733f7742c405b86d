//! Syscalls that move frames between open files and memory that others may write at any time.
//!
//! The kernel reads and writes guests' memory itself, so that truncated memory is an errno and no fatal signal.
#![allow(unsafe_code)] // named in the design: guest memory

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;

use super::slice::GuestSlice;

/// Room for a `struct mmsghdr`.
pub type Message = [AtomicU64; 8];
/// The word in which the kernel stores how many octets it gave.
pub const MESSAGE_LEN: usize = 7;
/// Most pieces of one write.
const PIECES: usize = 1024;

const _: () = {
    assert!(size_of::<libc::mmsghdr>() == size_of::<Message>());
    assert!(offset_of!(libc::mmsghdr, msg_len) == MESSAGE_LEN * 8);
    assert!(offset_of!(libc::msghdr, msg_iov) == 16 && offset_of!(libc::msghdr, msg_iovlen) == 24);
    assert!(PIECES == libc::UIO_MAXIOV as usize);
};

/// Reads octets. Returns how many.
pub fn read(file: BorrowedFd<'_>, into: &[AtomicU8]) -> nix::Result<usize> {
    // SAFETY: the kernel writes to `into.len()` octets at most. They are atomics, which anybody may write meanwhile.
    let read = unsafe { libc::read(file.as_raw_fd(), into.as_ptr().cast_mut().cast(), into.len()) };
    Errno::result(read).map(|read| (read as usize).min(into.len()))
}

/// Receives octets from a socket without waiting. Returns how many. The kernel also stores that in `message`
/// ([`MESSAGE_LEN`]), before this process can die.
pub fn receive(socket: BorrowedFd<'_>, message: &Message, into: &[AtomicU8]) -> nix::Result<usize> {
    let mut piece = libc::iovec { iov_base: into.as_ptr().cast_mut().cast(), iov_len: into.len() };
    // No name and no control data.
    let words = [0, 0, (&raw mut piece).expose_provenance() as u64, 1, 0, 0, 0];
    for (to, word) in message.iter().zip(words) {
        to.store(word, Relaxed);
    }
    let header = message.as_ptr().cast_mut().cast::<libc::mmsghdr>();
    // SAFETY: `header` is one mmsghdr, made of atomics, with one piece of `into.len()` octets, which are atomics.
    let received =
        unsafe { libc::recvmmsg(socket.as_raw_fd(), header, 1, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) };
    Errno::result(received)?;
    Ok(message.get(MESSAGE_LEN).map_or(0, |len| len.load(Relaxed) as u32 as usize).min(into.len()))
}

/// Writes `own`, then `len` octets of `slices` from octet `skip` on, in one piece. Returns how many octets were
/// written. E2BIG: there are too many slices. EFAULT: a client truncated its memory.
pub fn write(
    file: BorrowedFd<'_>,
    own: &[&[u8]],
    (slices, mut skip, len): (&[GuestSlice<'_>], usize, usize),
) -> nix::Result<usize> {
    let mut room = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
    let mut places = room.iter_mut();
    let mut count = 0;
    let mut add = |at: *const u8, len: usize| {
        let place = places.next().ok_or(Errno::E2BIG)?;
        place.write(libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len });
        count += 1;
        Ok(())
    };
    for octets in own {
        add(octets.as_ptr(), octets.len())?;
    }
    let mut left = len;
    for slice in slices {
        let part = slice.len().saturating_sub(skip).min(left);
        if part > 0 {
            add(slice.ptr().wrapping_add(skip), part)?;
        }
        skip = skip.saturating_sub(slice.len());
        left -= part;
    }
    if left > 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: `count` pieces were filled. The kernel only reads them: octets that are borrowed, and ranges of slices,
    // which stay mapped for their lifetimes; where a client truncated its memory, the kernel fails.
    let written = unsafe { libc::writev(file.as_raw_fd(), room.as_ptr().cast(), count) };
    Errno::result(written).map(|written| written as usize)
}

/// Octets of the kernel's memory that hold what a unix socket has sent and its peer has not received.
pub fn unreceived(socket: BorrowedFd<'_>) -> nix::Result<usize> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ as _, &raw mut octets) };
    Errno::result(result).map(|_| usize::try_from(octets).unwrap_or(0))
}
