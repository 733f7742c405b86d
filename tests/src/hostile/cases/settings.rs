//! Well-formed requests for something impossible.

use std::os::fd::AsFd;

use crate::failure::Result;
use crate::guest::feature::{PROTOCOL_FEATURES, VERSION_1};
use crate::guest::wire::*;
use crate::hostile::case::{Attack, Case, eventfd, memfd};
use crate::hostile::client::{Client, RX, TX};
use crate::hostile::reaction::Reaction;
use crate::hostile::ring::Descriptor;

pub const CASES: &[Case] = &[
    Case {
        name: "queue-index",
        origin: "CVE-2020-10723",
        what: "ring requests for rings that do not exist: 0x10000, 0xffff, ...",
        run: queue_index,
    },
    Case {
        name: "ring-size",
        origin: "own",
        what: "ring sizes of 0, 3, 65535, 65536, 2^31; bases above 65535; rings enabled twice over",
        run: ring_size,
    },
    Case {
        name: "ring-moved",
        origin: "CVE-2026-5747",
        what: "another size, base or address for a ring that runs",
        run: ring_moved,
    },
    Case {
        name: "ring-outside",
        origin: "sv3 2013",
        what: "rings that lie outside of memory, or over its end, or misaligned",
        run: ring_outside,
    },
    Case {
        name: "features-not-offered",
        origin: "own",
        what: "every feature and protocol feature that was not offered; other features while rings run",
        run: features_not_offered,
    },
    Case {
        name: "log-base",
        origin: "CVE-2020-10722",
        what: "a migration log whose size and offset overflow",
        run: log_base,
    },
    Case {
        name: "log-malformed",
        origin: "CVE-2019-14835",
        what: "malformed chains while dirty pages are logged",
        run: log_malformed,
    },
    Case { name: "inflight-get", origin: "CVE-2020-10726", what: "GET_INFLIGHT_FD 1,000 times", run: inflight_get },
    Case {
        name: "inflight-set",
        origin: "CVE-2021-3839",
        what: "SET_INFLIGHT_FD with 65,535 queues in a small file",
        run: inflight_set,
    },
];

const PROTOCOL_LOG_SHMFD: u64 = 1 << 1;
const PROTOCOL_INFLIGHT: u64 = 1 << 12;
const LOG_ALL: u64 = 1 << 26;

fn queue_index(attack: &mut Attack<'_>) -> Result<()> {
    for index in [32u32, 255, 256, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] {
        for request in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
            let mut client = attack.served()?;
            attack.say(&mut client, request, &vring_state(index, 0), &[]);
        }
        let mut client = attack.served()?;
        attack.say(&mut client, SET_VRING_ADDR, &vring_addr(index, 0, 0, 0), &[]);
    }
    let fd = eventfd()?;
    for value in [32u64, 255, 0x200, 1 << 32, u64::MAX] {
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            let mut client = attack.served()?;
            attack.say(&mut client, request, &value.to_ne_bytes(), &[fd.as_fd()]);
        }
    }
    Ok(())
}

fn ring_size(attack: &mut Attack<'_>) -> Result<()> {
    let sizes = [0, 3, 100, 65535, 65536, 1 << 31].map(|size| (SET_VRING_NUM, size));
    let others = [(SET_VRING_BASE, 0x1_0000), (SET_VRING_BASE, u32::MAX), (SET_VRING_ENABLE, 2)];
    for (request, number) in sizes.into_iter().chain(others) {
        let mut client = attack.negotiated(0)?;
        client.tell_memory()?;
        attack.say(&mut client, request, &vring_state(TX.into(), number), &[]);
        // It counts when the ring is started.
        let _ = client.start_ring(TX).and_then(|()| client.enable_rings());
    }
    Ok(())
}

fn ring_moved(attack: &mut Attack<'_>) -> Result<()> {
    let changes = [
        (SET_VRING_NUM, vring_state(TX.into(), 8)),
        (SET_VRING_BASE, vring_state(TX.into(), 7)),
        (SET_VRING_ADDR, vring_addr(TX.into(), 0x1000, 0x2000, 0x3000)),
    ];
    for (request, payload) in changes {
        let mut client = attack.served()?;
        client.transmit_good(attack.patience());
        attack.say(&mut client, request, &payload, &[]);
        for _ in 0..300 {
            client.transmit(&[Descriptor::of(client.page, crate::hostile::client::GOOD)]);
        }
        attack.keep(client);
    }
    Ok(())
}

fn ring_outside(attack: &mut Attack<'_>) -> Result<()> {
    for which in 0..6 {
        let mut client = attack.negotiated(0)?;
        client.tell_memory()?;
        let end = client.memory.regions().first().map_or(0, |region| region.user_addr + region.size);
        let (descriptors, used, available) = match which {
            0 => (0, 0, 0),
            1 => (u64::MAX - 15, u64::MAX - 3, u64::MAX - 1),
            2 => (1 << 63, 1 << 63, 1 << 63),
            // Over the end of the region.
            3 => (end - 16, end - 16, end - 16),
            4 => (end - 4096, end - 2, end - 4096),
            // Misaligned.
            _ => (end - 65535, end - 32767, end - 16383),
        };
        let ring = u32::from(TX);
        let fd = eventfd()?;
        let settings = [
            (SET_VRING_NUM, vring_state(ring, 256)),
            (SET_VRING_BASE, vring_state(ring, 0)),
            (SET_VRING_ADDR, vring_addr(ring, descriptors, used, available)),
        ];
        for (request, payload) in settings {
            if attack.say(&mut client, request, &payload, &[]) == Reaction::Closed {
                break;
            }
        }
        for request in [SET_VRING_CALL, SET_VRING_KICK] {
            let _ = client.wire.set(request, &u64::from(TX).to_ne_bytes(), &[fd.as_fd()]);
        }
        let _ = client.start_ring(RX).and_then(|()| client.enable_rings());
        fd.write(1)?;
        attack.keep(client);
    }
    Ok(())
}

fn features_not_offered(attack: &mut Attack<'_>) -> Result<()> {
    let client = attack.negotiated(0)?;
    let offers = [(SET_FEATURES, client.offered), (SET_PROTOCOL_FEATURES, client.offered_protocol)];
    for (request, offered) in offers {
        for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| offered & bit == 0) {
            let mut client = attack.stranger()?;
            attack.say(&mut client, request, &bit.to_ne_bytes(), &[]);
        }
    }
    let mut client = attack.served()?;
    client.transmit_good(attack.patience());
    attack.say(&mut client, SET_FEATURES, &(VERSION_1 | PROTOCOL_FEATURES).to_ne_bytes(), &[]);
    Ok(())
}

/// Negotiates the log, if it is offered.
fn logging(attack: &mut Attack<'_>) -> Result<Client> {
    let mut client = attack.negotiated(PROTOCOL_LOG_SHMFD)?;
    attack.not_offered |= client.offered & LOG_ALL == 0;
    client.features |= client.offered & LOG_ALL;
    client.tell_features()?;
    client.start()?;
    Ok(client)
}

fn log_base(attack: &mut Attack<'_>) -> Result<()> {
    let page = 4096;
    for (size, offset) in [(u64::MAX, u64::MAX), (u64::MAX - page + 1, page), (page, u64::MAX - page + 1), (1 << 62, 0)]
    {
        let (mut client, file) = (logging(attack)?, memfd(page)?);
        attack.say(&mut client, SET_LOG_BASE, &[size, offset].map(u64::to_ne_bytes).concat(), &[file.as_fd()]);
        // What is written now would be logged there.
        client.transmit_good(std::time::Duration::from_millis(250));
    }
    Ok(())
}

fn log_malformed(attack: &mut Attack<'_>) -> Result<()> {
    let (mut client, file) = (logging(attack)?, memfd(1 << 20)?);
    attack.say(&mut client, SET_LOG_BASE, &[1 << 20, 0u64].map(u64::to_ne_bytes).concat(), &[file.as_fd()]);
    for (addr, len) in [(0, 64), (u64::MAX, 64), (client.page, u32::MAX), (client.memory.end() - 1, 64)] {
        attack.transmit(&mut client, &[Descriptor::of(addr, len)]);
    }
    attack.keep(client);
    Ok(())
}

/// Of a region of in-flight buffers: octets, offset, queues, entries.
fn inflight(octets: u64, queues: u16) -> Vec<u8> {
    let place = [octets, 0].map(u64::to_ne_bytes).concat();
    [place, queues.to_ne_bytes().to_vec(), 256u16.to_ne_bytes().to_vec(), vec![0; 4]].concat()
}

fn inflight_get(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.negotiated(PROTOCOL_INFLIGHT)?;
    for _ in 0..1000 {
        if attack.say(&mut client, GET_INFLIGHT_FD, &inflight(0, 2), &[]) == Reaction::Closed {
            break;
        }
    }
    attack.keep(client);
    Ok(())
}

fn inflight_set(attack: &mut Attack<'_>) -> Result<()> {
    for octets in [4096, u64::MAX] {
        let (mut client, file) = (attack.negotiated(PROTOCOL_INFLIGHT)?, memfd(4096)?);
        attack.say(&mut client, SET_INFLIGHT_FD, &inflight(octets, 65_535), &[file.as_fd()]);
        let _ = client.start();
        client.transmit_good(std::time::Duration::from_millis(250));
    }
    Ok(())
}
