//! Real guests move from one QEMU to another, each on a port of sv3, under pings and TCP.
//!
//! Ignored by a plain `cargo test`, since guests need a minute each and both processors: `scripts/check` runs the first ones.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::ports::uplink;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Config, Job, Moved, Vm};

/// Memory of a guest that moves: QEMU looks at all of it in each round.
const MIB: u32 = 256;

/// A guest that stays, and one that moves.
struct Journey {
    neighbour: Vm,
    config: Config,
    traveller: Option<Vm>,
}

impl Journey {
    fn begin(neighbour: &Switch, traveller: &Switch, device: &str) -> Result<Journey> {
        let config = Vm::number(2).memory_mib(MIB);
        let config = if device.is_empty() { config } else { config.device(device) };
        let (first, second) = (Vm::number(1).start(neighbour.socket())?, config.clone().start(traveller.socket())?);
        Ok(Journey { neighbour: first.booted()?, config, traveller: Some(second.booted()?) })
    }

    fn traveller(&mut self) -> Result<&mut Vm> {
        self.traveller.as_mut().ok_or_else(|| Failure::new("the guest is lost"))
    }

    /// The guest moves to another QEMU on this socket.
    fn go(&mut self, socket: PathBuf, meanwhile: impl FnMut() -> Result<()>) -> Result<Moved> {
        let to = self.config.clone().await_guest(&socket)?;
        let from = self.traveller.take().ok_or_else(|| Failure::new("the guest is lost"))?;
        let (arrived, moved) = from.migrate(to, meanwhile)?;
        self.traveller = Some(arrived);
        Ok(moved)
    }

    /// Both guests send to each other by TCP, without an end: noise, whose checksum the receiver answers.
    fn talk(&mut self) -> Result<Vec<Job>> {
        let (here, there) = (self.neighbour.address(), self.traveller()?.address());
        serve_checksums(&mut self.neighbour)?;
        serve_checksums(self.traveller()?)?;
        Ok(vec![send_noise(self.traveller()?, &here)?, send_noise(&mut self.neighbour, &there)?])
    }

    /// All that was sent came whole, both ways.
    fn assert_whole(&mut self, mut jobs: Vec<Job>) -> Result<()> {
        let patience = Duration::from_secs(60);
        for guest in [true, false] {
            let vm = if guest { self.traveller()? } else { &mut self.neighbour };
            vm.sh("touch /tmp/enough")?;
        }
        let (here, there) = (jobs.pop(), jobs.pop());
        for (job, guest) in [(here, false), (there, true)] {
            let vm = if guest { self.traveller()? } else { &mut self.neighbour };
            let Some(job) = job else { continue };
            let said = vm.finish(job, patience)?.text;
            let (good, bad) = (said.matches("good").count(), said.matches("bad").count());
            assert!(good > 0 && bad == 0, "{good} streams were whole, {bad} were not: {said}");
        }
        Ok(())
    }
}

/// Answers each stream by its checksum.
fn serve_checksums(vm: &mut Vm) -> Result<()> {
    vm.start("while :; do nc -l -p 7000 -e sha256sum; done")?;
    vm.sh("until netstat -ltn | grep -q :7000; do usleep 20000; done").map(drop)
}

/// Sends streams to another guest, one after the other, until there is a file `/tmp/enough`; at least one.
fn send_noise(vm: &mut Vm, to: &str) -> Result<Job> {
    vm.sh("dd if=/dev/urandom of=/tmp/noise bs=1M count=4 2>/dev/null")?;
    // The server is away for a moment after each stream.
    vm.start(&format!(
        "want=$(sha256sum </tmp/noise); until [ -e /tmp/enough -a -n \"$got\" ]; do \
         got=$(nc {to} 7000 </tmp/noise 2>&1); \
         case $got in *refused) got=; usleep 20000; continue;; esac; \
         [ \"$got\" = \"$want\" ] && echo good || echo \"bad $got\"; done"
    ))
}

/// The uplinks of two switches, joined.
fn join(first: &Switch, second: &Switch) -> Result<()> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    for (switch, end, name) in [(first, one, "there"), (second, other, "here")] {
        use std::os::fd::AsFd;
        switch.attach(&uplink(Transport::Stream, name), &[end.as_fd()])?;
    }
    Ok(())
}

fn pings(count: u32, journey: &mut Journey) -> Result<Job> {
    let address = journey.traveller()?.address();
    journey.neighbour.start_ping(&address, count)
}

fn assert_pinged(journey: &mut Journey, job: Job, count: u32, gap: u32) -> Result<()> {
    let ping = journey.neighbour.finish_ping(job, count)?;
    println!("{ping:?}");
    assert!(ping.longest_gap <= gap && ping.duplicates == 0, "{ping:?}");
    Ok(())
}

/// A guest moves twice on one switch, and cancels in between.
fn moves_on_one_switch(device: &str) -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, device)?;
    let jobs = journey.talk()?;
    let job = pings(100, &mut journey)?;
    journey.traveller()?.cancel_migration(1 << 20)?;
    let moved = journey.go(switch.socket().to_path_buf(), || Ok(()))?;
    println!("{device}: {moved:?}");
    journey.assert_whole(jobs)?;
    assert_pinged(&mut journey, job, 100, 20)?;
    let states: Vec<_> = switch.events()?.into_iter().filter(|event| event["event"] == "migration").collect();
    let states: Vec<_> = states.iter().filter_map(|event| event["state"].as_str()).collect();
    assert_eq!(states, ["begun", "ended", "begun", "stopped"]);
    assert_eq!(switch.status()?.worker.restarts, 0);
    assert!(switch.status()?.ports.iter().all(|port| !port.migrating));
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_moves_from_one_port_to_another() -> Result<()> {
    moves_on_one_switch("")
}

#[test]
#[ignore = "it takes long"]
fn a_guest_with_packed_rings_moves() -> Result<()> {
    moves_on_one_switch("packed=on")
}

#[test]
#[ignore = "it takes long"]
fn a_guest_without_mergeable_buffers_moves() -> Result<()> {
    moves_on_one_switch("mrg_rxbuf=off,event_idx=off")
}

/// The driver does not announce itself: QEMU sends five SEND_RARP.
#[test]
#[ignore = "it takes long"]
fn a_guest_that_does_not_announce_itself_moves() -> Result<()> {
    moves_on_one_switch("guest_announce=off")
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_moves_to_another_switch_and_back_while_workers_die() -> Result<()> {
    let (here, there) = (Switch::start()?, Switch::start()?);
    join(&here, &there)?;
    let mut journey = Journey::begin(&here, &here, "")?;
    let jobs = journey.talk()?;
    let job = pings(200, &mut journey)?;
    for (from, to) in [(&here, &there), (&there, &here)] {
        let mut last = Instant::now();
        let mut deaths = 0;
        let moved = journey.go(to.socket().to_path_buf(), || {
            if deaths < 3 && last.elapsed() > Duration::from_millis(300) {
                (last, deaths) = (Instant::now(), deaths + 1);
                from.kill_worker("KILL")?;
            }
            Ok(())
        })?;
        println!("{moved:?}, {deaths} deaths");
    }
    journey.assert_whole(jobs)?;
    assert_pinged(&mut journey, job, 200, 20)
}

#[test]
#[ignore = "it takes long"]
fn a_guest_is_saved_to_a_file_and_restored() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    let jobs = journey.talk()?;
    let to = journey.config.clone().await_guest(switch.socket())?;
    let from = journey.traveller.take().ok_or_else(|| Failure::new("the guest is lost"))?;
    let (arrived, moved) = from.migrate_by_file(to)?;
    println!("{moved:?}");
    journey.traveller = Some(arrived);
    journey.assert_whole(jobs)
}

/// `SV3_MIGRATIONS`: how many, 20 by default. `SV3_MIGRATION_DEATHS`: a worker dies at a random moment of each. `SV3_DEVICE`:
/// properties of the guest's device.
#[test]
#[ignore = "it takes long"]
fn a_guest_moves_to_and_fro() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let (count, deaths) = (number("SV3_MIGRATIONS").unwrap_or(20), number("SV3_MIGRATION_DEATHS").unwrap_or(0) > 0);
    let switch = Switch::with(&["--blame", "0"])?;
    let mut journey = Journey::begin(&switch, &switch, &std::env::var("SV3_DEVICE").unwrap_or_default())?;
    let jobs = journey.talk()?;
    let (mut downtimes, mut killed) = (Vec::new(), 0);
    for round in 0..count {
        let began = Instant::now();
        // From the beginning to the end, in different rounds.
        let when = Duration::from_millis(u64::from(round * 97 % 1500));
        let mut dead = !deaths;
        let moved = journey.go(switch.socket().to_path_buf(), || {
            if !dead && began.elapsed() > when {
                dead = true;
                killed += 1;
                switch.kill_worker("KILL")?;
            }
            Ok(())
        })?;
        println!("{round}: {moved:?} after {:?}", began.elapsed());
        downtimes.push(moved.downtime);
    }
    downtimes.sort();
    println!("{count} migrations, {killed} deaths, downtime {:?} in the median", downtimes[downtimes.len() / 2]);
    journey.assert_whole(jobs)
}
