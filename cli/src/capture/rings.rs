//! The rings of a capture, and the clock of their records.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use nix::time::{ClockId, clock_gettime};
use sv3::capture::reader::Reader;
use sv3::capture::{CaptureFile, CaptureMap, Record, Ring};

/// The rings of all threads of the worker.
pub struct Rings {
    fd: OwnedFd,
    map: CaptureMap,
    threads: usize,
}

impl Rings {
    /// Rings for a worker with so many threads. Their memory is had now, so that the worker never waits for it.
    pub fn create(threads: usize) -> Result<Rings, String> {
        let (fd, map) = CaptureMap::create(c"sv3-capture").map_err(|error| format!("the capture's memory: {error}"))?;
        for thread in 0..threads {
            let at = offset_of!(CaptureFile, rings) + thread * size_of::<Ring>();
            map.populate(at, size_of::<Ring>()).map_err(|error| format!("the capture's memory: {error}"))?;
        }
        Ok(Rings { fd, map, threads })
    }

    /// What reads them.
    pub fn readers(&self) -> Readers<'_> {
        Readers(self.map.rings.iter().take(self.threads).map(Reader::new).collect())
    }

    /// The clock of the records.
    pub fn clock(&self) -> Clock {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
        });
        Clock { offset: real_now().wrapping_sub(monotonic) }
    }
}

impl AsFd for Rings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One reader for each ring.
pub struct Readers<'r>(Vec<Reader<'r>>);

impl Readers<'_> {
    /// The next frame: the earliest of the rings' next ones. Its octets are in `frame` afterwards.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> Option<Record> {
        let peeked = self.0.iter_mut().filter_map(|reader| Some((reader.peek()?, reader)));
        let (record, reader) = peeked.min_by_key(|(record, _)| record.time_ns)?;
        reader.take(&record, frame);
        Some(record)
    }

    /// Frames that found no room.
    pub fn lost(&self) -> u64 {
        self.0.iter().fold(0, |lost, reader| lost.saturating_add(reader.lost()))
    }

    /// How often a ring made no sense.
    pub fn broken(&self) -> u64 {
        self.0.iter().fold(0, |broken, reader| broken.saturating_add(reader.broken()))
    }
}

/// Makes the time of day of a record's time.
#[derive(Clone, Copy)]
pub struct Clock {
    offset: u64,
}

impl Clock {
    /// Nanoseconds since 1970.
    pub fn real(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_add(self.offset)
    }

    /// The same, now.
    pub fn now(self) -> u64 {
        real_now()
    }
}

fn real_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
