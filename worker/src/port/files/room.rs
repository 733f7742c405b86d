//! How much a stream socket is sure to take whole.
//!
//! # Theory of operation
//!
//! A write to a unix stream is cut into buffers of the kernel (`unix_stream_sendmsg`, net/unix/af_unix.c). Each of them
//! is allocated if the buffers that the peer has not received are below the send buffer's size at that moment
//! (`sock_alloc_send_pskb`, net/core/sock.c); their size counts with overhead. If one cannot be allocated, the write is
//! cut there. So a write is taken whole if what is there, and all its buffers but the last, are below the send buffer's
//! size. The peer can only make it less, and nobody else writes to the socket.
//!
//! [`Room`] keeps an upper bound of what is there. The bound grows with each write. The kernel is asked (SIOCOUTQ)
//! only if the bound says no.

use std::os::fd::BorrowedFd;

use crate::memory::file_io;

/// Octets of one page.
const PAGE: usize = 4096;
/// Least octets of a page that a buffer of the kernel uses beside its own overhead, in any configuration.
const IN_HEAD: usize = 3328;
/// Most octets that a buffer of the kernel holds in its pages (`UNIX_SKB_FRAGS_SZ`).
const IN_PAGES: usize = 32 * 1024;
/// Most octets that count for a buffer of the kernel in addition to its pages: the page of its head, and `struct
/// sk_buff`.
const OVERHEAD: usize = PAGE + 512;

/// What a stream socket takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Octets of the send buffer (SO_SNDBUF).
    size: usize,
    /// Most octets of it that are in use.
    used: usize,
}

impl Room {
    /// The room of a socket with this SO_SNDBUF, of which nothing else is known.
    pub fn new(size: usize) -> Room {
        Room { size, used: size }
    }

    /// The same socket, of which nothing else is known.
    pub fn unknown(&self) -> Room {
        Room::new(self.size)
    }

    /// Octets in one buffer of the kernel.
    fn part(&self) -> usize {
        (self.size / 2).saturating_sub(64).min(IN_HEAD + IN_PAGES)
    }

    /// Most octets that count for a write of `len` octets: for all its buffers but the last, and for the last.
    fn of_write(&self, len: usize) -> Option<(usize, usize)> {
        let part = self.part();
        let others = len.checked_sub(1)?.checked_div(part)?;
        Some((others.checked_mul(of_buffer(part))?, of_buffer(len - others * part)))
    }

    /// Whether an empty socket takes a write of `len` octets whole.
    pub fn is_enough(&self, len: usize) -> bool {
        Room { used: 0, ..*self }.has(len)
    }

    #[inline]
    fn has(&self, len: usize) -> bool {
        self.of_write(len).is_some_and(|(others, _)| self.used + others < self.size)
    }

    /// Whether the socket takes a write of `len` octets whole.
    #[inline]
    pub fn takes(&mut self, socket: BorrowedFd<'_>, len: usize) -> bool {
        self.has(len) || self.ask(socket) && self.has(len)
    }

    /// Asks the kernel how much is there.
    fn ask(&mut self, socket: BorrowedFd<'_>) -> bool {
        let unreceived = file_io::unreceived(socket);
        self.used = unreceived.unwrap_or(self.size);
        unreceived.is_ok()
    }

    /// Notes a write of `len` octets.
    #[inline]
    pub fn note(&mut self, len: usize) {
        let (others, last) = self.of_write(len).unwrap_or_default();
        self.used = self.used.saturating_add(others + last);
    }
}

/// Most octets that count for one buffer of the kernel that holds `len` octets.
#[inline]
fn of_buffer(len: usize) -> usize {
    OVERHEAD + len.saturating_sub(IN_HEAD).next_multiple_of(PAGE)
}
