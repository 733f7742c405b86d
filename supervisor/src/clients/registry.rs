//! All clients, what they hold together, and which of them are to blame for deaths of workers.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sv3::attachment::Learning;
use sv3::foreign::ForeignFd;
use sv3::wire::Refuse;

use crate::clients::blame::Blames;
use crate::clients::budget::Budget;
use crate::clients::class::ClassBlames;
use crate::clients::client::Client;
use crate::clients::number::is_pending;
use crate::clients::slots::Slots;
use crate::fd_inventory::OpenFile;
use crate::ports::loop_watch::LoopWatch;
use crate::timers::Timers;

/// The clients.
pub struct Clients {
    /// The clients, by slot.
    pub slots: Slots,
    /// What they hold of files and regions.
    pub budget: Budget,
    /// Blame by process.
    pub blames: Blames,
    /// Blame by client class.
    pub classes: ClassBlames,
    /// The watch for loops through uplinks.
    pub loops: LoopWatch,
    /// When taps were checked last.
    pub taps_checked: Instant,
    /// Clients from which nothing is read until the work that they caused is done.
    halted: BTreeSet<u16>,
    /// How many clients have connected so far.
    connections: u64,
}

/// The deadlines of clients.
#[derive(Clone, Copy)]
pub enum Timer {
    /// A message must be complete.
    Message,
    /// A quarantine ends.
    Quarantine,
    /// Frames that look for loops go out of the uplinks.
    Loops,
    /// The other side of a socket has hung up, and no worker has reported the end of the port.
    End,
    /// Somebody may have changed how taps are to be read.
    Taps,
}

/// Time between two checks of taps. The kernel's answer may have to wait for others who configure its network, and a
/// worker that dies meanwhile is replaced later. So this is not often.
const TAPS_CHECK: Duration = Duration::from_secs(5);

impl Clients {
    /// Starts without clients. `blame` deaths within the window mean quarantine; 0: never.
    pub fn new(blame: usize) -> Clients {
        Clients {
            slots: Slots::default(),
            budget: Budget::new(),
            blames: Blames::new(blame),
            classes: ClassBlames::new(blame),
            loops: LoopWatch::new(),
            taps_checked: Instant::now(),
            halted: BTreeSet::new(),
            connections: 0,
        }
    }

    /// A number that no other connection has.
    pub fn next_serial(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// Stops reading from a client until the work that it caused is done.
    pub fn halt(&mut self, slot: u16) {
        self.halted.insert(slot);
    }

    /// Takes the halted clients, so that the caller looks whether each must still wait.
    pub fn take_halted(&mut self) -> BTreeSet<u16> {
        std::mem::take(&mut self.halted)
    }

    /// Clients whose port is served: it is not in quarantine.
    pub fn served(&self) -> impl Iterator<Item = &Client> + Clone {
        self.slots.clients().filter(|client| client.quarantine.is_none())
    }

    /// The uplinks that run: slot and serial number of each.
    pub fn uplinks(&self) -> impl Iterator<Item = (u16, u64)> {
        let files = self.slots.all_files().filter(|port| port.runs());
        let files = files.map(|port| (port.slot, port.serial, port.attachment.learning));
        let cards = self.slots.all_cards().filter(|port| port.runs());
        let cards = cards.map(|port| (port.slot, port.serial, port.attachment.learning));
        files.chain(cards).filter(|port| port.2 == Learning::Uplink).map(|(slot, serial, _)| (slot, serial))
    }

    /// Whether a client's removed regions that are still mapped make its share larger than what is free.
    pub fn is_strained(&mut self, slot: u16) -> bool {
        let budget = &self.budget;
        self.slots.client(slot).is_some_and(|client| budget.is_strained(client.held, &client.device().pending_unmaps))
    }

    /// Clients that are late with a message, and the reason for each refusal.
    pub fn late(&self, now: Instant) -> Vec<(u16, Refuse)> {
        let late = |client: &&Client| client.connection.message_due().is_some_and(|due| due <= now);
        self.slots.connected().filter(late).map(|client| (client.id.slot, client.connection.lateness())).collect()
    }

    /// Clients whose quarantine is over.
    pub fn served_their_time(&self, now: Instant) -> Vec<u16> {
        let over = self.slots.clients().filter(|client| client.quarantine.is_some_and(|until| until <= now));
        over.map(|client| client.id.slot).collect()
    }

    /// Ports of open files whose quarantine is over.
    pub fn files_that_served_their_time(&self, now: Instant) -> Vec<u16> {
        let over = self.slots.all_files().filter(|port| port.quarantine.is_some_and(|until| until <= now));
        over.map(|port| port.slot).collect()
    }

    /// The files that clients gave, and their connections.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let ports = self.slots.all_files().flat_map(|port| {
            let kind = port.kind_of_files();
            port.files().map(move |fd| OpenFile::borrowed((**fd).as_fd(), kind, format!("frames of {}", port.name())))
        });
        let cards = self.slots.all_cards().flat_map(|port| {
            let what = format!("the card {}", port.name());
            let retired = port.retired().map(|fd| ("file", fd));
            port.files().chain(retired).map(move |(kind, fd)| OpenFile::borrowed((**fd).as_fd(), kind, what.clone()))
        });
        let leaving = self.slots.leaving_files();
        let leaving = leaving.map(|fd| OpenFile::borrowed((**fd).as_fd(), "file", "frames of a port that is leaving"));
        self.slots.connected().flat_map(files_of).chain(ports).chain(cards).chain(leaving)
    }
}

impl Timers for Clients {
    type Timer = Timer;
    const TIMERS: &'static [Timer] = &[Timer::Message, Timer::Quarantine, Timer::Loops, Timer::End, Timer::Taps];

    fn when(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Message => self.slots.connected().filter_map(|client| client.connection.message_due()).min(),
            Timer::Quarantine => {
                let files = self.slots.all_files().filter_map(|port| port.quarantine);
                self.slots.clients().filter_map(|client| client.quarantine).chain(files).min()
            }
            Timer::Loops => self.loops.due(self.uplinks().count()),
            Timer::End => self.slots.all_files().filter_map(|port| port.end_due).min(),
            Timer::Taps => {
                let has_tap = self.slots.all_files().any(|port| port.runs() && port.is_tap());
                has_tap.then_some(self.taps_checked + TAPS_CHECK)
            }
        }
    }
}

fn files_of<'c>(client: &'c Client) -> impl Iterator<Item = OpenFile<'c>> {
    let slot = client.id.slot;
    let whose = match is_pending(slot) {
        true => format!("process {}, which has no port", client.id.pid),
        false => format!("the client of {}", client.device().port),
    };
    let name = &client.device().port;
    let memory = client.device().memory.iter().map(move |memory| {
        let purpose = format!("memory of {name} at {:#x}", memory.region.guest_addr);
        OpenFile::borrowed(memory.fd.as_fd(), "memory", purpose)
    });
    let rings = client.device().rings().flat_map(move |(index, ring)| {
        let fds = [(ring.kick.as_ref(), "kicks"), (ring.call.as_ref(), "calls"), (ring.err.as_ref(), "errors")];
        let file = move |(fd, of): (Option<&'c Rc<ForeignFd>>, &str)| {
            Some(OpenFile::borrowed(fd?.as_fd(), "eventfd", format!("{of} of {name}, ring {index}")))
        };
        fds.into_iter().filter_map(file)
    });
    [OpenFile::new(client, "socket", whose)].into_iter().chain(memory).chain(rings)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::doors::listener::Peer;

    #[test]
    fn what_is_due_of_clients_is_known_without_any_other_part_of_the_supervisor() {
        let (mut clients, now) = (Clients::new(3), Instant::now());
        assert_eq!(clients.deadline(), None);
        for slot in 0..2 {
            let (stream, _) = UnixStream::pair().unwrap();
            let peer = Peer { stream: Rc::new(OwnedFd::from(stream).into()), pid: 7, uid: 8, is_lent: false };
            let serial = clients.next_serial();
            clients.slots.insert(Client::new(slot, serial, peer));
        }
        let until = now + Duration::from_secs(10);
        clients.slots.client(1).unwrap().quarantine = Some(until);
        assert_eq!(clients.deadline(), Some(until));
        assert_eq!((clients.served_their_time(now), clients.served_their_time(until)), (vec![], vec![1]));
        assert_eq!(clients.served().map(|client| client.id.slot).collect::<Vec<_>>(), [0]);
        // Neither has sent a message: that has a deadline too, of ten minutes.
        assert_eq!(clients.late(now).len(), 0);
        assert_eq!(clients.late(now + Duration::from_secs(601)).len(), 2);
        assert_eq!(clients.files().count(), 2);
        clients.halt(1);
        assert_eq!(clients.take_halted().into_iter().collect::<Vec<_>>(), [1]);
        assert!(clients.take_halted().is_empty());
    }
}
