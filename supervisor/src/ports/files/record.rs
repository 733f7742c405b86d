//! A port of open files in the record that a supervisor leaves to its successor. The restored port gives workers the
//! same commands, so a stream goes on where it was read to.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::MAX_QUEUE_PAIRS;
use sv3::attachment::Attachment;

use super::{FilePort, OpenPair};
use crate::clients::class::ClientClass;
use crate::doors::listener::Peer;
use crate::estate::record::{ClassRecord, FilePortRecord};
use crate::estate::{Clock, Files, Heirlooms, Unfit, unfit};
use crate::ports::file_kernel::{self, Admitted};
use crate::ports::terms::Terms;

impl FilePort {
    /// What the successor must know.
    pub fn record<'p>(&'p self, files: &mut Files<'p>, clock: Clock) -> FilePortRecord {
        // A client's name is made of its slot again.
        let name = if self.is_client() { "client".to_string() } else { self.attachment.name.clone() };
        FilePortRecord {
            slot: self.slot,
            attachment: Attachment { name, ..self.attachment.clone() }.to_string(),
            owner: self.owner,
            serial: self.serial,
            stopped: self.stopped.clone(),
            conflict: self.conflict.clone(),
            files: self.files.iter().map(|file| files.add(&*file.fd)).collect(),
            run: self.run,
            is_client: self.is_client(),
            quarantine: self.quarantine.map(|until| clock.number(until)),
            suspect: self.suspect.map(ClassRecord::from),
            since: self.since.map(|since| clock.number(since)),
        }
    }

    /// The port of a record, with this serial number. If the kernel no longer takes one of its files, because the other
    /// side is gone, the port is without files: nobody else's port depends on that.
    pub fn restore(
        record: FilePortRecord,
        serial: u64,
        files: &mut Heirlooms,
        clock: Clock,
        terms: impl Fn(&Attachment) -> Rc<Terms>,
    ) -> Result<FilePort, Unfit> {
        let FilePortRecord { slot, attachment, owner, stopped, conflict, files: numbers, run, .. } = record;
        let (quarantine, suspect, since) = (record.quarantine, record.suspect, record.since);
        let mut attachment =
            Attachment::parse(&attachment).ok_or_else(|| Unfit(format!("attachment {attachment:?}")))?;
        if record.is_client {
            attachment.name = format!("p{slot}");
        }
        let terms = terms(&attachment);
        if let Some(name) = terms.name.clone().filter(|_| record.is_client) {
            attachment.name = name;
        }
        if numbers.len() > MAX_QUEUE_PAIRS {
            return unfit(format!("{} files of one port", numbers.len()));
        }
        let transport = attachment.transport;
        let mut port = FilePort::new(slot, attachment, owner, serial);
        port.terms = terms;
        (port.stopped, port.conflict, port.run) = (stopped, conflict, run);
        port.quarantine = quarantine.map(|until| clock.time(until));
        port.suspect = suspect.map(ClientClass::from);
        port.since = since.map(|since| clock.time(since));
        let mut lost = None;
        for number in numbers {
            let fd = Rc::new(files.take(number)?);
            if record.is_client {
                let peer = Peer::of(fd.clone()).map_err(|error| Unfit(format!("a client's socket: {error}")))?;
                // If the handover fails, the old supervisor goes on with it.
                port.peer = Some(lent(peer));
            }
            match file_kernel::admit(fd.as_fd(), transport) {
                Ok(Admitted { device, send_buffer }) => {
                    port.device = device;
                    port.files.push(OpenPair { fd, send_buffer });
                }
                Err(why) => lost = Some(why),
            }
        }
        if lost.is_some() {
            (port.files, port.stopped) = (Vec::new(), lost);
        }
        Ok(port)
    }
}

/// The peer, whose connection goes on when it is dropped.
fn lent(mut peer: Peer) -> Peer {
    peer.is_lent = true;
    peer
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ports::port::Replay;

    #[test]
    fn the_next_supervisor_gives_workers_the_same_commands() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attachment = Attachment::parse("stream up0 mtu=65520 learning=uplink").unwrap();
        let mut before = FilePort::new(5, attachment, (7, 8), 3);
        before.open(vec![std::os::fd::OwnedFd::from(ours).into()]).unwrap();
        before.conflict = Some("an address".to_string());
        let recorded = || {
            let mut files = Files::default();
            let record = before.record(&mut files, Clock::new());
            let copies = files.all().iter().map(|fd| fd.try_clone_to_owned().unwrap().into()).collect();
            (record, Heirlooms::new(copies))
        };
        let commands = |port: &FilePort| port.replay().into_iter().map(|told| told.command).collect::<Vec<_>>();
        let (record, mut files) = recorded();
        let after = FilePort::restore(record, 9, &mut files, Clock::new(), |_| Rc::default()).unwrap();
        assert_eq!((commands(&after), after.status()), (commands(&before), before.status()));
        assert_eq!((after.owner, after.serial), (before.owner, 9));
        // A record that says that the file is a tap: the port is there without files.
        let (mut record, mut files) = recorded();
        record.attachment = "tap up0".to_string();
        let after = FilePort::restore(record, 9, &mut files, Clock::new(), |_| Rc::default()).unwrap();
        assert!(after.is_empty() && after.stopped.is_some() && after.name() == "up0");
        for spoil in ["tap p0", "", "nonsense"] {
            let (mut record, mut files) = recorded();
            record.attachment = spoil.to_string();
            assert!(FilePort::restore(record, 9, &mut files, Clock::new(), |_| Rc::default()).is_err());
        }
        drop(theirs);
        let (record, mut files) = recorded();
        assert!(
            FilePort::restore(record, 9, &mut files, Clock::new(), |_| Rc::default()).is_ok(),
            "its end is for the worker to find"
        );
    }
}
