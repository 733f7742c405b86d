//! Too much of what is allowed.

use std::time::Instant;

use crate::failure::Result;
use crate::hostile::case::{Attack, Case};
use crate::hostile::client::GOOD;
use crate::hostile::reaction::Reaction;
use crate::hostile::ring::Descriptor;

pub const CASES: &[Case] = &[
    Case {
        name: "idle-connections",
        origin: "own",
        what: "120 connections that say nothing and stay",
        run: idle_connections,
    },
    Case {
        name: "flood",
        origin: "CVE-2019-3900",
        what: "a sender that never stops, beside a well-behaved one",
        run: flood,
    },
    Case {
        name: "never-returns",
        origin: "CVE-2016-5403",
        what: "a guest that offers no receive buffers is flooded",
        run: never_returns,
    },
    Case {
        name: "address-flood",
        origin: "own",
        what: "50,000 source addresses for the forwarding table",
        run: address_flood,
    },
    Case {
        name: "to-itself",
        origin: "CVE-2021-3416",
        what: "frames whose destination is their own source",
        run: to_itself,
    },
];

fn idle_connections(attack: &mut Attack<'_>) -> Result<()> {
    for _ in 0..120 {
        match attack.stranger() {
            Ok(client) => attack.keep(client),
            Err(_) => attack.tally.note(Reaction::Closed),
        }
        attack.tally.note(Reaction::Wordless);
    }
    Ok(())
}

/// A valid frame is sent while the attacker keeps the ring full.
fn flood(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let mut bystander = attack.bystander()?;
    let to_itself = [&[0; 12][..], &[0x52, 0x54, 0, 0x73, 0x76, 0x33].repeat(2), &[0x88, 0xb5]].concat();
    client.memory.write(client.page, &to_itself);
    let [_, tx] = &mut client.rings;
    tx.describe(&client.memory, 0, Descriptor::of(client.page, GOOD));
    let over = attack.over();
    let mut served = true;
    while Instant::now() < over && served {
        fill(&mut client);
        bystander.transmit(&[Descriptor::of(bystander.page, GOOD)]);
        let deadline = Instant::now() + attack.patience();
        served = loop {
            fill(&mut client);
            let [_, tx] = &bystander.rings;
            if tx.used_index(&bystander.memory) == tx.index {
                break true;
            }
            if Instant::now() >= deadline {
                break false;
            }
        };
        attack.tally.note(if served { Reaction::Returned } else { Reaction::Left });
    }
    attack.keep(client);
    Ok(())
}

/// Makes everything available that has been used.
fn fill(client: &mut crate::hostile::client::Client) {
    let [_, tx] = &mut client.rings;
    let used = tx.used_index(&client.memory);
    while tx.index.wrapping_sub(used) < crate::hostile::ring::SIZE {
        tx.enter(&client.memory, 0);
    }
    tx.claim(&client.memory, tx.index);
}

fn never_returns(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.negotiated(0)?;
    client.tell_memory()?;
    for index in [0, 1] {
        client.start_ring(index)?;
    }
    client.enable_rings()?;
    let mut bystander = attack.bystander()?;
    let over = attack.over();
    while Instant::now() < over {
        let taken = bystander.transmit_good(attack.patience());
        attack.tally.note(if taken { Reaction::Returned } else { Reaction::Left });
    }
    attack.keep(client);
    Ok(())
}

fn address_flood(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let slots = 64u32;
    for batch in 0..50_000 / slots {
        let [_, tx] = &mut client.rings;
        for slot in 0..slots {
            let [.., a, b, c] = (batch * slots + slot).to_be_bytes();
            let at = client.page + 16384 + 128 * u64::from(slot);
            let frame = [&[0; 12][..], &[0xff; 6], &[0x52, 0x54, 1, a, b, c], &[0x88, 0xb5], &[0; 46]].concat();
            client.memory.write(at, &frame);
            tx.describe(&client.memory, slot as u16, Descriptor::of(at, GOOD));
            tx.enter(&client.memory, slot as u16);
        }
        tx.claim(&client.memory, tx.index);
        if attack.await_chains(&mut client) != Reaction::Returned {
            break;
        }
    }
    attack.keep(client);
    Ok(())
}

fn to_itself(attack: &mut Attack<'_>) -> Result<()> {
    let mut client = attack.served()?;
    let address = [0x52, 0x54, 0, 0x73, 0x76, 0x33];
    client.memory.write(client.page, &[&[0; 12][..], &address, &address, &[0x88, 0xb5]].concat());
    for _ in 0..100 {
        if !attack.transmit_good(&mut client) {
            break;
        }
    }
    attack.keep(client);
    Ok(())
}
