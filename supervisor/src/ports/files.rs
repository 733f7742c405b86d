//! A port of open files: a tap, a macvtap, or a socket.
//!
//! The supervisor keeps the files for the port's life, so that a worker's death costs no carrier and no connection. If
//! the other side ends, the port that was attached at the control socket stays, without files, until it gets new ones
//! or is detached. A stream client's port ends with its connection.

mod record;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sv3::attachment::{Attachment, FrameForm, Learning, Transport};
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, FileSettings, PortKind};
use sv3::ledger::Ledger;
use sv3::status::FilesStatus;

use crate::clients::class::{ClientClass, MemoryClass};
use crate::clients::holder::Holder;
use crate::doors::listener::Peer;
use crate::doors::stream::StreamForm;
use crate::ports::file_kernel::{self, Admitted, has_hung_up};
use crate::ports::holdings::Holdings;
use crate::ports::kernel;
use crate::ports::port::{DOWN, Port, Replay};
use crate::ports::terms::Terms;
use crate::telemetry::event::{ClientId, Named};
use crate::workers::command::WorkerCommand;

/// How long after the other side of a socket has hung up the worker may take to read what is left and to report the
/// end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The port.
#[derive(Debug)]
pub struct FilePort {
    /// Its slot.
    pub slot: u16,
    /// What was asked for.
    pub attachment: Attachment,
    /// Process and user that attached it.
    pub owner: (i32, u32),
    /// A number that no other port has: the later of two uplinks has the higher one.
    pub serial: u64,
    /// Why it was stopped, in words.
    pub stopped: Option<String>,
    /// The end of its quarantine: workers are not told of it until then.
    pub quarantine: Option<Instant>,
    /// It is in quarantine because of this class.
    pub suspect: Option<ClientClass>,
    /// Since when it counts as a newcomer of its class; `None` if it was attached, for an owner attaches what is wanted.
    pub since: Option<Instant>,
    /// What it holds, as the budget counted it last.
    pub held: Holdings,
    /// The address that it tried to take and the owner of that address, in words.
    pub conflict: Option<String>,
    /// The slot of that owner.
    pub rival: Option<u16>,
    /// It tried to take an address of a port that was about to go, as a client does that comes back at once.
    pub came_back: bool,
    /// When the worker must have reported that the other side has hung up.
    pub end_due: Option<Instant>,
    /// What an operator said of it.
    pub terms: Rc<Terms>,
    /// A stream client's connection.
    peer: Option<Peer>,
    device: Option<String>,
    /// The file of each queue pair.
    files: Vec<OpenPair>,
    /// Which of all times that files were opened this is, for the ledger.
    run: u32,
}

/// The file of a queue pair.
#[derive(Debug)]
struct OpenPair {
    fd: Rc<ForeignFd>,
    send_buffer: u32,
}

impl FilePort {
    /// A port without files.
    pub fn new(slot: u16, attachment: Attachment, owner: (i32, u32), serial: u64) -> FilePort {
        let (stopped, conflict, device, files, end_due) = Default::default();
        let (quarantine, suspect, since, rival, peer, held) = (None, None, None, None, None, Holdings::NONE);
        FilePort {
            slot,
            attachment,
            owner,
            serial,
            stopped,
            quarantine,
            suspect,
            since,
            held,
            conflict,
            rival,
            came_back: false,
            end_due,
            terms: Rc::default(),
            peer,
            device,
            files,
            run: first_run(),
        }
    }

    /// The port of a stream client, whose files are its connection. The error says what is wrong with it.
    pub fn of_client(
        slot: u16,
        form: StreamForm,
        peer: Peer,
        serial: u64,
        terms: Rc<Terms>,
    ) -> Result<FilePort, String> {
        let attachment = Attachment {
            transport: Transport::Stream,
            name: terms.name.clone().unwrap_or(format!("p{slot}")),
            form: form.frames,
            mtu: form.mtu,
            learning: Learning::Guarded,
        };
        let mut port = FilePort::new(slot, attachment, (peer.pid, peer.uid), serial);
        port.take_files(vec![peer.stream.clone()])?;
        (port.since, port.peer, port.terms) = (Some(Instant::now()), Some(peer), terms);
        Ok(port)
    }

    /// The connection that another supervisor lent is this supervisor's from now on.
    pub fn own(&mut self) {
        self.peer.iter_mut().for_each(|peer| peer.is_lent = false);
    }

    /// Whether it is a client's: it ends with the connection.
    pub fn is_client(&self) -> bool {
        self.peer.is_some()
    }

    /// What identifies it when it is blamed: the client's process. For a port that was attached, a process id that no
    /// process has, so that it alone is blamed.
    pub fn holder(&self) -> Holder {
        let class = ClientClass { uid: self.owner.1, memory: MemoryClass::Any };
        let nobody = -1 - i32::try_from(self.serial & 0x3fff_ffff).unwrap_or(0);
        Holder { pid: if self.is_client() { self.owner.0 } else { nobody }, class }
    }

    /// Its name in events, and its process if it is a client's.
    pub fn named(&self) -> Named {
        let client = self.is_client().then_some(ClientId { slot: self.slot, pid: self.owner.0 });
        Named { name: self.name().to_string(), client }
    }

    /// What it holds.
    pub fn holdings(&self) -> Holdings {
        Holdings { fds: self.files.len(), regions: 0 }
    }

    /// Its name, as people see it.
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// Whether it is up and has files, and is neither stopped nor in quarantine.
    pub fn runs(&self) -> bool {
        self.terms.up && !self.files.is_empty() && self.stopped.is_none() && self.quarantine.is_none()
    }

    /// Whether somebody made one of its files block since it was admitted.
    pub fn blocks(&self) -> bool {
        self.runs() && self.files.iter().any(|file| kernel::blocks(file.fd.as_fd()))
    }

    /// The size of its tap's net header, if somebody changed it since.
    pub fn changed_header(&self) -> Option<i32> {
        let file = self.files.first().filter(|_| self.runs() && self.is_tap())?;
        file_kernel::changed_header(file.fd.as_fd())
    }

    /// Whether its files are a tap's or a macvtap's.
    pub fn is_tap(&self) -> bool {
        self.attachment.transport == Transport::Tap
    }

    /// Whether it waits for new files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Admits its files, one for each queue pair. The error says what to do.
    pub fn open(&mut self, fds: Vec<ForeignFd>) -> Result<(), String> {
        self.take_files(fds.into_iter().map(Rc::new).collect())
    }

    fn take_files(&mut self, fds: Vec<Rc<ForeignFd>>) -> Result<(), String> {
        let transport = self.attachment.transport;
        if fds.is_empty() || transport != Transport::Tap && fds.len() > 1 {
            return Err("a tap needs a file for each of its queue pairs, a socket is one file".to_string());
        }
        let mut files = Vec::new();
        let mut device = None;
        for (at, fd) in fds.into_iter().enumerate() {
            let Admitted { device: name, send_buffer } = file_kernel::admit((*fd).as_fd(), transport)?;
            file_kernel::examine_waiting((*fd).as_fd(), transport)?;
            if at > 0 && device != name {
                return Err("its files belong to different devices".to_string());
            }
            device = name;
            files.push(OpenPair { fd, send_buffer });
        }
        (self.files, self.device, self.stopped, self.end_due) = (files, device, None, None);
        (self.conflict, self.rival) = (None, None);
        self.run = self.run.wrapping_add(1).max(1);
        Ok(())
    }

    /// The other side is gone, or the files are useless: closes them. Returns the commands for workers.
    pub fn close(&mut self, why: String) -> Vec<WorkerCommand> {
        let commands = self.stop(why);
        self.files.clear();
        self.end_due = None;
        commands
    }

    /// Stops the port and keeps its files. Returns the commands for workers.
    pub fn stop(&mut self, why: String) -> Vec<WorkerCommand> {
        self.stopped = Some(why);
        self.close_commands()
    }

    /// The commands that take its files from workers.
    pub fn close_commands(&self) -> Vec<WorkerCommand> {
        let pairs = 0..u16::try_from(self.files.len()).unwrap_or(0);
        pairs.map(|pair| Command::FileClose { port: self.slot, pair }.into()).collect()
    }

    /// The port in this slot is gone. If it owned the address that this one tried to take, this one may have it now.
    pub fn rival_left(&mut self, slot: u16) {
        if self.rival == Some(slot) {
            (self.conflict, self.rival) = (None, None);
        }
    }

    /// The other side has hung up. The worker reads what is left, and has some time to report the end.
    pub fn hung_up(&mut self) {
        if !self.files.is_empty() {
            self.end_due.get_or_insert_with(|| Instant::now() + LAST_WORDS);
        }
    }

    /// The commands that give workers its files.
    pub fn open_commands(&self) -> Vec<WorkerCommand> {
        if !self.runs() {
            return Vec::new();
        }
        let Attachment { transport, form, mtu, .. } = self.attachment;
        let open = |(pair, file): (u16, &OpenPair)| {
            let settings = FileSettings {
                transport,
                form,
                mtu,
                send_buffer: file.send_buffer,
                input: Ledger::input_of(self.slot, pair),
                run: self.run,
            };
            WorkerCommand::with_fd(Command::FileOpen { port: self.slot, pair, settings }, file.fd.clone())
        };
        (0..).zip(&self.files).map(open).collect()
    }

    /// The kind of its files, as /proc shows it.
    pub fn kind_of_files(&self) -> &'static str {
        if self.attachment.transport == Transport::Tap { "file" } else { "socket" }
    }

    /// Its files, for the inventory and for epoll.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.files.iter().map(|file| &file.fd)
    }

    /// Whether the other side of a socket is gone, although the supervisor may not have been told yet.
    pub fn has_hung_up(&self) -> bool {
        self.attachment.transport != Transport::Tap && self.files().any(|fd| has_hung_up(fd.as_fd()))
    }

    /// Its part of the status.
    pub fn status(&self) -> FilesStatus {
        let Attachment { transport, form, learning, .. } = &self.attachment;
        let transport = match transport {
            Transport::Tap => "tap",
            Transport::Packets => "packets",
            Transport::Stream => "stream",
        };
        let form = match form {
            FrameForm::Plain => "plain",
            FrameForm::NetHeader => "net-header",
            FrameForm::Implied => "implied",
        };
        let learning = match learning {
            Learning::Free => "free",
            Learning::Guarded => "guarded",
            Learning::Uplink => "uplink",
        };
        FilesStatus {
            transport: transport.to_string(),
            form: form.to_string(),
            learning: learning.to_string(),
            queues: self.files.len(),
            device: self.device.clone(),
            kernel_drops: None,
            stopped: self.stopped.clone().or_else(|| (!self.terms.up).then(|| DOWN.to_string())),
            conflict: self.conflict.clone(),
        }
    }
}

/// A number that earlier ports of the slot did not have, as far as chance goes. What was read for them may still be in
/// the ledger. To look there would make a page exist for each input.
fn first_run() -> u32 {
    RandomState::new().hash_one(()) as u32
}

impl Replay for FilePort {
    fn port(&self) -> Port {
        let (slot, learning, terms) = (self.slot, self.attachment.learning, self.terms.clone());
        Port { slot, kind: PortKind::Files, learning, terms }
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        self.port().add().into_iter().chain(self.open_commands()).collect()
    }

    fn is_waiting(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn no_port_goes_on_with_what_was_read_for_another_one() {
        let run = |port: &FilePort| match port.open_commands()[0].command {
            Command::FileOpen { settings, .. } => settings.run,
            ref other => panic!("{other:?}"),
        };
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            let mut port = FilePort::new(3, Attachment::parse("stream up").unwrap(), (7, 8), 1);
            for _ in 0..2 {
                let (ours, _) = UnixStream::pair().unwrap();
                port.open(vec![OwnedFd::from(ours).into()]).unwrap();
                assert!(run(&port) != 0 && seen.insert(run(&port)));
            }
        }
    }
}
