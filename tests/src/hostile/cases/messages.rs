//! Octets on the socket that are no messages, or invalid ones.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::failure::Result;
use crate::guest::wire::*;
use crate::hostile::case::{Attack, Case, eventfd};
use crate::hostile::reaction::Reaction;

pub const CASES: &[Case] = &[
    Case {
        name: "connect-and-close",
        origin: "sv3 2013",
        what: "200 clients connect and close at once",
        run: connect_and_close,
    },
    Case {
        name: "half-message",
        origin: "sv3 2013",
        what: "clients vanish within a message that carries an fd, at every octet",
        run: half_message,
    },
    Case { name: "vanish", origin: "sv3 2013", what: "clients vanish at every step of the handshake", run: vanish },
    Case { name: "pieces", origin: "own", what: "a request octet by octet; two requests at once", run: pieces },
    Case { name: "slow-loris", origin: "own", what: "a client sends half a message and stays", run: slow_loris },
    Case {
        name: "payload-length",
        origin: "CVE-2020-10724",
        what: "every request with a payload of another length than it has",
        run: payload_length,
    },
    Case { name: "unknown-request", origin: "own", what: "requests that no specification knows", run: unknown_request },
    Case {
        name: "wrong-flags",
        origin: "own",
        what: "messages of another version, replies instead of requests, undefined flags",
        run: wrong_flags,
    },
    Case {
        name: "out-of-order",
        origin: "own",
        what: "every request first of all, before anything is negotiated",
        run: out_of_order,
    },
    Case {
        name: "noise",
        origin: "own",
        what: "random octets, half of them behind a header that is right",
        run: noise,
    },
    Case {
        name: "replies-unread",
        origin: "own",
        what: "a client asks and asks and reads no answer",
        run: replies_unread,
    },
];

/// Octets of payload of each request from 1 on, where that is fixed.
pub const SIZES: [usize; 43] = [
    0, 8, 0, 0, 40, 16, 0, 8, 40, 8, 8, 8, 8, 8, 0, 8, 0, 8, 8, 8, 0, 40, 8, 12, 12, 8, 8, 0, 0, 0, 24, 24, 0, 0, 8, 0,
    40, 40, 8, 0, 16, 8, 0,
];

fn connect_and_close(attack: &mut Attack<'_>) -> Result<()> {
    for _ in 0..200 {
        drop(attack.stranger()?);
    }
    attack.tally.note(Reaction::Wordless);
    Ok(())
}

fn half_message(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    let message = [&header(SET_VRING_CALL, VERSION, 8)[..], &0u64.to_ne_bytes()].concat();
    for length in 1..message.len() {
        let mut client = attack.stranger()?;
        client.wire.send_octets(message.get(..length).unwrap_or_default(), &[fd.as_fd()])?;
        attack.tally.note(Reaction::Wordless);
    }
    Ok(())
}

fn vanish(attack: &mut Attack<'_>) -> Result<()> {
    for budget in 0..40 {
        let mut client = attack.stranger()?;
        client.wire.budget = Some(budget);
        let all = client.negotiate(0).and_then(|_| client.start());
        attack.tally.note(Reaction::Wordless);
        if all.is_ok() {
            break;
        }
    }
    Ok(())
}

fn pieces(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.stranger()?;
    for octet in header(GET_FEATURES, VERSION, 0) {
        client.wire.send_octets(&[octet], &[])?;
    }
    let two = [header(GET_FEATURES, VERSION, 0), header(GET_PROTOCOL_FEATURES, VERSION, 0)].concat();
    client.wire.send_octets(&two, &[])?;
    for _ in 0..3 {
        attack.tally.note(match client.wire.hear(Duration::from_secs(1)) {
            Heard::Reply(..) => Reaction::Answered,
            Heard::Nothing => Reaction::Silent,
            Heard::Closed => Reaction::Closed,
        });
    }
    Ok(())
}

fn slow_loris(attack: &mut Attack<'_>) -> Result<()> {
    // Within the header, and within the payload, for which some back-ends wait differently.
    for length in [5, 14] {
        let mut client = attack.stranger()?;
        let message = [&header(SET_FEATURES, VERSION, 8)[..], &[0; 8]].concat();
        client.wire.send_octets(message.get(..length).unwrap_or_default(), &[])?;
        attack.tally.note(match client.wire.hear(Duration::from_millis(250)) {
            Heard::Closed => Reaction::Closed,
            _ => Reaction::Silent,
        });
        attack.keep(client);
    }
    Ok(())
}

fn payload_length(attack: &mut Attack<'_>) -> Result<()> {
    for (request, right) in (1..).zip(SIZES) {
        for size in [0, 7, 9, 513, u32::MAX] {
            if size as usize == right {
                continue;
            }
            let mut client = attack.stranger()?;
            let octets = [&header(request, VERSION, size)[..], &vec![0; (size as usize).min(600)]].concat();
            attack.say_octets(&mut client, &octets, &[]);
        }
    }
    Ok(())
}

fn unknown_request(attack: &mut Attack<'_>) -> Result<()> {
    for request in [0, 44, 1000, 0x1_0001, u32::MAX] {
        let mut client = attack.stranger()?;
        attack.say_with(&mut client, (request, VERSION), &[], &[]);
    }
    Ok(())
}

fn wrong_flags(attack: &mut Attack<'_>) -> Result<()> {
    for flags in [0, 2, 3, VERSION | 4, VERSION | 0x10, u32::MAX] {
        let mut client = attack.stranger()?;
        attack.say_with(&mut client, (GET_FEATURES, flags), &[], &[]);
    }
    Ok(())
}

fn out_of_order(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    for (request, size) in (1..).zip(SIZES) {
        let fds = [fd.as_fd()];
        let takes_fd = matches!(request, SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR | SET_LOG_FD);
        let mut client = attack.stranger()?;
        attack.say(&mut client, request, &vec![0; size], if takes_fd { &fds } else { &[] });
    }
    Ok(())
}

fn noise(attack: &mut Attack<'_>) -> Result<()> {
    let fd = eventfd()?;
    let fds = [fd.as_fd(), fd.as_fd()];
    for round in 0..200 {
        let mut client = attack.stranger()?;
        let request = 1 + attack.random.below(43) as u32;
        let flags = VERSION | if round % 4 < 2 { NEED_REPLY } else { 0 };
        let head = if round % 2 == 0 { header(request, flags, 40).to_vec() } else { Vec::new() };
        let octets = [head, attack.random.octets(40)].concat();
        attack.say_octets(&mut client, &octets, fds.get(..round % 3).unwrap_or_default());
    }
    Ok(())
}

fn replies_unread(attack: &mut Attack<'_>) -> Result<()> {
    let client = attack.stranger()?;
    client.wire.socket().set_write_timeout(Some(Duration::from_millis(500)))?;
    let many = header(GET_FEATURES, VERSION, 0).repeat(100);
    // 64 MiB at most.
    let listens = (0..1 << 16).all(|_| client.wire.socket().write_all(&many).is_ok());
    let mut client = client;
    attack.tally.note(match client.wire.hear(Duration::ZERO) {
        _ if listens => Reaction::Answered,
        Heard::Closed => Reaction::Closed,
        _ => Reaction::Silent,
    });
    attack.keep(client);
    Ok(())
}
