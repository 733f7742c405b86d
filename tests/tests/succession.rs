//! `sv3 run --take-over`: the whole switch is replaced, and no guest loses its connection, its link or a frame.

#![allow(clippy::panic, reason = "a scenario that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::{GET_FEATURES, VERSION, Wire, header};
use sv3_tests::network::ports::attachment;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, send};

use crate::upgrade::Traffic;

/// Time in which frames flow after each change.
const WHILE: Duration = Duration::from_millis(100);

fn flow(traffic: &mut Traffic) -> Result<()> {
    let start = Instant::now();
    traffic.flow_while(|| Ok(start.elapsed() < WHILE))
}

fn count(switch: &Switch, name: &str) -> Result<usize> {
    Ok(switch.events()?.iter().filter(|event| event["event"] == name).count())
}

/// Lets a successor take over while frames flow.
fn take_over(switch: &mut Switch, traffic: &mut Traffic, options: &[&str]) -> Result<()> {
    let successor = switch.start_successor(options)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut ended = None;
    traffic.flow_while(|| {
        ended = switch.has_ended()?;
        Ok(ended.is_none() && Instant::now() < deadline)
    })?;
    if !ended.is_some_and(|status| status.success()) {
        for event in switch.events()? {
            eprintln!("{event}");
        }
        panic!("the old supervisor: {ended:?}");
    }
    switch.adopt(successor);
    Ok(())
}

#[test]
fn the_whole_switch_is_replaced_under_traffic() -> Result<()> {
    let mut switch = Switch::start()?;
    let mut traffic = Traffic::on(&switch);
    let names = |switch: &Switch| -> Result<Vec<_>> {
        Ok(switch.status()?.ports.into_iter().map(|port| (port.name, port.client_pid, port.features)).collect())
    };
    let ports = names(&switch)?;
    for options in [&[][..], &["--threads", "2"], &["--no-standby"]] {
        let (old, sent) = (switch.supervisor_pid()?, switch.port("p0")?.from_guest.frames);
        take_over(&mut switch, &mut traffic, options)?;
        let new = switch.supervisor_pid()?;
        assert_ne!(new, old);
        switch.await_event(&["handed_over", &new.to_string()])?;
        switch.await_event(&["took_over_switch", &old.to_string()])?;
        assert_eq!(names(&switch)?, ports);
        assert!(switch.port("p0")?.from_guest.frames >= sent, "counters go on");
        flow(&mut traffic)?;
    }
    traffic.assert_complete();
    assert!(traffic.gap < Duration::from_secs(1), "{:?} without a frame", traffic.gap);
    let events = switch.events()?;
    for never in ["crash", "detach", "stop"] {
        assert!(events.iter().all(|event| event["event"] != never), "{never}");
    }
    assert_eq!(events.iter().filter(|event| event["event"] == "attach").count(), 2);
    switch.kill_worker("KILL")?;
    flow(&mut traffic)?;
    traffic.assert_complete();
    Ok(())
}

/// Waits until the successor has ended by itself, which must be a failure.
fn await_failure(mut successor: Child) -> Result<()> {
    let status = until("the end of the successor", || Ok(successor.try_wait()?))?;
    assert_eq!(status.code(), Some(1), "{status}");
    Ok(())
}

/// A successor that dies at any moment leaves the old supervisor serving, or has served itself before it died.
#[test]
fn a_successor_is_killed_at_any_moment() -> Result<()> {
    let (mut served, mut failed, mut resumed) = (0, 0, 0);
    let mut left: u32 = std::env::var("SV3_TEST_KILLS").map_or(Ok(20), |kills| kills.parse())?;
    while left > 0 {
        let mut switch = Switch::start()?;
        let mut traffic = Traffic::on(&switch);
        let usual = Instant::now();
        take_over(&mut switch, &mut traffic, &[])?;
        let usual = usual.elapsed();
        flow(&mut traffic)?;
        while left > 0 {
            left -= 1;
            let before = restarts(&switch)?;
            let mut successor = switch.start_successor(&[])?;
            // From the start of its process until after it serves. The fractions are spread evenly; one dies at once, and
            // one long after it serves, however fast this machine is.
            let fraction = match left {
                0 => 0.05,
                1 => 5.0,
                _ => 0.3 + (f64::from(left) * 0.618_034).fract(),
            };
            let (start, life) = (Instant::now(), usual.mul_f64(fraction));
            traffic.flow_while(|| Ok(start.elapsed() < life))?;
            send(successor.id(), "KILL")?;
            successor.wait()?;
            // It is known within a second which of them had the switch.
            let start = Instant::now();
            let mut ended = None;
            let came = traffic.came();
            traffic.flow_while(|| {
                ended = switch.has_ended()?;
                let goes_on = traffic_goes_on(start, ended.is_some());
                Ok(goes_on)
            })?;
            match ended {
                None => {
                    assert!(traffic.came() > came, "nobody serves");
                    failed += 1;
                    resumed += usize::from(restarts(&switch)? > before);
                }
                Some(status) => {
                    assert!(status.success(), "{status}");
                    assert!(count(&switch, "handed_over")? > 1, "it serves before the old one ends");
                    served += 1;
                    break;
                }
            }
        }
        if switch.has_ended()?.is_none() {
            traffic.assert_complete();
            // The old one can still hand over.
            take_over(&mut switch, &mut traffic, &[])?;
            traffic.assert_complete();
        }
    }
    eprintln!(
        "{served} successors served before they died, {failed} did not, {resumed} of them after the commit point"
    );
    assert!(served > 0 && failed > 0);
    Ok(())
}

fn restarts(switch: &Switch) -> Result<u64> {
    Ok(switch.status()?.worker.restarts)
}

fn traffic_goes_on(since: Instant, has_ended: bool) -> bool {
    !has_ended && since.elapsed() < Duration::from_millis(300)
}

#[test]
fn a_successor_that_cannot_serve_costs_nothing() -> Result<()> {
    let mut switch = Switch::start()?;
    let mut traffic = Traffic::on(&switch);
    let worker = switch.worker_pid()?;
    let installed = switch.home().path("bin/sv3-worker");
    let kept = switch.home().path("kept-worker");
    fs::rename(&installed, &kept)?;
    for (name, words) in [
        ("fewer-features", "which this worker does not serve"),
        ("other-version", "the old supervisor serves on"),
        ("mute", "old supervisor"),
    ] {
        let odd = crate::upgrade::install(switch.home(), env!("CARGO_BIN_EXE_odd_worker"), name)?;
        symlink(odd, &installed)?;
        let mut successor = switch.start_successor(&[])?;
        let start = Instant::now();
        traffic.flow_while(|| Ok(successor.try_wait()?.is_none() && start.elapsed() < Duration::from_secs(9)))?;
        await_failure(successor)?;
        let text = fs::read_to_string(switch.home().path("stderr"))?;
        assert!(text.lines().any(|line| line.starts_with("sv3: ") && line.contains(words)), "{name}: {text}");
        fs::remove_file(&installed)?;
    }
    switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    assert_eq!((count(&switch, "handover_failed")?, switch.worker_pid()?), (3, worker), "the worker has not changed");
    traffic.assert_complete();
    assert!(traffic.gap < Duration::from_secs(1), "{:?} without a frame", traffic.gap);
    fs::rename(&kept, &installed)?;
    take_over(&mut switch, &mut traffic, &[])?;
    traffic.assert_complete();
    Ok(())
}

#[test]
fn who_may_not_take_over_is_told_why() -> Result<()> {
    let switch = Switch::start()?;
    let ask = |line: &str| -> Result<String> {
        let mut control = UnixStream::connect(switch.control())?;
        control.write_all(line.as_bytes())?;
        let mut answer = String::new();
        control.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask("succeed 999\n")?;
    assert!(answer.contains("reads version 999"), "{answer}");
    assert!(ask("succeed x\n")?.contains("unknown request"));
    if nix::unistd::geteuid().is_root() {
        let version = answer.split_once("records of version ").and_then(|(_, rest)| rest.split_once(','));
        let answer = ask(&format!("succeed {}\n", version.map_or("", |(version, _)| version)))?;
        assert!(answer.contains("take over from it as that user"), "{answer}");
    }
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["run", "--take-over", "--socket", "/tmp/x", "--control", &control])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let socket = format!("--socket {} --control {control}", switch.socket().display());
    assert!(!output.status.success() && said.contains(&socket), "{said}");
    let output = switch.home().sv3_output(&["run", "--take-over", "--socket", "/tmp/x", "--control", "/tmp/y"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("start without --take-over"), "{said}");
    // The failed ones have removed nothing.
    Guest::connect(switch.socket()).disconnect();
    Ok(())
}

#[test]
fn what_clients_were_doing_goes_on() -> Result<()> {
    let mut switch = Switch::with(&["--blame", "1", "--metrics", "127.0.0.1:0"])?;
    let metrics = switch.await_event(&["\"metrics\""])?["address"].as_str().unwrap_or_default().to_string();
    let _guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    // One is in quarantine, one is amid a message, one has said nothing.
    let bad = Guest::config().rings_at_region_end().ring_size(16).connect(switch.socket());
    bad.memory().regions()[0].truncate(0);
    bad.kick(1);
    switch.await_status("a death", |status| status.worker.restarts > 0)?;
    bad.vanish();
    switch.await_ports(2)?;
    let _confined = Guest::config().rings_at_region_end().ring_size(16).connect(switch.socket());
    let (mut half, mut silent) = (Wire::connect(switch.socket())?, Wire::connect(switch.socket())?);
    let question = header(GET_FEATURES, VERSION, 0);
    half.send_octets(&question[..5], &[])?;
    switch.await_status("all of them", |status| status.ports.len() == 3 && status.pending_clients == 2)?;

    let restarts = switch.status()?.worker.restarts;
    for _ in 0..2 {
        switch.hand_over(&["--blame", "1", "--metrics", &metrics])?;
        let status = switch.status()?;
        let port = status.ports.iter().find(|port| port.name == "p2").ok_or(Failure::new("no p2"))?;
        assert!(port.quarantine_s.is_some_and(|left| left > 0), "{port:?}");
        assert_eq!((status.worker.restarts, status.pending_clients), (restarts, 2));
    }
    half.send_octets(&question[5..], &[])?;
    half.reply(GET_FEATURES)?;
    silent.get(GET_FEATURES)?;
    let mut late = Guest::connect(switch.socket());
    late.send(&frame(BROADCAST, mac(9), b"late"));
    late.await_sent();
    assert_eq!(switch.port("p3")?.from_guest.frames, 1);
    UnixStream::connect(switch.control())?;
    std::net::TcpStream::connect(&metrics)?;
    let control = switch.control().display().to_string();
    let mut crashes = std::process::Command::new(switch.home().path("bin/sv3"));
    let output = output_of(crashes.args(["crashes", "--control", &control]))?;
    assert!(output.contains("SIGBUS"), "{output}");
    if nix::unistd::geteuid().is_root() {
        switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
        let mut audit = std::process::Command::new(switch.home().path("bin/sv3"));
        let audit = output_of(audit.args(["audit", "--control", &control]))?;
        assert!(audit.contains("all listed by the supervisor"), "{audit}");
    }
    Ok(())
}

fn output_of(command: &mut std::process::Command) -> Result<String> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// What a take-over costs is printed; the bound is for busy machines.
#[test]
fn twenty_in_a_row() -> Result<()> {
    let mut switch = Home::new()?.start(&[])?;
    let mut traffic = Traffic::on(&switch);
    let mut gaps = Vec::new();
    for _ in 0..20 {
        flow(&mut traffic)?;
        traffic.gap = Duration::ZERO;
        take_over(&mut switch, &mut traffic, &[])?;
        gaps.push(traffic.gap);
    }
    traffic.assert_complete();
    let median = |gaps: &mut Vec<Duration>| {
        gaps.sort_unstable();
        (gaps[gaps.len() / 2], gaps[gaps.len() - 1])
    };
    let told = |event: &serde_json::Value| Some(Duration::from_micros(event.get("gap_us")?.as_u64()?));
    let mut unserved: Vec<_> = switch.events()?.iter().filter_map(told).collect();
    eprintln!(
        "without a frame: median and longest {:?}; without a worker: {:?}",
        median(&mut gaps),
        median(&mut unserved)
    );
    assert!(gaps[gaps.len() - 1] < Duration::from_secs(2));
    assert_eq!((count(&switch, "attach")?, count(&switch, "detach")?), (2, 0));
    Ok(())
}

/// Two peers of stream ports; one sends numbered frames to the other, as fast as the socket takes octets.
struct Streams {
    peers: [UnixStream; 2],
    unsent: Vec<u8>,
    unread: Vec<u8>,
    sent: u32,
    /// Number of each frame that came.
    came: Vec<u32>,
}

impl Streams {
    fn on(switch: &Switch) -> Result<Streams> {
        let mut peers = Vec::new();
        for name in ["a", "b"] {
            let (peer, ours) = UnixStream::pair()?;
            switch.attach(&attachment(Transport::Stream, name), &[ours.as_fd()])?;
            peer.set_nonblocking(true)?;
            peers.push(peer);
        }
        let peers = peers.try_into().map_err(|_| Failure::new("two peers"))?;
        let mut streams = Streams { peers, unsent: Vec::new(), unread: Vec::new(), sent: 0, came: Vec::new() };
        streams.peers[1].write_all(&Streams::framed(&frame(BROADCAST, mac(2), b"hello")))?;
        until("the first frame", || {
            let mut heard = [0; 4096];
            Ok(streams.peers[0].read(&mut heard).ok().filter(|count| *count > 0))
        })?;
        Ok(streams)
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&u32::try_from(frame.len()).unwrap_or(0).to_be_bytes(), frame].concat()
    }

    fn flow_while(&mut self, mut goes_on: impl FnMut() -> Result<bool>) -> Result<()> {
        while goes_on()? {
            if self.unsent.is_empty() {
                let mut frame = noise(mac(2), mac(1), 60 + self.sent as usize % 1400, self.sent);
                frame[14..18].copy_from_slice(&self.sent.to_ne_bytes());
                self.unsent = Streams::framed(&frame);
                self.sent += 1;
            }
            if let Ok(count) = self.peers[0].write(&self.unsent) {
                self.unsent.drain(..count);
            }
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut octets = [0; 1 << 16];
        match self.peers[1].read(&mut octets) {
            Ok(0) => return Err(Failure::new("the connection was closed")),
            Ok(count) => self.unread.extend_from_slice(&octets[..count]),
            Err(_) => {}
        }
        let mut at = 0;
        while let Some(length) = self.unread.get(at..at + 4) {
            let length = u32::from_be_bytes(std::array::from_fn(|octet| length[octet])) as usize;
            let Some(frame) = self.unread.get(at + 4..at + 4 + length) else { break };
            let number = u32::from_ne_bytes(std::array::from_fn(|octet| frame[14 + octet]));
            let mut wanted = noise(mac(2), mac(1), 60 + number as usize % 1400, number);
            wanted[14..18].copy_from_slice(&number.to_ne_bytes());
            assert!(frame == wanted, "frame {number} was changed, or the stream is out of step");
            self.came.push(number);
            at += 4 + length;
        }
        self.unread.drain(..at);
        Ok(())
    }

    /// Each frame has come, and frames came again only in whole rows: what was under way at a take-over.
    fn assert_complete(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.came.last() != Some(&(self.sent - 1)) && Instant::now() < deadline {
            if let Ok(count) = self.peers[0].write(&self.unsent) {
                self.unsent.drain(..count);
            }
            self.read()?;
        }
        let mut seen = vec![0; self.sent as usize];
        self.came.iter().for_each(|number| seen[*number as usize] += 1);
        let (lost, again) = (seen.iter().filter(|times| **times == 0).count(), self.came.len() - seen.len());
        eprintln!("{} frames, {lost} lost, {again} twice", self.sent);
        assert!(lost == 0 && seen.iter().all(|times| *times <= 2));
        Ok(())
    }
}

/// Ten take-overs: no connection closes, no octet is lost, and a half frame stays a half frame.
#[test]
fn streams_go_on() -> Result<()> {
    let mut switch = Switch::start()?;
    let mut streams = Streams::on(&switch)?;
    for _ in 0..10 {
        let start = Instant::now();
        streams.flow_while(|| Ok(start.elapsed() < WHILE))?;
        let successor = switch.start_successor(&[])?;
        let (start, mut ended) = (Instant::now(), None);
        streams.flow_while(|| {
            ended = switch.has_ended()?;
            Ok(ended.is_none() && start.elapsed() < Duration::from_secs(10))
        })?;
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        switch.adopt(successor);
    }
    streams.assert_complete()?;
    let status = switch.status()?;
    assert!(status.ports.iter().all(|port| port.files.as_ref().is_some_and(|files| files.stopped.is_none())));
    // The names are taken, and can be detached.
    let (_, other) = UnixStream::pair()?;
    assert!(switch.attach(&attachment(Transport::Stream, "a"), &[other.as_fd()]).is_err());
    switch.detach("a")?;
    until("the end of the connection", || {
        let mut octets = [0; 4096];
        Ok(matches!(streams.peers[0].read(&mut octets), Ok(0)).then_some(()))
    })?;
    assert_eq!((count(&switch, "crash")?, count(&switch, "file_fault")?), (0, 0));
    Ok(())
}

/// More files than one message carries.
#[test]
fn many_ports_are_handed_over() -> Result<()> {
    const PORTS: usize = 64;
    let mut switch = Switch::start()?;
    let mut guests: Vec<_> = (0..PORTS).map(|_| Guest::config().ring_size(16).connect(switch.socket())).collect();
    let start = Instant::now();
    switch.hand_over(&[])?;
    eprintln!("{PORTS} ports within {:?}", start.elapsed());
    switch.await_ports(PORTS)?;
    guests[0].send(&frame(BROADCAST, mac(1), b"hello"));
    for guest in &mut guests[1..] {
        assert_eq!(guest.receive().frame, frame(BROADCAST, mac(1), b"hello"));
    }
    Ok(())
}
