//! Clients connect and disconnect by the thousand, most of them out of order: all that they brought goes with them.

use std::os::fd::AsFd;
use std::time::Instant;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::memory::Memory;
use sv3_tests::guest::wire::*;
use sv3_tests::guest::{Config, Guest};
use sv3_tests::honest::Honest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Switch, fds, mappings, private_memory};

const VERSION: u32 = 1;
const PAGE: u64 = 4096;
/// Octets by which a process may grow: allocators keep pages, leaks grow with the number of clients.
const GROWTH: u64 = 3 << 19;
/// Ways in which a client leaves.
const WAYS: usize = 8;

/// Fds, mappings and memory of the supervisor, of the worker that serves and of the standby.
#[derive(Debug)]
struct Holdings {
    fds: [usize; 3],
    mappings: [usize; 3],
    memory: [u64; 3],
}

impl Holdings {
    fn of(switch: &Switch) -> Result<Holdings> {
        let worker = until("two workers", || {
            let status = switch.status()?.worker;
            Ok(status.pid.zip(status.standby_pid))
        })?;
        let pids = [switch.supervisor_pid()?, worker.0, worker.1];
        let mut holdings = Holdings { fds: [0; 3], mappings: [0; 3], memory: [0; 3] };
        for (at, pid) in pids.into_iter().enumerate() {
            holdings.fds[at] = fds(pid)?.len();
            holdings.mappings[at] = mappings(pid)?;
            holdings.memory[at] = private_memory(pid)?;
        }
        Ok(holdings)
    }

    /// Not more than before; allocators may keep a little.
    fn is_within(&self, before: &Holdings) -> bool {
        let fits = |now: [usize; 3], before: [usize; 3], more| {
            now.iter().zip(before).all(|(now, before)| *now <= before + more)
        };
        let memory = self.memory.iter().zip(before.memory).all(|(now, before)| *now < before + GROWTH);
        // A heap that has grown may be a mapping more.
        fits(self.fds, before.fds, 0) && fits(self.mappings, before.mappings, 1) && memory
    }
}

/// One client that connects and leaves, each in another way.
fn visit(switch: &Switch, visit: usize, memory: &Memory) -> Result<()> {
    let config = Config::default().ring_size(16).memory(8 << 20);
    let file = memory.regions()[0].file();
    let region = region(0, PAGE, 0, 0);
    match visit % WAYS {
        // In order.
        0 => config.connect(switch.socket()).disconnect(),
        // Killed during traffic.
        1 => {
            let mut guest = config.connect(switch.socket());
            guest.send(&[0xff; 60]);
            guest.vanish();
        }
        // Killed at any step of the handshake.
        2 | 3 => drop(config.vanishing_after(visit / WAYS % 30).try_connect(switch.socket())),
        // Half a message, with an fd.
        4 => {
            let mut guest = config.build(switch.socket())?;
            let message = [&header(SET_MEM_TABLE, VERSION, 40)[..], &region_table(&[region])].concat();
            let part = 1 + visit / WAYS % (message.len() - 1);
            guest.raw().send_octets(&message[..part], &[file])?;
        }
        // Messages with fds, without waiting for an answer.
        5 => {
            let mut guest = config.build(switch.socket())?;
            let raw = guest.raw();
            raw.send(SET_MEM_TABLE, VERSION, &region_table(&[region]), &[file])?;
            for ring in 0..2_u64 {
                let kick = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_CLOEXEC)?;
                raw.send(SET_VRING_CALL, VERSION, &ring.to_ne_bytes(), &[kick.as_fd()])?;
                raw.send(SET_VRING_KICK, VERSION, &ring.to_ne_bytes(), &[kick.as_fd()])?;
            }
        }
        // More fds than any message has.
        6 => {
            let mut guest = config.build(switch.socket())?;
            // It may have been disconnected already.
            let _ = guest.raw().send_octets(&header(GET_FEATURES, VERSION, 0), &[file; 60]);
        }
        // No message at all.
        _ => drop(Wire::connect(switch.socket())?),
    }
    Ok(())
}

fn clients_leave_nothing(visits: usize) -> Result<()> {
    let mut honest = Honest::new()?;
    let memory = Memory::new(1, PAGE);
    // Once each way, so that allocators have what they keep.
    for n in 0..20 * WAYS {
        visit(&honest, n, &memory)?;
    }
    honest.await_ports(2)?;
    let before = Holdings::of(&honest)?;
    let start = Instant::now();
    for n in 0..visits {
        visit(&honest, n, &memory)?;
        if n % 500 == 0 {
            honest.talk();
        }
    }
    let took = start.elapsed();
    honest.await_ports(2)?;
    let mut after = Holdings::of(&honest)?;
    let back = until("no leak", || {
        after = Holdings::of(&honest)?;
        Ok(after.is_within(&before).then_some(()))
    });
    back.map_err(|failure| Failure::new(format!("{failure}: {before:?} before, {after:?} after")))?;
    println!("{visits} clients in {took:?}: {before:?} before, {after:?} after");
    honest.talk();
    assert_eq!(honest.status()?.worker.restarts, 0, "no worker died of it");
    assert_every_place_is_free(&mut honest)
}

/// The ledger has a fixed number of ports: so many clients get one, and the next is turned away.
fn assert_every_place_is_free(honest: &mut Honest) -> Result<()> {
    // One process does not get the last ports.
    const PLACES: usize = sv3::MAX_PORTS - 16;
    let take = || {
        let mut wire = Wire::connect(honest.socket())?;
        wire.set(SET_FEATURES, &0u64.to_ne_bytes(), &[])?;
        Ok::<_, Failure>(wire)
    };
    let others = (2..PLACES).map(|_| take()).collect::<Result<Vec<_>>>()?;
    honest.await_ports(PLACES)?;
    let slots: std::collections::BTreeSet<u16> = honest.status()?.ports.iter().map(|port| port.slot).collect();
    assert_eq!(slots.len(), PLACES);
    take()?.await_close()?;
    drop(others);
    honest.await_ports(2)?;
    honest.talk();
    // The first port is free again.
    let guest = Guest::connect(honest.socket());
    let frames = honest.port("p2")?.from_guest.frames;
    assert_eq!(frames, 0, "its line is as new");
    guest.vanish();
    Ok(())
}

#[test]
fn a_thousand_clients_leave_nothing_behind() -> Result<()> {
    clients_leave_nothing(1000)
}

#[test]
#[ignore = "scripts/check runs it"]
fn ten_thousand_clients_leave_nothing_behind() -> Result<()> {
    clients_leave_nothing(10_000)
}
