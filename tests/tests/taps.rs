//! Ports of taps: a network of the kernel's reaches guests and other networks, with all offloads, and does not notice
//! that workers die. Needs root, for network namespaces.

#![allow(clippy::expect_used, reason = "a port without files has failed the test")]

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use sv3::attachment::Transport;
use sv3::status::Link;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, Packet, frame, mac, noise};
use sv3_tests::guest::feature::{LINUX, USO};
use sv3_tests::guest::{GSO_NONE, GSO_UDP_L4, Guest, NetHdr, Received, Shape};
use sv3_tests::honest::Honest;
use sv3_tests::network::exchange::Exchange;
use sv3_tests::network::ports::{attach_tap, attachment, uplink};
use sv3_tests::network::{Namespace, RawSocket, Station, Tap};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::Switch;

const TAP: &str = "tap0";
/// Payload of a segment.
const MSS: u16 = 1448;

/// A network whose tap has station 2's address and 10.0.0.2, as [`Packet`] has it, and knows station 1.
fn network_of_station_2() -> Result<Namespace> {
    let network = Namespace::new()?;
    network.make_tap(TAP, "52:54:00:00:01:02", "10.0.0.2/24", "")?;
    network.ip(&format!("neighbour add 10.0.0.1 lladdr 52:54:00:00:01:01 dev {TAP}"))?;
    Ok(network)
}

/// A switch with that network at the port `up`, and a guest that has all offloads.
fn guest_and_network() -> Result<(Switch, Guest, Namespace)> {
    let switch = Switch::start()?;
    let network = network_of_station_2()?;
    attach_tap(&switch, &network, TAP, &attachment(Transport::Tap, "up"))?;
    let mut guest = Guest::config().features(LINUX | USO).connect(switch.socket());
    greet(&mut guest, &network)?;
    Ok((switch, guest, network))
}

/// Station 2 calls until the guest, which is station 1, hears it, and is answered.
fn greet(guest: &mut Guest, network: &Namespace) -> Result<()> {
    let socket = RawSocket::open(network, TAP)?;
    let (call, answer) = (noise(BROADCAST, mac(2), 64, 0), noise(mac(2), mac(1), 64, 0));
    until("the guest to hear the network", || {
        socket.send(&NetHdr::default(), &call)?;
        Ok(guest.receive_within(Duration::from_millis(20)).filter(|received| received.frame == call).map(drop))
    })?;
    while guest.receive_within(Duration::from_millis(20)).is_some() {}
    guest.send(&answer);
    next(&socket, |frame| frame == answer).map(drop)
}

/// The next frame that a network gets and that is wanted.
fn next(socket: &RawSocket, wanted: impl Fn(&[u8]) -> bool) -> Result<(NetHdr, Vec<u8>)> {
    until("a frame in the network", || {
        while let Some((hdr, frame)) = socket.receive()? {
            if wanted(&frame) {
                return Ok(Some((hdr, frame)));
            }
        }
        Ok(None)
    })
}

/// Two networks joined by two taps, 10.9.0.1 and 10.9.0.2.
fn two_networks(options: &[&str], queues: usize) -> Result<(Switch, [Namespace; 2])> {
    let switch = Switch::with(options)?;
    let networks = [Namespace::new()?, Namespace::new()?];
    for (number, network) in (1..).zip(&networks) {
        let more = if queues > 1 { "multi_queue" } else { "" };
        network.make_tap(TAP, &format!("52:54:00:00:09:0{number}"), &format!("10.9.0.{number}/24"), more)?;
        let taps = (0..queues).map(|_| Tap::open(network, TAP, queues > 1)).collect::<Result<Vec<_>>>()?;
        let files: Vec<_> = taps.iter().map(AsFd::as_fd).collect();
        switch.attach(&attachment(Transport::Tap, &format!("net{number}")), &files)?;
    }
    Ok((switch, networks))
}

#[test]
#[ignore = "needs root"]
fn frames_of_all_lengths_pass_both_ways_as_they_are() -> Result<()> {
    let (switch, mut guest, network) = guest_and_network()?;
    let socket = RawSocket::open(&network, TAP)?;
    for octets in [14, 15, 59, 60, 61, 64, 577, 1513, 1514] {
        let (there, back) = (noise(mac(2), mac(1), octets, 3), noise(mac(1), mac(2), octets, 4));
        guest.send(&there);
        assert_eq!(next(&socket, |frame| frame.get(6..12) == Some(&mac(1)[..]))?.1, there, "{octets} octets");
        socket.send(&NetHdr::default(), &back)?;
        assert_eq!(guest.receive_frame(), back, "{octets} octets");
    }
    let port = switch.port("up")?;
    let files = port.files.expect("a port of files");
    assert_eq!((files.transport.as_str(), files.queues, files.device.as_deref()), ("tap", 1, Some(TAP)));
    assert!(port.drops.is_empty(), "{:?}", port.drops);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn large_segments_pass_whole_both_ways() -> Result<()> {
    let (_switch, mut guest, network) = guest_and_network()?;
    let socket = RawSocket::open(&network, TAP)?;
    for v6 in [false, true] {
        for packet in [Packet::tcp(v6, 60_000), Packet::tcp(v6, 5_000).tagged(1), Packet::udp(v6, 60_000)] {
            let (hdr, sent) = packet.unsegmented(MSS);
            // A kernel takes the tag from what it receives, before a packet socket sees it.
            if packet.tags == 0 {
                guest.send_with(&hdr, &sent, Shape::default());
                let (came_hdr, came) = next(&socket, |frame| frame.get(6..12) == Some(&mac(1)[..]))?;
                assert_same(&hdr, &sent, &came_hdr, &came);
            }

            let mut back = sent.clone();
            back[..12].rotate_left(6);
            socket.send(&hdr, &back)?;
            // The network's kernel refuses what it did not ask for, in short frames.
            let Received { hdr: came_hdr, frame: came, .. } = next_long(&mut guest);
            assert_same(&hdr, &back, &came_hdr, &came);
        }
    }
    Ok(())
}

/// The next frame that is longer than what a kernel says by itself.
fn next_long(guest: &mut Guest) -> Received {
    loop {
        let received = guest.receive();
        if received.frame.len() > 1000 {
            return received;
        }
    }
}

/// The kernel may write another length of the headers, which is a hint.
#[track_caller]
fn assert_same(hdr: &NetHdr, frame: &[u8], came_hdr: &NetHdr, came: &[u8]) {
    assert_eq!((came_hdr.gso_type, came_hdr.gso_size), (hdr.gso_type, hdr.gso_size));
    assert_eq!((came_hdr.csum_start, came_hdr.csum_offset), (hdr.csum_start, hdr.csum_offset));
    assert!(came == frame, "the segment was changed on its way");
}

#[test]
#[ignore = "needs root"]
fn a_guest_without_offloads_gets_segments_that_a_wire_would_bring() -> Result<()> {
    let (switch, _guest, network) = guest_and_network()?;
    let mut plain = Guest::config().features(sv3_tests::guest::feature::VERSION_1).connect(switch.socket());
    let socket = RawSocket::open(&network, TAP)?;
    plain.send(&noise(mac(2), mac(1), 64, 0));
    // Station 1 has moved to the plain guest.
    next(&socket, |frame| *frame == noise(mac(2), mac(1), 64, 0))?;
    for v6 in [false, true] {
        let packet = Packet::tcp(v6, 20_000);
        let (hdr, mut frame) = packet.unsegmented(MSS);
        frame[..12].rotate_left(6);
        socket.send(&hdr, &frame)?;
        let mut received: Vec<Received> = (0..14).map(|_| plain.receive()).collect();
        received.iter_mut().for_each(|received| received.frame[..12].rotate_left(6));
        packet.assert_arrived(MSS, &received);
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn datagrams_reach_a_kernels_socket_and_come_from_it() -> Result<()> {
    let (_switch, mut guest, network) = guest_and_network()?;
    let socket = network.inside(|| Ok(UdpSocket::bind("10.0.0.2:40000")?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut room = vec![0; 70_000];
    // The kernel checks the checksums, and cuts what is to be segmented.
    for (payload, mss) in [(1, 1000), (1000, 1000), (30_001, 1000), (60_000, 1400)] {
        let packet = Packet::udp(false, payload);
        let (hdr, frame) = if payload > 1400 { packet.unsegmented(mss) } else { packet.unfinished() };
        guest.send_with(&hdr, &frame, Shape::default());
        let mut came = Vec::new();
        while came.len() < payload {
            let (count, from) = socket.recv_from(&mut room)?;
            assert_eq!(from.to_string(), "10.0.0.1:8080");
            assert!(count <= usize::from(mss));
            came.extend_from_slice(&room[..count]);
        }
        assert!(came == packet.payload, "{payload} octets");
    }
    socket.connect("10.0.0.1:8080")?;
    setsockopt(&socket, UdpGsoSegment, &1000)?;
    let payload = Packet::udp(false, 30_001).payload;
    socket.send(&payload)?;
    let Received { hdr, frame, .. } = guest.receive();
    assert_eq!((hdr.gso_type, hdr.gso_size), (GSO_UDP_L4, 1000), "the kernel leaves it to the guest to cut this");
    assert!(frame[42..] == payload, "the datagrams were changed on their way");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn two_networks_exchange_tcp_and_do_not_notice_that_workers_die() -> Result<()> {
    let (switch, [first, second]) = two_networks(&[], 1)?;
    let exchange = until("a connection", || Ok(Exchange::start(&first, &second, "10.9.0.2").ok()))?;
    exchange.await_progress()?;
    let carrier = [first.carrier(TAP)?, second.carrier(TAP)?];
    assert!(carrier.iter().all(|(carrier, _)| *carrier));
    for _ in 0..50 {
        switch.kill_worker("KILL")?;
        exchange.await_progress()?;
    }
    assert_eq!([first.carrier(TAP)?, second.carrier(TAP)?], carrier, "the carrier went");
    let octets = exchange.finish()?;
    eprintln!("{octets:?} octets over 50 deaths");
    assert_eq!(first.ping("10.9.0.2", 3)?.lost(), 0);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn several_queues_serve_several_threads() -> Result<()> {
    let (switch, [first, second]) = two_networks(&["--threads", "2"], 2)?;
    assert_eq!(switch.port("net1")?.files.map(|files| files.queues), Some(2));
    let start = || until("a connection", || Ok(Exchange::start(&first, &second, "10.9.0.2").ok()));
    let exchanges = [start()?, start()?, start()?, start()?];
    for _ in 0..5 {
        exchanges.iter().try_for_each(Exchange::await_progress)?;
        switch.kill_worker("KILL")?;
    }
    for exchange in exchanges {
        exchange.finish()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_down_loses_frames_and_comes_back() -> Result<()> {
    let (switch, mut guest, network) = guest_and_network()?;
    network.ip(&format!("link set {TAP} down"))?;
    guest.send(&noise(mac(2), mac(1), 64, 5));
    switch.await_drops("up", "rx_down", 1)?;
    network.ip(&format!("link set {TAP} up"))?;
    // A kernel forgets neighbours of an interface that was down.
    greet(&mut guest, &network)?;
    assert!(switch.port("up")?.files.is_some_and(|files| files.stopped.is_none()));
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_deleted_device_ends_its_port_alone_and_the_port_takes_a_new_one() -> Result<()> {
    let (switch, mut guest, network) = guest_and_network()?;
    let mut other = Guest::connect(switch.socket());
    network.ip(&format!("link delete {TAP}"))?;
    switch.await_event(&["file_fault", "up"])?;
    let port = switch.port("up")?;
    let files = port.files.expect("a port of files");
    assert_eq!((port.link, files.queues, files.stopped.is_some()), (Link::Down, 0, true));
    // The others go on.
    let (hello, answer) = (frame(BROADCAST, mac(7), b"hello"), frame(mac(7), mac(1), b"answer"));
    other.send(&hello);
    while guest.receive().frame != hello {}
    guest.send(&answer);
    while other.receive().frame != answer {}
    assert_eq!(switch.status()?.worker.restarts, 0);

    let again = network_of_station_2()?;
    let tap = Tap::open(&again, TAP, false)?;
    assert!(switch.attach(&attachment(Transport::Tap, "up"), &[tap.as_fd()])?.resumed);
    greet(&mut guest, &again)
}

#[test]
#[ignore = "needs root"]
fn frames_that_wait_in_the_kernel_outlive_a_worker() -> Result<()> {
    let (switch, mut guest, network) = guest_and_network()?;
    let socket = RawSocket::open(&network, TAP)?;
    let mut before = Vec::new();
    for turn in 0..20 {
        let frames: Vec<_> = (0..100).map(|n| noise(mac(1), mac(2), 100, turn * 1000 + n)).collect();
        let shot = switch.shoot_worker("KILL")?;
        for frame in &frames {
            assert!(socket.send(&NetHdr::default(), frame)?);
        }
        switch.await_restart(shot)?;
        let (mut came, begin) = (vec![0; frames.len()], Instant::now());
        while came.contains(&0) && begin.elapsed() < PATIENCE {
            let Some(received) = guest.receive_within(Duration::from_millis(100)) else { continue };
            assert_eq!(received.hdr.gso_type, GSO_NONE);
            match frames.iter().position(|frame| *frame == received.frame) {
                Some(at) => came[at] += 1,
                // One of the last burst, once more.
                None => assert!(before.contains(&received.frame), "a frame that was never sent"),
            }
        }
        // A death takes at most the frame that was read and not delivered; frames of one burst may come twice.
        let lost = came.iter().filter(|times| **times == 0).count();
        assert!(lost <= 1 && came.iter().all(|times| *times <= 2), "{lost} lost of turn {turn}: {came:?}");
        before = frames;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn two_uplinks_into_one_bridge_are_found_and_one_is_stopped() -> Result<()> {
    let switch = Switch::start()?;
    let network = Namespace::new()?;
    network.ip("link add br0 type bridge mcast_snooping 0")?;
    network.ip("link set br0 up")?;
    for (tap, mac) in [("up0", "52:54:00:00:09:01"), ("up1", "52:54:00:00:09:02")] {
        network.make_tap(tap, mac, "", "")?;
        network.ip(&format!("link set {tap} master br0"))?;
    }
    let guest = Guest::connect(switch.socket());
    attach_tap(&switch, &network, "up0", &uplink(Transport::Tap, "up0"))?;
    let begin = Instant::now();
    attach_tap(&switch, &network, "up1", &uplink(Transport::Tap, "up1"))?;
    switch.await_event(&["\"loop\"", "up1", "up0"])?;
    let found = begin.elapsed();
    assert!(found < Duration::from_secs(3), "the loop was found after {found:?}");
    eprintln!("the loop was found after {found:?}");
    let stopped = |name| Ok::<_, Failure>(switch.port(name)?.files.and_then(|files| files.stopped));
    assert!(stopped("up0")?.is_none(), "the first one goes on");
    assert!(stopped("up1")?.is_some_and(|why| why.contains("loop")));
    // Nothing goes round.
    let frames = |tap| network.figure(tap, "rx_packets");
    let before = frames("up0")?;
    std::thread::sleep(Duration::from_millis(500));
    assert!(frames("up0")? < before + 100);
    drop(guest);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_command_attaches_a_tap_of_an_ordinary_user() -> Result<()> {
    let (switch, network) = (Switch::start()?, network_of_station_2()?);
    let control = switch.control().display().to_string();
    let attach = |name: &str, device: &str| {
        let words = ["attach", "tap", device, "--name", name, "--no-uplink", "--control", &control];
        Ok::<_, Failure>(on_a_usual_host(&network, &switch.home().sv3(&words)).output()?)
    };
    let said = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let output = attach("up", TAP)?;
    assert!(output.status.success(), "{}", said(&output));
    let mut guest = Guest::connect(switch.socket());
    greet(&mut guest, &network)?;
    // The command has ended; the carrier is there.
    assert!(network.carrier(TAP)?.0);
    let again = attach("other", TAP)?;
    assert!(!again.status.success() && said(&again).contains("in use"), "{}", said(&again));
    let missing = attach("other", "nothing0")?;
    assert!(!missing.status.success() && said(&missing).contains("ip tuntap add"), "{}", said(&missing));
    for _ in 0..20 {
        // The switch has not closed the tap yet when the detachment is answered.
        assert_eq!(switch.detach("up")?["detached"], "up");
        let output = attach("up", TAP)?;
        assert!(output.status.success(), "{}", said(&output));
    }
    greet(&mut guest, &network)?;
    switch.detach("up")?;
    until("the carrier to go", || Ok((!network.carrier(TAP)?.0).then_some(())))
}

/// The command in a network, with what a host has and a container may lack: /dev/net/tun for everybody, and a /sys of
/// that network.
fn on_a_usual_host(network: &Namespace, command: &Command) -> Command {
    const PREPARE: &str = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                           mount -t sysfs none /sys && exec \"$@\"";
    let mut prepared = Command::new("unshare");
    prepared.args(["--mount", "--", "sh", "-c", PREPARE, "sh"]).arg(command.get_program()).args(command.get_args());
    network.enclose(&prepared)
}

#[test]
#[ignore = "needs root"]
fn a_tap_that_is_made_to_block_stops_its_own_port() -> Result<()> {
    for standby in [&[][..], &["--no-standby"]] {
        let mut honest = Honest::with(standby)?;
        let network = network_of_station_2()?;
        let tap = Tap::open(&network, TAP, false)?;
        honest.attach(&attachment(Transport::Tap, "up"), &[tap.as_fd()])?;
        until("a worker for files", || Ok((honest.port("up")?.link == Link::Up).then_some(())))?;
        let deaths = honest.status()?.worker.restarts;
        // The flag belongs to the open file, which whoever opened it may have kept.
        let flags = OFlag::from_bits_retain(fcntl(&tap, FcntlArg::F_GETFL)?);
        fcntl(&tap, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        let begun = Instant::now();
        // The worker reads it until it is empty.
        RawSocket::open(&network, TAP)?.send(&NetHdr::default(), &noise(BROADCAST, mac(2), 64, 0))?;
        honest.await_event(&["file_fault", "up", "block"])?;
        honest.talk();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(honest.status()?.worker.restarts <= deaths + 1);
        drop(tap);
        attach_tap(&honest, &network, TAP, &attachment(Transport::Tap, "up"))?;
        until("the port to run again", || Ok((honest.port("up")?.link == Link::Up).then_some(())))?;
        honest.talk();
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_tap_whose_header_another_program_changes_stops_with_a_reason() -> Result<()> {
    let switch = Switch::start()?;
    let network = Namespace::new()?;
    network.make_tap(TAP, "52:54:00:00:01:02", "", "multi_queue")?;
    let [ours, theirs] = [Tap::open(&network, TAP, true)?, Tap::open(&network, TAP, true)?];
    switch.attach(&attachment(Transport::Tap, "up"), &[ours.as_fd()])?;
    until("the port", || Ok((switch.port("up")?.link == Link::Up).then_some(())))?;
    theirs.set_header_len(20)?;
    switch.await_event(&["file_fault", "up", "20 octets"])?;
    assert!(switch.port("up")?.files.is_some_and(|files| files.stopped.is_some()));
    theirs.set_header_len(12)?;
    switch.attach(&attachment(Transport::Tap, "up"), &[ours.as_fd()])?;
    until("the port to run again", || Ok((switch.port("up")?.link == Link::Up).then_some(())))
}

#[test]
#[ignore = "needs root"]
fn tcp_of_networks_behind_two_guests_goes_on_when_workers_die() -> Result<()> {
    let switch = Switch::start()?;
    let stations = [Station::connect(switch.socket(), 1)?, Station::connect(switch.socket(), 2)?];
    let exchange = Exchange::start(stations[0].network(), stations[1].network(), "10.9.0.2")?;
    for _ in 0..5 {
        exchange.await_progress()?;
        switch.kill_worker("KILL")?;
    }
    exchange.await_progress()?;
    exchange.finish()?;
    stations.into_iter().try_for_each(Station::finish)
}
