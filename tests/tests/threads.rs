//! Several data-path threads: however rings are spread over threads, frames of one ring stay in order, nothing is lost,
//! and deaths do no more harm than with one thread.

use std::fs;
use std::time::{Duration, Instant};

use sv3::status::Crashes;
use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::guest::feature::*;
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::stopped::{spin, stop, threads};
use sv3_tests::switch::{Switch, activity};

/// Guests by turns with a split and a packed ring. With two threads, transmit rings of neighbours belong to different
/// threads.
fn connect(switch: &Switch, count: u8) -> Vec<Guest> {
    let config = |n: u8| match n % 2 {
        0 => Guest::config(),
        _ => Guest::config().more_features(RING_PACKED | VERSION_1),
    };
    let mut guests: Vec<Guest> = (0..count).map(|n| config(n).connect(switch.socket())).collect();
    for (n, guest) in (0..).zip(&mut guests) {
        // The switch learns its address without a frame to any receiver.
        guest.send(&frame(mac(n), mac(n), b"to myself"));
        guest.await_sent();
    }
    guests
}

/// A flow whose frames come in the order in which they were sent, except for duplicates.
struct Ordered {
    flow: Flow,
    newest: Option<u32>,
}

/// Flows from each guest to each other one: by sender, by receiver.
struct Mesh(Vec<Vec<Ordered>>);

impl Mesh {
    fn new(count: u8) -> Mesh {
        let ordered = |from, to| Ordered { flow: Flow::new(from, to, 200), newest: None };
        Mesh((0..count).map(|from| (0..count).map(|to| ordered(from, to)).collect()).collect())
    }

    /// Each guest sends so many frames to each other one.
    fn send(&mut self, guests: &mut [Guest], count: u32) {
        for (from, flows) in self.0.iter_mut().enumerate() {
            for (to, ordered) in flows.iter_mut().enumerate() {
                if to != from {
                    ordered.flow.send(&mut guests[from], count);
                }
            }
        }
    }

    /// Takes what has come.
    fn receive(&mut self, guests: &mut [Guest]) {
        for (to, guest) in guests.iter_mut().enumerate() {
            while let Some(received) = guest.try_receive() {
                let ordered = &mut self.0[usize::from(received.frame[11])][to];
                let number = u32::from_ne_bytes(std::array::from_fn(|at| received.frame[14 + at]));
                let before = ordered.flow.times(number);
                ordered.flow.note(&received);
                if before == 0 {
                    assert!(ordered.newest.is_none_or(|newest| newest < number), "{number} came late");
                    ordered.newest = Some(number);
                }
            }
        }
    }

    fn await_complete(&mut self, guests: &mut [Guest]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.0.iter().flatten().all(|ordered| ordered.flow.is_complete()) {
            assert!(Instant::now() < deadline, "frames did not come");
            self.receive(guests);
        }
    }

    fn duplicates(&self) -> u32 {
        self.0.iter().flatten().map(|ordered| ordered.flow.duplicates()).sum()
    }
}

/// Each guest sends to all others, so all threads want each receive ring; the worker dies again and again.
fn storm(threads: &str, count: u8, deaths: u32) -> Result<()> {
    const SIGNALS: [&str; 4] = ["KILL", "ABRT", "SEGV", "BUS"];
    let switch = Switch::with(&["--threads", threads])?;
    let mut guests = connect(&switch, count);
    let mut mesh = Mesh::new(count);
    for death in 0..deaths {
        for _ in 0..5 {
            mesh.send(&mut guests, 8);
            mesh.await_complete(&mut guests);
        }
        mesh.send(&mut guests, 8);
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(u64::from(death * 37 % 200)) {
            std::hint::spin_loop();
        }
        let shot = switch.shoot_worker(SIGNALS[death as usize % SIGNALS.len()])?;
        mesh.await_complete(&mut guests);
        switch.await_restart(shot)?;
        // A worker that lives this long has not crashed at the start.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(110) {
            mesh.send(&mut guests, 4);
            mesh.await_complete(&mut guests);
        }
    }
    guests.iter_mut().for_each(Guest::await_sent);
    mesh.receive(&mut guests);
    mesh.duplicates();
    let status = switch.status()?;
    assert_eq!((status.worker.restarts, status.worker.threads.to_string().as_str()), (u64::from(deaths), threads));
    for port in status.ports {
        assert!(port.drops.keys().all(|reason| reason == "hairpin"), "{}: {:?}", port.name, port.drops);
    }
    Ok(())
}

#[test]
fn all_send_to_all_on_two_threads_while_workers_die() -> Result<()> {
    storm("2", 4, 20)
}

#[test]
fn more_threads_than_processors_and_than_guests() -> Result<()> {
    storm("7", 5, 6)
}

#[test]
fn floods_meet() -> Result<()> {
    const COUNT: u8 = 6;
    const FRAMES: u32 = 40;
    let switch = Switch::with(&["--threads", "3"])?;
    let mut guests = connect(&switch, COUNT);
    for round in 0..20 {
        let sent = |from: u8, n: u32| noise(BROADCAST, mac(from), 100, round * FRAMES + n);
        for n in 0..FRAMES {
            (0..).zip(&mut guests).for_each(|(from, guest)| guest.send(&sent(from, n)));
        }
        for (to, guest) in (0..COUNT).zip(&mut guests) {
            let mut next = [0; COUNT as usize];
            for _ in 0..u32::from(COUNT - 1) * FRAMES {
                let frame = guest.receive_frame();
                let from = frame[11];
                let n = &mut next[usize::from(from)];
                assert!(frame == sent(from, *n), "{to} waited for frame {n} of {from}");
                *n += 1;
            }
        }
    }
    for port in switch.status()?.ports {
        assert!(port.drops.keys().all(|reason| reason == "hairpin"), "{}: {:?}", port.name, port.drops);
    }
    switch.await_status("every frame counted once", |status| {
        let sum = |of: fn(&sv3::status::PortStatus) -> u64| status.ports.iter().map(of).sum::<u64>();
        let frames = 20 * u64::from(FRAMES) * u64::from(COUNT);
        (sum(|port| port.from_guest.frames), sum(|port| port.to_guest.frames))
            == (frames, frames * u64::from(COUNT - 1))
    })
}

/// Commands change ports and rings while all threads are busy with other rings.
#[test]
fn guests_come_and_go_while_others_talk() -> Result<()> {
    const TX: u16 = 1;
    let switch = Switch::with(&["--threads", "2"])?;
    let mut guests = connect(&switch, 4);
    let mut mesh = Mesh::new(4);
    for round in 0..60 {
        mesh.send(&mut guests, 8);
        let mut guest = Guest::config().regions(1 + round % 3).connect(switch.socket());
        guest.send(&frame(mac(9), mac(9), b"to myself"));
        guest.await_sent();
        guest.vanish();
        mesh.receive(&mut guests);
        // One of the senders stops and goes on, with a split ring, whose base is exact whatever has been taken back.
        let talker = &mut guests[round % 2 * 2];
        let base = talker.stop_ring(TX);
        talker.start_ring(TX, base);
        mesh.await_complete(&mut guests);
    }
    switch.await_ports(4)?;
    assert_eq!((mesh.duplicates(), switch.status()?.worker.restarts), (0, 0));
    Ok(())
}

/// Each thread is confined as the first one is, and runs on the processor that `--cpus` names.
#[test]
fn threads_are_confined_one_and_all() -> Result<()> {
    let switch = Switch::with(&["--threads", "2", "--cpus", "0-1"])?;
    let pid = switch.worker_pid()?;
    let mut cpus = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_string()
        };
        assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"));
        assert_eq!(u64::from_str_radix(&field("CapEff"), 16)?, 0);
        cpus.push(field("Cpus_allowed_list"));
    }
    cpus.sort();
    assert_eq!(cpus, ["0", "0-1", "1"], "the mapper runs where the others do");
    Ok(())
}

/// No thread runs when there is nothing to do.
#[test]
fn idle_threads_sleep() -> Result<()> {
    let switch = Switch::with(&["--threads", "4"])?;
    let mut guests = connect(&switch, 4);
    let mut mesh = Mesh::new(4);
    mesh.send(&mut guests, 8);
    mesh.await_complete(&mut guests);
    switch.await_status("a worker on standby", |status| status.worker.standby_pid.is_some())?;
    let pid = switch.worker_pid()?;
    let mut last = (activity(pid)?, Instant::now());
    until("the threads to sleep", || {
        let now = activity(pid)?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        Ok((last.1.elapsed() > Duration::from_secs(1)).then_some(()))
    })
}

/// A death is told as with one thread.
#[test]
fn the_cause_of_a_death_is_told() -> Result<()> {
    let switch = Switch::with(&["--threads", "2", "--blame", "0"])?;
    let mut guests = connect(&switch, 4);
    for signal in ["SEGV", "ABRT"] {
        let mut mesh = Mesh::new(4);
        mesh.send(&mut guests, 8);
        mesh.await_complete(&mut guests);
        let pid = switch.worker_pid()?;
        switch.kill_worker(signal)?;
        switch.await_event(&[&pid.to_string(), &format!("SIG{signal}")])?;
        mesh.send(&mut guests, 8);
        mesh.await_complete(&mut guests);
    }
    Ok(())
}

/// One of two threads makes no progress while the other goes on: the supervisor finds and names it.
#[test]
fn a_thread_that_hangs_is_found_and_named() -> Result<()> {
    // Only root may trace another user's process.
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    for number in 0..2 {
        // It polls for so long that it is awake when it begins to hang.
        let switch = Switch::with(&["--threads", "2", "--poll-us", "5000000"])?;
        let mut guests = [(), ()].map(|()| Guest::connect(switch.socket()));
        let letters: Vec<_> = (0..2).map(|n| noise(BROADCAST, mac(1), 60, n)).collect();
        guests[number].send(&letters[0]);
        assert_eq!(guests[1 - number].receive_frame(), letters[0]);
        // If it hung before it completed the frame, the next worker would send it again.
        guests[number].await_sent();
        let control = switch.control().display().to_string();
        spin(threads(switch.worker_pid()?)?[number])?;
        guests[number].send(&letters[1]);
        assert_eq!(guests[1 - number].receive_frame(), letters[1]);
        let crash = until("a crash that is over", || {
            let output = switch.home().sv3_output(&["crashes", "--json", "--control", &control])?;
            let Crashes { mut crashes } = serde_json::from_slice(&output.stdout)?;
            Ok(crashes.pop().filter(|crash| crash.gap_us.is_some()))
        })?;
        assert!(crash.cause.contains(&format!("its thread {number} hangs")), "{}", crash.cause);
        assert_eq!(crash.thread, Some(number));
    }
    Ok(())
}

/// The host does not let one of two threads run while the other goes on.
#[test]
fn a_thread_that_is_not_let_run_does_not_hang() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let switch = Switch::with(&["--threads", "2", "--poll-us", "5000000"])?;
    let mut guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    let letters: Vec<_> = (0..4).map(|n| noise(BROADCAST, mac(1), 60, n)).collect();
    for number in 0..2 {
        let other = 1 - number;
        guests[number].send(&letters[2 * number]);
        assert_eq!(guests[other].receive_frame(), letters[2 * number]);
        let stopped = stop(threads(switch.worker_pid()?)?[number])?;
        guests[number].send(&letters[2 * number + 1]);
        assert!(guests[other].receive_within(Duration::from_secs(2)).is_none(), "it is not stopped");
        nix::sys::ptrace::detach(stopped, None)?;
        assert_eq!(guests[other].receive_frame(), letters[2 * number + 1]);
    }
    assert_eq!(switch.status()?.worker.restarts, 0, "{:?}", switch.status()?.worker.last_death);
    Ok(())
}
