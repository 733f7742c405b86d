//! Front-ends that break the protocol: each loses its own connection and is told why, and no other notices.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::wire::*;
use sv3_tests::guest::{Config, Guest};
use sv3_tests::honest::Honest;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;

/// Every request of the specification, and how many octets of payload it has where that is fixed.
const REQUESTS: [(u32, usize); 43] = [
    (1, 0),
    (2, 8),
    (3, 0),
    (4, 0),
    (5, 40),
    (6, 16),
    (7, 0),
    (8, 8),
    (9, 40),
    (10, 8),
    (11, 8),
    (12, 8),
    (13, 8),
    (14, 8),
    (15, 0),
    (16, 8),
    (17, 0),
    (18, 8),
    (19, 8),
    (20, 8),
    (21, 0),
    (22, 40),
    (23, 8),
    (24, 12),
    (25, 12),
    (26, 8),
    (27, 8),
    (28, 0),
    (29, 0),
    (30, 0),
    (31, 24),
    (32, 24),
    (33, 0),
    (34, 0),
    (35, 8),
    (36, 0),
    (37, 40),
    (38, 40),
    (39, 8),
    (40, 0),
    (41, 16),
    (42, 8),
    (43, 0),
];

/// A front-end that has negotiated and started everything, for one attack.
fn attacker(honest: &Honest) -> Guest {
    Guest::config().ring_size(16).connect(honest.socket())
}

/// A front-end that has said nothing.
fn silent_client(honest: &Honest) -> Result<Guest> {
    Config::default().ring_size(16).build(honest.socket())
}

fn eventfd() -> Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

#[test]
fn clients_vanish_at_every_step() -> Result<()> {
    let mut honest = Honest::new()?;
    for config in [Config::default(), Config::default().protocol_features(PROTOCOL_MQ).pairs(3).regions(3)] {
        let mut steps = 0;
        while config.clone().ring_size(16).vanishing_after(steps).try_connect(honest.socket()).is_err() {
            steps += 1;
        }
        assert!(steps > 15, "{steps} requests bring a guest up");
    }
    honest.assert_undisturbed()
}

#[test]
fn clients_that_connect_and_close_at_once() -> Result<()> {
    let mut honest = Honest::new()?;
    for _ in 0..500 {
        drop(UnixStream::connect(honest.socket())?);
    }
    honest.assert_undisturbed()
}

#[test]
fn clients_that_come_and_go_by_the_thousand_delay_no_one() -> Result<()> {
    let mut honest = Honest::new()?;
    let path = honest.socket().to_path_buf();
    let over = Instant::now() + Duration::from_secs(1);
    let clients = std::thread::spawn(move || {
        let mut count = 0;
        while Instant::now() < over {
            count += u32::from(UnixStream::connect(&path).is_ok());
        }
        count
    });
    let mut longest = Duration::ZERO;
    while Instant::now() < over {
        let start = Instant::now();
        honest.talk();
        longest = longest.max(start.elapsed());
    }
    let count = clients.join().map_err(|_| Failure::new("the clients panicked"))?;
    assert!(count > 1000, "{count} are too few clients");
    assert!(longest < Duration::from_millis(500), "twenty frames took {longest:?} beside {count} clients");
    honest.remember()?;
    honest.assert_undisturbed()
}

#[test]
fn a_message_in_pieces_is_a_message_and_half_of_one_is_none() -> Result<()> {
    let mut honest = Honest::new()?;
    let fd = eventfd()?;
    let message = [&header(SET_VRING_CALL, VERSION, 8)[..], &0u64.to_ne_bytes()].concat();
    for length in 1..message.len() {
        let mut guest = silent_client(&honest)?;
        guest.raw().send_octets(&message[..length], &[fd.as_fd()])?;
        guest.vanish();
    }
    // Octet by octet, while others talk.
    let mut guest = silent_client(&honest)?;
    for octet in header(GET_FEATURES, VERSION, 0) {
        guest.raw().send_octets(&[octet], &[])?;
        honest.talk();
    }
    assert_eq!(guest.raw().reply(GET_FEATURES)?.len(), 8);
    // Two at once.
    let two = [header(GET_FEATURES, VERSION, 0), header(GET_QUEUE_NUM, VERSION, 0)].concat();
    guest.raw().send_octets(&two, &[])?;
    guest.raw().reply(GET_FEATURES)?;
    guest.raw().reply(GET_QUEUE_NUM)?;
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn wrong_payload_lengths() -> Result<()> {
    // CVE-2020-10724.
    let mut honest = Honest::new()?;
    for (request, right) in REQUESTS {
        for size in [0, 1, 4, 7, 9, 39, 41, 513, 4096, 0x7fff_ffff, u32::MAX] {
            if size as usize == right {
                continue;
            }
            let mut guest = silent_client(&honest)?;
            let payload = vec![0; (size as usize).min(600)];
            // It may be refused by the header alone, before the payload is there.
            let _ = guest.raw().send_octets(&[&header(request, VERSION, size)[..], &payload].concat(), &[]);
            let known = matches!(request, 1..=5 | 8..=20 | 34 | 36..=40);
            if known || size > 512 {
                guest.raw().await_close()?;
            }
        }
    }
    honest.await_event(&["SET_VRING_ADDR", "41"])?;
    honest.assert_undisturbed()
}

#[test]
fn unknown_requests_and_wrong_flags() -> Result<()> {
    let mut honest = Honest::new()?;
    for request in [0, 44, 1000, 0x1_0000, u32::MAX] {
        // Octet 0 begins a stream of frames, but only as a client's first octet.
        let mut guest = if request & 0xff == 0 { attacker(&honest) } else { silent_client(&honest)? };
        guest.raw().send(request, VERSION, &[], &[])?;
        guest.raw().await_close()?;
    }
    for flags in [0, 2, 3, VERSION | 4, VERSION | 0x10, u32::MAX] {
        let mut guest = silent_client(&honest)?;
        guest.raw().send(GET_FEATURES, flags, &[], &[])?;
        guest.raw().await_close()?;
    }
    honest.await_event(&["unknown request 1000"])?;
    honest.assert_undisturbed()
}

#[test]
fn fds_where_none_belong() -> Result<()> {
    // CVE-2022-0669.
    let mut honest = Honest::new()?;
    let fd = eventfd()?;
    for (request, size) in REQUESTS {
        for count in [1, 8] {
            let mut guest = attacker(&honest);
            let fds = vec![fd.as_fd(); count];
            let _ = guest.raw().send(request, VERSION | NEED_REPLY, &vec![0; size], &fds);
        }
    }
    let mut guest = attacker(&honest);
    guest.raw().send(GET_FEATURES, VERSION, &[], &[fd.as_fd()])?;
    guest.raw().await_close()?;
    honest.await_event(&["GET_FEATURES", "fds"])?;
    honest.assert_undisturbed()
}

#[test]
fn more_fds_than_any_message_has() -> Result<()> {
    // CVE-2019-14818: 253 is what the kernel passes.
    let mut honest = Honest::new()?;
    let fd = eventfd()?;
    for round in 0..500 {
        let mut guest = silent_client(&honest)?;
        let fds = vec![fd.as_fd(); if round % 2 == 0 { 253 } else { 9 }];
        guest.raw().send(SET_MEM_TABLE, VERSION, &[0; 40], &fds)?;
        guest.raw().await_close()?;
    }
    honest.assert_undisturbed()
}

#[test]
fn kick_and_call_that_are_no_eventfds() -> Result<()> {
    let mut honest = Honest::new()?;
    let (pipe, _other_end) = nix::unistd::pipe()?;
    let (socket, _peer) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let file: OwnedFd = tempfile::tempfile()?.into();
    let zero: OwnedFd = std::fs::File::open("/dev/zero")?.into();
    let itself: OwnedFd = std::fs::File::open("/proc/self/status")?.into();
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for fd in [&pipe, &socket, &file, &zero, &itself] {
            let mut guest = attacker(&honest);
            assert_ne!(guest.raw().set_and_ask(request, &1u64.to_ne_bytes(), &[fd.as_fd()])?, 0);
            guest.raw().await_close()?;
        }
    }
    honest.await_event(&["SET_VRING_KICK", "not an eventfd"])?;
    honest.assert_undisturbed()
}

#[test]
fn a_call_fd_whose_write_would_block() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = attacker(&honest);
    // Full, and blocking.
    let full = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
    full.write(u64::MAX - 1)?;
    for ring in 0..2u64 {
        guest.raw().set(SET_VRING_CALL, &ring.to_ne_bytes(), &[full.as_fd()])?;
    }
    honest.guest(0).send(&[&[0xff; 6], &[2, 0, 0, 0, 0, 1][..], &[0; 50]].concat());
    honest.talk();
    assert!(guest.try_receive().is_some(), "the frame is there, and a driver that polls sees it");
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn a_call_fd_that_is_made_to_block_again() -> Result<()> {
    let mut honest = Honest::new()?;
    for again in [false, true] {
        let mut guest = attacker(&honest);
        let full = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        full.write(u64::MAX - 1)?;
        for ring in 0..2u64 {
            guest.raw().set(SET_VRING_CALL, &ring.to_ne_bytes(), &[full.as_fd()])?;
        }
        // The flag belongs to the open file, which the test has as well.
        let flags = OFlag::from_bits_retain(fcntl(full.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(full.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        honest.guest(0).send(&[&[0xff; 6], &[2, 0, 0, 0, 0, 1][..], &[0; 50]].concat());
        if again {
            // The worker dies before the supervisor notices, so that the next one has to signal all receivers.
            let _ = honest.shoot_worker("KILL");
        }
        honest.talk();
        guest.raw().await_close()?;
        honest.await_event(&["refuse", "call eventfd", "full"])?;
        honest.await_ports(2)?;
    }
    honest.assert_unharmed()
}

#[test]
fn rings_that_do_not_exist() -> Result<()> {
    // CVE-2020-10723: what became of 16 bits of an index.
    let mut honest = Honest::new()?;
    for index in [32, 255, 256, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] {
        for request in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
            let mut guest = attacker(&honest);
            guest.raw().send(request, VERSION, &vring_state(index, 0), &[])?;
            guest.raw().await_close()?;
        }
        let mut guest = attacker(&honest);
        guest.raw().send(SET_VRING_ADDR, VERSION, &vring_addr(index, 0, 0, 0), &[])?;
        guest.raw().await_close()?;
    }
    for value in [32u64, 255, 0x200, 1 << 32, u64::MAX] {
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            let mut guest = attacker(&honest);
            guest.raw().send(request, VERSION, &value.to_ne_bytes(), &[eventfd()?.as_fd()])?;
            guest.raw().await_close()?;
        }
    }
    honest.await_event(&["SET_VRING_NUM", "0x10000"])?;
    honest.assert_undisturbed()
}

#[test]
fn ring_settings_that_cannot_be() -> Result<()> {
    let mut honest = Honest::new()?;
    for size in [0, 3, 100, 65535, 65536, 1 << 31] {
        let mut guest = silent_client(&honest)?;
        guest.raw().send(SET_VRING_NUM, VERSION, &vring_state(0, size), &[])?;
        guest.raw().await_close()?;
    }
    for (request, number) in [(SET_VRING_BASE, 0x1_0000), (SET_VRING_BASE, u32::MAX), (SET_VRING_ENABLE, 2)] {
        let mut guest = silent_client(&honest)?;
        guest.raw().send(request, VERSION, &vring_state(0, number), &[])?;
        guest.raw().await_close()?;
    }
    honest.assert_undisturbed()
}

#[test]
fn a_ring_that_is_moved_while_it_runs() -> Result<()> {
    // CVE-2026-5747.
    let mut honest = Honest::new()?;
    let changes = [
        (SET_VRING_NUM, vring_state(0, 8)),
        (SET_VRING_BASE, vring_state(0, 7)),
        (SET_VRING_ADDR, vring_addr(0, 0x1000, 0x2000, 0x3000)),
    ];
    for (request, payload) in changes {
        let mut guest = attacker(&honest);
        assert_ne!(guest.raw().set_and_ask(request, &payload, &[])?, 0);
        guest.raw().await_close()?;
    }
    honest.await_event(&["SET_VRING_ADDR", "ring 0 runs"])?;
    honest.assert_undisturbed()
}

#[test]
fn rings_outside_of_memory() -> Result<()> {
    let mut honest = Honest::new()?;
    let addrs = [(0, 0, 0), (u64::MAX - 15, u64::MAX - 3, u64::MAX - 1), (1, 1, 1), (1 << 63, 1 << 63, 1 << 63)];
    for (descriptors, used, available) in addrs {
        let mut guest = attacker(&honest);
        guest.stop_ring(1);
        let socket = [
            (SET_VRING_NUM, vring_state(1, 16)),
            (SET_VRING_BASE, vring_state(1, 0)),
            (SET_VRING_ADDR, vring_addr(1, descriptors, used, available)),
        ];
        for (request, payload) in socket {
            guest.raw().set(request, &payload, &[])?;
        }
        let kick = eventfd()?;
        guest.raw().set(SET_VRING_KICK, &1u64.to_ne_bytes(), &[kick.as_fd()])?;
        honest.await_status("the ring's fault", |status| {
            status.ports.iter().flat_map(|port| &port.rings).any(|ring| ring.index == 1 && ring.fault.is_some())
        })?;
        guest.vanish();
        honest.await_ports(2)?;
    }
    honest.assert_undisturbed()
}

#[test]
fn features_that_were_not_offered() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut asks = silent_client(&honest)?;
    let offered = asks.raw().get(GET_FEATURES)?;
    let offered_protocol = asks.raw().get(GET_PROTOCOL_FEATURES)?;
    for (request, offered) in [(SET_FEATURES, offered), (SET_PROTOCOL_FEATURES, offered_protocol)] {
        for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| offered & bit == 0) {
            let mut guest = silent_client(&honest)?;
            guest.raw().send(request, VERSION, &bit.to_ne_bytes(), &[])?;
            guest.raw().await_close()?;
        }
    }
    let mut guest = attacker(&honest);
    assert_ne!(guest.raw().set_and_ask(SET_FEATURES, &VERSION_1.to_ne_bytes(), &[])?, 0, "while rings run");
    guest.raw().await_close()?;
    honest.await_event(&["SET_FEATURES", "not offered"])?;
    honest.await_ports(2)?;
    asks.raw().get(GET_FEATURES)?;
    honest.guest(0).raw().get(GET_FEATURES)?;
    Ok(())
}

#[test]
fn requests_of_features_that_do_not_exist_here() -> Result<()> {
    // CVE-2020-10726, CVE-2021-3839: in-flight buffers.
    let mut honest = Honest::new()?;
    let fd = eventfd()?;
    let inflight = |queues: u16| [[0u8; 16].as_slice(), &queues.to_ne_bytes(), &256u16.to_ne_bytes(), &[0; 4]].concat();
    let mut guest = attacker(&honest);
    for _ in 0..10_000 {
        assert_ne!(guest.raw().set_and_ask(GET_INFLIGHT_FD, &inflight(2), &[])?, 0);
    }
    for _ in 0..1000 {
        assert_ne!(guest.raw().set_and_ask(SET_INFLIGHT_FD, &inflight(65_535), &[fd.as_fd()])?, 0);
    }
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn replies_that_nobody_reads() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = silent_client(&honest)?;
    guest.raw().socket().set_nonblocking(true)?;
    let many = header(GET_FEATURES, VERSION, 0).repeat(100);
    let mut octets = 0u64;
    let mut talks = 0;
    // Until the supervisor disconnects it or reads no more from it.
    loop {
        match guest.raw().socket().write(&many) {
            Ok(count) => octets += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                honest.talk();
                talks += 1;
                if talks == 20 {
                    break;
                }
            }
            Err(_) => break,
        }
        assert!(octets < 64 << 20, "it listens for ever");
    }
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn hundreds_of_idle_connections() -> Result<()> {
    let mut honest = Honest::new()?;
    for again in [false, true, true] {
        let one = |_| {
            let mut one = silent_client(&honest)?;
            // Otherwise it gives way to the next clients.
            one.raw().set(SET_FEATURES, &0u64.to_ne_bytes(), &[])?;
            Ok(one)
        };
        let strangers: Vec<_> = (0..300).map(one).collect::<Result<_>>()?;
        honest.await_ports(302)?;
        honest.talk();
        drop(strangers);
        match again {
            // Allocators keep memory that they have.
            false => honest.remember()?,
            true => honest.assert_undisturbed()?,
        }
    }
    Ok(())
}

#[test]
fn noise_instead_of_messages() -> Result<()> {
    let mut honest = Honest::new()?;
    let fd = eventfd()?;
    let fds: [&[BorrowedFd<'_>]; 3] = [&[], &[fd.as_fd()], &[fd.as_fd(), fd.as_fd()]];
    for seed in 0..1000u32 {
        let mut guest = silent_client(&honest)?;
        let octets = sv3_tests::frames::noise([0; 6], [0; 6], 200, seed).split_off(14);
        // Half of them begin with a valid header.
        let request = u32::from(octets[0]) % 44;
        let flags = VERSION | if seed % 2 == 0 { NEED_REPLY } else { 0 };
        for (at, chunk) in octets.chunks(40).enumerate() {
            let head = if seed % 2 == 0 { header(request, flags, 40).to_vec() } else { Vec::new() };
            if guest.raw().send_octets(&[&head, chunk].concat(), fds[at % 3]).is_err() {
                break;
            }
        }
        if seed == 500 {
            // Allocators keep what many clients at a time have taken.
            honest.remember()?;
        }
    }
    honest.assert_undisturbed()
}
