//! Target `live`: a whole supervisor with real sockets, memory files and eventfds, and many clients at a time. Their
//! messages come in pieces and interleaved. Workers are late, die, send false reports, or cannot be started. Ports
//! of open files come and go beside them. Whatever they do, an honest client's session stays open and is answered, and when all clients have gone, no slot, no fd and
//! no part of the budget is lost.

mod client;
mod file_ports;
mod worker;

use nix::sys::signal::Signal;
use sv3::fuzz::{Fds, Input};

use crate::supervisor::live::{Asked, Live};
use client::{Client, Files};
use file_ports::FilePorts;
use worker::Fake;

/// Most other clients at a time.
const CLIENTS: usize = 6;
/// Most deaths of workers in one input: after more, the supervisor delays the next start.
const DEATHS: usize = 6;
/// All must be quiet after this many turns.
const TURNS_MAX: usize = 300;

/// Octets: steps, each its kind (1) and its parameters; see [`Fixture::step`].
pub fn live(octets: &[u8]) {
    let files = Files::new(Fds::default());
    let mut fixture = Fixture::new(&files);
    let mut input = Input::new(octets);
    while !input.is_empty() {
        fixture.step(&mut input, &files);
        fixture.turn();
    }
    fixture.end(&files);
    drop(fixture);
    files.assert_closed();
}

struct Fixture {
    live: Live,
    honest: Client,
    /// The honest client's slot.
    slot: u16,
    clients: Vec<Client>,
    files: FilePorts,
    workers: Vec<Fake>,
    deaths: usize,
    /// So many workers cannot be started from now on.
    refused: usize,
    /// The spawner answers late.
    late: bool,
}

impl Fixture {
    /// A supervisor whose worker serves, and an honest client whose ring runs.
    fn new(files: &Files) -> Fixture {
        let mut live = Live::new();
        // The front door opens when the first worker serves.
        let workers = workers_up(&mut live);
        let honest = Client::connect(live.door());
        let (clients, files_of, refused) = (Vec::new(), FilePorts::default(), 0);
        let mut fixture =
            Fixture { live, honest, slot: 0, clients, files: files_of, workers, deaths: 0, refused, late: false };
        fixture.honest.start_ring(files);
        fixture.settle();
        fixture.slot = *fixture.live.taken().first().unwrap();
        assert_eq!(fixture.live.taken(), [fixture.slot], "an honest client was sent away");
        fixture
    }

    fn step(&mut self, input: &mut Input<'_>, files: &Files) {
        let kind = input.below(16);
        match kind {
            0 | 1 if self.clients.len() < CLIENTS => self.clients.push(Client::connect(self.live.door())),
            0..8 => {
                let Some(client) = some(&mut self.clients, input) else { return };
                client.speak(input, files);
            }
            8 => {
                if !self.clients.is_empty() {
                    let at = input.below(self.clients.len());
                    drop(self.clients.swap_remove(at));
                }
            }
            9 => {
                if let Some(client) = some(&mut self.clients, input) {
                    client.read_replies();
                }
            }
            10..13 => {
                let count = input.below(32);
                if let Some(worker) = some(&mut self.workers, input) {
                    worker.execute(count);
                }
            }
            13 => self.kill(input),
            // A false report may cost the worker its life.
            14 if self.deaths < DEATHS => {
                if let Some(worker) = some(&mut self.workers, input) {
                    worker.lie(input);
                }
            }
            _ => match input.below(9) {
                0 => self.late = true,
                1 => self.refused = 1,
                2 => files.truncate(),
                3 => self.honest.ask(files),
                4..8 => self.files.step(input, &mut self.live, files),
                _ => self.late = false,
            },
        }
    }

    /// A worker dies, and may have written down which port it served.
    fn kill(&mut self, input: &mut Input<'_>) {
        let (which, how, whom) = (input.u8(), input.below(4), input.u8());
        if self.workers.is_empty() || self.deaths >= DEATHS {
            return;
        }
        self.deaths += 1;
        let worker = self.workers.swap_remove(usize::from(which) % self.workers.len());
        if let Some(area) = self.live.area(worker.area).filter(|_| whom < 16) {
            worker::write_serving(area, whom);
        }
        let pid = worker.pid;
        if how % 2 == 0 {
            // The supervisor sees the closed socket before the kernel reports the death.
            drop(worker);
            self.live.turn();
        }
        self.live.died(pid, if how < 2 { Signal::SIGKILL } else { Signal::SIGBUS });
    }

    /// One turn of the supervisor and of all clients. Workers only execute commands.
    fn turn(&mut self) {
        self.clients.iter_mut().chain([&mut self.honest]).for_each(Client::send);
        self.live.turn();
        while !self.late {
            match self.live.asked() {
                Some(Asked::Worker(socket)) => {
                    let born = self.refused == 0 || self.deaths >= DEATHS;
                    self.deaths += usize::from(!born);
                    self.refused = 0;
                    let pid = self.live.answer(born);
                    self.workers.extend(born.then(|| Fake::new(pid, socket)));
                }
                Some(Asked::Closer) => drop(self.live.answer(false)),
                None => break,
            }
        }
        // Workers that the supervisor killed are dead.
        for at in (0..self.workers.len()).rev() {
            if self.live.is_to_be_dead(self.workers[at].pid) {
                let worker = self.workers.swap_remove(at);
                self.deaths += 1;
                self.live.died(worker.pid, Signal::SIGKILL);
            }
        }
    }

    /// Takes turns until nothing happens any more.
    fn settle(&mut self) {
        self.late = false;
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            self.turn();
            let executed: usize = self.workers.iter_mut().map(|worker| worker.execute(usize::MAX)).sum();
            quiet = if executed == 0 { quiet + 1 } else { 0 };
            if quiet > 8 {
                return;
            }
        }
        panic!("the supervisor does not become quiet");
    }

    fn end(&mut self, files: &Files) {
        self.settle();
        assert!(self.live.taken().contains(&self.slot), "the honest client was sent away");
        self.honest.ask(files);
        self.settle();
        self.honest.assert_answered();
        self.clients.clear();
        self.honest.close();
        let ends = self.files.close(&mut self.live);
        self.settle();
        self.live.end_hung_up();
        self.settle();
        ends.assert_closed();
        self.live.assert_empty();
        self.workers.clear();
    }
}

/// Starts the first worker.
fn workers_up(live: &mut Live) -> Vec<Fake> {
    let mut workers: Vec<Fake> = Vec::new();
    for _ in 0..TURNS_MAX {
        live.turn();
        while let Some(asked) = live.asked() {
            let socket = match asked {
                Asked::Worker(socket) => socket,
                Asked::Closer => {
                    live.answer(false);
                    continue;
                }
            };
            workers.push(Fake::new(live.answer(true), socket));
        }
        let _: usize = workers.iter_mut().map(|worker| worker.execute(usize::MAX)).sum();
        if workers.len() > 1 {
            return workers;
        }
    }
    panic!("no worker came up");
}

fn some<'a, T>(all: &'a mut [T], input: &mut Input<'_>) -> Option<&'a mut T> {
    let at = usize::from(input.u8()) % all.len().max(1);
    all.get_mut(at)
}
