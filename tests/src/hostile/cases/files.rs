//! File descriptors that are too many, of the wrong kind, or where none belong.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::messages::SIZES;
use crate::failure::Result;
use crate::guest::wire::*;
use crate::hostile::case::{Attack, Case, eventfd, memfd};
use crate::hostile::reaction::Reaction;

pub const CASES: &[Case] = &[
    Case { name: "fds-unexpected", origin: "CVE-2022-0669", what: "1 and 8 fds on every request", run: fds_unexpected },
    Case {
        name: "fds-253",
        origin: "CVE-2019-14818",
        what: "as many fds on one message as the kernel passes, 500 times",
        run: fds_253,
    },
    Case {
        name: "fds-hoarded",
        origin: "CVE-2020-10717",
        what: "100 clients each give all fds that rings take, again and again, and stay",
        run: fds_hoarded,
    },
    Case {
        name: "kick-no-eventfd",
        origin: "own",
        what: "a pipe, a memfd, /dev/zero, a file in /proc as kick, call and error fd",
        run: kick_no_eventfd,
    },
    Case {
        name: "kick-zero",
        origin: "own",
        what: "/dev/zero as the kick fd of a ring that runs: always ready, never empty",
        run: kick_zero,
    },
    Case {
        name: "call-would-block",
        origin: "own",
        what: "a call eventfd that is full and blocks its writer",
        run: call_would_block,
    },
];

fn fds_unexpected(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    for (request, size) in (1..).zip(SIZES) {
        for count in [1, 8] {
            let mut client = attack.stranger()?;
            attack.say(&mut client, request, &vec![0; size], &vec![fd.as_fd(); count]);
        }
    }
    Ok(())
}

fn fds_253(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    for _ in 0..500 {
        let mut client = attack.stranger()?;
        let fds = vec![fd.as_fd(); 253];
        attack.say_octets(&mut client, &header(GET_FEATURES, VERSION, 0), &fds);
    }
    Ok(())
}

fn fds_hoarded(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    for _ in 0..100 {
        let Ok(mut client) = attack.negotiated(0) else {
            // Turned away.
            attack.tally.note(Reaction::Closed);
            continue;
        };
        let requests = [SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK];
        let all = (0..32u64).flat_map(|ring| requests.map(|request| (request, ring)));
        let mut sent = all.map(|(request, ring)| client.wire.set(request, &ring.to_ne_bytes(), &[fd.as_fd()]));
        attack.tally.note(if sent.all(|result| result.is_ok()) { Reaction::Acknowledged } else { Reaction::Closed });
        attack.keep(client);
    }
    Ok(())
}

fn kick_no_eventfd(attack: &mut Attack<'_>) -> Result<()> {
    let (pipe, _other_end) = nix::unistd::pipe()?;
    let files: [OwnedFd; 4] =
        [pipe, memfd(4096)?, File::open("/dev/zero")?.into(), File::open("/proc/self/status")?.into()];
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for file in &files {
            let mut client = attack.served()?;
            attack.say(&mut client, request, &1u64.to_ne_bytes(), &[file.as_fd()]);
        }
    }
    Ok(())
}

fn kick_zero(attack: &mut Attack<'_>) -> Result<()> {
    let zero: OwnedFd = File::options().read(true).write(true).open("/dev/zero")?.into();
    let mut client = attack.served()?;
    client.transmit_good(attack.patience());
    attack.say(&mut client, SET_VRING_KICK, &1u64.to_ne_bytes(), &[zero.as_fd()]);
    attack.transmit_good(&mut client);
    attack.keep(client);
    Ok(())
}

fn call_would_block(attack: &mut Attack<'_>) -> Result<()> {
    // A back-end that makes it non-blocking shows: the flag belongs to the file, which the attacker has too.
    let full = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
    full.write(u64::MAX - 1)?;
    let mut client = attack.served()?;
    for ring in [0u64, 1] {
        attack.say(&mut client, SET_VRING_CALL, &ring.to_ne_bytes(), &[full.as_fd()]);
    }
    block(&full)?;
    for _ in 0..20 {
        if !attack.transmit_good(&mut client) {
            break;
        }
    }
    attack.keep(client);
    Ok(())
}

fn block(file: &impl AsFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}
