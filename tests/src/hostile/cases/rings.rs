//! Rings that make no sense as a whole, and memory that changes while it is read.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::hostile::case::{Attack, Case};
use crate::hostile::client::{Client, GOOD};
use crate::hostile::reaction::Reaction;
use crate::hostile::ring::{self, Descriptor};

pub const CASES: &[Case] = &[
    Case {
        name: "head-twice",
        origin: "CVE-2026-45782",
        what: "one head 20 times in the available ring",
        run: head_twice,
    },
    Case {
        name: "available-overrun",
        origin: "own",
        what: "more available than the ring has: 257, 32768, 65535 entries",
        run: available_overrun,
    },
    Case {
        name: "descriptor-flips",
        origin: "CVE-2020-14374",
        what: "a thread rewrites the descriptors while they are read (to CVE-2020-14378)",
        run: descriptor_flips,
    },
    Case {
        name: "ring-noise",
        origin: "own",
        what: "tables and rings of random octets, heads that may be right",
        run: ring_noise,
    },
    Case {
        name: "ring-packed-noise",
        origin: "CVE-2020-10725",
        what: "packed rings of random descriptors that are available, some of them empty",
        run: ring_packed_noise,
    },
    Case {
        name: "receive-bad-buffers",
        origin: "own",
        what: "receive buffers outside of memory and in the middle of a frame, while others flood",
        run: receive_bad_buffers,
    },
    Case {
        name: "receive-ring-dry",
        origin: "sv3 2013",
        what: "receive rings that run dry within a frame, while others flood",
        run: receive_ring_dry,
    },
];

const RING_PACKED: u64 = 1 << 34;

fn head_twice(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let [_, tx] = &mut client.rings;
    tx.describe(&client.memory, 0, Descriptor::of(client.page, GOOD));
    for _ in 0..20 {
        tx.enter(&client.memory, 0);
    }
    tx.claim(&client.memory, tx.index);
    attack.await_chains(&mut client);
    attack.keep(client);
    Ok(())
}

fn available_overrun(attack: &mut Attack<'_>) -> Result<()> {
    for ahead in [257, 32_768, u16::MAX] {
        for which in [1, 0] {
            let mut client = attack.served()?;
            client.transmit_good(attack.patience());
            let (ring, memory) = (&client.rings[which], &client.memory);
            ring.claim(memory, ring.used_index(memory).wrapping_add(ahead));
            // It need not look at the receive ring.
            if which == 1 {
                client.rings[1].index = ring.used_index(memory).wrapping_add(ahead);
                attack.await_chains(&mut client);
            }
            attack.keep(client);
        }
    }
    Ok(())
}

fn descriptor_flips(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let at = file_offset(&client, client.rings[1].descriptors)?;
    let (file, page, over) = (file_of_rings(&client)?, client.page, attack.over());
    let mut random = attack.random.clone();
    let flipper = std::thread::spawn(move || {
        while Instant::now() < over {
            let table: Vec<u8> = (0..ring::SIZE)
                .flat_map(|n| {
                    let noise = random.word();
                    let near = page + noise % 4096;
                    let addr = if n % 3 == 0 { random.word() } else { near };
                    let len = if n % 5 == 0 { noise as u32 } else { (noise % 3000) as u32 };
                    let (flags, next) = ((noise >> 32) as u16 & 7, (noise >> 48) as u16 % 300);
                    ring::octets(Descriptor { addr, len, flags, next })
                })
                .collect();
            let _ = file.write_all_at(&table, at);
        }
    });
    while Instant::now() < over {
        let [_, tx] = &mut client.rings;
        for head in 0..64 {
            tx.enter(&client.memory, head);
        }
        tx.claim(&client.memory, tx.index);
        if attack.await_chains(&mut client) != Reaction::Returned {
            client = attack.served()?;
        }
    }
    flipper.join().map_err(|_| Failure::new("the thread that rewrites descriptors failed"))?;
    attack.keep(client);
    Ok(())
}

fn ring_noise(attack: &mut Attack<'_>) -> Result<()> {
    for round in 0..60 {
        let mut client = attack.served()?;
        for which in 0..2 {
            let ring = &client.rings[which];
            let (descriptors, available, used) = (ring.descriptors, ring.available, ring.used);
            client.memory.write(descriptors, &attack.random.octets(16 * usize::from(ring::SIZE)));
            client.memory.write(available + 4, &attack.random.octets(2 * usize::from(ring::SIZE)));
            if round % 3 == 0 {
                client.memory.write(used, &attack.random.octets(2048));
            }
            let index = if round % 2 == 0 { 200 } else { attack.random.word() as u16 };
            let ring = &mut client.rings[which];
            ring.index = index;
            ring.claim(&client.memory, index);
        }
        if round % 10 == 0 {
            attack.await_chains(&mut client);
        }
        attack.keep(client);
    }
    Ok(())
}

fn ring_packed_noise(attack: &mut Attack<'_>) -> Result<()> {
    for round in 0..30u64 {
        let mut client = attack.negotiated(0)?;
        if client.offered & RING_PACKED == 0 {
            attack.not_offered = true;
            return Ok(());
        }
        client.features |= RING_PACKED;
        client.tell_features()?;
        client.tell_memory()?;
        for which in 0..2 {
            let table: Vec<u8> = (0..ring::SIZE).flat_map(|_| packed(attack, client.page, round)).collect();
            client.memory.write(client.rings[which].descriptors, &table);
        }
        for index in [0, 1] {
            client.start_ring(index)?;
        }
        client.enable_rings()?;
        client.rings[1].kick();
        attack.tally.note(match client.wire.hear(std::time::Duration::from_millis(20)) {
            crate::guest::wire::Heard::Closed => Reaction::Closed,
            _ => Reaction::Left,
        });
        attack.keep(client);
    }
    Ok(())
}

/// A packed descriptor (2.8.13) that is available in the first round of the ring.
fn packed(attack: &mut Attack<'_>, page: u64, round: u64) -> Vec<u8> {
    let noise = attack.random.word();
    let addr = if noise.is_multiple_of(3) { attack.random.word() } else { page + noise % 4096 };
    let len = match noise % 5 {
        0 => 0,
        1 => noise as u32,
        _ => (noise % 3000) as u32,
    };
    // AVAIL, not USED; in some rounds everything is of one endless chain.
    let flags = 1 << 7 | (noise >> 40) as u16 & 7 | u16::from(round.is_multiple_of(4));
    let id = if noise.is_multiple_of(7) { (noise >> 48) as u16 } else { (noise >> 48) as u16 % ring::SIZE };
    [&addr.to_le_bytes()[..], &len.to_le_bytes(), &id.to_le_bytes(), &flags.to_le_bytes()].concat()
}

fn receive_bad_buffers(attack: &mut Attack<'_>) -> Result<()> {
    receive(attack, |client, n| if n % 3 == 2 { client.memory.end() } else { client.page + 4096 }, 256)
}

fn receive_ring_dry(attack: &mut Attack<'_>) -> Result<()> {
    // Three buffers where a frame of 9,000 octets takes five.
    receive(attack, |client, n| client.page + 4096 + 2048 * u64::from(n % 3), 3)
}

/// Is flooded with frames of 60 and of 9,000 octets, for `count` buffers.
fn receive(attack: &mut Attack<'_>, place: impl Fn(&Client, u16) -> u64, count: u16) -> Result<()> {
    let mut client = attack.negotiated(0)?;
    client.tell_memory()?;
    client.offer_rx_buffers(place);
    client.rings[0].claim(&client.memory, count);
    for index in [0, 1] {
        client.start_ring(index)?;
    }
    client.enable_rings()?;
    let mut bystander = attack.bystander()?;
    for len in [GOOD, 9000].into_iter().cycle().take(200) {
        bystander.transmit(&[Descriptor::of(bystander.page, len)]);
        bystander.rings[1].await_all(&bystander.memory, attack.patience());
    }
    attack.tally.note(match client.rings[0].used_index(&client.memory) {
        0 => Reaction::Left,
        _ => Reaction::Returned,
    });
    attack.keep(client);
    Ok(())
}

fn file_of_rings(client: &Client) -> Result<std::fs::File> {
    let region = client.memory.regions().first().ok_or_else(|| Failure::new("no memory"))?;
    Ok(region.file().try_clone_to_owned()?.into())
}

fn file_offset(client: &Client, addr: u64) -> Result<u64> {
    let region = client.memory.regions().first().ok_or_else(|| Failure::new("no memory"))?;
    Ok(region.offset + (addr - region.guest_addr))
}
