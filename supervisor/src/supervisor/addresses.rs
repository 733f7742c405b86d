//! Which addresses are where: the forwarding table, which workers write into the ledger, and the static addresses, which
//! workers are told of.
//!
//! Where an entry stands in the table depends on the table's secret. So the list is ordered by what the entries say.

use std::collections::{BTreeMap, BTreeSet};

use sv3::config::StaticAddress;
use sv3::fdb::{FdbAnswer, FdbLine, FlushAnswer, KnownAddress, Which};
use sv3::ipc::Command;
use sv3::ledger::{FdbEntry, Ledger};
use sv3::rules::VID_MAX;

use super::Supervisor;
use crate::workers::command::WorkerCommand;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// All addresses that are known at ports that are there.
    pub(super) fn known_addresses(&self) -> FdbAnswer {
        let (names, now_s) = (self.names(), monotonic_s());
        let shown = |line: FdbLine| {
            Some(KnownAddress {
                port: names.get(&line.port)?.clone(),
                vlan: line.vid,
                address: line.mac.to_string(),
                age_s: now_s.saturating_sub(line.seen_s),
                is_static: line.is_static,
            })
        };
        FdbAnswer { addresses: known(&self.workers.ledger, now_s).into_iter().filter_map(shown).collect() }
    }

    /// `fdb-flush`: the answer comes when the serving worker has forgotten the addresses. The error is for people.
    pub(super) fn begin_flush(&mut self, place: usize, which: &Which) -> Result<(), String> {
        let answer = serde_json::to_value(self.flush(which)?).map_err(|error| error.to_string())?;
        let ticket = self.doors.defer_control(place, &self.reactor).ok_or("the exchange is over")?;
        self.awaiting_worker.push((ticket, answer));
        self.send_and_answer(Vec::new());
        Ok(())
    }

    /// Lets the workers forget addresses that were learnt.
    fn flush(&mut self, which: &Which) -> Result<FlushAnswer, String> {
        let named = |name: &String| {
            let slot = self.names().into_iter().find(|(_, other)| other == name).map(|(slot, _)| slot);
            slot.ok_or_else(|| format!("there is no port {name}; `sv3 status` shows all"))
        };
        let (port, vid, mac) = (which.port.as_ref().map(named).transpose()?, which.vlan, which.mac);
        let is_meant = |line: &&FdbLine| {
            let is_there = port.is_none_or(|port| port == line.port) && vid.is_none_or(|vid| vid == line.vid);
            !line.is_static && is_there && mac.is_none_or(|mac| mac == line.mac)
        };
        let flushed = known(&self.workers.ledger, monotonic_s()).iter().filter(is_meant).count();
        let command = Command::AddressFlush { port, vid, mac: mac.map(|mac| mac.octets()) };
        self.workers.send(vec![command.into()], Waiter::Nobody);
        Ok(FlushAnswer { flushed })
    }

    /// The names of all ports, by slot; also of those that are declared and have nobody attached.
    pub(super) fn names(&self) -> BTreeMap<u16, String> {
        let ports = self.port_statuses().into_iter().map(|port| (port.slot, port.name));
        self.clients.slots.declared.names().into_iter().chain(ports).collect()
    }

    /// Lets workers follow the static addresses that are declared, now that declarations or attached ports have changed.
    /// Returns the commands that remove addresses, and those that add them.
    pub(super) fn follow_addresses(&mut self) -> (Vec<WorkerCommand>, Vec<WorkerCommand>) {
        let wanted = self.wanted_addresses();
        self.workers.addresses.follow(wanted)
    }

    /// The same, as one.
    pub(super) fn address_commands(&mut self) -> impl Iterator<Item = WorkerCommand> + use<> {
        let (gone, new) = self.follow_addresses();
        gone.into_iter().chain(new)
    }

    /// Which static addresses are at which slots: those of a port with a socket all the time, those of an attached one
    /// while it is there.
    fn wanted_addresses(&self) -> BTreeMap<StaticAddress, u16> {
        let slots = &self.clients.slots;
        let slot_of = |name: &String| {
            let own = slots.declared.slots().get(name).copied();
            own.or_else(|| self.file_port(name)).or_else(|| slots.card_named(name))
        };
        let ports = slots.declared.config().ports.iter().filter(|(_, port)| !port.addresses.is_empty());
        let there = ports.filter_map(|(name, port)| Some((slot_of(name)?, &port.addresses)));
        there.flat_map(|(slot, addresses)| addresses.iter().map(move |at| (*at, slot))).collect()
    }
}

/// What the table knows, by port, VLAN and address. A hostile worker may write anything there.
fn known(ledger: &Ledger, now_s: u64) -> BTreeSet<FdbLine> {
    let lines = ledger.fdb.iter().filter_map(FdbEntry::line);
    lines.filter(|line| line.is_known(now_s) && line.vid <= VID_MAX).collect()
}

fn monotonic_s() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u64::try_from(now.tv_sec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use sv3::fdb::{AGE_S, STATIC};
    use sv3::ledger::LedgerMap;

    use super::*;

    #[test]
    fn what_is_known_is_told_in_an_order_that_tells_nothing_of_the_secret() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        for (place, key, seen) in [
            (9, 5 << 48 | 7, 990),
            (700, 3 << 48 | 9, 10 << 32 | 995),
            (3, 3 << 48 | 8, 20 << 32 | STATIC),
            (60_000, 3 << 48 | 9, 10 << 32 | (1000 - AGE_S)),
            (4, 3 << 48, 999),
            (5, 0, 0),
        ] {
            ledger.fdb[place].key.store(key, Relaxed);
            ledger.fdb[place].seen.store(seen, Relaxed);
        }
        let told: Vec<_> = known(&ledger, 1000).iter().map(|line| (line.port, line.vid, line.mac.bits())).collect();
        assert_eq!(told, [(3, 10, 9), (3, 20, 8), (5, 0, 7)]);
    }

    #[test]
    fn any_octets_are_a_list() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        for (at, entry) in (0u64..).zip(&ledger.fdb) {
            entry.key.store(at.wrapping_mul(0x9e37_79b9_7f4a_7c15), Relaxed);
            entry.seen.store(u64::MAX - at, Relaxed);
        }
        let known = known(&ledger, 0);
        assert!(known.iter().all(|line| line.port < 1024 && line.vid <= VID_MAX && !line.mac.is_zero()));
    }
}
