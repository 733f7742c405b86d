//! Target `live`: a whole supervisor with real sockets, memory files and eventfds, and many clients at a time, whose
//! messages come in pieces and mixed; workers that obey late, die, lie, or cannot be started. Whatever they do, an
//! honest client's session stays open and is answered, and when all have gone no slot, no fd and nothing of the
//! budget is missing.

mod client;
mod worker;

use nix::sys::signal::Signal;
use sv3::fuzz::{Fds, Input};

use crate::supervisor::live::{Asked, Live};
use client::{Client, Files};
use worker::Fake;

/// Clients at a time beside the honest one.
const CLIENTS: usize = 6;
/// Deaths of workers in one input: more in a row are followed by a pause.
const DEATHS: usize = 6;
/// Turns after which all must be quiet.
const PATIENCE: usize = 300;

/// Octets: steps, each its kind (1) and its particulars; see [`House::step`].
pub fn live(octets: &[u8]) {
    let files = Files::new(Fds::default());
    let mut house = House::new(&files);
    let mut input = Input::new(octets);
    while !input.is_empty() {
        house.step(&mut input, &files);
        house.turn();
    }
    house.end(&files);
    drop(house);
    files.assert_closed();
}

struct House {
    live: Live,
    honest: Client,
    /// The honest client's.
    slot: u16,
    clients: Vec<Client>,
    workers: Vec<Fake>,
    deaths: usize,
    /// Workers that cannot be started, from now on.
    refused: usize,
    /// The spawner is slow.
    late: bool,
}

impl House {
    /// A supervisor whose worker serves, and an honest client whose ring runs.
    fn new(files: &Files) -> House {
        let mut live = Live::new();
        // The door opens when the first worker serves.
        let workers = workers_up(&mut live);
        let honest = Client::connect(live.door());
        let (clients, refused) = (Vec::new(), 0);
        let mut house = House { live, honest, slot: 0, clients, workers, deaths: 0, refused, late: false };
        house.honest.start_ring(files);
        house.settle();
        house.slot = *house.live.taken().first().unwrap();
        assert_eq!(house.live.taken(), [house.slot], "an honest client was sent away");
        house
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
                    client.hear();
                }
            }
            10..13 => {
                let count = input.below(32);
                if let Some(worker) = some(&mut self.workers, input) {
                    worker.obey(count);
                }
            }
            13 => self.kill(input),
            // A lie may be the death of a worker.
            14 if self.deaths < DEATHS => {
                if let Some(worker) = some(&mut self.workers, input) {
                    worker.lie(input);
                }
            }
            _ => match input.below(5) {
                0 => self.late = true,
                1 => self.refused = 1,
                2 => files.truncate(),
                3 => self.honest.ask(files),
                _ => self.late = false,
            },
        }
    }

    /// A worker dies, and has perhaps written down whom it served.
    fn kill(&mut self, input: &mut Input<'_>) {
        let (which, how, whom) = (input.u8(), input.below(4), input.u8());
        if self.workers.is_empty() || self.deaths >= DEATHS {
            return;
        }
        self.deaths += 1;
        let worker = self.workers.swap_remove(usize::from(which) % self.workers.len());
        if let Some(area) = self.live.area(worker.area).filter(|_| whom < 16) {
            worker::write_hand(area, whom);
        }
        let pid = worker.pid;
        if how % 2 == 0 {
            // The socket's end is seen before the kernel tells of the death.
            drop(worker);
            self.live.turn();
        }
        self.live.died(pid, if how < 2 { Signal::SIGKILL } else { Signal::SIGBUS });
    }

    /// One turn of everybody, but workers do only what they are told to.
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
        // Who was killed is dead.
        for at in (0..self.workers.len()).rev() {
            if self.live.is_to_be_dead(self.workers[at].pid) {
                let worker = self.workers.swap_remove(at);
                self.deaths += 1;
                self.live.died(worker.pid, Signal::SIGKILL);
            }
        }
    }

    /// Until nothing happens any more.
    fn settle(&mut self) {
        self.late = false;
        let mut quiet = 0;
        for _ in 0..PATIENCE {
            self.turn();
            let obeyed: usize = self.workers.iter_mut().map(|worker| worker.obey(usize::MAX)).sum();
            quiet = if obeyed == 0 { quiet + 1 } else { 0 };
            if quiet > 8 {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn end(&mut self, files: &Files) {
        self.settle();
        assert!(self.live.taken().contains(&self.slot), "the honest client was sent away");
        self.honest.ask(files);
        self.settle();
        self.honest.assert_answered();
        self.clients.clear();
        self.honest.close();
        self.settle();
        self.live.assert_empty();
        self.workers.clear();
    }
}

/// Starts the first worker.
fn workers_up(live: &mut Live) -> Vec<Fake> {
    let mut workers: Vec<Fake> = Vec::new();
    for _ in 0..PATIENCE {
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
        let _: usize = workers.iter_mut().map(|worker| worker.obey(usize::MAX)).sum();
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
