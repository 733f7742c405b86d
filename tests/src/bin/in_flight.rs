//! A process of the switch's user that keeps fds in flight in a socket pair of its own, as many as its first argument
//! says, until its standard input ends. The kernel counts them for the user ([`sv3-supervisor`'s `spawner.rs`]).

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// Most of one message.
const PIECE: usize = 250;

fn main() -> std::io::Result<()> {
    let wanted: usize = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    let (ours, _theirs) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let null = std::fs::File::open("/dev/null")?;
    for _ in 0..wanted.div_ceil(PIECE) {
        let fds = [null.as_raw_fd(); PIECE];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&[1])], &rights, MsgFlags::MSG_DONTWAIT, None)?;
    }
    println!("{wanted} fds are in flight");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
