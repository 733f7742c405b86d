//! What `sv3 status --json` prints. docs/use/status.md documents it.
//!
//! A request at the control socket is one line (`status`). The answer is one line of JSON; then the supervisor closes
//! the connection. The answer to a request that fails is `{"error": "..."}`. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mirror::Mirror;

/// The whole switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// sv3's version.
    pub version: String,
    /// Version of the control protocol ([`crate::control::PROTOCOL`]); 0: before there was one.
    #[serde(default)]
    pub protocol: u32,
    /// The supervisor.
    pub supervisor: SupervisorStatus,
    /// The worker.
    pub worker: WorkerStatus,
    /// The front door that clients connect to.
    pub socket: String,
    /// Pending clients: connections that have no port, because they have said nothing yet or only asked.
    #[serde(default)]
    pub pending_clients: usize,
    /// Connected clients, by slot.
    pub ports: Vec<PortStatus>,
    /// Declared ports, by name, whether something is attached or not.
    #[serde(default)]
    pub declared: Vec<DeclaredPort>,
    /// Captures under way.
    #[serde(default)]
    pub captures: Vec<CaptureStatus>,
    /// Mirrors.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// Addresses that moved between ports again and again in the last five minutes.
    #[serde(default)]
    pub flaps: Vec<FlapStatus>,
}

impl Status {
    /// The port of this name.
    pub fn port(&self, name: &str) -> Option<&PortStatus> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// The supervisor process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Landlock ABI achieved; 0: the kernel has no landlock.
    pub landlock_abi: u32,
}

/// The worker process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Process id; absent between a death and the next start.
    pub pid: Option<u32>,
    /// Process id of the standby, once it is ready to take over.
    #[serde(default)]
    pub standby_pid: Option<u32>,
    /// Seconds since this worker started.
    pub uptime_s: u64,
    /// Workers that died and were replaced since the supervisor started.
    pub restarts: u64,
    /// Why the last worker died, in words.
    pub last_death: Option<String>,
    /// Landlock ABI achieved; 0: the kernel has no landlock.
    pub landlock_abi: u32,
    /// Data-path threads of a worker.
    #[serde(default = "one")]
    pub threads: u16,
    /// Processors that workers run on, as `--cpus` has it; absent: all that the kernel permits.
    #[serde(default)]
    pub cpus: Option<String>,
    /// Processor time that the worker has used since it started, all threads together, in milliseconds; absent if there
    /// is no worker.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
}

fn one() -> u16 {
    1
}

/// The answer to the requests `restart` and `upgrade` at the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverAnswer {
    /// Process id of the worker that served before.
    pub old_pid: u32,
    /// Process id of the worker that serves now.
    pub new_pid: u32,
    /// The gap: microseconds from the kill of the old worker until the new one served.
    pub gap_us: u64,
    /// Number of ports that were taken over.
    pub ports: usize,
}

/// The answer to the request `attach` at the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachAnswer {
    /// Name of the port.
    pub name: String,
    /// Its slot.
    pub slot: u16,
    /// Whether the port was there and waited for new files.
    pub resumed: bool,
}

/// A capture under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// Process that reads it.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Octets of each frame that are kept.
    pub snaplen: u32,
    /// Names of the ports; none: all ports.
    pub ports: Vec<String>,
}

/// An answer to the request `capture` at the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureAnswer {
    /// Slot and name of each port that is captured now.
    pub ports: Vec<(u16, String)>,
}

/// An address that moves between two ports again and again: there is a loop, or two machines have one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlapStatus {
    /// The address.
    pub address: String,
    /// Its VLAN; 0: the network of ports that know none.
    pub vlan: u16,
    /// Names of the ports: from where it moved last, and to where.
    pub ports: [String; 2],
    /// How often it moved, as far as that was told.
    pub moves: u64,
    /// Seconds since that was told last.
    pub ago_s: u64,
}

/// What `sv3 crashes --json` prints, the answer to the request `crashes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    /// The last deaths of workers that served, oldest first.
    pub crashes: Vec<Crash>,
}

/// The death of a worker that served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// When it was known, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// Process id; absent if the worker could not even be started.
    pub worker_pid: Option<u32>,
    /// The signal that killed it, by name (`SIGSEGV`); absent if it exited.
    pub signal: Option<String>,
    /// The status with which it exited.
    pub exit_code: Option<i32>,
    /// Why it died, in words. For people: the wording may change.
    pub cause: String,
    /// What it could not access, by its crash record.
    pub fault: Option<Fault>,
    /// The name of the forbidden syscall, if it died of one.
    pub syscall: Option<String>,
    /// Its panic message.
    pub panic: Option<String>,
    /// Number of the thread that died, by its crash record, or that hung; absent if the worker was killed from outside.
    #[serde(default)]
    pub thread: Option<usize>,
    /// The ring that it was serving, by its crash record.
    pub serving: Option<Serving>,
    /// The first octets of the current chain, virtio header and Ethernet header, in hexadecimal, by its crash record.
    #[serde(default)]
    pub frame: Option<String>,
    /// The last bursts that the thread served, newest first, by the ledger.
    #[serde(default)]
    pub trace: Vec<Burst>,
    /// If SIGKILL killed the worker and sv3 did not send it: the ports whose memory files grew most since they were
    /// admitted.
    #[serde(default)]
    pub grown: Vec<Growth>,
    /// Milliseconds since the process was started, including its time on standby.
    pub uptime_ms: u64,
    /// Microseconds from the moment when the death was known until the next worker served; absent until it does.
    pub gap_us: Option<u64>,
    /// Number of ports that the next worker took over; absent until it does.
    pub ports: Option<usize>,
}

/// Memory files that grew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Name of the port.
    pub port: String,
    /// By how many octets they grew.
    pub bytes: u64,
}

/// One burst in the trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// Microseconds before the last burst of the same thread.
    pub earlier_us: u64,
    /// Name of the sending port.
    pub port: String,
    /// Vring index.
    pub ring: u16,
    /// Number of chains that were taken.
    pub chains: u16,
}

/// An address that a worker could not access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Address in the worker.
    pub addr: u64,
    /// Name of the port whose memory this is; absent if it is not a guest's memory.
    pub port: Option<String>,
    /// Guest address of the memory region.
    pub region: Option<u64>,
}

/// A ring that was being served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Name of the port.
    pub port: String,
    /// Vring index.
    pub ring: u32,
}

/// One connected client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortStatus {
    /// Name, as in events: `p0`, `p1`, ... or as given to `sv3 attach --name`.
    pub name: String,
    /// The open files behind the port; absent for a vhost-user client.
    #[serde(default)]
    pub files: Option<FilesStatus>,
    /// The network card behind the port; absent if there is none.
    #[serde(default)]
    pub card: Option<CardStatus>,
    /// Slot.
    pub slot: u16,
    /// Process id of the client when it connected.
    pub client_pid: i32,
    /// User id of the client.
    pub client_uid: u32,
    /// `up` (a receive and a transmit ring run), `starting` (handshake under way) or `down` (stopped).
    pub link: Link,
    /// Seconds for which the client is still in quarantine, because it caused deaths of workers; absent if it is not.
    #[serde(default)]
    pub quarantine_s: Option<u64>,
    /// Why the standby goes on without the port, in words; absent if the standby has the port.
    #[serde(default)]
    pub standby_lacks: Option<String>,
    /// Why the client is in quarantine, in words.
    #[serde(default)]
    pub quarantine_why: Option<String>,
    /// The client migrates its guest to somewhere else: sv3 tells it which pages it writes.
    #[serde(default)]
    pub migrating: bool,
    /// Negotiated virtio features, by name.
    pub features: Vec<String>,
    /// Negotiated vhost-user protocol features, by name.
    pub protocol_features: Vec<String>,
    /// What is wrong with the client and what to do about it, in words; absent if nothing is.
    #[serde(default)]
    pub hint: Option<String>,
    /// MTU that the front-end sent; absent if none.
    pub mtu: Option<u64>,
    /// Rings that the client has set up, by vring index.
    pub rings: Vec<RingStatus>,
    /// Memory regions.
    pub memory: Vec<RegionStatus>,
    /// How much memory they use.
    #[serde(default)]
    pub memory_use: MemoryUse,
    /// Frames and octets taken from the guest and forwarded.
    pub from_guest: Traffic,
    /// Frames and octets delivered to the guest.
    pub to_guest: Traffic,
    /// Dropped frames by reason; reasons with no drops are left out.
    pub drops: BTreeMap<String, u64>,
    /// Times that the guest was signalled.
    pub calls: u64,
    /// Times that the guest's kicks woke the worker.
    pub kicks: u64,
    /// Pauses in which the guest's frames waited for buffers of their receivers.
    #[serde(default)]
    pub paused: Pauses,
    /// Pauses in which frames of other guests waited for this guest's buffers.
    #[serde(default)]
    pub paused_others: Pauses,
    /// Addresses that moved here from another port.
    #[serde(default)]
    pub moves: u64,
}

/// A declared port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPort {
    /// Its name.
    pub name: String,
    /// Its slot; absent if it has no socket of its own.
    #[serde(default)]
    pub slot: Option<u16>,
    /// Its socket; absent if what is attached under its name counts.
    #[serde(default)]
    pub socket: Option<String>,
    /// Whether it is in service.
    pub up: bool,
    /// Whether something is attached.
    pub attached: bool,
    /// What its operator wrote about it.
    #[serde(default)]
    pub description: String,
}

/// The open files behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesStatus {
    /// `tap`, `packets` or `stream`.
    pub transport: String,
    /// `plain`, `net-header` or `implied`: what is in front of each frame.
    pub form: String,
    /// `free`, `guarded` or `uplink`: which addresses the port may take.
    pub learning: String,
    /// Number of files: one for each queue pair; 0 while the port waits for new ones.
    pub queues: usize,
    /// Name of the tap or macvtap device, as the kernel tells it; absent for a socket.
    #[serde(default)]
    pub device: Option<String>,
    /// Frames to this device that the kernel dropped, because 1,000 waited for the switch (`tx_dropped`). `sv3 status`
    /// adds it where it sees the device; the switch itself cannot.
    #[serde(default)]
    pub kernel_drops: Option<u64>,
    /// Why the port does not run, in words; absent if it runs.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The port that owns an address which this port tried to take, and the address; absent if it tried none.
    #[serde(default)]
    pub conflict: Option<String>,
}

/// The network card behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardStatus {
    /// Its address on the PCI bus.
    pub address: String,
    /// Which card it is, in words; absent while the port waits for a card.
    #[serde(default)]
    pub model: Option<String>,
    /// Its own address, as the worker told; absent before that.
    #[serde(default)]
    pub mac: Option<String>,
    /// Number of queue pairs.
    pub queues: u16,
    /// It reads what guests send in their memory.
    #[serde(default)]
    pub zero_copy: bool,
    /// Speed of its link in Mbit/s; 0: no link; absent: the card does not run yet.
    #[serde(default)]
    pub speed_mbit: Option<u32>,
    /// Why the port does not run, in words; absent if it runs.
    #[serde(default)]
    pub stopped: Option<String>,
    /// What the card counts, by name ([`crate::card::Statistic`]).
    #[serde(default)]
    pub statistics: BTreeMap<String, u64>,
}

/// State of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// A receive and a transmit ring are started and enabled.
    Up,
    /// Connected; no ring has been started yet.
    Starting,
    /// Rings were started and are stopped, disabled or faulted.
    Down,
}

/// Frames and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Octets of Ethernet frames, without the virtio header.
    pub bytes: u64,
}

/// Pauses of transmit queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// Number of pauses.
    pub times: u64,
    /// Their total time, in microseconds.
    pub us: u64,
}

/// One ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RingStatus {
    /// Vring index; even: the guest receives.
    pub index: u16,
    /// `split` or `packed`.
    pub kind: String,
    /// Number of descriptors.
    pub size: u16,
    /// The ring is started.
    pub started: bool,
    /// The ring is enabled.
    pub enabled: bool,
    /// Why the worker stopped it by itself, in words.
    pub fault: Option<String>,
    /// Entries that workers have used so far, by the ledger.
    pub used: u64,
}

/// A client's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Octets of all regions.
    pub mapped: u64,
    /// Octets of their files that exist now; each file counts once.
    pub present: u64,
    /// Octets of their files that existed when each was admitted.
    pub present_before: u64,
    /// Regions that the client has removed and that a worker still has mapped.
    pub leaving_regions: usize,
}

/// One memory region.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Address for the guest.
    pub guest_addr: u64,
    /// Size in octets.
    pub size: u64,
    /// Where the region begins in its file, in octets.
    pub offset: u64,
    /// Size of the file when it was admitted, in octets.
    pub file_size: u64,
    /// Seals of the file by name (`shrink`, `grow`, ...); a file without `shrink` can be truncated by its client.
    pub seals: Vec<String>,
}
