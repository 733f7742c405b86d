//! A port of open files: a tap, a macvtap, or a socket.
//!
//! The supervisor keeps the files for the port's life, so that a worker's death costs no carrier and no connection. If
//! the other side ends, the port that was attached at the control socket stays, without files, until it gets new ones
//! or is detached. A stream client's port ends with its connection.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::attachment::{Attachment, FrameForm, Learning, Transport};
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, FileSettings, PortKind, RingFault};
use sv3::ledger::Ledger;
use sv3::status::FilesStatus;

use crate::clients::class::{ClientClass, MemoryClass};
use crate::clients::holder::Holder;
use crate::ports::file_kernel::{self, Admitted};
use crate::ports::port::{Port, Replay};
use crate::workers::command::WorkerCommand;

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
    /// Why it does not run, in words.
    pub stopped: Option<String>,
    /// The address that it tried to take and the owner of that address, in words.
    pub conflict: Option<String>,
    device: Option<String>,
    /// The file of each queue pair.
    files: Vec<OpenPair>,
    /// How often files were opened.
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
        let (stopped, conflict, device, files, run) = Default::default();
        FilePort { slot, attachment, owner, serial, stopped, conflict, device, files, run }
    }

    /// What identifies it when it is blamed: a process id that no process has, so that it alone is blamed.
    pub fn holder(&self) -> Holder {
        let class = ClientClass { uid: self.owner.1, memory: MemoryClass::Any };
        Holder { pid: -1 - i32::from(self.slot), class }
    }

    /// Its name, as people see it.
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// Whether it has files and is not stopped.
    pub fn runs(&self) -> bool {
        !self.files.is_empty() && self.stopped.is_none()
    }

    /// Whether it waits for new files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Admits its files, one for each queue pair. The error says what to do.
    pub fn open(&mut self, fds: Vec<ForeignFd>) -> Result<(), String> {
        let transport = self.attachment.transport;
        if fds.is_empty() || transport != Transport::Tap && fds.len() > 1 {
            return Err("a tap needs a file for each of its queue pairs, a socket is one file".to_string());
        }
        let mut files = Vec::new();
        let mut device = None;
        for (at, fd) in fds.into_iter().enumerate() {
            let Admitted { device: name, send_buffer } = file_kernel::admit(fd.as_fd(), transport)?;
            if at > 0 && device != name {
                return Err("its files belong to different devices".to_string());
            }
            device = name;
            files.push(OpenPair { fd: Rc::new(fd), send_buffer });
        }
        (self.files, self.device, self.stopped, self.conflict) = (files, device, None, None);
        self.run = self.run.wrapping_add(1).max(1);
        Ok(())
    }

    /// The other side is gone, or the port may not run: closes the files. Returns the commands for workers.
    pub fn close(&mut self, why: String) -> Vec<WorkerCommand> {
        let pairs = 0..u16::try_from(self.files.len()).unwrap_or(0);
        self.files.clear();
        self.stopped = Some(why);
        pairs.map(|pair| Command::FileClose { port: self.slot, pair }.into()).collect()
    }

    /// Stops the port and keeps its files. Returns the commands for workers.
    pub fn stop(&mut self, why: String) -> Vec<WorkerCommand> {
        self.stopped = Some(why);
        let pairs = 0..u16::try_from(self.files.len()).unwrap_or(0);
        pairs.map(|pair| Command::FileClose { port: self.slot, pair }.into()).collect()
    }

    /// The commands that give workers its files.
    pub fn open_commands(&self) -> Vec<WorkerCommand> {
        if self.stopped.is_some() {
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

    /// Notes that a queue has stopped by itself. Returns whether that is news.
    pub fn faulted(&mut self, fault: RingFault) -> bool {
        let news = self.runs();
        if news {
            self.stopped = Some(fault.words().to_string());
        }
        news
    }

    /// Its files, for the inventory and for epoll.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.files.iter().map(|file| &file.fd)
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
            stopped: self.stopped.clone(),
            conflict: self.conflict.clone(),
        }
    }
}

impl Replay for FilePort {
    fn port(&self) -> Port {
        Port { slot: self.slot, kind: PortKind::Files, learning: self.attachment.learning }
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        [self.port().add()].into_iter().chain(self.open_commands()).collect()
    }

    fn is_waiting(&self) -> bool {
        false
    }
}
