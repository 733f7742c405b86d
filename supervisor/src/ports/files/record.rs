//! A port of open files in the record that a supervisor leaves to its successor. The restored port gives workers the
//! same commands, so a stream goes on where it was read to.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::MAX_QUEUE_PAIRS;
use sv3::attachment::Attachment;

use super::{FilePort, OpenPair};
use crate::estate::record::FilePortRecord;
use crate::estate::{Files, Heirlooms, Unfit, unfit};
use crate::ports::file_kernel::{self, Admitted};

impl FilePort {
    /// What the successor must know.
    pub fn record<'p>(&'p self, files: &mut Files<'p>) -> FilePortRecord {
        FilePortRecord {
            slot: self.slot,
            attachment: self.attachment.to_string(),
            owner: self.owner,
            serial: self.serial,
            stopped: self.stopped.clone(),
            conflict: self.conflict.clone(),
            files: self.files.iter().map(|file| files.add(&*file.fd)).collect(),
            run: self.run,
        }
    }

    /// The port of a record, with this serial number. If the kernel no longer takes one of its files, because the other
    /// side is gone, the port is without files: nobody else's port depends on that.
    pub fn restore(record: FilePortRecord, serial: u64, files: &mut Heirlooms) -> Result<FilePort, Unfit> {
        let FilePortRecord { slot, attachment, owner, stopped, conflict, files: numbers, run, .. } = record;
        let attachment = Attachment::parse(&attachment).ok_or_else(|| Unfit(format!("attachment {attachment:?}")))?;
        if numbers.len() > MAX_QUEUE_PAIRS {
            return unfit(format!("{} files of one port", numbers.len()));
        }
        let transport = attachment.transport;
        let mut port = FilePort::new(slot, attachment, owner, serial);
        (port.stopped, port.conflict, port.run) = (stopped, conflict, run);
        let mut lost = None;
        for number in numbers {
            let fd = files.take(number)?;
            match file_kernel::admit(fd.as_fd(), transport) {
                Ok(Admitted { device, send_buffer }) => {
                    port.device = device;
                    port.files.push(OpenPair { fd: Rc::new(fd), send_buffer });
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
            let record = before.record(&mut files);
            let copies = files.all().iter().map(|fd| fd.try_clone_to_owned().unwrap().into()).collect();
            (record, Heirlooms::new(copies))
        };
        let commands = |port: &FilePort| port.replay().into_iter().map(|told| told.command).collect::<Vec<_>>();
        let (record, mut files) = recorded();
        let after = FilePort::restore(record, 9, &mut files).unwrap();
        assert_eq!((commands(&after), after.status()), (commands(&before), before.status()));
        assert_eq!((after.owner, after.serial), (before.owner, 9));
        // A record that says that the file is a tap: the port is there without files.
        let (mut record, mut files) = recorded();
        record.attachment = "tap up0".to_string();
        let after = FilePort::restore(record, 9, &mut files).unwrap();
        assert!(after.is_empty() && after.stopped.is_some() && after.name() == "up0");
        for spoil in ["tap p0", "", "nonsense"] {
            let (mut record, mut files) = recorded();
            record.attachment = spoil.to_string();
            assert!(FilePort::restore(record, 9, &mut files).is_err());
        }
        drop(theirs);
        let (record, mut files) = recorded();
        assert!(FilePort::restore(record, 9, &mut files).is_ok(), "its end is for the worker to find");
    }
}
