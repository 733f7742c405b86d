//! A case: one kind of attack, and the means to make it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::guest::wire::{GET_FEATURES, Heard, NEED_REPLY, VERSION, Wire};
use crate::hostile::client::{Client, GOOD};
use crate::hostile::peer::Peer;
use crate::hostile::reaction::{Reaction, Tally};
use crate::hostile::ring::Descriptor;

/// After how long without an answer a back-end counts as silent, in the middle of a case.
const SILENCE: Duration = Duration::from_millis(250);

/// The program that must listen at a socket that is attacked.
const SUPERVISOR: &str = "sv3-supervisor";

/// One kind of attack.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Where it was first seen: a CVE, or "sv3 2013", which is sv3's predecessor; "own": made for this test.
    pub origin: &'static str,
    /// What is done.
    pub what: &'static str,
    /// Does it.
    pub run: fn(&mut Attack<'_>) -> Result<()>,
}

/// What is attacked, and how: always a switch of sv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    socket: PathBuf,
    patience: Duration,
    duration: Duration,
    seed: u64,
}

impl Target {
    /// The socket of a switch. Refused where another program than sv3's supervisor listens: cases that end other
    /// back-ends are not for them. `patience`: after how long without service the switch counts as hung; `duration`: how
    /// long a race or a flood goes on; `seed`: for everything random.
    pub fn new(socket: &Path, patience: Duration, duration: Duration, seed: u64) -> Result<Target> {
        let listener = Peer::of(Wire::connect_within(socket, patience)?.socket());
        match listener.program.as_str() {
            SUPERVISOR => Ok(Target { socket: socket.to_path_buf(), patience, duration, seed }),
            other => Err(Failure::new(format!("{} is served by {other:?} and not by {SUPERVISOR}", socket.display()))),
        }
    }

    /// The vhost-user socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How long a well-behaved client waits.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// For everything random.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// The outcome of an attack.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attacked {
    /// What the back-end did.
    pub tally: Tally,
    /// The back-end does not offer what the case is about.
    pub not_offered: bool,
    /// Why the attacker got no further.
    pub stopped: Option<String>,
}

/// A case that is being run.
pub struct Attack<'a> {
    target: &'a Target,
    /// What the back-end did so far.
    pub tally: Tally,
    /// The back-end does not offer what the case is about.
    pub not_offered: bool,
    /// Random numbers.
    pub random: Random,
    kept: Vec<Client>,
}

impl<'a> Attack<'a> {
    /// Of a target.
    pub fn new(target: &'a Target) -> Attack<'a> {
        Attack {
            target,
            tally: Tally::default(),
            not_offered: false,
            random: Random(target.seed | 1 << 63),
            kept: Vec::new(),
        }
    }

    /// When a race or a flood that begins now is over.
    pub fn over(&self) -> Instant {
        Instant::now() + self.target.duration
    }

    /// How long a well-behaved client waits.
    pub fn patience(&self) -> Duration {
        self.target.patience
    }

    /// A front-end that has sent nothing.
    pub fn stranger(&self) -> Result<Client> {
        Client::connect(&self.target.socket, self.target.patience)
    }

    /// A front-end that has negotiated, with these protocol features if they are offered.
    pub fn negotiated(&mut self, protocol_features: u64) -> Result<Client> {
        let mut client = self.stranger()?;
        self.not_offered = !client.negotiate(protocol_features)?;
        Ok(client)
    }

    /// A front-end that is served.
    pub fn served(&mut self) -> Result<Client> {
        let mut client = self.negotiated(0)?;
        client.start()?;
        Ok(client)
    }

    /// A well-behaved front-end beside the attacker.
    pub fn bystander(&self) -> Result<Client> {
        let mut client = self.stranger()?;
        client.negotiate(0)?;
        client.start()?;
        Ok(client)
    }

    /// Sends a message and notes what the back-end does.
    pub fn say(&mut self, client: &mut Client, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Reaction {
        let flags = VERSION | if client.wire.acknowledged { NEED_REPLY } else { 0 };
        self.say_with(client, (request, flags), payload, fds)
    }

    /// As [`Attack::say`], with any flags.
    pub fn say_with(
        &mut self,
        client: &mut Client,
        (request, flags): (u32, u32),
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Reaction {
        let sent = client.wire.send(request, flags, payload, fds);
        let reaction = if sent.is_err() { Reaction::Closed } else { react(client, request) };
        self.tally.note(reaction);
        reaction
    }

    /// Sends octets that are no whole message or more than one, and notes what the back-end does.
    pub fn say_octets(&mut self, client: &mut Client, octets: &[u8], fds: &[BorrowedFd<'_>]) -> Reaction {
        let sent = client.wire.send_octets(octets, fds);
        let reaction = if sent.is_err() { Reaction::Closed } else { react(client, u32::MAX) };
        self.tally.note(reaction);
        reaction
    }

    /// Offers a chain to transmit and notes what the back-end does with it. False: no more chains will be taken.
    pub fn transmit(&mut self, client: &mut Client, chain: &[Descriptor]) -> bool {
        client.transmit(chain);
        self.await_chains(client) == Reaction::Returned
    }

    /// Offers a valid frame and notes what the back-end does with it, likewise.
    pub fn transmit_good(&mut self, client: &mut Client) -> bool {
        let chain = [Descriptor::of(client.page, GOOD)];
        self.transmit(client, &chain)
    }

    /// Notes what the back-end does with the chains to transmit that were offered.
    pub fn await_chains(&mut self, client: &mut Client) -> Reaction {
        let [_, tx] = &client.rings;
        // A poll thread may sleep for a moment, and a busy machine longer.
        let reaction = match tx.await_all(&client.memory, SILENCE) {
            true => Reaction::Returned,
            false if client.wire.hear(Duration::ZERO) == Heard::Closed => Reaction::Closed,
            false => Reaction::Left,
        };
        self.tally.note(reaction);
        reaction
    }

    /// Offers chains one after the other; to a new ring after one that was not taken.
    pub fn transmit_each(&mut self, chains: &[Vec<Descriptor>], prepare: impl Fn(&Client)) -> Result<()> {
        let mut client: Option<Client> = None;
        for chain in chains {
            let mut current = match client.take() {
                Some(client) => client,
                None => {
                    let client = self.served()?;
                    prepare(&client);
                    client
                }
            };
            if self.transmit(&mut current, chain) {
                client = Some(current);
            }
        }
        self.kept.extend(client);
        Ok(())
    }

    /// The outcome of the attack.
    pub fn result(&self, ran: Result<()>) -> Attacked {
        let stopped = ran.err().map(|failure| failure.to_string());
        Attacked { tally: self.tally.clone(), not_offered: self.not_offered, stopped }
    }

    /// Keeps a client connected until the check with a well-behaved client is over.
    pub fn keep(&mut self, client: Client) {
        self.kept.push(client);
    }
}

/// What follows a message: its reply, or that of the harmless request behind it.
fn react(client: &mut Client, request: u32) -> Reaction {
    let pinged = client.wire.send(GET_FEATURES, VERSION, &[], &[]).is_ok();
    let mut reaction = None;
    loop {
        match client.wire.hear(SILENCE) {
            Heard::Closed => return Reaction::Closed,
            Heard::Nothing => return reaction.unwrap_or(if pinged { Reaction::Silent } else { Reaction::Closed }),
            Heard::Reply(code, payload) if code == request && reaction.is_none() => {
                reaction = Some(judge(request, &payload));
            }
            Heard::Reply(GET_FEATURES, _) => return reaction.unwrap_or(Reaction::Wordless),
            Heard::Reply(..) => {}
        }
    }
}

/// What a reply says: a request that asks for a value gets one, others get an acknowledgement.
fn judge(request: u32, payload: &[u8]) -> Reaction {
    const VALUES: [u32; 9] = [1, 11, 15, 17, 24, 31, 36, 40, 41];
    match <[u8; 8]>::try_from(payload) {
        _ if VALUES.contains(&request) => Reaction::Answered,
        Ok([0, 0, 0, 0, 0, 0, 0, 0]) => Reaction::Acknowledged,
        Ok(_) => Reaction::Refused,
        Err(_) => Reaction::Answered,
    }
}

/// An eventfd.
pub fn eventfd() -> Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// A memory file.
pub fn memfd(octets: u64) -> Result<OwnedFd> {
    let fd = memfd_create("sv3-hostile", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, octets.cast_signed())?;
    Ok(fd)
}

/// Random numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The next one (xorshift, Marsaglia 2003).
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next one below a bound, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word().checked_rem(bound).unwrap_or(0)
    }

    /// That many octets.
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.word() >> 24) as u8).collect()
    }
}
