//! Target `marks`. A guest migrates: whatever its rings contain, and whatever its client does with the log meanwhile, what the
//! client copies by the marks is the guest's memory. A ring marks the pages that a plain model says, and no others.
//!
//! Three rings share a memory, two to receive and one to transmit. The guest writes anything into them, except that no
//! buffer lies over a ring: a guest that has its device write there spoils its own migration.

mod model;
mod rings;

use std::collections::BTreeSet;

use sv3::fuzz::Input;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use self::model::pages;
use self::rings::{Area, RINGS, Ring, TABLES};
use crate::memory::deferred::DeferredRoom;
use crate::memory::dirty_log::client::LogFile;
use crate::port::vring::Workspace;
use crate::port::vring::driver::{BASE, Driver, REGION};

const PAGE: u64 = 4096;
/// Where buffers lie: behind rings and tables.
const DATA: u64 = BASE + 0x2_0000;
const END: u64 = BASE + 2 * REGION;
/// Octets of a log of all memory.
const WHOLE: u64 = END / PAGE / 8;

thread_local! {
    static LEDGER: &'static LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    static PARTS: std::cell::RefCell<Option<Parts>> = const { std::cell::RefCell::new(None) };
}

/// What takes long to be made.
struct Parts {
    driver: Driver,
    /// The guest's memory at its destination.
    copy: Vec<u8>,
    workspace: Workspace,
    /// Runs of rings, which are never the same.
    run: u32,
}

/// Octets: negotiated features (1), size of the rings (1), where they lie (1 each), then steps; see [`Guest::step`].
pub fn marks(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut guest = Guest::new(&mut input);
    while !input.is_empty() {
        guest.step(&mut input);
    }
    guest.look();
    guest.clean();
}

struct Guest {
    parts: Parts,
    features: u64,
    rings: Vec<Ring>,
    room: DeferredRoom,
    /// The log and its octets; `None`: nothing is marked.
    log: Option<(LogFile, u64)>,
    /// Pages of buffers that were written since the client looked last.
    written: BTreeSet<u64>,
    /// A worker died: it marks what it may have written.
    died: bool,
}

impl Guest {
    fn new(input: &mut Input<'_>) -> Guest {
        let options = input.u8();
        let bit = |bit: u8, feature: Feature| if options >> bit & 1 != 0 { feature.mask() } else { 0 };
        let features = bit(0, VIRTIO_F_RING_PACKED)
            | bit(1, VIRTIO_NET_F_MRG_RXBUF)
            | bit(2, VIRTIO_RING_F_EVENT_IDX)
            | bit(3, VIRTIO_RING_F_INDIRECT_DESC)
            | bit(4, VIRTIO_F_VERSION_1);
        let mut parts = PARTS.take().unwrap_or_else(|| Parts {
            driver: Driver::new(1),
            copy: vec![0; 2 * REGION as usize],
            workspace: Workspace::new(),
            run: 0,
        });
        let size = 1 << input.below(9);
        let ledger = LEDGER.with(|ledger| *ledger);
        let rings = (0..RINGS).map(|number| {
            parts.run += 1;
            Ring::new((number, size, parts.run), input.u8(), ledger)
        });
        let rings: Vec<Ring> = rings.collect();
        let (room, log) = (DeferredRoom::new(64), Some((LogFile::new(WHOLE, 0), WHOLE)));
        let mut guest = Guest { parts, features, rings, room, log, written: BTreeSet::new(), died: false };
        for number in 0..RINGS {
            guest.begin(number);
        }
        guest
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let number = input.below(RINGS);
        match input.below(12) {
            0..3 => {
                let writes = self.rings[number].offer(input, self.features);
                writes.into_iter().for_each(|(at, octets)| self.write(at, &octets));
            }
            3 => {
                let entry = rings::descriptor(input, VIRTQ_DESC_F_WRITE);
                self.write(TABLES + input.below(1024) as u64 * 16, &entry);
            }
            4 => {
                let (at, octets) = self.rings[number].scribble(input);
                self.write(at, &octets);
            }
            5..8 => {
                let lens: Vec<usize> = (0..input.below(5)).map(|_| 14 + usize::from(input.u16()) % 40_000).collect();
                let publishes = input.u8() < 240;
                self.serve(number, &lens, publishes);
            }
            8 => {
                self.rings[number].suppress(input.below(2) == 0);
            }
            9 => self.look(),
            10 => self.change_log(input),
            _ => self.start_again(number),
        }
    }

    /// The guest writes. The client knows.
    fn write(&mut self, at: u64, octets: &[u8]) {
        self.parts.driver.write(at, octets);
        let from = (at - BASE) as usize;
        self.parts.copy[from..from + octets.len()].copy_from_slice(octets);
    }

    /// A worker begins to use a ring.
    fn begin(&mut self, number: usize) {
        let log = self.log.as_ref().map(|(file, _)| file.log());
        self.rings[number].begin(&self.parts.driver.memory, self.features, log);
    }

    /// The worker receives frames for a ring, or takes those of the guest, and publishes; or it dies before.
    fn serve(&mut self, number: usize, lens: &[usize], publishes: bool) {
        let Guest { parts, rings, room, features, .. } = self;
        let Some(ring) = rings.get_mut(number).filter(|ring| ring.vring.queue.is_some()) else { return };
        let before = ring.snapshot(&parts.driver);
        let is_whole = match ring.transmits() {
            true => ring.take(&parts.driver.memory, *features),
            false => ring.deliver((&mut parts.workspace, room), lens),
        };
        if !publishes {
            self.die();
            return;
        }
        ring.publish();
        let used = ring.used_since(&before, &parts.driver, *features);
        self.written.extend(used.iter().flat_map(|(addr, len)| pages(*addr, *len)));
        if !is_whole {
            self.rings[number].vring.end();
        }
    }

    /// The worker dies. The next one takes over all rings.
    fn die(&mut self) {
        self.room = DeferredRoom::new(64);
        self.died = true;
        for number in 0..RINGS {
            let runs = self.rings[number].vring.queue.is_some();
            self.rings[number].forget();
            if runs {
                self.begin(number);
            }
        }
    }

    /// The client stops a ring and starts it anew.
    fn start_again(&mut self, number: usize) {
        self.parts.run += 1;
        let run = self.parts.run;
        self.rings[number].stop(run);
        self.begin(number);
    }

    /// The client looks at the log and copies what is marked.
    fn look(&mut self) {
        let Some((file, octets)) = &self.log else { return };
        let (marked, end) = (file.take(), 8 * octets);
        assert!(file.around().iter().all(|octet| *octet == 0), "it wrote beside the log");
        self.compare_marks(&marked, end);
        let copied = marked.into_iter().chain(end.max(BASE / PAGE)..END / PAGE);
        let copied: Vec<u64> = copied.filter(|page| (BASE / PAGE..END / PAGE).contains(page)).collect();
        copied.into_iter().for_each(|page| self.copy(page * PAGE, PAGE as usize));
        self.compare_memory();
    }

    fn compare_marks(&mut self, marked: &BTreeSet<u64>, end: u64) {
        let (written, died) = (std::mem::take(&mut self.written), std::mem::take(&mut self.died));
        let missing = written.iter().find(|page| **page < end && !marked.contains(page));
        assert_eq!(missing, None, "a page that was written is not marked");
        let areas: Vec<Area> = self.rings.iter().flat_map(|ring| ring.areas(self.features)).collect();
        let allowed = areas.iter().filter_map(|area| area.marked.map(|at| pages(at, area.len)));
        let allowed: BTreeSet<u64> = allowed.flatten().collect();
        let extra = marked.iter().find(|page| !written.contains(page) && !allowed.contains(page));
        assert!(died || extra.is_none(), "page {extra:?} is marked, and was not written");
        // What the marks of the rings' own areas say.
        for area in areas {
            for offset in 0..area.len {
                let page = area.marked.and_then(|at| at.checked_add(offset)).map(|at| at / PAGE);
                if page.is_none_or(|page| page >= end || marked.contains(&page)) {
                    self.copy(area.at + offset, 1);
                }
            }
        }
    }

    fn copy(&mut self, at: u64, len: usize) {
        let Parts { driver, copy, .. } = &mut self.parts;
        let from = (at - BASE) as usize;
        copy[from..from + len]
            .copy_from_slice(&driver.whole()[from / REGION as usize][from % REGION as usize..][..len]);
    }

    fn compare_memory(&self) {
        let Parts { driver, copy, .. } = &self.parts;
        for (region, copied) in driver.whole().into_iter().zip(copy.chunks(REGION as usize)) {
            if region != copied {
                let at = region.iter().zip(copied).position(|(ours, theirs)| ours != theirs);
                panic!("octet {at:x?} of a region was written, and its page is not marked");
            }
        }
    }

    /// The client gives another log, takes it away, or moves a ring's area in it. Octets: what (1), then the log's size and
    /// offset (2 each), or ring and address (1, 8).
    fn change_log(&mut self, input: &mut Input<'_>) {
        self.look();
        match input.below(4) {
            0 => self.set_log(None),
            1 => self.set_log(Some((WHOLE, 0))),
            2 => {
                let size = 1 + u64::from(input.u16()) % WHOLE;
                self.set_log(Some((size, u64::from(input.u16()))));
            }
            _ => {
                let (number, kind) = (input.below(RINGS), input.u8());
                let ring = &mut self.rings[number];
                ring.vring.log_addr = match kind % 4 {
                    0 => None,
                    1 => Some(ring.used_at()),
                    2 => Some(u64::MAX - u64::from(input.u16())),
                    _ => Some(u64::from(input.u32()) << 2),
                };
                ring.vring.mark();
            }
        }
    }

    fn set_log(&mut self, log: Option<(u64, u64)>) {
        let was_off = self.log.is_none();
        self.log = log.map(|(size, offset)| (LogFile::new(size, offset), size));
        for ring in &mut self.rings {
            ring.vring.log = self.log.as_ref().map(|(file, _)| file.log());
            ring.vring.mark();
        }
        if was_off {
            // A migration begins: the client copies everything.
            (self.written, self.died) = (BTreeSet::new(), false);
            self.copy(BASE, REGION as usize);
            self.copy(BASE + REGION, REGION as usize);
        }
    }

    /// Restores memory for the next input.
    fn clean(mut self) {
        self.rings.clear();
        let Parts { driver, copy, .. } = &mut self.parts;
        let dirty: Vec<u64> = (0..2 * REGION / PAGE)
            .filter(|page| {
                let from = (page * PAGE) as usize;
                let octets = &driver.whole()[from / REGION as usize][from % REGION as usize..][..PAGE as usize];
                octets.iter().any(|octet| *octet != 0)
            })
            .collect();
        dirty.into_iter().for_each(|page| driver.write(BASE + page * PAGE, &[0; PAGE as usize]));
        copy.fill(0);
        PARTS.set(Some(self.parts));
    }
}
