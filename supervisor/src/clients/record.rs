//! Clients, and blame, in the record that a supervisor leaves to its successor.
//!
//! What the kernel or the budget says anew is not in it: a client's process and user, and what clients hold together.

use std::rc::Rc;

use sv3::MAX_PORTS;

use crate::clients::class::{ClientClass, MemoryClass};
use crate::clients::client::Client;
use crate::clients::registry::Clients;
use crate::doors::listener::Peer;
use crate::estate::record::{CardPortRecord, ClassRecord, ClientRecord, FilePortRecord, OffenderRecord};
use crate::estate::{Clock, Files, Heirlooms, Unfit, unfit};
use crate::ports::card::CardPort;
use crate::ports::files::FilePort;
use crate::ports::holdings::Holdings;
use crate::ports::kernel::{Inspect, Kernel};

impl Clients {
    /// What the successor must know of clients. None of them may wait for the worker.
    pub fn record<'c>(&'c self, files: &mut Files<'c>, clock: Clock) -> Result<Vec<ClientRecord>, Unfit> {
        self.slots.connected().map(|client| client.record(files, clock)).collect()
    }

    /// What it must know of ports of open files.
    pub fn files_record<'c>(&'c self, files: &mut Files<'c>, clock: Clock) -> Vec<FilePortRecord> {
        let mut ports: Vec<_> = self.slots.all_files().map(|port| port.record(files, clock)).collect();
        ports.sort_by_key(|port| port.serial);
        ports
    }

    /// What it must know of blame by process.
    pub fn blame_record(&self, clock: Clock) -> Vec<OffenderRecord<i32>> {
        self.blames.record(clock)
    }

    /// What it must know of blame by class.
    pub fn class_record(&self, clock: Clock) -> Vec<OffenderRecord<ClassRecord>> {
        self.classes.record(clock)
    }

    /// Takes over ports of open files.
    pub fn restore_files(
        &mut self,
        records: Vec<FilePortRecord>,
        files: &mut Heirlooms,
        clock: Clock,
    ) -> Result<(), Unfit> {
        for record in records {
            self.check_slot(record.slot)?;
            let (slot, owner, is_client) = (record.slot, record.owner, record.is_client);
            let serial = self.next_serial();
            let declared = &self.slots.declared;
            let mut port = FilePort::restore(record, serial, files, clock, |attachment| match is_client {
                true => declared.of_client(slot, owner.1),
                false => declared.of_attached(&attachment.name),
            })?;
            port.held = port.holdings();
            self.budget.change(port.holder().pid, Holdings::NONE, port.held);
            if self.slots.all_files().any(|other| other.name() == port.name()) {
                return unfit(format!("two ports named {}", port.name()));
            }
            self.slots.insert_files(port);
        }
        Ok(())
    }

    /// Takes over ports of cards.
    pub fn restore_cards(&mut self, records: Vec<CardPortRecord>, files: &mut Heirlooms) -> Result<(), Unfit> {
        for record in records {
            self.check_slot(record.slot)?;
            let mut port = CardPort::restore(record, self.next_serial(), files)?;
            port.terms = self.slots.declared.of_attached(port.name());
            port.held = port.holdings();
            self.budget.change(port.holder().pid, Holdings::NONE, port.held);
            self.slots.insert_card(port);
        }
        Ok(())
    }

    /// Errs unless there is such a slot, and it is free.
    fn check_slot(&self, slot: u16) -> Result<(), Unfit> {
        let is_taken = self.slots.holder(slot).is_some();
        if usize::from(slot) >= MAX_PORTS || is_taken { unfit(format!("slot {slot}")) } else { Ok(()) }
    }

    /// Takes over clients.
    pub fn restore(&mut self, records: Vec<ClientRecord>, files: &mut Heirlooms, clock: Clock) -> Result<(), Unfit> {
        for record in records {
            let number = match record.slot {
                Some(slot) => self.check_slot(slot).map(|()| slot)?,
                None => self.slots.free_pending_number().ok_or_else(|| Unfit("too many pending clients".into()))?,
            };
            let serial = self.next_serial();
            let pending_unmaps = self.budget.pending_unmaps.of_another();
            let mut client = Client::restore(record, (number, serial), files, clock, &Kernel)?;
            if client.home.is_some_and(|home| !self.slots.declared.owns(home)) {
                return unfit("a client of a port that is not declared".to_string());
            }
            client.session.change_terms(self.slots.declared.of_client(number, client.uid));
            client.session.count_pending_unmaps(pending_unmaps);
            client.held = client.session.holdings();
            self.budget.change(client.id.pid, Holdings::NONE, client.held);
            self.slots.insert(client);
        }
        Ok(())
    }
}

impl Client {
    /// What the successor must know. The client must not wait for the worker.
    pub fn record<'c>(&'c self, files: &mut Files<'c>, clock: Clock) -> Result<ClientRecord, Unfit> {
        if self.session.is_waiting() {
            return unfit(format!("{} waits for the worker", self.name()));
        }
        let pending = crate::clients::number::is_pending(self.id.slot);
        Ok(ClientRecord {
            slot: (!pending).then_some(self.id.slot),
            connection: self.connection.record(files, clock),
            session: self.session.record(),
            device: self.device().record(files),
            told_of_memory: self.told_of_memory,
            home: self.home,
            quarantine: self.quarantine.map(|until| clock.number(until)),
            suspect: self.suspect.map(ClassRecord::from),
            since: self.since.map(|(class, since)| (class.into(), clock.number(since))),
        })
    }

    /// The client of a record, with this number and this serial number.
    pub fn restore(
        record: ClientRecord,
        (number, serial): (u16, u64),
        files: &mut Heirlooms,
        clock: Clock,
        kernel: &dyn Inspect,
    ) -> Result<Client, Unfit> {
        let socket = files.take(record.connection.socket)?;
        let mut peer = Peer::of(Rc::new(socket)).map_err(|error| Unfit(format!("a client's socket: {error}")))?;
        // If the handover fails, the old supervisor goes on with it.
        peer.is_lent = true;
        let mut client = Client::new(number, serial, peer);
        client.connection.restore(record.connection, files, clock)?;
        client.session.restore(&record.session);
        client.session.restore_device(record.device, files, kernel)?;
        client.told_of_memory = record.told_of_memory;
        client.told_of_migration = client.device().is_migrating();
        client.home = record.home;
        client.quarantine = record.quarantine.map(|until| clock.time(until));
        client.suspect = record.suspect.map(ClientClass::from);
        client.since = record.since.map(|(class, since)| (class.into(), clock.time(since)));
        client.interest = client.wanted();
        Ok(client)
    }
}

impl From<ClientClass> for ClassRecord {
    fn from(ClientClass { uid, memory }: ClientClass) -> ClassRecord {
        let sealed = match memory {
            MemoryClass::Any => None,
            MemoryClass::Sealed => Some(true),
            MemoryClass::Unsealed => Some(false),
        };
        ClassRecord { uid, sealed }
    }
}

impl From<ClassRecord> for ClientClass {
    fn from(ClassRecord { uid, sealed }: ClassRecord) -> ClientClass {
        let memory = match sealed {
            None => MemoryClass::Any,
            Some(true) => MemoryClass::Sealed,
            Some(false) => MemoryClass::Unsealed,
        };
        ClientClass { uid, memory }
    }
}

#[cfg(test)]
mod tests;
