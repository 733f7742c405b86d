//! The processes that the spawner starts: what each of them is, and how their deaths become known.
//!
//! The kernel reports a death by SIGCHLD after it has freed the dead process's memory. The supervisor handles three
//! kinds of workers as dead earlier, and calls them *buried*: a worker that has written its crash record and closed its
//! link, a worker that was stopped, and a worker that was killed and is held in the kernel.

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

/// The state of children.
#[derive(Default)]
pub struct Children {
    /// Requests to the spawner that are not answered, in order.
    asked: VecDeque<Asked>,
    /// Deaths of children that came before the spawner's answer.
    early_deaths: Vec<WaitStatus>,
    /// More children may have ended.
    pub unreaped: bool,
    /// Workers that are handled as dead before the kernel has said so.
    buried: Vec<Pid>,
    /// The last worker, while the switch ends: when it has ended, the supervisor ends.
    ending: Option<Pid>,
}

/// A process that the supervisor asked the spawner for.
enum Asked {
    Worker(StartingWorker),
    Closer,
}

/// An answer of the spawner, and what follows.
pub enum News {
    /// Nothing follows.
    Nothing,
    /// The log, or why the spawner cannot open it.
    Log(Result<File, Errno>),
    /// The spawner has ended.
    Gone,
    /// A worker's process has started, and may have ended already.
    Started(Pid, Option<WaitStatus>),
    /// A worker that was to serve could not be started.
    NoWorker(Errno),
    /// A standby of this program could not be started.
    NoStandby(Program, Errno),
}

/// A change of a child, as the kernel reports it.
pub enum Child {
    /// Nothing follows.
    Other,
    /// A worker was stopped, and the supervisor has killed it.
    Stopped(Pid),
    /// The spawner has ended.
    Spawner,
    /// The last worker has ended, while the switch ends.
    LetGo,
    /// A process has ended that must have been a worker.
    Worker(Pid, WaitStatus),
}

/// The role of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves.
    Serving,
    /// It is on standby.
    Standby,
}

impl Children {
    /// Notes that the spawner was asked for a worker.
    pub fn asked_for_worker(&mut self, starting: StartingWorker) {
        self.asked.push_back(Asked::Worker(starting));
    }

    /// Notes that the spawner was asked for a closer.
    pub fn asked_for_closer(&mut self) {
        self.asked.push_back(Asked::Closer);
    }

    /// Whether the spawner still has to answer a request for a worker.
    pub fn starts_a_worker(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked, Asked::Worker(_)))
    }

    /// The switch ends: when this worker has ended, the supervisor ends.
    pub fn expect_end(&mut self, pid: Option<Pid>) {
        self.ending = pid;
    }

    /// Handles a worker as dead; the kernel may report it later.
    pub fn bury(&mut self, pid: Pid) {
        self.buried.push(pid);
    }

    /// Whether the process was buried before. Forgets it.
    fn was_buried(&mut self, pid: Pid) -> bool {
        let at = self.buried.iter().position(|buried| *buried == pid);
        at.map(|at| self.buried.swap_remove(at)).is_some()
    }

    fn early_death(&mut self, pid: Pid) -> Option<WaitStatus> {
        let at = self.early_deaths.iter().position(|status| status.pid() == Some(pid))?;
        Some(self.early_deaths.swap_remove(at))
    }

    /// Files that stay open until the spawner has answered.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let starting = self.asked.iter().filter_map(|asked| match asked {
            Asked::Worker(starting) => Some(starting),
            Asked::Closer => None,
        });
        let end = |fd| OpenFile::borrowed(fd, "pipe", "an end of the link or of stderr, for the next worker");
        starting.flat_map(|starting| starting.fds()).map(end)
    }

    /// The next request that the spawner must answer: a worker, with its end of the link, or a closer.
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
    /// Reads an answer of the spawner.
    pub fn read_spawner(&mut self) -> News {
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
                worker.set_pid(pid);
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

    /// The next change of a child that the kernel reports.
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
            // The loop asks for another closer.
            Child::Other
        } else if Some(pid) == self.children.ending {
            Child::LetGo
        } else {
            Child::Worker(pid, status)
        })
    }

    /// The role of a worker that has died, if the process is a known worker and its death is news.
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

    /// The role of a worker's process.
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
