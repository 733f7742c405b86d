//! Network cards: attached at the control socket, stopped between two workers, and lost when the host takes them.

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use serde_json::json;
use std::time::Instant;

use sv3::MAX_PORTS;
use sv3::card_attachment::CardAttachment;
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, RingFault, register_name};
use sv3::status::AttachAnswer;

use super::Supervisor;
use crate::ports::card::CardPort;
use crate::ports::holdings::Holdings;
use crate::ports::port::Replay;
use crate::ports::vfio;
use crate::telemetry::event::Named;
use crate::token::Token;
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// `attach-card`: makes a port of a card, or gives a port whose card is gone a new one. The error is for people.
    pub(super) fn attach_card(
        &mut self,
        attachment: CardAttachment,
        fds: Vec<ForeignFd>,
        owner: (i32, u32),
    ) -> Result<AttachAnswer, String> {
        let name = attachment.name.clone();
        self.is_free_to_attach(&name)?;
        if self.file_port(&name).is_some() {
            return Err(format!("a port named {name} is attached: choose another name by --name"));
        }
        if let Some(slot) = self.clients.slots.card_named(&name) {
            return self.resume_card(slot, attachment, fds);
        }
        self.may_read_guests(&attachment)?;
        let slot = self.clients.slots.free_slot().ok_or(format!("all {MAX_PORTS} ports are taken: detach one"))?;
        let mut port = CardPort::new(slot, attachment, owner, self.clients.next_serial());
        port.terms = self.clients.slots.declared.of_attached(&name);
        let may = self.clients.budget.allowance(port.holder().pid, Holdings::NONE, &PendingUnmaps::default());
        if may.fds < fds.len() || self.clients.budget.is_spent() {
            return Err("too many files are open: raise the limit of open files (`ulimit -n`)".to_string());
        }
        port.open(fds).map_err(|why| format!("{name}: {why}"))?;
        let (pid, uid) = owner;
        let (address, model) = (&port.attachment.address, port.model().unwrap_or_default());
        let message = format!("{name}: {model} at {address}, attached by process {pid} of user {uid}");
        self.telemetry.events.say_of_port(&port.named(), "attach", message, json!({ "address": address }));
        if let Some(line) = self.workers.ledger.ports.get(usize::from(slot)) {
            line.reset();
        }
        let commands = port.replay();
        self.clients.slots.insert_card(port);
        self.watch_card(slot);
        self.count_card(slot);
        let commands = commands.into_iter().chain(self.address_commands()).collect();
        self.workers.send(commands, Waiter::Nobody);
        self.ensure_role();
        Ok(AttachAnswer { name, slot, resumed: false })
    }

    fn resume_card(
        &mut self,
        slot: u16,
        attachment: CardAttachment,
        fds: Vec<ForeignFd>,
    ) -> Result<AttachAnswer, String> {
        let name = attachment.name.clone();
        self.may_read_guests(&attachment)?;
        let Some(port) = self.clients.slots.card(slot) else { return Err(format!("{name} is not attached")) };
        if !port.is_empty() {
            return Err(format!("a port named {name} is attached: detach it (`sv3 detach {name}`) or choose a name"));
        }
        let before = std::mem::replace(&mut port.attachment, attachment);
        if let Err(why) = port.open(fds) {
            port.attachment = before;
            return Err(format!("{name}: {why}"));
        }
        let (named, commands) = (port.named(), [port.remove()].into_iter().chain(port.replay()).collect());
        self.telemetry.events.say_of_port(&named, "attach", format!("{name}: attached again"), json!({}));
        self.watch_card(slot);
        self.count_card(slot);
        self.workers.send(commands, Waiter::Nobody);
        self.ensure_role();
        Ok(AttachAnswer { name, slot, resumed: true })
    }

    /// One card reads guests' memory at most.
    fn may_read_guests(&self, attachment: &CardAttachment) -> Result<(), String> {
        let reads = |port: &&CardPort| port.attachment.zero_copy && port.name() != attachment.name;
        match self.clients.slots.all_cards().find(reads).filter(|_| attachment.zero_copy) {
            Some(other) => Err(format!(
                "{} reads guests' memory, and one card may: attach this one without --zero-copy",
                other.name()
            )),
            None => Ok(()),
        }
    }

    /// A guest's memory could not be pinned: what it sends to a card is copied.
    pub(super) fn not_pinned(&mut self, slot: u16, value: u64) -> Result<(), Breach> {
        self.count_idle_report();
        let Ok(errno) = i32::try_from(value).map(Errno::from_raw) else {
            return Err(Breach("it told an errno that does not exist"));
        };
        let why = self.why_not_pinned(errno);
        let Some(client) = self.clients.slots.client(slot) else { return Ok(()) };
        let named = Named { name: client.device().port.to_string(), client: Some(client.id) };
        let message = format!("{}: what it sends to a network card is copied: {why}", named.name);
        self.telemetry.events.say_of_port(&named, "zero_copy", message, json!({ "why": why }));
        Ok(())
    }

    fn why_not_pinned(&self, errno: Errno) -> String {
        let regions = self.clients.slots.clients().flat_map(|client| &client.device().memory);
        let (needed, limit) = (regions.map(|memory| memory.region.size).fold(0, u64::saturating_add), vfio::lockable());
        match errno {
            Errno::ENOMEM if needed > limit => format!(
                "all guests have {} of memory, and the switch may lock {}: raise its limit (`ulimit -l {}`, memlock in \
                 /etc/security/limits.d, LimitMEMLOCK= of a unit) and start it again",
                mebibytes(needed),
                mebibytes(limit),
                needed.div_ceil(1 << 10)
            ),
            Errno::ENOMEM => "the kernel has too little memory to lock it".to_string(),
            Errno::EEXIST => {
                "another mapping has its address for the card: one of an earlier worker, which Linux before \
                              6.0 lets nobody remove, or of a guest 256 GiB away"
                    .to_string()
            }
            errno => errno.to_string(),
        }
    }

    /// `detach` of a card. `None`: no such port.
    pub(super) fn detach_card(&mut self, name: &str) -> Option<serde_json::Value> {
        let slot = self.clients.slots.card_named(name)?;
        if let Some(port) = self.clients.slots.card(slot) {
            // It reaches no memory from now on. If it does not answer, it does not either.
            let _ = port.stop_card();
        }
        let port = self.clients.slots.remove_card(slot)?;
        self.telemetry.events.say_of_port(&port.named(), "detach", format!("{name}: detached"), json!({}));
        if let Some(request) = port.request() {
            self.reactor.forget(&**request);
        }
        self.clients.budget.change(port.holder().pid, port.held, Holdings::NONE);
        let commands: Vec<WorkerCommand> =
            [port.remove()].into_iter().chain(self.address_commands()).chain([Command::Barrier.into()]).collect();
        self.clients.slots.keep(slot, port.into_files());
        if !self.workers.send(commands, Waiter::Leaving(slot)) {
            self.clients.slots.release(slot);
        }
        Some(json!({ "detached": name }))
    }

    fn count_card(&mut self, slot: u16) {
        let Some(port) = self.clients.slots.card(slot) else { return };
        let (pid, now) = (port.holder().pid, port.holdings());
        let before = std::mem::replace(&mut port.held, now);
        self.clients.budget.change(pid, before, now);
    }

    fn watch_card(&mut self, slot: u16) {
        let Some(port) = self.clients.slots.card(slot) else { return };
        if let Some(request) = port.request() {
            let _ = self.reactor.watch(&**request, Token::Card(slot), EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
        }
    }

    /// Watches every card, after a supervisor has handed them over.
    pub(super) fn watch_all_cards(&mut self) {
        let slots: Vec<u16> = self.clients.slots.all_cards().map(|port| port.slot).collect();
        slots.into_iter().for_each(|slot| self.watch_card(slot));
    }

    /// Somebody unbinds a card or takes it out: gives it back.
    pub(super) fn card_is_wanted_back(&mut self, slot: u16) {
        if self.clients.slots.card(slot).is_some_and(|port| !port.is_empty()) {
            self.card_ends(slot, "the host asked for the card back");
        }
    }

    /// The serving worker is dead: no card may reach its memory before the next worker has prepared its rings.
    pub(super) fn stop_cards(&mut self) {
        self.clients.slots.forget_retired();
        let slots: Vec<u16> =
            self.clients.slots.all_cards().filter(|port| port.is_live()).map(|port| port.slot).collect();
        for slot in slots {
            let stopped = self.clients.slots.card(slot).map(CardPort::stop_card);
            if let Some(Err(why)) = stopped {
                self.card_ends(slot, &why);
            }
        }
    }

    /// The worker has prepared a card's rings.
    pub(super) fn card_ready(&mut self, slot: u16) -> Result<(), Breach> {
        let Some(port) = self.clients.slots.card(slot) else {
            return Err(Breach("it prepared a card that is not there"));
        };
        if !port.runs() || port.is_live() {
            self.count_idle_report();
            return Ok(());
        }
        match port.let_go() {
            Ok(start) => {
                self.workers.send(vec![start], Waiter::Nobody);
            }
            Err(why) => self.card_ends(slot, &why),
        }
        Ok(())
    }

    /// A card's link has changed. Each such report counts as one without news: a link does not change often, and a worker
    /// that says so without end fills the log.
    pub(super) fn card_link(&mut self, slot: u16, speed: u64) -> Result<(), Breach> {
        self.count_idle_report();
        let Some(port) = self.clients.slots.card(slot) else {
            return Err(Breach("it told of a card that is not there"));
        };
        let speed = u32::try_from(speed).unwrap_or(u32::MAX);
        if !port.is_live() || port.link == Some(speed) {
            return Ok(());
        }
        port.link = Some(speed);
        let (named, name) = (port.named(), port.name());
        let message = match speed {
            0 => format!("{name}: the card has no link"),
            speed => format!("{name}: the card's link is up, {speed} Mbit/s"),
        };
        self.telemetry.events.say_of_port(&named, "link", message, json!({ "speed_mbit": speed }));
        Ok(())
    }

    /// The worker says that a card has failed. Returns false if the slot has no card.
    pub(super) fn card_fault(&mut self, slot: u16, fault: RingFault, detail: u64) -> bool {
        let Some(port) = self.clients.slots.card(slot) else { return false };
        match port.runs() {
            false => self.count_idle_report(),
            true => {
                let register = register_name(detail).filter(|_| fault == RingFault::BadCard);
                let register = register.map_or(String::new(), |name| format!(" ({name})"));
                self.card_ends(slot, &format!("{}{register}", fault.words()));
            }
        }
        true
    }

    /// A worker could not execute a command about a card. Returns false if the slot has no card.
    pub(super) fn card_command_failed(&mut self, slot: u16, why: &str) -> bool {
        let is_there = self.clients.slots.card(slot).is_some_and(|port| port.runs());
        if is_there {
            self.card_ends(slot, why);
        }
        is_there
    }

    /// A card is of no more use: closes its files. The port stays.
    fn card_ends(&mut self, slot: u16, why: &str) {
        let Some(port) = self.clients.slots.card(slot) else { return };
        let (named, name) = (port.named(), port.name().to_string());
        if let Some(request) = port.request() {
            self.reactor.forget(&**request);
        }
        let commands = port.close(why.to_string()).into_iter().chain([Command::Barrier.into()]).collect();
        if !self.workers.send(commands, Waiter::Retired(slot))
            && let Some(port) = self.clients.slots.card(slot)
        {
            port.is_forgotten();
        }
        self.count_card(slot);
        let message = format!("{name}: stopped: {why}; attach it again (`sv3 attach nic`), or detach it");
        self.telemetry.events.say_of_port(&named, "card_fault", message, json!({ "why": why }));
    }

    /// Blames a card for the death of a worker: one that does so often is stopped until somebody releases it. Returns
    /// false if the slot has no card.
    pub(super) fn blame_card(&mut self, slot: u16) -> bool {
        let Some(port) = self.clients.slots.card(slot) else { return false };
        let (named, name, key) = (port.named(), port.name().to_string(), port.holder().pid);
        self.telemetry.events.say_of_port(
            &named,
            "blame",
            format!("{name}: it caused the death of a worker"),
            json!({}),
        );
        if self.clients.blames.blame(key, Instant::now()).is_some()
            && let Some(port) = self.clients.slots.card(slot)
        {
            let commands = port.stop("it caused deaths of workers".to_string());
            self.workers.send(commands, Waiter::Nobody);
            let message =
                format!("{name}: stopped, because it caused deaths of workers; `sv3 port release {name}` ends that");
            self.telemetry.events.say_of_port(&named, "quarantine", message, json!({}));
        }
        true
    }

    /// `sv3 port release NAME` for a card that was stopped. `None`: no such port.
    pub(super) fn release_card(&mut self, name: &str) -> Option<serde_json::Value> {
        let slot = self.clients.slots.card_named(name)?;
        let port = self.clients.slots.card(slot)?;
        if port.stopped.is_none() || port.is_empty() {
            return Some(json!({ "error": format!("nothing has stopped {name}, or its card is gone") }));
        }
        port.stopped = None;
        let (named, key, commands) = (port.named(), port.holder().pid, port.open_commands());
        self.clients.blames.release(key, Instant::now());
        self.telemetry.events.say_of_port(&named, "release", format!("{name}: it runs again"), json!({}));
        self.workers.send(commands, Waiter::Nobody);
        Some(json!({ "released": name }))
    }
}

fn mebibytes(octets: u64) -> String {
    format!("{} MiB", octets.div_ceil(1 << 20))
}
