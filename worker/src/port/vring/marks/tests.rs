//! A guest that migrates while frames come: what the client copies by the marks is the guest's memory, whenever the worker
//! dies and whenever the client looks at the log.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use sv3::ipc::RingAddr;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use super::super::driver::{BASE, Driver, PackedDriver, REGION};
use super::super::queue::either;
use super::super::setup::RingSetup;
use super::super::virtqueue::Virtqueue;
use super::super::{Vring, Workspace};
use super::{Descriptor, Marks, STEPS};
use crate::memory::deferred::DeferredRoom;
use crate::memory::dirty_log::client::LogFile;
use crate::memory::frame_head::Snapshot;
use crate::memory::slice::GuestSlice;
use crate::port::cost::DESCRIPTOR;
use crate::port::kind::Kind;
use crate::port::sink::{DeliveryState, Outgoing, Sink, Stay};
use crate::process::crash_points::armed;

/// Rings whose parts lie on different pages.
const SPLIT: u16 = 1024;
const PACKED: u16 = 256;
/// Where a split ring begins: soon its used entries are on another page.
const FIRST: u16 = SPLIT - 20;
/// Chains that the driver has at most, and descriptors of each.
const CHAINS: u16 = 8;
const PARTS: u16 = 4;
const TABLES: u64 = BASE + 0x8000;
const DATA: u64 = BASE + 0x1_0000;
const PAGE: u64 = 4096;

/// The driver of a split ring or of a packed one.
enum Side {
    Split(Box<Driver>, RingSetup),
    Packed(Box<PackedDriver>),
}

impl Side {
    fn new(packed: bool) -> Side {
        if packed {
            return Side::Packed(Box::new(PackedDriver::new(PACKED)));
        }
        let ledger: &'static LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let mut driver = Driver::new(SPLIT);
        driver.begin_at(FIRST);
        let (position, journal) = (&ledger.ports[0].rings[0], &ledger.journals[0][0]);
        let setup = RingSetup { size: SPLIT, addr: driver.addr(), base: 0, run: 1, position, journal };
        Side::Split(Box::new(driver), setup)
    }

    fn guest(&mut self) -> &mut Driver {
        match self {
            Side::Split(driver, _) => driver,
            Side::Packed(driver) => &mut driver.guest,
        }
    }

    fn setup(&self) -> RingSetup {
        match self {
            Side::Split(_, setup) => *setup,
            Side::Packed(driver) => driver.setup(),
        }
    }

    /// Makes chain `number` available: its buffers, in a table or not.
    fn offer(&mut self, number: u16, buffers: &[(u64, u32)], indirect: bool) {
        let (place, count) = (number % CHAINS, buffers.len() as u16);
        let table = TABLES + u64::from(place) * 0x100;
        let more = |at: u16| if at + 1 < count { VIRTQ_DESC_F_NEXT } else { 0 };
        match self {
            Side::Split(driver, _) => {
                for (at, (addr, len)) in (0..).zip(buffers) {
                    let (to, at) = if indirect { (table, at) } else { (BASE, place * PARTS + at) };
                    let first = if indirect { 0 } else { place * PARTS };
                    driver.describe_at(to, at, (*addr, *len, VIRTQ_DESC_F_WRITE | more(at - first), at + 1));
                }
                if indirect {
                    driver.describe(place * PARTS, (table, 16 * u32::from(count), VIRTQ_DESC_F_INDIRECT, 0));
                }
                driver.offer(place * PARTS);
            }
            Side::Packed(driver) if indirect => {
                for (at, (addr, len)) in (0..).zip(buffers) {
                    let rest = u64::from(*len) | u64::from(VIRTQ_DESC_F_WRITE) << 48;
                    driver.guest.write(table + 16 * at, &[addr.to_le_bytes(), rest.to_le_bytes()].concat());
                }
                assert!(driver.offer(number, &[(table, 16 * u32::from(count), VIRTQ_DESC_F_INDIRECT)]));
            }
            Side::Packed(driver) => {
                let buffers: Vec<_> = buffers.iter().map(|(addr, len)| (*addr, *len, VIRTQ_DESC_F_WRITE)).collect();
                assert!(driver.offer(number, &buffers));
            }
        }
    }

    /// How many chains the driver has back, of `out` that it gave away.
    fn take_used(&mut self, out: u16, back: u16) -> u16 {
        match self {
            Side::Split(driver, _) => driver.used_idx().wrapping_sub(back).min(out),
            Side::Packed(driver) => (0..out).take_while(|_| driver.take_used().is_some()).count() as u16,
        }
    }
}

/// A guest that migrates.
struct Migration {
    side: Side,
    vring: Vring,
    workspace: Workspace,
    room: DeferredRoom,
    log: LogFile,
    /// The guest's memory at its destination.
    copy: Vec<u8>,
    features: u64,
    /// Chains that were made available, and that came back.
    offered: u16,
    back: u16,
}

impl Migration {
    fn new(features: u64) -> Migration {
        let packed = VIRTIO_F_RING_PACKED.of(features);
        let (mut side, first) = (Side::new(packed), if packed { 0 } else { FIRST });
        let copy = side.guest().read(BASE, 2 * REGION as usize);
        side.guest().trace = Some(Vec::new());
        let mut migration = Migration {
            side,
            vring: Vring::default(),
            workspace: Workspace::new(),
            room: DeferredRoom::new(64),
            log: LogFile::new((BASE + 2 * REGION) / PAGE / 8, 0x800),
            copy,
            features,
            offered: first,
            back: first,
        };
        migration.start();
        migration
    }

    /// A worker begins to use the ring.
    fn start(&mut self) {
        let setup = self.side.setup();
        let memory = self.side.guest().memory.clone();
        let RingAddr { used, .. } = setup.addr;
        let log_addr = memory.guest_addr_of_user(used);
        self.vring = Vring { setup: Some(setup), log: Some(self.log.log()), log_addr, ..Vring::default() };
        self.vring.begin(&memory, self.features).unwrap();
    }

    /// What the guest itself writes, the client knows otherwise.
    fn copy_traced(&mut self) {
        for (addr, octets) in std::mem::take(self.side.guest().trace.as_mut().unwrap()) {
            let at = (addr - BASE) as usize;
            self.copy[at..at + octets.len()].copy_from_slice(&octets);
        }
    }

    /// The client copies what is marked.
    fn copy_marked(&mut self) {
        self.copy_traced();
        for page in self.log.take() {
            let at = (page * PAGE - BASE) as usize;
            let octets = self.side.guest().read(page * PAGE, PAGE as usize);
            self.copy[at..at + PAGE as usize].copy_from_slice(&octets);
        }
    }

    /// The driver gets chains back and makes others available. `kind`: lengths and places of their buffers.
    fn drive(&mut self, kind: u16) {
        self.back = self.back.wrapping_add(self.side.take_used(self.offered.wrapping_sub(self.back), self.back));
        while self.offered.wrapping_sub(self.back) < CHAINS {
            let number = self.offered;
            let base = DATA + u64::from(number % CHAINS) * 0x1_8000 + u64::from(kind % 5) * 0x333;
            let small = [(base, 1536)];
            let pieces = [(base, 12), (base + 0x2000, 2000), (base + 0x5ff0, 0x9000)];
            // For the guest one buffer, for the worker the end of one file and the beginning of another.
            let across = [(base, 12), (BASE + REGION - 700, 1400)];
            let buffers = match kind.wrapping_add(number) % 4 {
                0 | 1 => &small[..],
                2 => &pieces,
                _ => &across,
            };
            self.side.offer(number, buffers, kind.is_multiple_of(3));
            self.offered = self.offered.wrapping_add(1);
        }
        self.copy_traced();
    }

    /// The worker delivers frames of these lengths and publishes them, or dies before.
    fn deliver(&mut self, lens: &[usize], publishes: bool, fill: u8) {
        let Migration { vring, workspace, room, .. } = self;
        let mut state = DeliveryState { deferred: room.begin(), cost: 0, missed: 0, now_ns: 0, stay: Stay::OFF };
        for len in lens {
            let mut octets = vec![fill; *len];
            let slices = [GuestSlice::of_host(&mut octets)];
            let frame = Outgoing {
                hdr: &NetHdr::NONE,
                slices: &slices,
                skip: 0,
                len: *len,
                snapshot: Snapshot::NOTHING,
                plain: None,
            };
            if vring.deliver(workspace, &mut state, &frame).is_err() {
                break;
            }
        }
        state.deferred.settle();
        room.end(&mut state.deferred);
        if let Some(queue) = vring.queue.as_mut().filter(|_| publishes) {
            queue.publish();
        }
    }
}

type Step = (u16, Vec<usize>, bool, u32, u8, bool);

fn migrates(features: u64, steps: &[Step]) {
    let mut migration = Migration::new(features);
    for (kind, lens, publishes, passes, fill, looks) in steps {
        migration.drive(*kind);
        armed::arm(*passes);
        let death = catch_unwind(AssertUnwindSafe(|| migration.deliver(lens, *publishes, *fill)));
        armed::arm(u32::MAX);
        if *looks {
            migration.copy_marked();
        }
        if death.is_err() || !publishes {
            migration.room = DeferredRoom::new(64);
            migration.start();
        }
        if fill.is_multiple_of(3) {
            migration.vring.arm();
            if fill.is_multiple_of(2) {
                migration.vring.disarm();
            }
        }
    }
    // The rings stop, and the client looks for the last time.
    let Migration { vring, .. } = &mut migration;
    let position = vring.end().map(|queue| either!(&queue, ring => Virtqueue::position(ring)));
    assert!(position.is_some());
    migration.copy_marked();
    let source = migration.side.guest().read(BASE, 2 * REGION as usize);
    let differs = (0..2 * REGION as usize).find(|at| source[*at] != migration.copy[*at]);
    assert_eq!(differs.map(|at| format!("{:#x}", BASE + at as u64)), None);
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lens = proptest::collection::vec(prop_oneof![14usize..1500, 1500usize..9000, 9000usize..40_000], 0..5);
    let passes = prop_oneof![4 => Just(u32::MAX), 1 => 0u32..12];
    proptest::collection::vec(
        (any::<u16>(), lens, prop::bool::weighted(0.9), passes, any::<u8>(), any::<bool>()),
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_marked_is_all_that_was_written(steps in steps(), options in 0u8..16) {
        let bit = |bit: u8, feature: Feature| if options >> bit & 1 != 0 { feature.mask() } else { 0 };
        let features = bit(0, VIRTIO_F_RING_PACKED) | bit(1, VIRTIO_NET_F_MRG_RXBUF) | bit(2, VIRTIO_RING_F_EVENT_IDX);
        migrates(features | VIRTIO_F_VERSION_1.mask() | VIRTIO_RING_F_INDIRECT_DESC.mask(), &steps);
    }
}

#[test]
fn a_frame_marks_the_pages_of_its_octets_and_of_its_used_entry_only() {
    for packed in [false, true] {
        let packed_bit = if packed { VIRTIO_F_RING_PACKED.mask() } else { 0 };
        let mut migration = Migration::new(VIRTIO_F_VERSION_1.mask() | packed_bit);
        migration.side.offer(0, &[(DATA + 0xf00, 0x9000)], false);
        migration.log.take();
        migration.deliver(&[300], true, 1);
        // The header ends 12 octets behind 0xf00, and the frame in the next page. `used.idx` is not on the entry's page.
        let ring = if packed { vec![BASE / PAGE] } else { vec![BASE / PAGE + 4, BASE / PAGE + 6] };
        let wanted = [ring, vec![DATA / PAGE, DATA / PAGE + 1]].concat();
        assert_eq!(migration.log.take().into_iter().collect::<Vec<_>>(), wanted, "packed: {packed}");
    }
}

/// A client may change its log, and start its ring, as often as it likes. Each time costs the ring's own areas. Only a worker
/// that takes over a ring looks at chains.
#[test]
fn chains_that_are_available_are_marked_at_a_take_over_and_not_when_the_client_changes_something() {
    for packed in [false, true] {
        let packed_bit = if packed { VIRTIO_F_RING_PACKED.mask() } else { 0 };
        let mut migration = Migration::new(VIRTIO_F_VERSION_1.mask() | packed_bit);
        migration.side.offer(0, &[(DATA, 0x1000)], false);
        migration.log.take();
        migration.vring.mark();
        let of_log = migration.log.take();
        let (memory, features) = (migration.side.guest().memory.clone(), migration.features);
        let mut again = |new_run: u32| {
            migration.vring.end();
            let setup = migration.vring.setup.as_mut().unwrap();
            (setup.run, setup.base) = (setup.run + new_run, if packed { 1 << 15 } else { 0 });
            migration.vring.begin(&memory, features).unwrap();
            migration.log.take()
        };
        let of_client = [again(1), again(0), again(1)];
        let setup = migration.vring.setup;
        migration.vring = Vring { setup, log: Some(migration.log.log()), ..Vring::default() };
        migration.vring.begin(&memory, features).unwrap();
        let of_take_over = migration.log.take();
        let has_buffer = |pages: &std::collections::BTreeSet<u64>| pages.contains(&(DATA / PAGE));
        assert!(of_client.iter().chain([&of_log]).all(|pages| !pages.is_empty() && !has_buffer(pages)));
        assert!(has_buffer(&of_take_over), "packed: {packed}");
    }
}

#[test]
fn what_is_not_the_clients_memory_is_not_marked() {
    for packed in [false, true] {
        let packed_bit = if packed { VIRTIO_F_RING_PACKED.mask() } else { 0 };
        let mut migration = Migration::new(VIRTIO_F_VERSION_1.mask() | packed_bit);
        migration.side.offer(0, &[(BASE - PAGE, 0x1000)], false);
        migration.side.offer(1, &[(BASE + REGION - PAGE, 0x2000)], false);
        migration.start();
        let pages: Vec<_> =
            migration.log.take().into_iter().filter(|page| *page < BASE / PAGE || *page > BASE / PAGE + 7).collect();
        let border = (BASE + REGION) / PAGE;
        assert_eq!(pages, [border - 1, border], "packed: {packed}");
    }
}

#[test]
fn marks_are_charged() {
    for packed in [false, true] {
        let packed_bit = if packed { VIRTIO_F_RING_PACKED.mask() } else { 0 };
        let mut migration = Migration::new(VIRTIO_F_VERSION_1.mask() | packed_bit);
        (0..3).for_each(|number| migration.side.offer(number, &[(DATA, 12), (DATA + 12, 0x1000)], false));
        migration.deliver(&[300, 300, 300], true, 1);
        let queue = migration.vring.queue.as_ref().unwrap();
        assert_eq!((queue.take_marks_cost(), queue.take_marks_cost()), (6 * DESCRIPTOR, 0), "packed: {packed}");
    }
}

#[test]
fn a_hostile_ring_costs_a_bounded_time() {
    let mut migration = Migration::new(VIRTIO_F_VERSION_1.mask());
    let guest = migration.side.guest();
    // Chains without end, of nothing and of everything.
    for at in 0..SPLIT {
        guest.describe(
            at,
            (u64::from(at) << 60, u32::from(at % 2) * u32::MAX, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, at),
        );
        guest.offer(at);
    }
    migration.start();
    let marks = Marks::new(migration.log.log(), &migration.side.guest().memory.clone(), Some(u64::MAX), u64::MAX);
    marks.device_area(7, u64::MAX);
    marks.descriptors(0, 9);
    let mut look = marks.look(STEPS);
    look.begin(u64::MAX);
    let mut steps = 0;
    while look.packed(&Descriptor { addr: 0, len: 0, flags: 2, next: 0 }) {
        steps += 1;
    }
    assert!(steps == STEPS && look.is_over());
}
