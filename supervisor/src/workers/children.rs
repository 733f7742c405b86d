//! The processes that the spawner was asked for: which of them is whose, and how their deaths become known.
//!
//! The kernel tells of a death by SIGCHLD, once it has taken the dead process's memory away. It is known earlier of a
//! worker that has written down why it dies and hung up, of one that was stopped, and of one that was killed and is
//! held in the kernel: these are *buried*, taken for dead before the kernel says so.

use std::collections::VecDeque;
use std::fs::File;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fd_inventory::OpenFile;
use crate::workers::Workers;
use crate::workers::spawner::{Answer, Program};
use crate::workers::worker::StartingWorker;

/// What is known of children.
#[derive(Default)]
pub struct Children {
    /// What the spawner was asked for, in order.
    asked: VecDeque<Asked>,
    /// Children whose death came before the spawner told whose it was.
    early_deaths: Vec<WaitStatus>,
    /// There may be more children that have ended.
    pub unreaped: bool,
    /// Workers that are taken for dead before the kernel has said so.
    buried: Vec<Pid>,
    /// The worker that was let go; when it ends, all is over.
    ending: Option<Pid>,
}

/// A process that the spawner was asked for.
enum Asked {
    Worker(StartingWorker),
    Closer,
}

/// What the spawner says.
pub enum News {
    /// Nothing that anybody has to know.
    Nothing,
    /// The log, or why it cannot be opened.
    Log(Result<File, Errno>),
    /// Nothing any more: it is gone.
    Gone,
    /// A worker's process has started, and has perhaps ended already.
    Started(Pid, Option<WaitStatus>),
    /// The worker that was to serve could not be started.
    NoWorker(Errno),
    /// The worker of this program that was to stand by could not be started.
    NoStandby(Program, Errno),
}

/// What the kernel says of a child.
pub enum Child {
    /// Nothing that anybody has to know.
    Other,
    /// A worker was stopped, and is killed.
    Stopped(Pid),
    /// The spawner has ended.
    Spawner,
    /// The worker has ended that was let go.
    LetGo,
    /// A process has ended that must have been a worker.
    Worker(Pid, WaitStatus),
}

/// Which worker a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that serves.
    Serving,
    /// The one on standby.
    Standby,
}

impl Children {
    /// The spawner has been asked for a worker.
    pub fn asked_for_worker(&mut self, starting: StartingWorker) {
        self.asked.push_back(Asked::Worker(starting));
    }

    /// The spawner has been asked for a closer.
    pub fn asked_for_closer(&mut self) {
        self.asked.push_back(Asked::Closer);
    }

    /// The spawner has been asked for a worker and has not answered.
    pub fn starts_a_worker(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked, Asked::Worker(_)))
    }

    /// The worker that served was let go; when this process ends, all is over.
    pub fn expect_end(&mut self, pid: Option<Pid>) {
        self.ending = pid;
    }

    /// A worker is taken for dead; the kernel may say so later.
    pub fn bury(&mut self, pid: Pid) {
        self.buried.push(pid);
    }

    /// Whether the process was taken for dead before.
    fn was_buried(&mut self, pid: Pid) -> bool {
        let at = self.buried.iter().position(|buried| *buried == pid);
        at.map(|at| self.buried.swap_remove(at)).is_some()
    }

    fn early_death(&mut self, pid: Pid) -> Option<WaitStatus> {
        let at = self.early_deaths.iter().position(|status| status.pid() == Some(pid))?;
        Some(self.early_deaths.swap_remove(at))
    }

    /// Files that the spawner needs to answer.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let starting = self.asked.iter().filter_map(|asked| match asked {
            Asked::Worker(starting) => Some(starting),
            Asked::Closer => None,
        });
        let end = |fd| OpenFile::borrowed(fd, "pipe", "an end of the next worker's");
        starting.flat_map(|starting| starting.fds()).map(end)
    }

    /// What the spawner has to answer next: a worker, by the socket that it gets, or a closer.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn next_asked(&self) -> Option<Option<std::os::fd::BorrowedFd<'_>>> {
        Some(match self.asked.front()? {
            Asked::Worker(starting) => {
                let [socket, _] = starting.fds();
                Some(socket)
            }
            Asked::Closer => None,
        })
    }
}

impl Workers {
    /// Reads what the spawner says.
    pub fn hear_spawner(&mut self) -> News {
        let answer = match self.spawner.answer() {
            Ok(Some(Answer::Worker(answer))) => answer,
            Ok(Some(Answer::Log(log))) => return News::Log(log),
            Ok(None) => return News::Nothing,
            Err(_) => return News::Gone,
        };
        let area = match self.children.asked.pop_front() {
            Some(Asked::Worker(starting)) => Some(starting.area),
            Some(Asked::Closer) => {
                let dead = answer.ok().and_then(|pid| self.children.early_death(pid));
                self.closers.started(answer.ok().filter(|_| dead.is_none()));
                return News::Nothing;
            }
            None => None,
        };
        let serves = area.is_some() && self.serving.as_ref().map(|worker| worker.area) == area;
        let worker = area.and_then(|area| self.in_area(area));
        match (answer, worker) {
            (Ok(pid), Some(worker)) => {
                worker.is_born(pid);
                News::Started(pid, self.children.early_death(pid))
            }
            (Ok(pid), None) => {
                let _ = kill(pid, Signal::SIGKILL);
                News::Nothing
            }
            (Err(errno), Some(_)) if serves => {
                self.serving = None;
                News::NoWorker(errno)
            }
            (Err(errno), Some(worker)) => {
                let program = worker.program;
                self.standby = None;
                News::NoStandby(program, errno)
            }
            (Err(_), None) => News::Nothing,
        }
    }

    /// The next child of which the kernel has something to say.
    pub fn next_child(&mut self) -> Option<Child> {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(WaitStatus::Stopped(pid, signal)) => {
                for worker in self.both_mut().filter(|worker| worker.pid == Some(pid)) {
                    worker.kill(&format!("it was stopped by {signal}"));
                }
                return Some(Child::Stopped(pid));
            }
            Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => status,
            Ok(_) => return Some(Child::Other),
        };
        let pid = status.pid()?;
        Some(if pid == self.spawner.pid() {
            Child::Spawner
        } else if self.closers.ended(pid) {
            // Another one is asked for in the loop.
            Child::Other
        } else if Some(pid) == self.children.ending {
            Child::LetGo
        } else {
            Child::Worker(pid, status)
        })
    }

    /// Which worker has died, if it is known to be one and its death is news.
    pub fn whose_death(&mut self, pid: Pid, status: WaitStatus) -> Option<Role> {
        if self.children.was_buried(pid) {
            return None;
        }
        let role = self.role(pid);
        if role.is_none() && !self.children.asked.is_empty() {
            self.children.early_deaths.push(status);
        }
        role
    }

    /// Which worker a process is.
    pub fn role(&self, pid: Pid) -> Option<Role> {
        let is =
            |worker: &Option<_>| worker.as_ref().is_some_and(|worker: &super::worker::Worker| worker.pid == Some(pid));
        match (is(&self.serving), is(&self.standby)) {
            (true, _) => Some(Role::Serving),
            (false, true) => Some(Role::Standby),
            (false, false) => None,
        }
    }
}
