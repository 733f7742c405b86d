//! The protocol between supervisor and worker, over the worker's stdin (a stream socket).
//!
//! The supervisor sends frames. A frame is a little-endian u32 length, that many octets of bincode (an [`Envelope`]),
//! then as many fds as [`Envelope::fds`] says, each sent by `passfd` in a message of its own. The worker sends
//! [`Report`]s of 32 octets each, plain little-endian: the supervisor runs no deserializer on data of a worker.
//!
//! The order is part of the protocol: the worker executes commands in the order of their `seq`, between two bursts. So
//! a [`ReportKind::Done`] for a [`Command::Barrier`] says that every earlier command has taken effect and that no frame
//! is being moved. The first worker and the hundredth are brought up by the same commands: a replay of what clients
//! have said.

mod report;

pub use report::{Report, ReportKind, RingFault, register_name};

use bincode::config;
use serde::{Deserialize, Serialize};

use crate::attachment::{FrameForm, Learning, Transport};
use crate::card::CardSettings;
use crate::port_set::PortSet;
use crate::rules::{PortRules, Vid};
pub use crate::snooping::SnoopingRun;

/// Octets of a frame's length prefix.
pub const FRAME_PREFIX: usize = 4;
/// Most octets of one encoded [`Envelope`]. A larger one is an error of the peer.
pub const FRAME_MAX: usize = 4096;
/// After a report that it has woken ([`ReportKind::Busy`]), a worker sends no further one for this long.
pub const BUSY_QUIET: std::time::Duration = std::time::Duration::from_millis(200);
/// The protocol's version, checked in [`Command::Start`]: a worker of another version refuses to start.
pub const VERSION: u32 = 12;

/// A numbered command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Number of the command: for each worker it starts at 1 and grows by one. Reports about a command carry it.
    pub seq: u64,
    /// The command.
    pub command: Command,
    /// The command's fd, if the worker inherited it at its start: then no fd follows. Each number is named once.
    pub inherited: Option<i32>,
}

/// How the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// [`VERSION`] of the supervisor.
    pub version: u32,
    /// Most microseconds to spin over empty rings before sleeping, as far as that pays; 0: sleep at once.
    pub poll_us: u32,
    /// Most descriptor chains taken from one ring at a time, 1 to [`Settings::MAX_BATCH`].
    pub batch: u16,
    /// How the switch snoops on IGMP and MLD; `None`: it does not.
    pub snooping: Option<SnoopingRun>,
}

impl Settings {
    /// The largest batch.
    pub const MAX_BATCH: u16 = 256;
}

/// [`Region::guest_addr`] of a log of dirty pages. No region of memory has this one.
pub const LOG_GUEST_ADDR: u64 = u64::MAX;

/// A range of a client's memory. All fields in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Address for the guest (its "physical" address).
    pub guest_addr: u64,
    /// Size.
    pub size: u64,
    /// Address in the front-end's own address space; ring addresses are given in it.
    pub user_addr: u64,
    /// Where the region begins in its file.
    pub offset: u64,
    /// Block size of the file (page or huge page); mappings are aligned to it.
    pub block: u64,
}

/// Addresses of a ring, in the front-end's address space (vhost-user `SET_VRING_ADDR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingAddr {
    /// Descriptor table.
    pub desc: u64,
    /// Driver area (available ring).
    pub avail: u64,
    /// Device area (used ring).
    pub used: u64,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortKind {
    /// Virtqueues in a client's memory (virtio 1.3, 2.6 to 2.8).
    Vrings,
    /// Open files: a tap or sockets ([`Command::FileOpen`]).
    Files,
    /// A network card that the worker drives ([`Command::CardOpen`]).
    Card,
    /// Frames in the worker's own memory, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    Memory,
}

/// How the worker uses the file of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSettings {
    /// How frames pass through it.
    pub transport: Transport,
    /// What is in front of each frame.
    pub form: FrameForm,
    /// Most octets of a frame's payload that the other side accepts.
    pub mtu: u32,
    /// Octets of the socket's send buffer (SO_SNDBUF as the kernel tells it); 0 for a tap.
    pub send_buffer: u32,
    /// Index of its input in [`crate::ledger::Ledger::inputs`]. No other file has it.
    pub input: u16,
    /// Names this opening of that input; not 0. Earlier ports of the slot had other numbers, as far as chance goes. A
    /// replay to another worker has the same number, and the input then goes on where it was.
    pub run: u32,
}

/// A command of the supervisor to a worker. `port` is a slot below [`crate::MAX_PORTS`]; `ring` is a vring index below
/// [`crate::MAX_RINGS`] (even: the guest receives, odd: the guest transmits).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first command. Fd: the ledger. Answered by [`ReportKind::Ready`].
    Start {
        /// How the worker runs.
        settings: Settings,
        /// Index of the worker's area in [`crate::ledger::Ledger::workers`].
        area: u8,
        /// The worker is a standby: it executes commands and maps memory, but touches no ring before
        /// [`Command::Promote`].
        standby: bool,
    },
    /// The serving worker is dead: the standby continues every started ring from the position that memory holds.
    Promote,
    /// Adds a port. A port of vrings has no memory, no rings and features 0 until further commands.
    PortAdd {
        /// Slot.
        port: u16,
        /// What is behind it.
        kind: PortKind,
        /// Which addresses it may take.
        learning: Learning,
    },
    /// The rules that a port gets by the next [`Command::RulesCommit`]. A port that was just added has
    /// [`PortRules::default`].
    RulesStage {
        /// Slot.
        port: u16,
        /// The rules.
        rules: Box<PortRules>,
    },
    /// All rules that were staged hold from now on, at once: no frame meets the old rules of one port and the new ones of
    /// another.
    RulesCommit,
    /// An address is at a slot until [`Command::AddressRemove`], whether there is a port or not. It does not age, and no
    /// other port takes it. Frames to it are dropped while there is no port. One that is at another slot moves.
    AddressAdd {
        /// Slot.
        port: u16,
        /// The VLAN; 0: the network of ports that know none.
        vid: Vid,
        /// The address.
        mac: [u8; 6],
    },
    /// The opposite of [`Command::AddressAdd`].
    AddressRemove {
        /// Slot.
        port: u16,
        /// The VLAN.
        vid: Vid,
        /// The address.
        mac: [u8; 6],
    },
    /// Forgets the addresses that were learnt, not those that were added.
    AddressFlush {
        /// Of this slot only.
        port: Option<u16>,
        /// Of this VLAN only.
        vid: Option<Vid>,
        /// This one only.
        mac: Option<[u8; 6]>,
    },
    /// Removes a port: the worker forgets what is behind it, the addresses that were learnt of it and its mappings.
    PortRemove {
        /// Slot.
        port: u16,
    },
    /// Sets the acknowledged virtio features, without `VHOST_F_LOG_ALL`. Sent only while no ring of the port runs.
    PortFeatures {
        /// Slot.
        port: u16,
        /// Feature bits.
        features: u64,
    },
    /// Adds a region to the next memory table (`SET_MEM_TABLE`). Fd: the memory. Nothing changes until
    /// [`Command::MemoryCommit`].
    RegionStage {
        /// Slot.
        port: u16,
        /// The region.
        region: Region,
    },
    /// The next memory table replaces the one in force. Running rings are looked up again, and stop with a fault if
    /// they are not in the table.
    MemoryCommit {
        /// Slot.
        port: u16,
    },
    /// Adds one region to the table in force (`ADD_MEM_REG`). Fd: the memory.
    RegionAdd {
        /// Slot.
        port: u16,
        /// The region.
        region: Region,
    },
    /// Removes a region from the table in force (`REM_MEM_REG`), found by guest address, user address and size. Rings
    /// inside the region stop with a fault.
    RegionRemove {
        /// Slot.
        port: u16,
        /// The region.
        region: Region,
    },
    /// Starts a ring at its position: a split ring at the `used.idx` in its memory; a packed ring at the position that
    /// the ledger has for this `run`, or else at `base`. Fd: kick. A running ring is started anew.
    RingStart {
        /// Slot.
        port: u16,
        /// Vring index.
        ring: u16,
        /// Number of descriptors: a power of two if split.
        size: u16,
        /// Addresses.
        addr: RingAddr,
        /// The base that the client has sent (vhost-user `SET_VRING_BASE`, the available half).
        base: u16,
        /// Counts the client's starts of the ring, from 1. A replay to another worker has the same number.
        run: u32,
    },
    /// The worker marks in this log the pages that it writes for the port's guest, from now on, in the place of an earlier
    /// log (vhost-user, "Migration"). Fd: the log's file. The region's guest address is [`LOG_GUEST_ADDR`].
    LogOpen {
        /// Slot.
        port: u16,
        /// Where the log lies in its file.
        region: Region,
    },
    /// The worker marks no more.
    LogClose {
        /// Slot.
        port: u16,
    },
    /// Sets where a ring's device area (used ring) lies in the log; kept over stop and start.
    RingLog {
        /// Slot.
        port: u16,
        /// Vring index.
        ring: u16,
        /// Its guest address; `None`: the client does not want it marked.
        addr: Option<u64>,
    },
    /// Stops a ring. Answered by [`ReportKind::RingStopped`] with the index of the next descriptor to take.
    RingStop {
        /// Slot.
        port: u16,
        /// Vring index.
        ring: u16,
    },
    /// Enables or disables a ring (`SET_VRING_ENABLE`); kept over stop and start. A new port's rings are disabled.
    RingEnable {
        /// Slot.
        port: u16,
        /// Vring index.
        ring: u16,
        /// Whether the ring is enabled.
        enable: bool,
    },
    /// Sets how used buffers are signalled; kept over stop and start. Fd: call, if `call` is set; otherwise the guest
    /// polls.
    RingCall {
        /// Slot.
        port: u16,
        /// Vring index.
        ring: u16,
        /// Whether an fd follows.
        call: bool,
    },
    /// Gives a port of files the file of a queue pair, in the place of an earlier one. Fd: the file, which does not
    /// block. Both queues of the pair start. They stop with a [`RingFault`] when the other side is gone.
    FileOpen {
        /// Slot.
        port: u16,
        /// Queue pair, below [`crate::MAX_QUEUE_PAIRS`].
        pair: u16,
        /// How to use the file.
        settings: FileSettings,
    },
    /// Closes the file of a queue pair. The port stays.
    FileClose {
        /// Slot.
        port: u16,
        /// Queue pair.
        pair: u16,
    },
    /// Gives a port its card's memory. Fd: the memory ([`crate::card`]).
    CardMemory {
        /// Slot.
        port: u16,
        /// How the card is used; the same as in [`Command::CardOpen`].
        settings: CardSettings,
    },
    /// Gives a port of a card the eventfd of one of its interrupts. Fd: the eventfd.
    CardInterrupt {
        /// Slot.
        port: u16,
        /// The MSI-X vector: a queue pair, or the number of queue pairs for the link and all else.
        vector: u16,
    },
    /// Gives a port of a card the container in which the worker maps guests' memory for the card to read
    /// ([`CardSettings::zero_copy`]). Fd: the container (VFIO). Memory that is not mapped is copied
    /// ([`ReportKind::NotPinned`]).
    CardContainer {
        /// Slot.
        port: u16,
        /// Most octets that may be mapped.
        limit: u64,
    },
    /// Gives a port its card, after its memory and its interrupts. Fd: the device (VFIO). The worker stops the card's
    /// queues, prepares the rings and reports [`ReportKind::CardReady`]. A standby does so when it is promoted.
    CardOpen {
        /// Slot.
        port: u16,
        /// How to use the card.
        settings: CardSettings,
    },
    /// The card may reach its memory: the worker starts the queues.
    CardStart {
        /// Slot.
        port: u16,
    },
    /// Sends a frame out of an uplink that comes back only by a loop ([`ReportKind::LoopFound`]).
    LoopProbe {
        /// Slot.
        port: u16,
        /// A number that nobody can guess.
        token: u64,
    },
    /// Broadcasts a RARP for `mac` in the port's name (`SEND_RARP`, after a live migration).
    SendRarp {
        /// Slot.
        port: u16,
        /// The guest's address.
        mac: [u8; 6],
    },
    /// Asks what would become of a frame from this port, and what decides: a [`ReportKind::Traced`] for each step.
    Trace {
        /// Slot.
        port: u16,
        /// The frame's first octets, at most [`crate::trace::FRAME_MAX`].
        frame: Vec<u8>,
    },
    /// Answered by [`ReportKind::Done`] when every earlier command has taken effect.
    Barrier,
    /// The switch snoops on IGMP and MLD in this way from now on. It replaces [`Settings::snooping`].
    Snoop {
        /// How; `None`: it does not.
        setting: Option<SnoopingRun>,
    },
    /// Begins a capture of no ports, or in the place of an earlier one. Fd: its file ([`crate::capture::CaptureFile`]).
    CaptureOpen {
        /// Below [`crate::capture::CAPTURES_MAX`].
        capture: u8,
        /// Octets of each frame that are kept.
        snaplen: u32,
    },
    /// The ports of a capture, in the place of earlier ones. A port that is removed is in no capture from then on.
    CapturePorts {
        /// Which capture.
        capture: u8,
        /// By slot.
        ports: Box<PortSet>,
    },
    /// Ends a capture.
    CaptureClose {
        /// Which capture.
        capture: u8,
    },
    /// Begins a mirror, or changes it. A port that is removed is in no mirror from then on.
    MirrorSet {
        /// Below [`crate::mirror::MIRRORS_MAX`].
        mirror: u8,
        /// The slot that gets the copies, and nothing else. What it sends is dropped.
        to: u16,
        /// The ports of which the frames that they send are copied.
        senders: Box<PortSet>,
        /// The ports of which the frames that they get are copied. A frame is copied once at most.
        receivers: Box<PortSet>,
    },
    /// Ends a mirror.
    MirrorEnd {
        /// Which mirror.
        mirror: u8,
    },
}

impl Command {
    /// How many fds belong to the command.
    pub fn fds(&self) -> usize {
        match self {
            Command::Start { .. }
            | Command::RegionStage { .. }
            | Command::RegionAdd { .. }
            | Command::RingStart { .. }
            | Command::LogOpen { .. }
            | Command::FileOpen { .. }
            | Command::CardMemory { .. }
            | Command::CardInterrupt { .. }
            | Command::CardContainer { .. }
            | Command::CardOpen { .. }
            | Command::CaptureOpen { .. }
            | Command::RingCall { call: true, .. } => 1,
            _ => 0,
        }
    }

    /// The slot that the command is about, if any.
    pub fn port(&self) -> Option<u16> {
        match self {
            Command::Start { .. }
            | Command::Promote
            | Command::RulesCommit
            | Command::Barrier
            | Command::Snoop { .. } => None,
            Command::CaptureOpen { .. } | Command::CapturePorts { .. } | Command::CaptureClose { .. } => None,
            Command::MirrorSet { .. } | Command::MirrorEnd { .. } => None,
            // It changes nothing about the port, and no client is at fault if it fails.
            Command::Trace { .. } => None,
            Command::AddressFlush { port, .. } => *port,
            Command::PortAdd { port, .. }
            | Command::RulesStage { port, .. }
            | Command::AddressAdd { port, .. }
            | Command::AddressRemove { port, .. }
            | Command::PortRemove { port }
            | Command::PortFeatures { port, .. }
            | Command::RegionStage { port, .. }
            | Command::MemoryCommit { port }
            | Command::RegionAdd { port, .. }
            | Command::RegionRemove { port, .. }
            | Command::RingStart { port, .. }
            | Command::LogOpen { port, .. }
            | Command::LogClose { port }
            | Command::RingLog { port, .. }
            | Command::RingStop { port, .. }
            | Command::RingEnable { port, .. }
            | Command::RingCall { port, .. }
            | Command::FileOpen { port, .. }
            | Command::FileClose { port, .. }
            | Command::CardMemory { port, .. }
            | Command::CardInterrupt { port, .. }
            | Command::CardContainer { port, .. }
            | Command::CardOpen { port, .. }
            | Command::CardStart { port }
            | Command::LoopProbe { port, .. }
            | Command::SendRarp { port, .. } => Some(*port),
        }
    }
}

/// Why an [`Envelope`] could not be encoded or decoded.
#[derive(Debug)]
pub struct Malformed(String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed command: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

fn codec() -> impl config::Config {
    config::standard().with_fixed_int_encoding().with_limit::<FRAME_MAX>()
}

impl Envelope {
    /// How many fds follow the frame.
    pub fn fds(&self) -> usize {
        if self.inherited.is_some() { 0 } else { self.command.fds() }
    }

    /// The frame without its fds: length prefix and body.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let body = bincode::serde::encode_to_vec(self, codec()).map_err(|e| Malformed(e.to_string()))?;
        let length = u32::try_from(body.len()).map_err(|e| Malformed(e.to_string()))?;
        Ok([&length.to_le_bytes(), body.as_slice()].concat())
    }

    /// Decodes a body: the octets after the length prefix.
    pub fn decode(body: &[u8]) -> Result<Envelope, Malformed> {
        let (envelope, used) =
            bincode::serde::decode_from_slice(body, codec()).map_err(|e| Malformed(e.to_string()))?;
        if used == body.len() { Ok(envelope) } else { Err(Malformed(format!("{used} of {} octets used", body.len()))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_round_trip_and_knows_its_fds() {
        let addr = RingAddr { desc: 1 << 40, avail: 2, used: 3 };
        let command = Command::RingStart { port: 7, ring: 3, size: 256, addr, base: 0, run: 1 };
        assert_eq!(command.fds(), 1);
        let sent = Envelope { seq: 9, command, inherited: None };
        let frame = sent.encode().unwrap();
        assert_eq!(u32::from_le_bytes(frame[..FRAME_PREFIX].try_into().unwrap()) as usize, frame.len() - FRAME_PREFIX);
        assert_eq!(Envelope::decode(&frame[FRAME_PREFIX..]).unwrap(), sent);
        assert_eq!((sent.fds(), Envelope { inherited: Some(7), ..sent }.fds()), (1, 0));
    }

    #[test]
    fn a_body_with_something_behind_it_is_malformed() {
        let mut frame = Envelope { seq: 1, command: Command::Barrier, inherited: None }.encode().unwrap();
        frame.push(0);
        assert!(Envelope::decode(&frame[FRAME_PREFIX..]).is_err());
    }
}
