//! A command for a worker, with what goes with it.

use std::rc::Rc;

use sv3::foreign::ForeignFd;
use sv3::ipc::Command;

use crate::workers::pending_unmap::RemovedFiles;

/// A command with the fd that follows it.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The command.
    pub command: Command,
    /// Its fd, exactly if [`Command::fds`] is 1.
    pub fd: Option<Rc<ForeignFd>>,
    /// Memory that it takes away from the worker.
    pub removes: Option<Rc<RemovedFiles>>,
}

impl WorkerCommand {
    /// A command that an fd goes with.
    pub fn with_fd(command: Command, fd: Rc<ForeignFd>) -> WorkerCommand {
        WorkerCommand { command, fd: Some(fd), removes: None }
    }
}

impl From<Command> for WorkerCommand {
    fn from(command: Command) -> WorkerCommand {
        WorkerCommand { command, fd: None, removes: None }
    }
}
