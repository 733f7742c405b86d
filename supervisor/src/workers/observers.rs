//! The captures and mirrors that workers are told of.

use std::rc::Rc;

use sv3::MAX_PORTS;
use sv3::capture::CAPTURES_MAX;
use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::mirror::MIRRORS_MAX;
use sv3::port_set::PortSet;

use super::command::WorkerCommand;
use crate::fd_inventory::OpenFile;

/// What every worker knows of captures and mirrors.
#[derive(Default)]
pub struct Observers {
    captures: [Option<Capture>; CAPTURES_MAX],
    mirrors: [Option<Mirror>; MIRRORS_MAX],
    /// Workers were told to add or to forget a port.
    ports_changed: bool,
}

struct Capture {
    file: Rc<ForeignFd>,
    snaplen: u32,
    ports: PortSet,
}

/// A mirror, by slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The port that gets the copies; beyond all slots: none.
    pub to: u16,
    /// Ports of which the frames that they send are copied.
    pub senders: PortSet,
    /// Ports of which the frames that they get are copied.
    pub receivers: PortSet,
    /// Slots of declared ports among all these. They stay in the mirror while nobody is attached.
    pub homes: PortSet,
}

impl Observers {
    /// Begins a capture with a file that was checked. Returns its number and the commands. `None`: there are too many.
    pub fn open(&mut self, file: ForeignFd, snaplen: u32, ports: PortSet) -> Option<(u8, Vec<WorkerCommand>)> {
        let at = self.captures.iter().position(Option::is_none)?;
        let capture = Capture { file: Rc::new(file), snaplen, ports };
        let number = u8::try_from(at).ok()?;
        let commands = capture.replay(number);
        *self.captures.get_mut(at)? = Some(capture);
        Some((number, commands))
    }

    /// Sets the ports of a capture. The worker forgets a port that goes, so this is told again although the set is the
    /// same.
    pub fn set_ports(&mut self, number: u8, ports: PortSet) -> Option<WorkerCommand> {
        let capture = self.captures.get_mut(usize::from(number))?.as_mut()?;
        capture.ports = ports;
        Some(Command::CapturePorts { capture: number, ports: Box::new(ports) }.into())
    }

    /// Ends a capture.
    pub fn close(&mut self, number: u8) -> Option<WorkerCommand> {
        self.captures.get_mut(usize::from(number))?.take()?;
        Some(Command::CaptureClose { capture: number }.into())
    }

    /// The place of a new mirror.
    pub fn free_mirror(&self) -> Option<u8> {
        self.mirrors.iter().position(Option::is_none).and_then(|at| u8::try_from(at).ok())
    }

    /// Begins or changes a mirror.
    pub fn set_mirror(&mut self, number: u8, mirror: Mirror) -> Option<WorkerCommand> {
        *self.mirrors.get_mut(usize::from(number))? = Some(mirror);
        Some(mirror.command(number))
    }

    /// Ends a mirror.
    pub fn end_mirror(&mut self, number: u8) -> Option<WorkerCommand> {
        self.mirrors.get_mut(usize::from(number))?.take()?;
        Some(Command::MirrorEnd { mirror: number }.into())
    }

    /// Commands for workers, with those that go with them: workers forget a port that they are told to add or to remove,
    /// and so does this, but for declared ports in mirrors. When such a port comes back, it is in its mirrors before it has
    /// a ring.
    pub fn accompany(&mut self, commands: Vec<WorkerCommand>) -> Vec<WorkerCommand> {
        let is_about_ports = |told: &WorkerCommand| self.note(&told.command);
        if !commands.iter().map(is_about_ports).fold(false, |any, is| any | is) {
            return commands;
        }
        let mut all = Vec::with_capacity(commands.len());
        for told in commands {
            let added = if let Command::PortAdd { port, .. } = told.command { Some(port) } else { None };
            all.push(told);
            let mirrors = (0..).zip(&self.mirrors).filter_map(|(number, mirror)| Some((number, mirror.as_ref()?)));
            let back = mirrors.filter(|(_, mirror)| added.is_some_and(|slot| mirror.homes.has(slot)));
            all.extend(back.map(|(number, mirror)| mirror.command(number)));
        }
        all
    }

    /// Whether a command adds or removes a port. Workers forget what observes it.
    fn note(&mut self, command: &Command) -> bool {
        let slot = match command {
            Command::PortAdd { port, .. } | Command::PortRemove { port } => *port,
            _ => return false,
        };
        self.ports_changed = true;
        self.captures.iter_mut().flatten().for_each(|capture| capture.ports.remove(slot));
        for mirror in self.mirrors.iter_mut().flatten().filter(|mirror| !mirror.homes.has(slot)) {
            mirror.senders.remove(slot);
            mirror.receivers.remove(slot);
            if mirror.to == slot {
                mirror.to = u16::MAX;
            }
        }
        true
    }

    /// Whether that happened since this was last asked.
    pub fn ports_changed(&mut self) -> bool {
        std::mem::take(&mut self.ports_changed)
    }

    /// All commands for a worker that knows the ports and nothing of this.
    pub fn replay(&self) -> impl Iterator<Item = WorkerCommand> + '_ {
        let captures = (0..).zip(&self.captures).filter_map(|(number, capture)| Some((number, capture.as_ref()?)));
        let mirrors = (0..).zip(&self.mirrors).filter_map(|(number, mirror)| Some((number, mirror.as_ref()?)));
        let mirrors = mirrors.filter(|(_, mirror)| usize::from(mirror.to) < MAX_PORTS);
        captures
            .flat_map(|(number, capture)| capture.replay(number))
            .chain(mirrors.map(|(number, mirror)| mirror.command(number)))
    }

    /// The files of the captures.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        self.captures.iter().flatten().map(|capture| OpenFile::new(&*capture.file, "memory", "the rings of a capture"))
    }
}

impl Capture {
    fn replay(&self, number: u8) -> Vec<WorkerCommand> {
        let open = Command::CaptureOpen { capture: number, snaplen: self.snaplen };
        let ports = Command::CapturePorts { capture: number, ports: Box::new(self.ports) };
        vec![WorkerCommand::with_fd(open, self.file.clone()), ports.into()]
    }
}

impl Mirror {
    fn command(&self, number: u8) -> WorkerCommand {
        let (senders, receivers) = (Box::new(self.senders), Box::new(self.receivers));
        Command::MirrorSet { mirror: number, to: self.to, senders, receivers }.into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn the_next_worker_is_told_what_the_last_one_knew() {
        let mut observers = Observers::default();
        let file = || ForeignFd::from(OwnedFd::from(File::open("/dev/null").unwrap()));
        let commands = |observers: &Observers| observers.replay().map(|told| told.command).collect::<Vec<_>>();
        for number in 0..CAPTURES_MAX as u8 {
            let (at, told) = observers.open(file(), 96, PortSet::default()).unwrap();
            assert_eq!((at, told.len()), (number, 2));
        }
        assert!(observers.open(file(), 96, PortSet::default()).is_none());
        let ports: PortSet = [7].into_iter().collect();
        let (receivers, homes) = Default::default();
        let mirror = Mirror { to: 3, senders: ports, receivers, homes };
        let told = [observers.set_ports(2, ports).unwrap(), observers.set_mirror(5, mirror).unwrap()];
        (0..2).for_each(|number| assert!(observers.close(number).is_some() && observers.close(number).is_none()));
        observers.close(3);
        let open = Command::CaptureOpen { capture: 2, snaplen: 96 };
        assert_eq!(commands(&observers), [open, told[0].command.clone(), told[1].command.clone()]);
        assert_eq!((observers.files().count(), observers.free_mirror()), (1, Some(0)));
        observers.note(&Command::PortRemove { port: 7 });
        observers.note(&Command::PortRemove { port: 3 });
        assert!(observers.ports_changed() && !observers.ports_changed());
        let ports = Box::new(PortSet::default());
        assert_eq!(commands(&observers).get(1..), Some(&[Command::CapturePorts { capture: 2, ports }][..]));
        assert!(observers.end_mirror(5).is_some() && observers.end_mirror(200).is_none());
        assert_eq!(commands(&observers).len(), 2);
    }

    #[test]
    fn a_declared_port_that_comes_back_is_in_its_mirrors_before_all_else() {
        let mut observers = Observers::default();
        let set = |slots: &[u16]| slots.iter().copied().collect::<PortSet>();
        let mirror = Mirror { to: 3, senders: set(&[7, 8]), receivers: set(&[7]), homes: set(&[3, 7]) };
        let told = observers.set_mirror(5, mirror).unwrap().command;
        let kind = sv3::ipc::PortKind::Files;
        let add = |port| Command::PortAdd { port, kind, learning: Default::default() };
        let mut sent = |commands: &[Command]| -> Vec<Command> {
            let commands = commands.iter().cloned().map(WorkerCommand::from).collect();
            observers.accompany(commands).into_iter().map(|told| told.command).collect()
        };
        let remove = |port| Command::PortRemove { port };
        assert_eq!(sent(&[remove(7), remove(3), Command::Barrier]), [remove(7), remove(3), Command::Barrier]);
        assert_eq!(sent(&[add(7), Command::RulesCommit]), [add(7), told.clone(), Command::RulesCommit]);
        assert_eq!(sent(&[add(3), add(4)]), [add(3), told, add(4)]);
        // One that is not declared is another port now.
        assert_eq!(sent(&[add(8)]), [add(8)]);
        assert!(!observers.mirrors[5].unwrap().senders.has(8) && observers.mirrors[5].unwrap().senders.has(7));
    }
}
