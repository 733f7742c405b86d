//! What a worker says to the supervisor: reports of a fixed size, plain little-endian.

use super::VERSION;

/// The kind of a report. Each kind says here what `value` and `detail` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ReportKind {
    /// The worker is confined and has mapped the ledger. `value`: virtio features that its data path serves; `detail`:
    /// [`VERSION`] in the low half, landlock ABI achieved (0: none) in the high half; `port` and `ring`: the digest of
    /// the worker's seccomp policy, high and low half. See [`Report::ready`].
    Ready = 1,
    /// The worker has reached a `Command::Barrier`.
    Done = 2,
    /// `Command::RingStop` executed. `value`: index of the next available entry (vring base; of a packed
    /// ring with the wrap counter in bit 15); 0 if it never ran.
    RingStopped = 3,
    /// A ring stopped by itself or could not start. `value`: a [`RingFault`]; `detail`, if it is
    /// [`RingFault::BadCard`]: the first eight octets of the register's name, first octet lowest, or 0.
    RingFault = 4,
    /// A command could not be executed (mmap failed, unknown port). `value`: errno or 0.
    Failed = 5,
    /// The worker has woken, and has not reported so for `BUSY_QUIET`: the watchdog must look at its heartbeats.
    Busy = 6,
    /// All memory that the commands up to `seq` removed (`Command::MemoryCommit`, `Command::RegionRemove`,
    /// `Command::LogOpen`, `Command::LogClose`, `Command::PortRemove`) is unmapped. No barrier waits for this report. Each later one has a higher `seq`.
    Unmapped = 7,
    /// The frame of a `Command::LoopProbe` came in at an uplink. `port`: that uplink. `value`: its token.
    LoopFound = 8,
    /// A port tried to take an address that belongs to another port (`Learning::Guarded`). Sent once for each port
    /// that is added. `port`: the one that tried; `ring`: the slot of the owner; `value`: the address, first octet
    /// highest.
    AddressConflict = 9,
    /// A card's queues are stopped and its rings are prepared (`Command::CardOpen`). The supervisor lets the card reach
    /// its memory, and answers with `Command::CardStart`.
    CardReady = 10,
    /// A card's link changed, and once after each `Command::CardStart`. `value`: its speed in Mbit/s; 0: no link.
    CardLink = 11,
    /// A step of a `Command::Trace`: see [`crate::trace::Step`], which says what all fields mean.
    Traced = 12,
    /// An address moves between two ports again and again. `port`: the slot that it moved to last; `ring`: the slot from
    /// which; `value`: the address, first octet highest (bits 0 to 47), and its VLAN (bits 48 to 59); `detail`: how often it
    /// has moved since the last such report, or within a short time. At most one in a second.
    AddressFlaps = 13,
    /// A guest's memory cannot be mapped for a card to read ([`super::Command::CardContainer`]): its frames are copied.
    /// `port`: the guest; `value`: errno.
    NotPinned = 14,
}

/// Why a ring or a file stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum RingFault {
    /// The ring's addresses are not completely inside one memory region.
    Unmapped = 1,
    /// The ring's addresses are not aligned as virtio 1.3, 2.7 asks.
    Misaligned = 2,
    /// The driver claims more available entries than the ring has.
    AvailOverrun = 3,
    /// The ring's size is out of range, or a split ring's size is not a power of two.
    BadSize = 4,
    /// The kick fd cannot be waited for.
    BadKick = 5,
    /// A packed ring's base is beyond its size.
    BadBase = 6,
    /// A chain of a packed ring does not end.
    EndlessChain = 7,
    /// The device behind a file does not exist any more, or the peer of a socket is gone.
    Gone = 8,
    /// A stream gave a length that no frame has, so the next frame cannot be found.
    BadLength = 9,
    /// A stream's frame was not complete for too long.
    Unfinished = 10,
    /// A file cannot be read, written or waited for.
    BadFile = 11,
    /// A card does not answer: it was pulled out, or its registers read as all ones.
    CardGone = 12,
    /// A card did not do in time what its data sheet promises, or wrote what it never writes.
    BadCard = 13,
}

impl RingFault {
    /// Decodes a report's value.
    pub fn from_value(value: u64) -> Option<RingFault> {
        use RingFault::*;
        let rings = [Unmapped, Misaligned, AvailOverrun, BadSize, BadKick, BadBase, EndlessChain];
        let files = [Gone, BadLength, Unfinished, BadFile];
        rings.into_iter().chain(files).chain([CardGone, BadCard]).find(|fault| *fault as u64 == value)
    }

    /// In words, for events.
    pub fn words(self) -> &'static str {
        match self {
            RingFault::Unmapped => "the ring does not lie in one memory region",
            RingFault::Misaligned => "the ring's address is misaligned",
            RingFault::AvailOverrun => "the driver made more entries available than the ring has",
            RingFault::BadSize => "the ring's size is not a power of two up to 32768",
            RingFault::BadKick => "the kick fd cannot be waited for",
            RingFault::BadBase => "the ring's base is beyond its size",
            RingFault::EndlessChain => "a chain of the packed ring does not end",
            RingFault::Gone => "the device or the peer is gone",
            RingFault::BadLength => "the stream has a frame of a length that no frame has",
            RingFault::Unfinished => "the stream has a frame that did not become complete",
            RingFault::BadFile => "the file cannot be read, written or waited for",
            RingFault::CardGone => "the card does not answer",
            RingFault::BadCard => "the card does not do what its data sheet says",
        }
    }
}

/// The name of a register in a report ([`ReportKind::RingFault`]): letters, digits, spaces and underscores only. `None`:
/// there is none, or it has other octets.
pub fn register_name(detail: u64) -> Option<String> {
    let octets = detail.to_le_bytes();
    let name: String = octets.iter().take_while(|octet| **octet != 0).map(|octet| char::from(*octet)).collect();
    let good = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '_';
    (!name.is_empty() && name.chars().all(good)).then_some(name)
}

/// One report of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it says.
    pub kind: ReportKind,
    /// Slot, or 0.
    pub port: u16,
    /// Vring index, or 0.
    pub ring: u16,
    /// Number of the command that it answers, or 0.
    pub seq: u64,
    /// See [`ReportKind`].
    pub value: u64,
    /// See [`ReportKind`].
    pub detail: u64,
}

impl Report {
    /// Octets of one report.
    pub const SIZE: usize = 32;

    /// A report whose other fields are 0.
    pub fn new(kind: ReportKind, seq: u64) -> Report {
        Report { kind, port: 0, ring: 0, seq, value: 0, detail: 0 }
    }

    /// The report that a worker of this version is ready, with its landlock ABI and the virtio features that it serves.
    pub fn ready(landlock_abi: u32, offers: u64) -> Report {
        let detail = u64::from(landlock_abi) << 32 | u64::from(VERSION);
        Report { value: offers, detail, ..Report::new(ReportKind::Ready, 1) }
    }

    /// The report with the digest of the worker's seccomp policy.
    pub fn with_policy(self, digest: u32) -> Report {
        Report { port: (digest >> 16) as u16, ring: digest as u16, ..self }
    }

    /// Of a [`ReportKind::Ready`]: the digest of the seccomp policy.
    pub fn policy(&self) -> u32 {
        u32::from(self.port) << 16 | u32::from(self.ring)
    }

    /// Of a [`ReportKind::Ready`]: the worker's protocol version.
    pub fn version(&self) -> u32 {
        self.detail as u32
    }

    /// Of a [`ReportKind::Ready`]: the landlock ABI achieved.
    pub fn landlock_abi(&self) -> u32 {
        (self.detail >> 32) as u32
    }

    /// The wire form.
    pub fn to_bytes(self) -> [u8; Report::SIZE] {
        let mut out = [0; Report::SIZE];
        out[0..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[2..4].copy_from_slice(&self.port.to_le_bytes());
        out[4..6].copy_from_slice(&self.ring.to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.value.to_le_bytes());
        out[24..32].copy_from_slice(&self.detail.to_le_bytes());
        out
    }

    /// Decodes what a worker wrote; `None` for an unknown kind.
    pub fn from_bytes(b: &[u8; Report::SIZE]) -> Option<Report> {
        use ReportKind::*;
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| b[at + i]));
        let all = [Ready, Done, RingStopped, RingFault, Failed, Busy, Unmapped, LoopFound, AddressConflict];
        let kind = all
            .into_iter()
            .chain([CardReady, CardLink, Traced, AddressFlaps, NotPinned])
            .find(|kind| *kind as u16 == word(0))?;
        Some(Report { kind, port: word(2), ring: word(4), seq: long(8), value: long(16), detail: long(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_has_a_name_or_none() {
        let of = |octets: &[u8; 8]| register_name(u64::from_le_bytes(*octets));
        assert_eq!(of(b"RXDCTL\0\0").as_deref(), Some("RXDCTL"));
        assert_eq!(of(b"VFMAILBO").as_deref(), Some("VFMAILBO"));
        for none in [b"\0\0\0\0\0\0\0\0", b"\x1b[31m\0\0\0", b"RX\nDCTL\0", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_report_survives_the_round_trip_and_an_unknown_kind_is_none() {
        let sent = Report { kind: ReportKind::RingStopped, port: 1, ring: 2, seq: 3, value: 4, detail: 5 };
        let mut bytes = sent.to_bytes();
        assert_eq!(Report::from_bytes(&bytes), Some(sent));
        bytes[0] = 0xee;
        assert_eq!(Report::from_bytes(&bytes), None);
    }
}
