//! How a card is opened: at once, or by the mapper if it is to be reset ([`crate::poll::opener`]).

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use nix::errno::Errno;
use sv3::card::{CardSettings, CardState};
use sv3::ids::QueueId;
use sv3::ipc::{ReportKind, RingFault};

use super::{Open, errno};
use crate::nic::bar::MappedBar;
use crate::nic::card::{Card, Registers};
use crate::nic::memory::CardMemory;
use crate::nic::positions::Positions;
use crate::poll::control_thread::{ControlThread, NO_PORT};
use crate::poll::opener::{Opened, Opening};
use crate::port::card::{CardQueue, Registers as QueueSet};
use crate::port::endpoint::Endpoint;

impl ControlThread {
    /// Opens all cards: the worker serves from now on. The caller brings up the queues of those that are open then.
    pub(in crate::poll::control_thread) fn open_cards(&mut self) {
        for slot in self.cards.slots() {
            if self.open_card(slot).is_err() {
                // No command is under way that could be told to have failed.
                self.stop_card(slot, RingFault::BadCard);
            }
        }
    }

    /// Opens a card, or has it opened.
    pub(super) fn open_card(&mut self, slot: u16) -> nix::Result<()> {
        let registers = self.card_registers(slot)?;
        let number = self.cards.given;
        let Some(port) = self.cards.get(slot) else { return Err(NO_PORT) };
        let memory = port.memory.take().ok_or(Errno::EBADF)?;
        port.opening = Some(number);
        self.cards.given += 1;
        let card = Opening { slot, number, registers, memory };
        if card.is_short() {
            return self.card_opened(card.open());
        }
        match self.threads.mapper.open(card, self.cards.waiting) {
            Ok(()) => {
                self.cards.waiting += 1;
                Ok(())
            }
            Err(card) => self.card_opened(card.open()),
        }
    }

    /// Takes cards that the mapper has opened.
    pub(in crate::poll::control_thread) fn take_opened(&mut self) {
        while self.cards.waiting > 0
            && let Some(opened) = self.threads.mapper.opener.next_opened()
        {
            self.cards.waiting -= 1;
            let slot = opened.card.slot;
            match self.card_opened(opened) {
                Ok(()) => self.card_queues(slot).into_iter().for_each(|queue| self.changed(queue)),
                Err(_) => self.stop_card(slot, RingFault::BadCard),
            }
        }
    }

    /// Prepares the queues of a card. Tells the supervisor that it is ready, or why it is not.
    fn card_opened(&mut self, opened: Opened) -> nix::Result<()> {
        let Opened { card: Opening { slot, number, registers, memory }, device } = opened;
        let Some(port) = self.cards.get(slot).filter(|port| port.opening == Some(number)) else {
            // The port is gone, or has another card. If this one does not stop, the supervisor's stop has to do.
            let _ = device.and_then(|mut device| device.stop(&registers));
            return Ok(());
        };
        port.opening = None;
        let device = match device {
            Ok(device) => device,
            Err(fault) => {
                self.card_fault(slot, fault);
                return Ok(());
            }
        };
        let goes_on = begin(memory.state(), &memory);
        let card = Arc::new(Card { bar: registers, memory });
        for pair in 0..device.pairs() {
            for queue in [QueueId::receive(slot, pair), QueueId::transmit(slot, pair)] {
                let mut endpoint = CardQueue::new(Arc::clone(&card), queue, QueueSet::of(&device, queue), goes_on);
                endpoint.set_link(card.memory.state().link.load(Relaxed) != 0);
                self.use_queue(queue)?.reset(Endpoint::Card(Box::new(endpoint)));
            }
        }
        self.watch_card(slot, device.pairs())?;
        if let Some(port) = self.cards.get(slot) {
            port.open = Some(Open { card, device, is_started: false, filtered: Vec::new() });
        }
        if let Some((container, limit)) = self.cards.get(slot).and_then(|port| port.container.take()) {
            // It is ready when nothing is left that an earlier worker has pinned.
            self.begin_to_pin(slot, container, limit);
            return Ok(());
        }
        self.report_of(ReportKind::CardReady, (slot, 0), 0);
        Ok(())
    }

    fn card_registers(&mut self, slot: u16) -> nix::Result<Registers> {
        #[cfg(test)]
        if let Some(registers) = self.cards.simulated.take() {
            return Ok(registers);
        }
        let port = self.cards.get(slot).ok_or(NO_PORT)?;
        let device = port.device.take().ok_or(Errno::EBADF)?;
        let CardSettings { bar_offset, bar_size, .. } = port.settings;
        MappedBar::new(&device, bar_offset, bar_size).map(Registers::Mapped).map_err(errno)
    }
}

/// Whether the memory is of the run of the settings. Otherwise it is made so, and holds nothing.
fn begin(state: &CardState, memory: &CardMemory) -> bool {
    let run = memory.settings().run;
    if state.run.load(Relaxed) == run {
        return true;
    }
    (0..memory.settings().pairs).for_each(|pair| Positions { pair }.clear(memory));
    state.link.store(0, Relaxed);
    state.run.store(run, Release);
    false
}
