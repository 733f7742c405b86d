//! Descriptor chains that are invalid, or unusual and valid.

use crate::failure::Result;
use crate::hostile::case::{Attack, Case};
use crate::hostile::client::{Client, GOOD};
use crate::hostile::ring::{Descriptor, INDIRECT, NEXT, WRITE, describe_in};

pub const CASES: &[Case] = &[
    Case {
        name: "chain-addresses",
        origin: "CVE-2016-7422",
        what: "buffers outside of memory, over its end, and of huge length",
        run: chain_addresses,
    },
    Case {
        name: "chain-cyclic",
        origin: "CVE-2016-6490",
        what: "chains that never end, that leave the table, that are for the device to write",
        run: chain_cyclic,
    },
    Case {
        name: "chain-indirect",
        origin: "CVE-2016-7422",
        what: "tables within tables, of odd length, outside of memory, with cycles, of 2,000 pieces",
        run: chain_indirect,
    },
    Case {
        name: "chain-zero-length",
        origin: "CVE-2020-10725",
        what: "empty buffers at addresses that are none, before, between and behind good ones",
        run: chain_zero_length,
    },
    Case {
        name: "chain-two-regions",
        origin: "CVE-2018-1059",
        what: "a buffer across two regions that are adjacent for the guest alone",
        run: chain_two_regions,
    },
    Case {
        name: "chain-head-range",
        origin: "own",
        what: "heads that are no descriptors: 256, 65535",
        run: chain_head_range,
    },
    Case {
        name: "header-pieces",
        origin: "CVE-2022-2132",
        what: "the header in 1 to 12 pieces; chains as long as the header, and shorter",
        run: header_pieces,
    },
    Case {
        name: "frame-length",
        origin: "sv3 2013",
        what: "frames of 0 octets, of 64 KiB and more, of 200 pieces",
        run: frame_length,
    },
    Case {
        name: "offload-sweep",
        origin: "CVE-2024-11614",
        what: "csum_start, csum_offset, hdr_len, gso_size and types that contradict the frame",
        run: offload_sweep,
    },
];

fn each(attack: &mut Attack<'_>, chains: impl Fn(&Client) -> Vec<Vec<Descriptor>>) -> Result<()> {
    // Every client's memory is laid out alike.
    let chains = chains(&attack.stranger()?);
    attack.transmit_each(&chains, |_| ())
}

fn chain_addresses(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let (begin, end, page) = (begin(client), client.memory.end(), client.page);
        let at = |addr| vec![Descriptor::of(addr, GOOD)];
        vec![
            at(0),
            at(begin - 1),
            at(end),
            at(end - u64::from(GOOD) + 1),
            at(u64::MAX),
            at(u64::MAX - u64::from(GOOD) + 1),
            vec![Descriptor::of(page, u32::MAX)],
            vec![Descriptor::of(page, 1 << 31).then(1), Descriptor::of(page, 1 << 31)],
            vec![Descriptor::of(page, 30).then(1), Descriptor::of(end + 4096, 42)],
        ]
    })
}

fn chain_cyclic(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let (good, empty) = (Descriptor::of(client.page, GOOD), Descriptor::of(client.page, 0));
        vec![
            vec![good.then(0)],
            vec![empty.then(0)],
            vec![good.then(1), good.then(0)],
            vec![good.then(256)],
            vec![good.then(u16::MAX)],
            vec![good.with(WRITE)],
            vec![good.then(1), good.with(WRITE)],
            // To the writable part and back.
            vec![good.then(1), good.with(WRITE).then(2), good],
        ]
    })
}

fn chain_indirect(attack: &mut Attack<'_>) -> Result<()> {
    let chains = |client: &Client| {
        let (inner, end) = (inner(client), client.memory.end());
        let table = |addr, len| Descriptor::of(addr, len).with(INDIRECT);
        vec![
            vec![table(inner, 0)],
            vec![table(inner, 15)],
            vec![table(inner, 17)],
            vec![table(inner, u32::MAX)],
            vec![table(inner, !15)],
            vec![table(end, 16)],
            vec![table(!15, 32)],
            vec![table(inner, 16).then(1), Descriptor::of(client.page, GOOD)],
            // A table whose entry is itself; one whose entries are a circle; one that leaves itself; a long one.
            vec![table(inner + 4096, 16)],
            vec![table(inner + 4112, 32)],
            vec![table(inner + 4144, 16)],
            vec![table(inner + 8192, 16 * 2000)],
        ]
    };
    let prepare = |client: &Client| {
        let (memory, inner, good) = (&client.memory, inner(client), Descriptor::of(client.page, GOOD));
        describe_in(memory, inner, 0, good);
        describe_in(memory, inner + 4096, 0, Descriptor::of(inner + 4096, 16).with(INDIRECT));
        describe_in(memory, inner + 4112, 0, good.then(1));
        describe_in(memory, inner + 4112, 1, good.then(0));
        describe_in(memory, inner + 4144, 0, good.then(7));
        for n in 0..2000u16 {
            let piece = Descriptor::of(client.page, 1);
            describe_in(memory, inner + 8192, n, if n == 1999 { piece } else { piece.then(n + 1) });
        }
    };
    let chains = chains(&attack.stranger()?);
    attack.transmit_each(&chains, prepare)
}

fn chain_zero_length(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let (good, header, rest) = (
            Descriptor::of(client.page, GOOD),
            Descriptor::of(client.page, 12),
            Descriptor::of(client.page + 12, GOOD - 12),
        );
        let (nowhere, nothing) = (Descriptor::of(0xdead_beef_0000, 0), Descriptor::of(u64::MAX, 0));
        vec![
            vec![nowhere.then(1), good],
            vec![header.then(1), nothing.then(2), rest],
            vec![good.then(1), nowhere],
            vec![nowhere],
            vec![nothing.then(1), nothing.then(2), nothing],
        ]
    })
}

fn chain_two_regions(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let border = client.memory.regions().get(1).map_or(0, |region| region.guest_addr);
        vec![
            vec![Descriptor::of(border - 20, GOOD)],
            vec![Descriptor::of(border - 6, 12).then(1), Descriptor::of(client.page + 12, 60)],
            vec![Descriptor::of(client.page, 12).then(1), Descriptor::of(border - 1, 60)],
        ]
    })
}

fn chain_head_range(attack: &mut Attack<'_>) -> Result<()> {
    for head in [256, 257, 32768, u16::MAX] {
        let mut client = attack.served()?;
        let [_, tx] = &mut client.rings;
        tx.offer(&client.memory, head);
        attack.await_chains(&mut client);
        attack.keep(client);
    }
    Ok(())
}

fn header_pieces(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let pieces = |count: u16| {
            let mut chain: Vec<_> =
                (0..count).map(|n| Descriptor::of(client.page + u64::from(n), 1).then(n + 1)).collect();
            let done = u64::from(count);
            chain.push(Descriptor::of(client.page + done, GOOD - u32::from(count)));
            chain
        };
        let alone = [0, 1, 9, 10, 11, 12, 13, 25].map(|len| vec![Descriptor::of(client.page, len)]);
        (1..=12).map(pieces).chain(alone).collect()
    })
}

fn frame_length(attack: &mut Attack<'_>) -> Result<()> {
    each(attack, |client| {
        let begin = begin(client);
        let one = |len| vec![Descriptor::of(begin, len)];
        let many = (0..200u16).map(|n| Descriptor { next: n + 1, ..Descriptor::of(client.page, 300).with(NEXT) });
        let many = many.chain([Descriptor::of(client.page, 300)]).collect();
        vec![one(65_535), one(65_536), one(65_612), one(200_000), one(1 << 20), many]
    })
}

fn offload_sweep(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    // An IPv4 packet of TCP, so that a segmentation has something to begin with.
    let tcp: [u8; 54] = {
        let mut octets = [0; 54];
        octets[..6].fill(0xff);
        octets[6..14].copy_from_slice(&[0x52, 0x54, 0, 0x73, 0x76, 0x33, 0x08, 0x00]);
        octets[14..24].copy_from_slice(&[0x45, 0, 0x0f, 0xa0, 0, 1, 0, 0, 64, 6]);
        octets[46] = 0x50;
        octets
    };
    for n in 0..400 {
        let words: Vec<u16> = (0..5)
            .map(|_| match attack.random.below(4) {
                0 => u16::MAX - attack.random.below(20) as u16,
                1 => attack.random.below(80) as u16,
                2 => [0, 34, 54, 4000, 16, 6][attack.random.below(6) as usize],
                _ => attack.random.word() as u16,
            })
            .collect();
        let types = [0u8, 1, 3, 4, 5, 0x81, 0x84, 0xff];
        let mut header = vec![(n % 4) as u8, types[n / 4 % types.len()]];
        header.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        header.truncate(12);
        let len = [60u32, 14, 54, 1500, 9000, 65_000][attack.random.below(6) as usize];
        client.memory.write(client.page, &[header, tcp.to_vec()].concat());
        let chain = [Descriptor::of(client.page, 12 + len)];
        if !attack.transmit(&mut client, &chain) {
            client = attack.served()?;
        }
    }
    attack.keep(client);
    Ok(())
}

fn begin(client: &Client) -> u64 {
    client.memory.regions().first().map_or(0, |region| region.guest_addr)
}

/// Where tables lie.
fn inner(client: &Client) -> u64 {
    client.page + (128 << 10)
}
