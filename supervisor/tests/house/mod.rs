//! A supervisor in a folder of its own, and a front-end that attaches to it. Neither runs as root.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sv3::status::{PortStatus, Status};
use sv3::virtio::VIRTIO_F_RING_PACKED;
use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// `nobody`.
const USER: u32 = 65534;
/// Octets of a guest's memory.
pub const MEMORY: u64 = 1 << 20;

/// Waits for something that must come soon.
pub fn until(mut done: impl FnMut() -> bool) {
    let due = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < due, "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The folder with the sockets, and the supervisor.
pub struct House {
    folder: TempDir,
    pub socket: PathBuf,
    pub control: PathBuf,
    supervisor: Cell<Option<Child>>,
    pid: u32,
}

impl House {
    /// A folder.
    pub fn empty() -> House {
        let folder = tempfile::tempdir().unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(folder.path(), Some(USER), Some(USER)).unwrap();
        }
        let (socket, control) = (folder.path().join("s"), folder.path().join("c"));
        House { folder, socket, control, supervisor: Cell::new(None), pid: 0 }
    }

    /// A supervisor that serves.
    pub fn start() -> House {
        let mut house = House::empty();
        let worker = fake_worker();
        let log = fs::File::create(house.path("log")).unwrap();
        let mut child = house.command(&worker).stderr(log).stdout(Stdio::null()).spawn().unwrap();
        house.pid = child.id();
        until(|| {
            let log = || fs::read_to_string(house.path("log")).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", log());
            !house.events("listen").is_empty()
        });
        house.supervisor.set(Some(child));
        house
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, worker: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--no-new-privs"]);
        if nix::unistd::geteuid().is_root() {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg("--").arg(self.install(Path::new(env!("CARGO_BIN_EXE_sv3-supervisor"))));
        let worker = if worker.exists() { self.install(worker) } else { worker.to_path_buf() };
        command.arg("--socket").arg(&self.socket).arg("--control").arg(&self.control).arg("--worker").arg(worker);
        command.stdin(Stdio::null());
        command
    }

    /// A link or copy of a binary where any user may run it.
    fn install(&self, binary: &Path) -> PathBuf {
        let there = self.path(binary.file_name().unwrap().to_str().unwrap());
        if !there.exists() {
            fs::hard_link(binary, &there).or_else(|_| fs::copy(binary, &there).map(drop)).unwrap();
        }
        there
    }

    /// A supervisor that is to fail; what it says.
    pub fn run_to_end(&self, worker: &Path) -> String {
        let output = self.command(worker).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// Another supervisor at the same place.
    pub fn second_switch(&self) -> String {
        self.run_to_end(&fake_worker())
    }

    pub fn ask(&self, request: &str) -> String {
        let mut control = UnixStream::connect(&self.control).unwrap();
        control.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = control.read_to_string(&mut answer);
        answer
    }

    pub fn status(&self) -> Status {
        serde_json::from_str(&self.ask("status")).unwrap()
    }

    pub fn port(&self, slot: u16) -> PortStatus {
        self.status().ports.into_iter().find(|port| port.slot == slot).unwrap()
    }

    /// The messages of all events of a kind.
    pub fn events(&self, kind: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events
            .filter(|event| event["event"] == kind)
            .map(|event| event["message"].as_str().unwrap().to_string())
            .collect()
    }

    /// Makes the worker misbehave.
    pub fn misbehave(&self, guest: &Guest, how: u8) {
        let mut stream = &guest.stream;
        let mut message = [19u32, 1, 8].map(u32::to_ne_bytes).concat();
        message.extend([how, 0, 0, 0, 0, 0, 0, 0]);
        stream.write_all(&message).unwrap();
    }

    /// How many fds the supervisor holds. It is not dumpable, so only root sees them, and others ask by sudo.
    pub fn fds(&self) -> usize {
        let root = nix::unistd::geteuid().is_root();
        let mut command = Command::new(if root { "ls" } else { "sudo" });
        command.args(if root { &[][..] } else { &["-n", "ls"] }).arg(format!("/proc/{}/fd", self.pid));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().count()
    }

    pub fn end(&self) -> ExitStatus {
        let mut supervisor = self.supervisor.take().unwrap();
        kill(Pid::from_raw(self.pid as i32), Signal::SIGTERM).unwrap();
        supervisor.wait().unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
            if std::thread::panicking() {
                eprintln!("{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            }
        }
    }
}

/// Built by a plain `cargo test`, not by `cargo test --test`.
fn fake_worker() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_sv3-supervisor")).with_file_name("examples/fake_worker");
    assert!(path.exists(), "{} is missing; run `cargo build -p sv3-supervisor --examples`", path.display());
    path
}

/// A front-end.
pub struct Guest {
    pub frontend: Frontend,
    /// The same connection, for what the crate cannot say.
    pub stream: UnixStream,
    memory: OwnedFd,
    kicks: [EventFd; 2],
}

impl Guest {
    /// Connected, features negotiated.
    pub fn negotiate(house: &House) -> Guest {
        let stream = UnixStream::connect(&house.socket).unwrap();
        let mut frontend = Frontend::from_stream(stream.try_clone().unwrap(), 2);
        let memory = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&memory, MEMORY as i64).unwrap();
        let kicks = [EventFd::new(0).unwrap(), EventFd::new(0).unwrap()];
        frontend.set_owner().unwrap();
        // Split rings, whose base is the index alone.
        let features = frontend.get_features().unwrap() & !VIRTIO_F_RING_PACKED.mask();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::all()).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(frontend.get_queue_num().unwrap(), 16);
        frontend.set_features(features).unwrap();
        Guest { frontend, stream, memory, kicks }
    }

    /// Two rings that run.
    pub fn attach(house: &House) -> Guest {
        let guest = Guest::negotiate(house);
        guest.set_memory(MEMORY).unwrap();
        guest.start(0);
        guest.start(1);
        guest
    }

    pub fn set_memory(&self, size: u64) -> vhost::Result<()> {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: 0x7000_0000_0000,
            mmap_offset: 0,
            mmap_handle: self.memory.as_fd().as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).map(drop)
    }

    /// Cuts its memory off under the worker.
    pub fn truncate(&self) {
        nix::unistd::ftruncate(&self.memory, 0).unwrap();
    }

    pub fn start(&self, ring: usize) {
        let base = 0x7000_0000_0000 + 0x1_0000 * ring as u64;
        let config = VringConfigData {
            queue_max_size: 256,
            queue_size: 256,
            flags: 0,
            desc_table_addr: base,
            avail_ring_addr: base + 0x2000,
            used_ring_addr: base + 0x4000,
            log_addr: None,
        };
        let mut frontend = self.frontend.clone();
        self.frontend.set_vring_num(ring, 256).unwrap();
        self.frontend.set_vring_addr(ring, &config).unwrap();
        self.frontend.set_vring_base(ring, 0).unwrap();
        self.frontend.set_vring_call(ring, &self.kicks[ring]).unwrap();
        self.frontend.set_vring_kick(ring, &self.kicks[ring]).unwrap();
        frontend.set_vring_enable(ring, true).unwrap();
    }
}
