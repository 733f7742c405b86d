//! `sv3 capture`: what passes ports is in the capture, and a capture costs nobody a frame (docs/use/capture.md).

#![allow(clippy::panic, reason = "a scenario that cannot go on has failed")]

use std::process::Command;

use sv3_tests::capture::{Capture, Captured, tcpdump};
use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{BROADCAST, Packet, frame, mac, noise};
use sv3_tests::guest::{Guest, Shape};
use sv3_tests::switch::{Switch, send};

/// One thread, or two of which each has a ring of its own.
const THREADS: [&str; 2] = ["1", "2"];

/// A switch with three guests, which knows their addresses, the first one's being 1.
fn three(threads: &str) -> Result<(Switch, [Guest; 3])> {
    let switch = Switch::with(&["--threads", threads])?;
    let mut guests = [(), (), ()].map(|()| Guest::connect(switch.socket()));
    for at in 0..guests.len() {
        guests[at].send(&frame(BROADCAST, mac(at as u8 + 1), b"hello"));
        for (other, guest) in guests.iter_mut().enumerate() {
            if other != at {
                guest.receive();
            }
        }
        guests[at].await_sent();
    }
    Ok((switch, guests))
}

fn of<'c>(all: &'c [Captured], port: &str) -> Vec<&'c Captured> {
    all.iter().filter(|one| one.port == port).collect()
}

#[test]
fn tcpdump_reads_what_was_sent() -> Result<()> {
    let (switch, [mut a, mut b, mut c]) = three("1")?;
    let tcpdump = tcpdump(&switch)?;
    let all = Capture::start(&switch, "all", &[])?;
    let filtered = Capture::start(&switch, "filtered", &["p1", "--snaplen", "60", "tcp", "and", "ip"])?;
    let packet = Packet::tcp(false, 4000);
    let (hdr, tso) = packet.unsegmented(1448);
    let letter = noise(mac(2), mac(1), 200, 7);
    let call = noise(BROADCAST, mac(3), 64, 8);
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    a.send_with(&hdr, &tso, Shape::default());
    b.receive();
    c.send(&call);
    assert_eq!((a.receive_frame(), b.receive_frame()), (call.clone(), call.clone()));
    [&mut a, &mut b, &mut c].into_iter().for_each(Guest::await_sent);

    let file = all.file().clone();
    let all = all.end()?;
    let [sent, segmented, heard] = of(&all, "p0")[..] else { panic!("{:?}", of(&all, "p0")) };
    assert!(sent.is_inbound() && segmented.is_inbound() && heard.is_outbound());
    assert_eq!((&sent.frame, &segmented.frame, &heard.frame), (&letter, &tso, &call));
    assert!(segmented.says("TCP segments of 1448 octets") && segmented.flags & (1 << 9) != 0, "{segmented:?}");
    assert!(of(&all, "p2").iter().filter(|one| one.is_inbound()).map(|one| &one.frame).eq([&call]));
    assert!(of(&all, "p1").iter().any(|one| one.is_outbound() && one.frame == letter));
    let filtered = filtered.end()?;
    assert!(!filtered.is_empty(), "all of {}", all.len());
    assert!(filtered.iter().all(|one| one.port == "p1" && one.frame == tso[..60] || one.len < tso.len() as u32));

    let output = Command::new(tcpdump).args(["-n", "-e", "-Z", "root", "-r"]).arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.contains("52:54:00:00:01")).count(), all.len(), "{text}");
    Ok(())
}

#[test]
fn frames_that_are_dropped_are_in_the_capture_with_the_reason() -> Result<()> {
    let (switch, [mut a, ..]) = three("1")?;
    let mut capture = Capture::start(&switch, "drops", &["p0", "--count", "4"])?;
    let dropped = [
        (noise(mac(2), BROADCAST, 64, 1), "bad_source"),
        (noise([1, 0x80, 0xc2, 0, 0, 3], mac(1), 64, 2), "link_local"),
        (noise(mac(1), mac(1), 64, 3), "hairpin"),
        (vec![0; 9], "short_frame"),
    ];
    dropped.iter().for_each(|(frame, _)| a.send(frame));
    let captured = capture.wait()?;
    assert_eq!(captured.len(), dropped.len());
    for (captured, (frame, reason)) in captured.iter().zip(&dropped) {
        assert!(captured.is_inbound() && captured.says(&format!("dropped: {reason}")), "{captured:?}");
        assert_eq!(captured.frame, *frame);
        assert_eq!(switch.drops("p0", reason)?, 1);
    }
    Ok(())
}

#[test]
fn a_capture_goes_on_when_the_worker_dies() -> Result<()> {
    for threads in THREADS {
        let (switch, [mut a, mut b, _c]) = three(threads)?;
        let capture = Capture::start(&switch, "deaths", &["p0", "p1"])?;
        let mut flow = Flow::new(1, 2, 100);
        const DEATHS: usize = 4;
        for death in 0..DEATHS {
            flow.send(&mut a, 60);
            let old = switch.shoot_worker(["KILL", "SEGV"][death % 2])?;
            flow.await_complete(&mut b);
            switch.await_restart(old)?;
        }
        a.await_sent();
        let captured = capture.end()?;
        let frames = |port: &str, is_in: bool| {
            let (mut seen, mut count) = (Flow::new(1, 2, 100), 0);
            let wanted = seen.prepare(60 * DEATHS as u32);
            for one in of(&captured, port).iter().filter(|one| one.is_inbound() == is_in) {
                count += usize::from(wanted.contains(&one.frame));
            }
            let missing =
                wanted.iter().filter(|frame| !captured.iter().any(|one| one.port == port && one.frame == **frame));
            (count >= wanted.len(), missing.count())
        };
        assert_eq!([frames("p0", true), frames("p1", false)], [(true, 0); 2], "{threads} threads");
    }
    Ok(())
}

#[test]
fn a_reader_that_stalls_costs_the_guests_nothing() -> Result<()> {
    let (switch, [mut a, mut b, _c]) = three("1")?;
    let capture = Capture::start(&switch, "stalls", &[])?;
    send(capture.pid(), "STOP")?;
    // More than the ring has room for.
    let mut flow = Flow::new(1, 2, 1500);
    for _ in 0..120 {
        flow.send(&mut a, 60);
        flow.await_complete(&mut b);
    }
    a.await_sent();
    assert_eq!(flow.duplicates(), 0);
    for port in switch.status()?.ports {
        assert!(port.drops.is_empty(), "{}: {:?}", port.name, port.drops);
    }
    send(capture.pid(), "CONT")?;
    let said = switch.home().path("stalls.said");
    let captured = capture.end()?.len();
    let said = std::fs::read_to_string(said)?;
    let lost: usize =
        said.split("captured, ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
    assert!(lost > 0 && captured > 0, "{said}");
    assert_eq!(captured + lost, 2 * 120 * 60, "{said}");
    Ok(())
}

#[test]
fn a_capture_sees_the_ports_that_it_names_and_ends_with_its_reader() -> Result<()> {
    let (switch, [mut a, mut b, c]) = three("2")?;
    let fds = sv3_tests::switch::fds(switch.supervisor_pid()?)?.len();
    let captures =
        ["one", "two", "three", "four"].map(|name| Capture::start(&switch, name, &["p1", "--snaplen", "20"]));
    let mut captures = captures.into_iter().collect::<Result<Vec<_>>>()?;
    let fifth = Capture::start(&switch, "five", &["p1"]).err().map(|why| why.to_string());
    assert!(fifth.as_deref().unwrap_or_default().contains("4 captures already"), "{fifth:?}");
    // Another guest comes to the slot of p2, and one more to a slot of its own.
    c.disconnect();
    switch.await_ports(2)?;
    let mut others = [Guest::connect(switch.socket()), Guest::connect(switch.socket())];
    let letter = noise(mac(2), mac(1), 64, 3);
    let call = noise(BROADCAST, mac(1), 64, 4);
    a.send(&letter);
    a.send(&call);
    assert_eq!((b.receive_frame(), b.receive_frame()), (letter.clone(), call.clone()));
    others.iter_mut().for_each(|guest| assert_eq!(guest.receive_frame(), call));
    a.await_sent();
    let captured = captures.remove(0).end()?;
    let seen: Vec<_> = captured.iter().map(|one| (one.port.as_str(), one.len as usize, one.frame.clone())).collect();
    let wanted = [&letter, &call].map(|frame| ("p1", frame.len(), frame[..20].to_vec()));
    assert_eq!(seen, wanted);
    for capture in &captures {
        send(capture.pid(), "KILL")?;
    }
    switch.await_status("the end of all captures", |status| status.captures.is_empty())?;
    sv3_tests::patience::until("closed files", || {
        Ok((sv3_tests::switch::fds(switch.supervisor_pid()?)?.len() <= fds + 16).then_some(()))
    })?;
    let refused = Capture::start(&switch, "nobody", &["nobody"]).err().map(|why| why.to_string());
    assert!(refused.as_deref().unwrap_or_default().contains("nobody"), "{refused:?}");
    Ok(())
}

#[test]
fn a_capture_goes_on_when_another_supervisor_takes_over() -> Result<()> {
    let (mut switch, [mut a, mut b, _c]) = three("1")?;
    let capture = Capture::start(&switch, "succession", &["p0"])?;
    let letters = [noise(mac(2), mac(1), 64, 1), noise(mac(2), mac(1), 64, 2)];
    a.send(&letters[0]);
    assert_eq!(b.receive_frame(), letters[0]);
    a.await_sent();
    switch.hand_over(&[])?;
    switch.await_status("the capture", |status| status.captures.len() == 1)?;
    a.send(&letters[1]);
    assert_eq!(b.receive_frame(), letters[1]);
    a.await_sent();
    let captured: Vec<_> = capture.end()?.into_iter().map(|one| one.frame).collect();
    assert_eq!(captured, letters);
    Ok(())
}
