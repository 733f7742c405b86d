//! A port of a network card.
//!
//! The supervisor keeps container, device, memory and eventfds for the port's life: the card's memory stays mapped for
//! its DMA when a worker dies. Between two workers the card is stopped: the supervisor turns its interrupts and its bus
//! master off ([`CardPort::stop_card`]), and on again when the next worker has prepared the rings
//! ([`CardPort::let_go`]). If the card is gone, the port stays, without files, until it gets new ones or is detached.

use std::os::fd::AsFd;
use std::rc::Rc;

use sv3::audit::CardReach;
use sv3::card::{CardSettings, GUESTS};
use sv3::card_attachment::CardAttachment;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, PortKind};

use crate::clients::class::{ClientClass, MemoryClass};
use crate::clients::holder::Holder;
use crate::ports::holdings::Holdings;
use crate::ports::port::{Port, Replay};
use crate::ports::terms::Terms;
use crate::ports::vfio::{self, Admitted};
use crate::telemetry::event::Named;
use crate::workers::command::WorkerCommand;

/// The port.
#[derive(Debug)]
pub struct CardPort {
    /// Its slot.
    pub slot: u16,
    /// What was asked for.
    pub attachment: CardAttachment,
    /// Process and user that attached it.
    pub owner: (i32, u32),
    /// A number that no other port has.
    pub serial: u64,
    /// Why it was stopped, in words.
    pub stopped: Option<String>,
    /// Speed of its link in Mbit/s, as the worker said; 0: no link. `None`: the card does not run yet.
    pub link: Option<u32>,
    /// What it holds, as the budget counted it last.
    pub held: Holdings,
    /// What an operator said of it.
    pub terms: Rc<Terms>,
    card: Option<Card>,
    /// The files of a card that is of no more use, until the worker has forgotten it: the last close of a device resets
    /// it, which takes 100 ms, and guests must not wait for that.
    retired: Vec<Rc<ForeignFd>>,
    /// The card may reach its memory.
    is_live: bool,
    /// How often a card was opened.
    run: u32,
}

/// The open files of a card.
#[derive(Debug)]
struct Card {
    /// Its mappings for DMA live as long as this file.
    container: Rc<ForeignFd>,
    device: Rc<ForeignFd>,
    memory: Rc<ForeignFd>,
    /// Tells that the host wants the device back.
    request: Rc<ForeignFd>,
    /// One for each queue pair, and one for the link.
    events: Vec<Rc<ForeignFd>>,
    admitted: Admitted,
}

impl CardPort {
    /// A port without a card.
    pub fn new(slot: u16, attachment: CardAttachment, owner: (i32, u32), serial: u64) -> CardPort {
        let (stopped, link, card, retired, is_live, run) = Default::default();
        let (held, terms) = (Holdings::NONE, Rc::default());
        CardPort { slot, attachment, owner, serial, stopped, link, held, terms, card, retired, is_live, run }
    }

    /// Admits the files of a card, in the order of [`CardAttachment::files`], and stops the card. The error says what to
    /// do.
    pub fn open(&mut self, fds: Vec<ForeignFd>) -> Result<(), String> {
        self.take_files(fds.into_iter().map(Rc::new).collect())?;
        if let Some(Err(why)) = self.card.as_ref().map(|card| vfio::stop((*card.device).as_fd())) {
            self.card = None;
            return Err(why);
        }
        self.run = self.run.wrapping_add(1).max(1);
        Ok(())
    }

    /// Admits the files. The card stays as it is: it may be another supervisor's still.
    fn take_files(&mut self, mut fds: Vec<Rc<ForeignFd>>) -> Result<(), String> {
        if fds.len() != self.attachment.files() {
            return Err(format!("it takes {} open files, and {} came", self.attachment.files(), fds.len()));
        }
        let events = fds.split_off(4);
        let Ok([container, device, memory, request]) = <[Rc<ForeignFd>; 4]>::try_from(fds) else {
            return Err("files are missing".to_string());
        };
        let admitted = vfio::admit((*container).as_fd(), (*device).as_fd(), self.attachment.pairs)?;
        let settings = self.attachment.settings(admitted.model, admitted.bar, self.run);
        vfio::admit_memory((*memory).as_fd(), &settings)?;
        for event in events.iter().chain([&request]) {
            vfio::admit_event((**event).as_fd())?;
        }
        vfio::watch_requests((*device).as_fd(), (*request).as_fd())?;
        self.card = Some(Card { container, device, memory, request, events, admitted });
        (self.stopped, self.link, self.is_live) = (None, None, false);
        Ok(())
    }

    /// Stops the card's interrupts and its access to memory, if it may have them.
    pub fn stop_card(&mut self) -> Result<(), String> {
        self.link = None;
        match &self.card {
            Some(card) if std::mem::take(&mut self.is_live) => vfio::stop((*card.device).as_fd()),
            _ => Ok(()),
        }
    }

    /// The worker has prepared the rings: the card may reach its memory and raise interrupts. Returns the command that
    /// tells the worker.
    pub fn let_go(&mut self) -> Result<WorkerCommand, String> {
        let Some(card) = &self.card else { return Err("it has no card".to_string()) };
        let events: Vec<_> = card.events.iter().map(|event| (**event).as_fd()).collect();
        vfio::let_go((*card.device).as_fd(), &events)?;
        self.is_live = true;
        Ok(Command::CardStart { port: self.slot }.into())
    }

    /// Whether the card may reach its memory.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Whether it is up and has a card, and nothing has stopped it.
    pub fn runs(&self) -> bool {
        self.terms.up && self.card.is_some() && self.stopped.is_none()
    }

    /// Whether it waits for a card.
    pub fn is_empty(&self) -> bool {
        self.card.is_none()
    }

    /// Stops the port and keeps its card. Returns the commands for workers.
    pub fn stop(&mut self, why: String) -> Vec<WorkerCommand> {
        // A card that does not answer reaches no memory either.
        let _ = self.stop_card();
        self.stopped = Some(why);
        self.take_away()
    }

    /// Stops the card and keeps it. Returns the commands for workers.
    pub fn take_down(&mut self) -> Vec<WorkerCommand> {
        let _ = self.stop_card();
        self.take_away()
    }

    /// The commands after which workers have the port without its card.
    fn take_away(&self) -> Vec<WorkerCommand> {
        [self.remove()].into_iter().chain(self.port().add()).collect()
    }

    /// The card is gone, or of no more use. Returns the commands for workers. Its files are kept until
    /// [`CardPort::is_forgotten`].
    pub fn close(&mut self, why: String) -> Vec<WorkerCommand> {
        let commands = self.stop(why);
        let files: Vec<_> = self.files().map(|(_, file)| file.clone()).collect();
        self.retired.extend(files);
        self.card = None;
        commands
    }

    /// No worker has anything of a card that was closed.
    pub fn is_forgotten(&mut self) {
        self.retired.clear();
    }

    /// The files that a worker may still have when the port is removed.
    pub fn into_files(self) -> Vec<Rc<ForeignFd>> {
        let files: Vec<_> = self.files().map(|(_, file)| file.clone()).collect();
        files.into_iter().chain(self.retired).collect()
    }

    /// The files of closed cards that are kept.
    pub fn retired(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.retired.iter()
    }

    /// What identifies it when it is blamed: a process id that no process has, so that it alone is blamed.
    pub fn holder(&self) -> Holder {
        let class = ClientClass { uid: self.owner.1, memory: MemoryClass::Any };
        Holder { pid: -1 - i32::try_from(self.serial & 0x3fff_ffff).unwrap_or(0), class }
    }

    /// Its name in events.
    pub fn named(&self) -> Named {
        Named { name: self.name().to_string(), client: None }
    }

    /// Its name, as people see it.
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// What it holds.
    pub fn holdings(&self) -> Holdings {
        Holdings { fds: self.files().count(), regions: 0 }
    }

    /// Its files, in the order in which they came, and the kind of each, as /proc shows it.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Rc<ForeignFd>)> {
        self.card.iter().flat_map(|card| {
            let first = [("file", &card.container), ("file", &card.device), ("memory", &card.memory)];
            let events = [&card.request].into_iter().chain(&card.events).map(|event| ("eventfd", event));
            first.into_iter().chain(events)
        })
    }

    /// The file that tells that the host wants the device back.
    pub fn request(&self) -> Option<&Rc<ForeignFd>> {
        self.card.as_ref().map(|card| &card.request)
    }

    /// The eventfds of its interrupts.
    pub fn events(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.card.iter().flat_map(|card| &card.events)
    }

    /// What the card may reach; `None`: there is no card.
    pub fn reach(&self) -> Option<CardReach> {
        let settings = self.settings(self.card.as_ref()?);
        Some(CardReach {
            port: self.name().to_string(),
            address: self.attachment.address.clone(),
            iova: vec![(settings.iova, settings.dma_size() as u64)],
            guests: settings.zero_copy.then_some((GUESTS, GUESTS)),
            bus_master: self.is_live,
            mapped_by: self.owner,
        })
    }

    /// Which card it is, for people.
    pub fn model(&self) -> Option<&'static str> {
        self.card.as_ref().map(|card| card.admitted.name)
    }

    /// The commands that give workers the card.
    pub fn open_commands(&self) -> Vec<WorkerCommand> {
        let Some(card) = self.card.as_ref().filter(|_| self.terms.up && self.stopped.is_none()) else {
            return Vec::new();
        };
        let (port, settings) = (self.slot, self.settings(card));
        let events = (0..).zip(&card.events);
        let interrupt = |(vector, event): (u16, &Rc<ForeignFd>)| {
            WorkerCommand::with_fd(Command::CardInterrupt { port, vector }, event.clone())
        };
        let memory = WorkerCommand::with_fd(Command::CardMemory { port, settings }, card.memory.clone());
        let open = WorkerCommand::with_fd(Command::CardOpen { port, settings }, card.device.clone());
        let container = settings.zero_copy.then(|| {
            let limit = vfio::lockable();
            WorkerCommand::with_fd(Command::CardContainer { port, limit }, card.container.clone())
        });
        [memory].into_iter().chain(events.map(interrupt)).chain(container).chain([open]).collect()
    }

    fn settings(&self, card: &Card) -> CardSettings {
        let Admitted { model, bar, .. } = card.admitted;
        self.attachment.settings(model, bar, self.run)
    }
}

impl Replay for CardPort {
    fn port(&self) -> Port {
        let (slot, learning, terms) = (self.slot, self.attachment.learning, self.terms.clone());
        Port { slot, kind: PortKind::Card, learning, terms }
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        self.port().add().into_iter().chain(self.open_commands()).collect()
    }

    fn is_waiting(&self) -> bool {
        false
    }
}

/// The record of a card's port for the next supervisor.
mod record {
    use super::*;
    use crate::estate::record::CardPortRecord;
    use crate::estate::{Files, Heirlooms, Unfit};

    impl CardPort {
        /// What the successor must know.
        pub fn record<'p>(&'p self, files: &mut Files<'p>) -> CardPortRecord {
            CardPortRecord {
                slot: self.slot,
                attachment: self.attachment.to_string(),
                owner: self.owner,
                serial: self.serial,
                stopped: self.stopped.clone(),
                files: self.files().map(|(_, file)| files.add(&**file)).collect(),
                run: self.run,
            }
        }

        /// The port of a record, with this serial number. If the card has gone meanwhile, the port is without it.
        pub fn restore(record: CardPortRecord, serial: u64, files: &mut Heirlooms) -> Result<CardPort, Unfit> {
            let CardPortRecord { slot, attachment, owner, stopped, files: numbers, run, .. } = record;
            let parsed = CardAttachment::parse(&attachment);
            let attachment = parsed.ok_or_else(|| Unfit(format!("card {attachment:?}")))?;
            let mut port = CardPort::new(slot, attachment, owner, serial);
            port.run = run;
            let fds = numbers.into_iter().map(|number| Ok(Rc::new(files.take(number)?)));
            let fds = fds.collect::<Result<Vec<_>, Unfit>>()?;
            let lost = if fds.is_empty() { None } else { port.take_files(fds).err() };
            port.stopped = stopped.or(lost);
            Ok(port)
        }
    }
}
