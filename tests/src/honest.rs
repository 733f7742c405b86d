//! Two honest guests on a switch that another client attacks: they must not notice, and nothing may be left behind.

use std::ops::Deref;

use crate::failure::{Failure, Result};
use crate::frames::{mac, noise};
use crate::guest::Guest;
use crate::patience::until;
use crate::switch::{Switch, fds, private_memory};

/// Octets by which a process may grow: allocators keep pages, leaks grow with the number of attacks.
const GROWTH: u64 = 3 << 19;

/// The switch with the two guests, p0 and p1.
pub struct Honest {
    switch: Switch,
    guests: [Guest; 2],
    before: Footprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footprint {
    supervisor_fds: usize,
    worker_fds: usize,
    memory: u64,
}

impl Deref for Honest {
    type Target = Switch;

    fn deref(&self) -> &Switch {
        &self.switch
    }
}

impl Honest {
    /// A switch on which the two have exchanged frames.
    #[track_caller]
    pub fn new() -> Result<Honest> {
        Honest::with(&[])
    }

    /// The same with these options of `sv3 run`.
    #[track_caller]
    pub fn with(options: &[&str]) -> Result<Honest> {
        let switch = Switch::with(options)?;
        let guests = [(), ()].map(|()| Guest::connect(switch.socket()));
        let mut honest = Honest { before: footprint(&switch)?, switch, guests };
        honest.talk();
        honest.remember()?;
        Ok(honest)
    }

    /// Compares with the present from now on, so that memory that allocators keep does not count as a leak.
    pub fn remember(&mut self) -> Result<()> {
        self.switch.await_ports(2)?;
        self.before = footprint(&self.switch)?;
        Ok(())
    }

    /// Frames pass between the two, each way.
    #[track_caller]
    pub fn talk(&mut self) {
        let [a, b] = &mut self.guests;
        for n in 0..10 {
            let (there, back) =
                (noise(mac(202), mac(201), 60 + 140 * n, 1), noise(mac(201), mac(202), 60 + 150 * n, 2));
            a.send(&there);
            Self::expect(b, &there);
            b.send(&back);
            Self::expect(a, &back);
        }
        a.await_sent();
        b.await_sent();
    }

    /// The next frame between the two; skips broadcasts of attackers.
    #[track_caller]
    fn expect(guest: &mut Guest, wanted: &[u8]) {
        loop {
            let frame = guest.receive().frame;
            if frame.get(6..11) == wanted.get(6..11) && frame.get(11).is_some_and(|station| *station > 200) {
                assert!(frame == wanted, "a frame was lost or changed");
                return;
            }
        }
    }

    /// One of the two.
    pub fn guest(&mut self, index: usize) -> &mut Guest {
        &mut self.guests[index]
    }

    /// The attackers are gone; waits until all is as before.
    #[track_caller]
    pub fn assert_unharmed(&mut self) -> Result<()> {
        self.switch.await_ports(2)?;
        let before = self.before;
        let mut last = before;
        let same = |now: Footprint| {
            let grown = now.memory.saturating_sub(before.memory);
            // Fewer is no leak: the count before may have had one that was about to be closed.
            now.supervisor_fds <= before.supervisor_fds && now.worker_fds <= before.worker_fds && grown < GROWTH
        };
        let back = until("fds and memory back", || {
            last = footprint(&self.switch)?;
            Ok(same(last).then_some(()))
        });
        back.map_err(|failure| Failure::new(format!("{failure}: {before:?} before, {last:?} after")))?;
        self.talk();
        Ok(())
    }

    /// As [`Honest::assert_unharmed`], and the worker has not died.
    #[track_caller]
    pub fn assert_undisturbed(&mut self) -> Result<()> {
        self.assert_unharmed()?;
        assert_eq!(self.switch.status()?.worker.restarts, 0, "the worker died");
        Ok(())
    }
}

fn footprint(switch: &Switch) -> Result<Footprint> {
    let (supervisor, worker) = (switch.supervisor_pid()?, switch.worker_pid()?);
    let memory = private_memory(supervisor)? + private_memory(worker)?;
    Ok(Footprint { supervisor_fds: fds(supervisor)?.len(), worker_fds: fds(worker)?.len(), memory })
}
