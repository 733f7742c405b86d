//! The record itself: plain data. Times are numbers of a [`Clock`](super::Clock).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sv3::config::InForce;
use sv3::ipc::{Region, RingAddr};
use sv3::mirror::Mirror;
use sv3::snooping::SnoopingRun;
use sv3::status::Crash;

use super::{FileNumber, Unfit};

/// All that a supervisor leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// sv3's version, for an event.
    pub version: String,
    /// The supervisor that wrote it.
    pub pid: u32,
    /// The ledger.
    pub ledger: FileNumber,
    /// The area of the ledger that no worker of the old supervisor uses.
    pub free_area: u8,
    /// Listening sockets.
    pub doors: DoorsRecord,
    /// What is declared, and the slots of ports that have a door.
    #[serde(default)]
    pub declared: (InForce, BTreeMap<String, u16>),
    /// Clients that have a port, by slot, and pending clients.
    pub clients: Vec<ClientRecord>,
    /// Ports of open files, in the order in which they were attached.
    #[serde(default)]
    pub files: Vec<FilePortRecord>,
    /// Ports of network cards.
    #[serde(default)]
    pub cards: Vec<CardPortRecord>,
    /// Mirrors.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// How the switch snoops on IGMP and MLD.
    #[serde(default)]
    pub snooping: Option<SnoopingRun>,
    /// Blame by process.
    pub blames: Vec<OffenderRecord<i32>>,
    /// Blame by client class.
    pub classes: Vec<OffenderRecord<ClassRecord>>,
    /// What people read.
    pub telemetry: TelemetryRecord,
}

impl Record {
    /// As octets.
    pub fn encode(&self) -> Result<Vec<u8>, Unfit> {
        serde_json::to_vec(self).map_err(|error| Unfit(format!("the record cannot be written: {error}")))
    }

    /// From octets.
    pub fn decode(octets: &[u8]) -> Result<Record, Unfit> {
        serde_json::from_slice(octets).map_err(|error| Unfit(format!("the record cannot be read: {error}")))
    }
}

/// Listening sockets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoorsRecord {
    /// The front door.
    pub front: DoorRecord,
    /// The control socket.
    pub control: DoorRecord,
    /// The HTTP socket for metrics, and its address.
    pub http: Option<DoorRecord>,
    /// The doors for streams.
    #[serde(default)]
    pub streams: Vec<DoorRecord>,
    /// The doors of declared ports, by slot.
    #[serde(default)]
    pub declared: Vec<(u16, DoorRecord)>,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoorRecord {
    /// The socket.
    pub file: FileNumber,
    /// Its path or address.
    pub place: String,
    /// The service manager keeps its name.
    #[serde(default)]
    pub lent: bool,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Its slot; absent for a pending client.
    pub slot: Option<u16>,
    /// Its connection.
    pub connection: ConnectionRecord,
    /// What it has said.
    pub session: SessionRecord,
    /// The device behind its port.
    pub device: DeviceRecord,
    /// The event `no_memory` was written.
    pub told_of_memory: bool,
    /// The slot of the declared port at whose door it connected.
    #[serde(default)]
    pub home: Option<u16>,
    /// The end of its quarantine.
    pub quarantine: Option<i64>,
    /// It is in quarantine because of this class.
    pub suspect: Option<ClassRecord>,
    /// Its class, and since when it has had memory of this class.
    pub since: Option<(ClassRecord, i64)>,
}

/// A client's connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// The socket. The kernel says whose it is.
    pub socket: FileNumber,
    /// When the client connected.
    pub opened: i64,
    /// When the message that has begun must be complete.
    pub message_due: Option<i64>,
    /// The client has sent a message.
    pub spoke: bool,
    /// The octets of the message that has begun, and the files that came with them.
    pub part: (Vec<u8>, Vec<FileNumber>),
    /// Replies that the client has not read.
    pub replies: Vec<u8>,
}

/// What a client has said beside its device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Acknowledged protocol features.
    pub protocol_features: u64,
    /// The MTU that it told.
    pub mtu: Option<u64>,
    /// The device status that it told.
    pub status: u64,
    /// Commands that it has caused since it last waited for the worker.
    pub unfenced: usize,
}

/// A device of kind vrings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Acknowledged virtio features.
    pub features: u64,
    /// Rings are enabled unless the client disables them.
    pub starts_enabled: bool,
    /// A ring has been started.
    pub ever_started: bool,
    /// Pages are to be marked in the log.
    #[serde(default)]
    pub logs: bool,
    /// The log of dirty pages.
    #[serde(default)]
    pub log: Option<MemoryRecord>,
    /// Memory.
    pub memory: Vec<MemoryRecord>,
    /// Rings, by index.
    pub rings: Vec<RingRecord>,
}

/// A memory region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// The region.
    pub region: Region,
    /// Its file.
    pub file: FileNumber,
    /// Octets of the file when it was admitted.
    pub file_size: u64,
    /// Octets of the file that existed then.
    pub present: u64,
    /// Seals of the file when it was admitted.
    pub seals: i32,
}

/// A ring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RingRecord {
    /// Number of descriptors.
    pub size: Option<u16>,
    /// Addresses of its parts.
    pub addr: Option<RingAddr>,
    /// Guest address of its device area, for the log.
    #[serde(default)]
    pub log: Option<u64>,
    /// Index of the next available entry while it is stopped.
    pub base: u16,
    /// How often it was started.
    pub run: u32,
    /// The eventfd of the driver's notifications.
    pub kick: Option<FileNumber>,
    /// The eventfd of the device's notifications.
    pub call: Option<FileNumber>,
    /// The eventfd for errors.
    pub err: Option<FileNumber>,
    /// Whether it is enabled, if the client has said so.
    pub enable: Option<bool>,
    /// It was started.
    pub started: bool,
    /// Why it stopped by itself.
    pub fault: Option<u64>,
    /// Base and addresses at which an unfinished publication waits.
    #[serde(default)]
    pub unfinished: Option<(u16, RingAddr)>,
}

/// A port of open files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilePortRecord {
    /// Its slot.
    pub slot: u16,
    /// What was asked for, as [`sv3::attachment::Attachment`] writes it.
    pub attachment: String,
    /// Process and user that attached it.
    pub owner: (i32, u32),
    /// The later of two ports has the higher number.
    pub serial: u64,
    /// Why it does not run.
    pub stopped: Option<String>,
    /// The address that it tried to take.
    pub conflict: Option<String>,
    /// The file of each queue pair.
    pub files: Vec<FileNumber>,
    /// How often files were opened.
    pub run: u32,
    /// It is a stream client's, and its file is the connection.
    #[serde(default)]
    pub is_client: bool,
    /// The end of its quarantine.
    #[serde(default)]
    pub quarantine: Option<i64>,
    /// It is in quarantine because of this class.
    #[serde(default)]
    pub suspect: Option<ClassRecord>,
    /// Since when it counts as a newcomer of its class.
    #[serde(default)]
    pub since: Option<i64>,
}

/// A port of a network card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardPortRecord {
    /// Its slot.
    pub slot: u16,
    /// What was asked for, as [`sv3::card_attachment::CardAttachment`] writes it.
    pub attachment: String,
    /// Process and user that attached it.
    pub owner: (i32, u32),
    /// The later of two ports has the higher number.
    pub serial: u64,
    /// Why it does not run.
    pub stopped: Option<String>,
    /// Its files, in the order in which they came; none if the card is gone.
    pub files: Vec<FileNumber>,
    /// How often a card was opened.
    pub run: u32,
}

/// A client class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// User id.
    pub uid: u32,
    /// Whether the memory is sealed; absent: any memory.
    pub sealed: Option<bool>,
}

/// One offender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffenderRecord<Offender> {
    /// The offender.
    pub offender: Offender,
    /// The first death that led to the quarantine.
    pub began: i64,
    /// The end of its last quarantine.
    pub until: Option<i64>,
    /// Deaths of workers of the last time, and the processes that caused them.
    pub deaths: Vec<(i64, i32)>,
    /// How many quarantines it had.
    pub quarantines: u32,
}

/// What people read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetryRecord {
    /// When the switch was started.
    pub started: i64,
    /// Events that were lost.
    pub events_lost: u64,
    /// Workers that died and were replaced.
    pub restarts: u64,
    /// Why the last one died.
    pub last_death: Option<String>,
    /// The log of crashes.
    pub crash_log: CrashLogRecord,
}

/// The log of crashes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrashLogRecord {
    /// Deaths that are kept, oldest first: when, and all that is known.
    pub deaths: Vec<(i64, Crash)>,
    /// Deaths by cause.
    pub causes: Vec<(String, u64)>,
    /// Gaps, by class of the histogram.
    pub classes: Vec<u64>,
    /// Number of gaps.
    pub gaps: u64,
    /// Their sum in nanoseconds.
    pub gaps_ns: u64,
}
