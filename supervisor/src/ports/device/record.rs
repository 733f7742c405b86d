//! A device in the record that a supervisor leaves to its successor. The restored device gives workers the same replay.

use std::os::fd::AsFd;
use std::rc::Rc;

use nix::fcntl::SealFlag;
use sv3::foreign::ForeignFd;
use sv3::ipc::RingFault;
use sv3::{MAX_MEM_SLOTS, MAX_RINGS};

use super::Device;
use crate::estate::record::{DeviceRecord, MemoryRecord, RingRecord};
use crate::estate::{FileNumber, Files, Heirlooms, Unfit, unfit};
use crate::ports::admission::Memory;
use crate::ports::kernel::Inspect;
use crate::ports::ring::Ring;

impl Device {
    /// What the successor must know. No ring may be stopping.
    pub fn record<'d>(&'d self, files: &mut Files<'d>) -> DeviceRecord {
        DeviceRecord {
            features: self.features,
            starts_enabled: self.starts_enabled,
            ever_started: self.ever_started,
            logs: self.logs,
            log: self.log.as_ref().map(|log| memory_record(log, files)),
            memory: self.memory.iter().map(|memory| memory_record(memory, files)).collect(),
            rings: self.rings.iter().map(|ring| ring_record(ring, files)).collect(),
        }
    }

    /// Makes this device, which is new, the one of a record.
    pub fn restore(&mut self, record: DeviceRecord, files: &mut Heirlooms, kernel: &dyn Inspect) -> Result<(), Unfit> {
        if record.memory.len() > MAX_MEM_SLOTS || record.rings.len() > MAX_RINGS {
            return unfit(format!("{} regions and {} rings", record.memory.len(), record.rings.len()));
        }
        self.features = record.features;
        self.starts_enabled = record.starts_enabled;
        self.ever_started = record.ever_started;
        self.logs = record.logs;
        self.memory =
            record.memory.into_iter().map(|memory| restore_memory(memory, files, kernel)).collect::<Result<_, _>>()?;
        self.log = record.log.map(|log| restore_memory(log, files, kernel)).transpose()?;
        self.rings =
            record.rings.into_iter().map(|ring| restore_ring(ring, files, kernel)).collect::<Result<_, _>>()?;
        Ok(())
    }
}

fn memory_record<'m>(memory: &'m Memory, files: &mut Files<'m>) -> MemoryRecord {
    let file = files.add(&*memory.fd);
    let Memory { region, file_size, present, seals, .. } = *memory;
    MemoryRecord { region, file, file_size, present, seals: seals.bits() }
}

/// The client may have changed the file's size or seals since it was admitted. What follows from that is as after the
/// death of any worker. But whether a file is memory at all, nobody can change.
fn restore_memory(record: MemoryRecord, files: &mut Heirlooms, kernel: &dyn Inspect) -> Result<Memory, Unfit> {
    let MemoryRecord { region, file, file_size, present, seals } = record;
    let fd = files.take(file)?;
    let file = match kernel.memory(fd.as_fd()) {
        Ok(Some(memory)) => memory.file,
        Ok(None) => return unfit("a memory file is not on tmpfs or hugetlbfs"),
        Err(error) => return unfit(format!("a memory file cannot be examined: {error}")),
    };
    Ok(Memory { region, fd: Rc::new(fd), file, file_size, present, seals: SealFlag::from_bits_retain(seals) })
}

fn ring_record<'r>(ring: &'r Ring, files: &mut Files<'r>) -> RingRecord {
    let mut add = |fd: &'r Option<Rc<ForeignFd>>| fd.as_deref().map(|fd| files.add(fd));
    RingRecord {
        size: ring.size,
        addr: ring.addr,
        log: ring.log,
        base: ring.base,
        run: ring.run,
        kick: add(&ring.kick),
        call: add(&ring.call),
        err: add(&ring.err),
        enable: ring.enable,
        started: ring.started,
        fault: ring.fault.map(|fault| fault as u64),
        unfinished: ring.unfinished,
    }
}

fn restore_ring(record: RingRecord, files: &mut Heirlooms, kernel: &dyn Inspect) -> Result<Ring, Unfit> {
    let mut take = |number: Option<FileNumber>| -> Result<Option<Rc<ForeignFd>>, Unfit> {
        let Some(number) = number else { return Ok(None) };
        let fd = files.take(number)?;
        match kernel.claim_eventfd(fd.as_fd()) {
            true => Ok(Some(Rc::new(fd.prompt()))),
            false => unfit("a ring's file is not an eventfd"),
        }
    };
    let RingRecord { size, addr, log, base, run, enable, started, unfinished, .. } = record;
    let (kick, call, err) = (take(record.kick)?, take(record.call)?, take(record.err)?);
    if started && (size.is_none() || addr.is_none() || kick.is_none()) {
        return unfit("a ring is started and lacks what it needs for that");
    }
    let fault = match record.fault {
        Some(value) => Some(RingFault::from_value(value).ok_or_else(|| Unfit(format!("ring fault {value}")))?),
        None => None,
    };
    Ok(Ring { size, addr, log, base, run, kick, call, err, enable, started, stopping: false, fault, unfinished })
}
