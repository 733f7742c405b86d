//! A command for a worker, with its fd and the files that it takes away.

use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::Command;

use crate::workers::pending_unmap::RemovedFiles;

/// A command with its fd.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The command.
    pub command: Command,
    /// Its fd, if and only if [`Command::fds`] is 1.
    pub fd: Option<Rc<ForeignFd>>,
    /// Memory files that it takes away from the worker.
    pub removes: Option<Rc<RemovedFiles>>,
}

impl WorkerCommand {
    /// A command with an fd.
    pub fn with_fd(command: Command, fd: Rc<ForeignFd>) -> WorkerCommand {
        WorkerCommand { command, fd: Some(fd), removes: None }
    }
}

impl From<Command> for WorkerCommand {
    fn from(command: Command) -> WorkerCommand {
        WorkerCommand { command, fd: None, removes: None }
    }
}
