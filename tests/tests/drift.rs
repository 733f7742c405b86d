//! No drift between policies and programs: a fixed set of scenarios is traced, and
//!
//! - no process makes a syscall that its policy does not allow (it would die of it, too);
//! - no policy has a rule that none of the scenarios uses.
//!
//! The scenarios run with the C library that is here and with that of Debian sid, by the same binaries, for a policy
//! must outlive updates of it. Both traces together must use all rules. The tracer takes the vDSO away, so that the
//! clock is read by syscalls, as on some machines it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::SockType;
use sv3::attachment::Transport;
use sv3_policy::{Policy, syscall_name};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::*;
use sv3_tests::image::{Suite, tree};
use sv3_tests::lingering::lingering;
use sv3_tests::network::ports::{attach_packets, attach_stream, attach_tap, attachment, uplink};
use sv3_tests::network::{Form, Namespace, StreamPeer};
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, fds};

/// What is traced, behind a command.
type Scenario = fn(&[String]) -> Result<()>;
/// What is traced: program, number, arguments.
type Call = (String, i32, [u64; 6]);

#[test]
#[ignore = "traces the switch, which takes half a minute"]
fn every_rule_is_used_and_nothing_else_is_needed() -> Result<()> {
    let sid = with_library_of(Suite::Sid)?;
    let [mut plain, mut files] = [Vec::new(), Vec::new()];
    for behind in [&[], &sid[..]] {
        plain.extend(trace(behind, &[a_day, a_day_of_threads, too_many_clients])?);
        files.extend(trace(behind, &[a_day_of_files])?);
    }
    let both = [plain.as_slice(), &files].concat();
    for (policy, program, must, may) in [
        (sv3_policy::worker(sv3_policy::WorkerRole::Plain), "sv3-worker", &plain, &plain),
        (sv3_policy::worker(sv3_policy::WorkerRole::Files), "sv3-worker", &files, &both),
        (sv3_policy::supervisor(), "sv3-supervisor", &both, &both),
    ] {
        let role = policy.role();
        let of = |calls: &'static str, all: &[Call]| -> BTreeSet<Call> {
            all.iter().filter(|call| call.0 == calls).cloned().collect()
        };
        let calls = of(program, must);
        assert!(calls.len() > 20, "{role} was traced: {calls:?}");
        let outside: Vec<_> = calls.iter().filter(|call| !policy.allows(call.1, &call.2)).collect();
        assert!(outside.is_empty(), "{role} makes syscalls without a rule: {outside:x?}");
        let mut idle = unused(policy, &of(program, may));
        // Only root can make a tap.
        idle.retain(|rule| is_root() || !rule.starts_with("ioctl: file_kernel"));
        // Only a machine with an IOMMU and a network card has a use for these.
        idle.retain(|rule| !rule.contains(": vfio: "));
        assert!(idle.is_empty(), "rules of {role} that no scenario uses: {idle:#?}");
    }
    Ok(())
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn unused(policy: &'static Policy, calls: &BTreeSet<Call>) -> Vec<String> {
    let used = |rule: &sv3_policy::rule::Rule| {
        calls.iter().any(|(_, number, args)| syscall_name(*number) == Some(rule.syscall) && rule.matches(args))
    };
    policy.rules().iter().filter(|rule| !used(rule)).map(|rule| format!("{}: {}", rule.syscall, rule.why)).collect()
}

/// Runs the scenarios behind a command and returns what was traced.
fn trace(behind: &[String], scenarios: &[Scenario]) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for scenario in scenarios {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("trace");
        let tracer = [env!("CARGO_BIN_EXE_trace").to_string(), file.display().to_string()];
        scenario(&[behind, &tracer].concat())?;
        let text = until("the end of the trace", || {
            let text = fs::read_to_string(&file)?;
            Ok(text.ends_with("end\n").then_some(text))
        })?;
        calls.extend(text.lines().filter(|line| *line != "end").map(parse).collect::<Result<Vec<_>>>()?);
    }
    Ok(calls)
}

fn parse(line: &str) -> Result<Call> {
    let mut fields = line.split(' ');
    let name = fields.next().unwrap_or_default().to_string();
    let numbers: Vec<u64> =
        fields.map(|field| u64::from_str_radix(field, 16)).collect::<std::result::Result<_, _>>()?;
    match numbers[..] {
        [number, a, b, c, d, e, f] => Ok((name, i32::try_from(number)?, [a, b, c, d, e, f])),
        _ => Err(Failure::new(format!("{line:?} is no trace"))),
    }
}

/// Guests attach, exchange frames and leave while workers die, hang and are replaced; programs ask at the control
/// socket; the switch ends in order.
fn a_day(behind: &[String]) -> Result<()> {
    a_day_of(behind, "1")
}

fn a_day_of_threads(behind: &[String]) -> Result<()> {
    a_day_of(behind, "3")
}

fn a_day_of(behind: &[String], threads: &str) -> Result<()> {
    let home = Home::new()?;
    let log = home.path("events").display().to_string();
    let switch = home.start_behind(behind, &["--log", &log, "--metrics", "127.0.0.1:0", "--threads", threads])?;
    let [mut a, mut b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    talk(&mut a, &mut b);
    ask(&switch, &["status", "crashes", "metrics", "audit"])?;
    switch.kill_worker("KILL")?;
    talk(&mut a, &mut b);
    leave_files_that_linger(&switch)?;
    // Awake and without progress: the supervisor ends it.
    switch.kill_worker("STOP")?;
    talk(&mut a, &mut b);
    let worker = home.path("bin/sv3-worker");
    ask(&switch, &["restart", &format!("upgrade {}", worker.display())])?;
    scrape(&fs::read_to_string(&log)?)?;
    drop(a);
    switch.await_ports(1)?;
    talk(&mut Guest::connect(switch.socket()), &mut b);
    drop(b);
    let end = switch.end("TERM")?;
    end.success().then_some(()).ok_or_else(|| Failure::new(format!("{end}")))
}

/// Streams, packets and a tap exchange frames while workers die; one of them does not read.
fn a_day_of_files(behind: &[String]) -> Result<()> {
    let home = Home::new()?;
    let door = home.path("stream.sock");
    let switch = home.start_behind(behind, &["--stream", &door.display().to_string()])?;
    let mut client = StreamPeer::connect(&door, Form::Plain)?;
    let mut stream = attach_stream(&switch, &attachment(Transport::Stream, "stream"))?;
    let mut packets = attach_packets(&switch, &attachment(Transport::Packets, "packets"), SockType::SeqPacket)?;
    let network = is_root().then(Namespace::new).transpose()?;
    if let Some(network) = &network {
        network.make_tap("tap0", "52:54:00:00:01:09", "", "")?;
        attach_tap(&switch, network, "tap0", &uplink(Transport::Tap, "tap"))?;
    }
    for n in 0..3 {
        let there = noise(mac(2), mac(1), 60 + n, 1);
        client.send(&there)?;
        while stream.receive()?.1 != there {}
        let back = noise(mac(1), mac(2), 60 + n, 2);
        stream.send(&back)?;
        while client.receive()?.1 != back {}
        packets.send(&noise(BROADCAST, mac(3), 60 + n, 3))?;
        switch.kill_worker("KILL")?;
    }
    // One that does not read.
    until("its buffer to be full", || {
        (0..64).try_for_each(|_| client.send(&noise(mac(2), mac(1), 1500, 4)))?;
        Ok((switch.drops("stream", "no_rx_buffers")? > 0).then_some(()))
    })?;
    drop(client);
    switch.detach("packets")?;
    let end = switch.end("TERM")?;
    end.success().then_some(()).ok_or_else(|| Failure::new(format!("{end}")))
}

/// A client leaves more files than there are closers. The last close of each waits for a peer that never reads.
fn leave_files_that_linger(switch: &Switch) -> Result<()> {
    switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    let before = fds(switch.supervisor_pid()?)?.len();
    let (sockets, peers): (Vec<_>, Vec<_>) =
        (0..5).map(|_| lingering()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let mut guest = Guest::config().build(switch.socket())?;
    // Half of a message that takes no fd: when it is complete the switch alone has the files.
    let message = header(SET_OWNER, 1, 0);
    let (begin, rest) = message.split_at(4);
    guest.raw().send_octets(begin, &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    drop(sockets);
    guest.raw().send_octets(rest, &[])?;
    until("all to be closed", || Ok((fds(switch.supervisor_pid()?)?.len() <= before).then_some(())))?;
    drop(peers);
    Ok(())
}

/// More clients than there are fds for, and programs that ask about all of them.
fn too_many_clients(behind: &[String]) -> Result<()> {
    const FILES: usize = 500;
    let few_files = ["prlimit".to_string(), format!("--nofile={FILES}:{FILES}")];
    let switch = Home::new()?.start_behind(&[behind, &few_files].concat(), &["--no-standby"])?;
    let connect = |_| {
        let mut client = UnixStream::connect(switch.socket())?;
        // SET_FEATURES needs a port. The client may have been turned away by then.
        let message = [2u32, 1, 8, 0, 0].map(u32::to_ne_bytes).concat();
        let _ = client.write_all(&message);
        Ok(client)
    };
    let mut clients = (0..FILES).map(connect).collect::<std::io::Result<Vec<_>>>()?;
    until("some that are turned away", || {
        let mut gone = 0;
        for client in &mut clients {
            client.set_nonblocking(true)?;
            gone += usize::from(matches!(client.read(&mut [0]), Ok(0)));
        }
        Ok((gone > 0).then_some(()))
    })?;
    drop(clients.drain(..10));
    ask(&switch, &["status", "metrics"])?;
    Ok(())
}

fn talk(a: &mut Guest, b: &mut Guest) {
    for n in 0..50 {
        let (there, back) = (noise(mac(2), mac(1), 60 + n, 1), noise(mac(1), mac(2), 60 + n, 2));
        // Frames that were in flight when a worker died may come twice.
        a.send(&there);
        while b.receive_frame() != there {}
        b.send(&back);
        while a.receive_frame() != back {}
    }
}

fn ask(switch: &Switch, verbs: &[&str]) -> Result<()> {
    let control = switch.control().display().to_string();
    for verb in verbs {
        let words: Vec<&str> = verb.split(' ').chain(["--control", &control]).collect();
        let output = switch.home().sv3(&words).output()?;
        if !output.status.success() {
            return Err(Failure::new(format!("sv3 {verb}: {}", String::from_utf8_lossy(&output.stderr))));
        }
    }
    Ok(())
}

/// Asks for metrics over HTTP, at the address that the log tells.
fn scrape(log: &str) -> Result<()> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let address = events.filter_map(|event| Some(event["address"].as_str()?.to_string())).next();
    let mut socket = std::net::TcpStream::connect(address.ok_or_else(|| Failure::new("no address of metrics"))?)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    socket.read_to_string(&mut String::new())?;
    Ok(())
}

/// The command behind which programs find a release's C library in place of the host's.
fn with_library_of(suite: Suite) -> Result<Vec<String>> {
    let theirs = tree(suite)?.join("usr/lib/x86_64-linux-gnu");
    // A program that needs no library, since the script replaces libraries one by one.
    let mount = shown(&tree(Suite::Bookworm)?.join("bin/busybox")) + " mount";
    let mut script = String::from("set -e; ");
    for ours in own_libraries()? {
        if let Some(other) = ours.file_name().map(|name| theirs.join(name)).filter(|path| path.exists()) {
            script += &format!("{mount} -o bind {} {}; ", shown(&other), shown(&ours));
        }
    }
    script += "exec \"$@\"";
    let unshare: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["unshare", "--mount"],
        false => &["unshare", "--mount", "--user", "--map-current-user", "--keep-caps"],
    };
    Ok(unshare.iter().copied().chain(["sh", "-c", &script, "sh"]).map(str::to_string).collect())
}

/// The files of the libraries that this program runs with: its loader, libc, libgcc_s.
fn own_libraries() -> Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let files = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    Ok(files.filter(|file| file.contains(".so")).map(PathBuf::from).collect())
}

fn shown(path: &Path) -> String {
    format!("'{}'", path.display())
}
