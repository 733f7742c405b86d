//! The ledger: one memfd that the supervisor creates and every worker in turn maps and writes.
//!
//! It contains what must outlive a worker (counters, forwarding table, ring positions) and what explains its death
//! (crash record, heartbeats, the clients being served). All fields are atomics that the worker writes. The
//! supervisor reads them as hostile numbers: it uses none as a length or an address, and none unchecked as an index.
//! The file is sparse and sealed against resizing. So its pages cost memory only after they are touched, and reads
//! never fault. All zeroes is a valid, empty ledger, whose forwarding table has no secret.

mod thread;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::card::STATISTICS;
use crate::groups::GroupTable;
use crate::rules::LIST_MAX;
use crate::sealed_map::SealedMap;
use crate::{MAX_PORTS, MAX_QUEUE_PAIRS, MAX_RINGS};

pub use thread::{SleepClock, ThreadState, TraceEntry};

/// Number of entries of the forwarding table. 10,000 static addresses fit, and leave room for others.
pub const FDB_ENTRIES: usize = 65536;
/// Most entries of a packed ring that are published at once.
pub const JOURNAL_LEN: usize = 1024;
/// Number of workers at a time: one that serves and one on standby.
pub const WORKERS: usize = 2;
/// Most threads of one worker.
pub const THREADS: usize = 64;
/// Number of bursts in the trace of a thread.
pub const TRACE_LEN: usize = 32;
/// Octets of the current frame that are kept at a crash, including its virtio header.
pub const FRAME_HEAD: usize = 26;
/// Longest panic message that is kept, in octets.
pub const MESSAGE_MAX: usize = 256;

/// Number of inputs: one for each queue pair of each port. Their pages exist only where something was read.
pub const INPUTS: usize = MAX_PORTS * MAX_QUEUE_PAIRS;
/// Octets of one half of an input: more than the largest frame, so that a frame that has begun always fits.
pub const INPUT_HALF: usize = 128 * 1024;

/// The whole file.
#[repr(C, align(4096))]
pub struct Ledger {
    /// State of each worker: one serves, the other waits or has died.
    pub workers: [WorkerArea; WORKERS],
    /// Forwarding table.
    pub fdb: [FdbEntry; FDB_ENTRIES],
    /// Secret and counts of the forwarding table.
    pub fdb_head: FdbHead,
    /// A page for each port.
    pub ports: [PortCounters; MAX_PORTS],
    /// What packed rings are about to publish.
    pub journals: [PortJournals; MAX_PORTS],
    /// What was read from taps and sockets and is not forwarded yet.
    pub inputs: [Input; INPUTS],
    /// Who is a member of which multicast group.
    pub groups: GroupTable,
}

/// State of one worker.
#[repr(C, align(4096))]
pub struct WorkerArea {
    /// What killed the worker.
    pub crash: Crash,
    /// State of its threads.
    pub threads: [ThreadState; THREADS],
}

/// What a dying worker wrote about its death. The supervisor clears it before each start.
#[repr(C)]
pub struct Crash {
    /// Signal number; 0: nothing recorded. Stored last.
    pub signal: AtomicI32,
    /// The thread of the worker that died.
    pub thread: AtomicU32,
    /// `si_code`.
    pub code: AtomicI32,
    /// Fault address (`si_addr`), for SIGSEGV and SIGBUS.
    pub addr: AtomicU64,
    /// Instruction pointer.
    pub ip: AtomicU64,
    /// Syscall number, for SIGSYS (a violation of the seccomp policy).
    pub syscall: AtomicI32,
    /// Slot plus one of the port whose memory region contains `addr`; 0: none.
    pub fault_port: AtomicU32,
    /// Guest address of that region, if `fault_port` is not 0.
    pub fault_region: AtomicU64,
    /// 1: `frame_head` belongs to the current frame.
    pub has_frame: AtomicU32,
    /// The first octets of the current chain: virtio header and Ethernet header.
    pub frame_head: [AtomicU8; FRAME_HEAD],
    /// Octets used of `message`.
    pub message_len: AtomicU32,
    /// Panic message, UTF-8.
    pub message: [AtomicU8; MESSAGE_MAX],
}

/// One entry of the forwarding table; see [`crate::fdb`].
#[repr(C)]
pub struct FdbEntry {
    /// Address and port; 0: free.
    pub key: AtomicU64,
    /// When the address was seen last, its VLAN, and what kind of address it is.
    pub seen: AtomicU64,
}

/// What goes with the forwarding table.
#[repr(C, align(4096))]
pub struct FdbHead {
    /// The secret of the table's hash. Each ledger has its own.
    pub key: [AtomicU64; 4],
    /// Number of static addresses that are not in their own bucket, but in the one beside it.
    pub spilled: AtomicI32,
    /// Number of addresses that were learnt of each port and are in the table. A new worker counts again before it serves: the last one may have
    /// died after it changed an entry and before it changed the count.
    pub held: [AtomicI32; MAX_PORTS],
}

/// Counters and ring positions of one port.
#[repr(C, align(4096))]
pub struct PortCounters {
    /// Frames taken from the guest and forwarded or flooded.
    pub from_guest_frames: AtomicU64,
    /// Octets of them, without the virtio header.
    pub from_guest_bytes: AtomicU64,
    /// Frames delivered to the guest.
    pub to_guest_frames: AtomicU64,
    /// Octets of them.
    pub to_guest_bytes: AtomicU64,
    /// How often the guest was signalled (write to the call fd).
    pub calls: AtomicU64,
    /// How often a kick for this port woke the worker.
    pub kicks: AtomicU64,
    /// Dropped frames, by [`DropReason`].
    pub drops: [AtomicU64; 40],
    /// Position of each ring.
    pub rings: [RingPosition; MAX_RINGS],
    /// Pauses of this port's transmit rings, for lack of a receiver's buffers.
    pub paused: PauseCounters,
    /// Pauses of other ports' transmit rings, for lack of this port's buffers.
    pub paused_others: PauseCounters,
    /// What the network card behind it says.
    pub card: CardCounters,
    /// The Ethernet addresses that it has used first, as numbers, first octet highest; 0: none
    /// ([`crate::rules::Sources::First`]).
    pub claimed: [AtomicU64; LIST_MAX],
    /// How many addresses have moved here from another port.
    pub moves: AtomicU64,
}

/// What a network card says, as its worker has read it last.
#[repr(C)]
pub struct CardCounters {
    /// Its address, first octet highest; 0: not known.
    pub mac: AtomicU64,
    /// What it counts, by [`crate::card::Statistic`].
    pub statistics: [AtomicU64; STATISTICS],
}

/// Pauses of transmit rings.
#[repr(C)]
pub struct PauseCounters {
    /// How many.
    pub times: AtomicU64,
    /// Their total length in nanoseconds.
    pub ns: AtomicU64,
}

/// Position of one ring. The worker writes it at the end of each burst.
#[repr(C, align(64))]
pub struct RingPosition {
    /// Split ring: its `used.idx`. Packed ring: the position of the next descriptor (index, wrap counter in bit 15);
    /// above bit 32 the number of entries of its [`PublishJournal`] that are about to be published there.
    pub used: AtomicU64,
    /// The run ([`crate::ipc::Command::RingStart`]) to which the position belongs; 0: none.
    pub run: AtomicU32,
}

/// The journals of one port's rings.
pub type PortJournals = [PublishJournal; MAX_RINGS];

/// What one packed ring is about to publish. Used elements overwrite what the driver made available, so the next
/// worker needs this to finish a publication that a dying worker began.
#[repr(C, align(64))]
pub struct PublishJournal {
    /// Octets written (bits 0 to 31), buffer id (bits 32 to 47) and descriptors (bits 48 to 63) of each chain.
    pub entries: [AtomicU64; JOURNAL_LEN],
}

/// What was read from a tap or a socket and is not forwarded yet. So a worker's death loses no octet of a stream. Only
/// the worker knows how it is used.
#[repr(C, align(4096))]
pub struct Input {
    /// The run ([`crate::ipc::FileSettings::run`]) to which the rest belongs; 0: none.
    pub run: AtomicU32,
    /// Which octets are waiting, in one word, so that a new worker never sees half of a change.
    pub state: AtomicU64,
    /// Two messages (`struct mmsghdr`), used by turns. The kernel stores in it how many octets it gave, before the
    /// process can die.
    pub messages: [[AtomicU64; 8]; 2],
    /// The octets.
    pub halves: [[AtomicU8; INPUT_HALF]; 2],
}

impl Ledger {
    /// Index of the input of a queue pair.
    pub fn input_of(slot: u16, pair: u16) -> u16 {
        slot.wrapping_mul(MAX_QUEUE_PAIRS as u16).wrapping_add(pair)
    }
}

impl WorkerArea {
    /// Resets the area for a new worker with `threads` threads.
    pub fn clear(&self, threads: usize) {
        self.crash.clear();
        for thread in self.threads.iter().take(threads) {
            thread.bursts.store(0, Relaxed);
            thread.slept.store(0, Relaxed);
            for field in [&thread.port, &thread.ring] {
                field.store(0, Relaxed);
            }
        }
    }

    /// The state of thread `number`, if there can be one of that number.
    pub fn thread(&self, number: usize) -> Option<&ThreadState> {
        self.threads.get(number)
    }
}

/// Adds to a counter that has one writer: a load and a store, no locked instruction.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl PortCounters {
    /// Sets all counters to zero, for a new client in the slot.
    pub fn reset(&self) {
        let counters = [
            &self.from_guest_frames,
            &self.from_guest_bytes,
            &self.to_guest_frames,
            &self.to_guest_bytes,
            &self.calls,
            &self.kicks,
            &self.paused.times,
            &self.paused.ns,
            &self.paused_others.times,
            &self.paused_others.ns,
            &self.moves,
        ];
        let rings = self.rings.iter().map(|ring| &ring.used);
        let card = self.card.statistics.iter().chain([&self.card.mac]);
        self.rings.iter().for_each(|ring| ring.run.store(0, Relaxed));
        for counter in counters.into_iter().chain(&self.drops).chain(rings).chain(card).chain(&self.claimed) {
            counter.store(0, Relaxed);
        }
    }
}

impl Crash {
    /// Clears the record of the last death.
    pub fn clear(&self) {
        self.signal.store(0, Relaxed);
        self.thread.store(0, Relaxed);
        self.code.store(0, Relaxed);
        self.addr.store(0, Relaxed);
        self.ip.store(0, Relaxed);
        self.syscall.store(0, Relaxed);
        self.fault_port.store(0, Relaxed);
        self.fault_region.store(0, Relaxed);
        self.has_frame.store(0, Relaxed);
        self.message_len.store(0, Relaxed);
    }

    /// The first octets of the current chain, if there was one.
    pub fn read_frame_head(&self) -> Option<[u8; FRAME_HEAD]> {
        let mut octets = [0; FRAME_HEAD];
        for (to, from) in octets.iter_mut().zip(&self.frame_head) {
            *to = from.load(Relaxed);
        }
        (self.has_frame.load(Relaxed) != 0).then_some(octets)
    }

    /// Keeps the first [`MESSAGE_MAX`] octets of a panic message.
    pub fn write_message(&self, text: &str) {
        let length = text.len().min(MESSAGE_MAX);
        for (to, from) in self.message.iter().zip(text.bytes()) {
            to.store(from, Relaxed);
        }
        self.message_len.store(length as u32, Relaxed);
    }

    /// The panic message, made printable; empty if none.
    pub fn read_message(&self) -> String {
        let length = (self.message_len.load(Relaxed) as usize).min(MESSAGE_MAX);
        let octets: Vec<u8> = self.message.iter().take(length).map(|octet| octet.load(Relaxed)).collect();
        String::from_utf8_lossy(&octets).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A mapping of a ledger.
pub struct LedgerMap(SealedMap<Ledger>);

impl LedgerMap {
    /// Makes an empty ledger, with a secret for its forwarding table, and maps it. The memfd goes to each worker.
    pub fn create() -> std::io::Result<(OwnedFd, LedgerMap)> {
        let (fd, map) = SealedMap::create(c"sv3-ledger")?;
        let map = LedgerMap(map);
        // The standard library takes its keys from the kernel (getrandom), and nobody can predict the hashes that it
        // makes of them.
        let secret = RandomState::new();
        for (n, word) in map.fdb_head.key.iter().enumerate() {
            word.store(secret.hash_one(n), Relaxed);
        }
        Ok((fd, map))
    }

    /// Maps a ledger that another supervisor made, after a look whether it is one: of this size, and sealed.
    pub fn inherit(fd: &impl AsFd) -> std::io::Result<LedgerMap> {
        SealedMap::<Ledger>::check(fd)?;
        LedgerMap::map(fd)
    }

    /// Maps a ledger that the supervisor made. The fd may be closed afterwards.
    pub fn map(fd: &impl AsFd) -> std::io::Result<LedgerMap> {
        Ok(LedgerMap(SealedMap::map(fd)?))
    }
}

impl std::ops::Deref for LedgerMap {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drop_reason::DropReason;

    #[test]
    fn two_mappings_see_one_ledger_which_cannot_shrink() {
        let (fd, supervisor) = LedgerMap::create().unwrap();
        let worker = LedgerMap::map(&fd).unwrap();
        worker.ports[1023].drops[DropReason::Hairpin as usize].store(2, Relaxed);
        worker.workers[1].crash.write_message("index out\nof bounds");
        assert_eq!(supervisor.ports[1023].drops[DropReason::Hairpin as usize].load(Relaxed), 2);
        assert_eq!(supervisor.workers[1].crash.read_message(), "index out of bounds");
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn each_ledger_has_a_secret_of_its_own() {
        let key = || LedgerMap::create().unwrap().1.fdb_head.key.each_ref().map(|word| word.load(Relaxed));
        let words = [key(), key()].concat();
        assert!(words.iter().enumerate().all(|(at, word)| *word != 0 && !words[at + 1..].contains(word)));
    }

    #[test]
    fn a_worker_that_starts_forgets_what_as_many_threads_did() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let [area, _] = &ledger.workers;
        assert!(area.thread(THREADS).is_none());
        let ports = || [0, THREADS - 1].map(|number| area.thread(number).unwrap().port.load(Relaxed));
        for (number, port) in [(0, 7), (THREADS - 1, 8)] {
            area.thread(number).unwrap().port.store(port, Relaxed);
        }
        area.clear(1);
        assert_eq!(ports(), [0, 8]);
    }

    #[test]
    fn drop_reasons_fit() {
        assert!(DropReason::COUNT <= size_of::<[AtomicU64; 40]>() / 8);
        assert_eq!(size_of::<PortCounters>(), 4096);
    }
}
