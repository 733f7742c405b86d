//! Memory that is shorter than announced, or is truncated later.
//!
//! The attacker must not touch truncated memory either: it looks at no ring in it afterwards.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};

use crate::failure::Result;
use crate::guest::feature::PROTOCOL_MEM_SLOTS;
use crate::guest::wire::*;
use crate::hostile::case::{Attack, Case, memfd};
use crate::hostile::client::{Client, GOOD, TX};
use crate::hostile::reaction::Reaction;
use crate::hostile::ring::Descriptor;

const PAGE: u64 = 4096;

pub const CASES: &[Case] = &[
    Case {
        name: "regions-impossible",
        origin: "own",
        what: "regions that are empty, overflow, overlap, or contradict the number of fds",
        run: regions_impossible,
    },
    Case {
        name: "regions-no-memory",
        origin: "own",
        what: "a pipe, /dev/zero, a program, a read-only and a sealed memfd as memory",
        run: regions_no_memory,
    },
    Case { name: "regions-many", origin: "own", what: "as many regions as are taken, and one more", run: regions_many },
    Case {
        name: "memory-hole",
        origin: "sv3 2013",
        what: "all of the memory is punched out under the rings",
        run: memory_hole,
    },
    Case {
        name: "memory-replaced",
        origin: "CVE-2021-3748",
        what: "the memory table is replaced by another one while frames are sent and received",
        run: memory_replaced,
    },
    Case {
        name: "region-removed",
        origin: "CVE-2021-3748",
        what: "the region of the buffers, then that of the rings, is removed while frames are sent",
        run: region_removed,
    },
];

/// Those that kill most back-ends, so that they come last.
pub const DEADLY_CASES: &[Case] = &[
    Case {
        name: "memory-short-table",
        origin: "sv3 2013",
        what: "files shorter than their regions, sent before any ring",
        run: memory_short,
    },
    Case {
        name: "memory-short-buffer",
        origin: "sv3 2013",
        what: "a frame in the part of a region that its file does not have",
        run: memory_short_buffer,
    },
    Case {
        name: "memory-truncated-buffers",
        origin: "sv3 2013",
        what: "the file of the buffers is truncated; a frame is sent from there",
        run: memory_truncated_buffers,
    },
    Case {
        name: "memory-truncated-receiving",
        origin: "sv3 2013",
        what: "the file of the buffers is truncated; others flood frames that belong there",
        run: memory_truncated_receiving,
    },
    Case {
        name: "memory-truncated-rings",
        origin: "sv3 2013",
        what: "the file of the rings is truncated; the ring is kicked",
        run: memory_truncated_rings,
    },
];

fn regions_impossible(attack: &mut Attack<'_>) -> Result<()> {
    let (size, file) = (16 * PAGE, memfd(16 * PAGE)?);
    let one = |region: Vec<u8>| (1, vec![region]);
    let good = |n: u64| region(n << 24, PAGE, n << 24, 0);
    let tables: Vec<(u32, Vec<Vec<u8>>)> = vec![
        one(region(0, 0, 0, 0)),
        one(region(0, size, 0, u64::MAX - PAGE + 1)),
        one(region(u64::MAX - PAGE + 1, size, 0, 0)),
        one(region(0, size, u64::MAX - PAGE + 1, 0)),
        one(region(0, u64::MAX, 0, 0)),
        one(region(0, 1 << 62, 0, 0)),
        (2, vec![region(0, size, 0, 0), region(PAGE, size, 1 << 40, 0)]),
        (2, vec![region(0, size, 0, 0), region(1 << 40, size, PAGE, 0)]),
        (2, vec![good(0)]),
        (1, vec![good(0), good(1)]),
        (0, vec![good(0)]),
        (9, (0..8).map(good).collect()),
        (u32::MAX, vec![good(0)]),
    ];
    for (count, regions) in tables {
        let mut client = attack.negotiated(0)?;
        let mut table = region_table(&regions);
        if let Some(place) = table.first_chunk_mut() {
            *place = count.to_ne_bytes();
        }
        attack.say(&mut client, SET_MEM_TABLE, &table, &vec![file.as_fd(); regions.len()]);
    }
    Ok(())
}

fn regions_no_memory(attack: &mut Attack<'_>) -> Result<()> {
    let (pipe, _other_end) = nix::unistd::pipe()?;
    let sealed = memfd(PAGE)?;
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE))?;
    let writable = memfd(PAGE)?;
    let read_only = File::open(format!("/proc/self/fd/{}", writable.as_raw_fd()))?;
    let files: [OwnedFd; 5] =
        [pipe, File::open("/dev/zero")?.into(), File::open("/proc/self/exe")?.into(), sealed, read_only.into()];
    for file in files {
        let mut client = attack.negotiated(0)?;
        attack.say(&mut client, SET_MEM_TABLE, &region_table(&[region(0, PAGE, 0, 0)]), &[file.as_fd()]);
    }
    Ok(())
}

fn regions_many(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.negotiated(PROTOCOL_MEM_SLOTS)?;
    let file = memfd(PAGE)?;
    for n in 0..4096u64 {
        let single = single_region(&region(n * PAGE, PAGE, n * PAGE, 0));
        if attack.say(&mut client, ADD_MEM_REG, &single, &[file.as_fd()]) != Reaction::Acknowledged {
            break;
        }
    }
    attack.keep(client);
    Ok(())
}

fn memory_hole(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    client.transmit_good(attack.patience());
    for region in client.memory.regions() {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(region.file(), mode, region.offset.cast_signed(), region.size.cast_signed())?;
    }
    // The attacker's indices begin at 0 again.
    client.rings[1].index = 0;
    attack.transmit_good(&mut client);
    attack.keep(client);
    Ok(())
}

fn memory_replaced(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let mut bystander = attack.bystander()?;
    let elsewhere = memfd(1 << 20)?;
    let other = region_table(&[region(1 << 40, 1 << 20, 1 << 40, 0)]);
    let over = attack.over();
    while Instant::now() < over {
        flood(&mut client, Some(&mut bystander));
        if attack.say(&mut client, SET_MEM_TABLE, &other, &[elsewhere.as_fd()]) == Reaction::Closed {
            return Ok(());
        }
        flood(&mut client, Some(&mut bystander));
        if client.tell_memory().is_err() {
            attack.tally.note(Reaction::Closed);
            return Ok(());
        }
    }
    attack.keep(client);
    Ok(())
}

/// Sends some frames, long ones from the bystander.
fn flood(client: &mut Client, bystander: Option<&mut Client>) {
    let long = |client: &Client| [Descriptor::of(client.page, 9000)];
    for other in [Some(client), bystander].into_iter().flatten() {
        for _ in 0..20 {
            other.transmit(&long(other));
        }
    }
}

fn region_removed(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.negotiated(PROTOCOL_MEM_SLOTS)?;
    if attack.not_offered {
        return Ok(());
    }
    let describe = |client: &Client, at: usize| {
        client.memory.regions().get(at).map(|r| single_region(&region(r.guest_addr, r.size, r.user_addr, r.offset)))
    };
    for at in 0..2 {
        let single = describe(&client, at).unwrap_or_default();
        let Client { wire, memory, .. } = &mut client;
        if let Some(region) = memory.regions().get(at) {
            wire.set(ADD_MEM_REG, &single, &[region.file()])?;
        }
    }
    for ring in [0, TX] {
        client.start_ring(ring)?;
    }
    client.enable_rings()?;
    client.transmit_good(attack.patience());
    for at in [1, 0] {
        flood(&mut client, None);
        let single = describe(&client, at).unwrap_or_default();
        attack.say(&mut client, REM_MEM_REG, &single, &[]);
        flood(&mut client, None);
    }
    attack.keep(client);
    Ok(())
}

fn memory_short(attack: &mut Attack<'_>) -> Result<()> {
    for short in [1, PAGE, 1 << 20] {
        let mut client = attack.negotiated(0)?;
        let file = memfd((1 << 20) + PAGE - short)?;
        let table = region_table(&[region(1 << 32, 1 << 20, 1 << 40, PAGE)]);
        attack.say(&mut client, SET_MEM_TABLE, &table, &[file.as_fd()]);
    }
    Ok(())
}

fn memory_short_buffer(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.negotiated(0)?;
    truncate(&client, 1, PAGE * 2);
    if client.tell_memory().is_err() {
        attack.tally.note(Reaction::Closed);
        return Ok(());
    }
    for ring in [0, TX] {
        client.start_ring(ring)?;
    }
    client.enable_rings()?;
    let far = client.page + 32 * PAGE;
    attack.transmit(&mut client, &[Descriptor::of(far, GOOD)]);
    attack.keep(client);
    Ok(())
}

fn memory_truncated_buffers(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    client.transmit_good(attack.patience());
    truncate(&client, 1, 0);
    attack.transmit_good(&mut client);
    attack.keep(client);
    Ok(())
}

fn memory_truncated_receiving(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let mut bystander = attack.bystander()?;
    client.transmit_good(attack.patience());
    truncate(&client, 1, 0);
    for _ in 0..50 {
        bystander.transmit_good(Duration::from_millis(20));
    }
    let [rx, _] = &client.rings;
    attack.tally.note(match client.wire.hear(Duration::from_millis(250)) {
        Heard::Closed => Reaction::Closed,
        _ if rx.used_index(&client.memory) > 0 => Reaction::Returned,
        _ => Reaction::Left,
    });
    attack.keep(client);
    Ok(())
}

fn memory_truncated_rings(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    client.transmit_good(attack.patience());
    truncate(&client, 0, 0);
    for ring in &client.rings {
        ring.kick();
    }
    attack.tally.note(match client.wire.hear(Duration::from_secs(1)) {
        Heard::Closed => Reaction::Closed,
        _ => Reaction::Left,
    });
    attack.keep(client);
    Ok(())
}

fn truncate(client: &Client, region: usize, octets: u64) {
    if let Some(region) = client.memory.regions().get(region) {
        region.truncate(octets);
    }
}
