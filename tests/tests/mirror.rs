//! `sv3 mirror`: its port gets each frame of the mirrored ports once, and nothing else (docs/use/capture.md).

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::process::Output;

use sv3_tests::capture::Capture;
use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{BROADCAST, Packet, frame, mac, noise};
use sv3_tests::guest::{Guest, Shape};
use sv3_tests::switch::Switch;

const THREADS: [&str; 2] = ["1", "2"];

/// `sv3 mirror` with these words.
fn mirror(switch: &Switch, words: &[&str]) -> Result<Output> {
    let control = switch.control().display().to_string();
    switch.home().sv3_output(&[&["mirror"], words, &["--control", &control]].concat())
}

fn add(switch: &Switch, name: &str, from: &str, direction: &str, to: &str) -> Result<Output> {
    mirror(switch, &["add", name, "--from", from, "--direction", direction, "--to", to])
}

/// Why it was refused.
fn refusal(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).to_string()
}

/// Guests p0, p1, p2 with addresses 1, 2, 3, which the switch knows, and p3, which sent nothing.
fn four(threads: &str, buffers: u16) -> Result<(Switch, [Guest; 3], Guest)> {
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
    let watcher = Guest::config().ring_size(buffers).connect(switch.socket());
    Ok((switch, guests, watcher))
}

#[test]
fn a_mirror_gets_each_frame_once_and_nothing_else() -> Result<()> {
    for (direction, threads) in [("both", "1"), ("in", "2"), ("out", "2"), ("both", "2")] {
        let (switch, [mut a, mut b, mut c], mut watcher) = four(threads, 256)?;
        assert!(add(&switch, "ids", "p0,p1", direction, "p3")?.status.success());
        let (hdr, tso) = Packet::tcp(false, 4000).unsegmented(1448);
        let [there, back, aside, call, question] = [
            noise(mac(2), mac(1), 100, 1),
            noise(mac(1), mac(2), 100, 2),
            noise(mac(3), mac(1), 100, 3),
            noise(BROADCAST, mac(3), 100, 4),
            noise(mac(9), mac(1), 100, 5),
        ];
        a.send(&there);
        assert_eq!(b.receive_frame(), there);
        b.send(&back);
        assert_eq!(a.receive_frame(), back);
        a.send(&aside);
        assert_eq!(c.receive_frame(), aside);
        c.send(&call);
        assert_eq!((a.receive_frame(), b.receive_frame()), (call.clone(), call.clone()));
        a.send(&question);
        assert_eq!((b.receive_frame(), c.receive_frame()), (question.clone(), question.clone()));
        // Not of the mirror: from c to nobody of it.
        c.send(&noise(mac(9), mac(3), 20, 6));
        [&mut a, &mut b].into_iter().for_each(|guest| drop(guest.receive()));
        // Dropped, so there is no copy.
        a.send(&noise(mac(1), mac(1), 64, 7));
        let to_c = noise(mac(9), mac(3), 20, 6);
        let wanted = match direction {
            "in" => vec![there, back, aside, question],
            "out" => vec![there, back, call, question, to_c],
            _ => vec![there, back, aside, call, question, to_c],
        };
        let copies: Vec<_> = wanted.iter().map(|_| watcher.receive_frame()).collect();
        assert_eq!(copies, wanted, "{direction}, {threads} threads");
        // What it sends goes nowhere, and its address is not learnt.
        watcher.send(&noise(mac(1), mac(4), 64, 8));
        switch.await_drops("p3", "mirror_port", 1)?;
        assert_eq!((a.try_receive(), watcher.try_receive()), (None, None));
        // A frame that is to be segmented, as its sender sent it.
        if direction != "out" {
            a.send_with(&hdr, &tso, Shape::default());
            switch.await_status("the copy", |status| {
                status.port("p3").is_some_and(|port| port.to_guest.frames > wanted.len() as u64)
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_mirror_s_port_is_an_ordinary_one_before_and_after() -> Result<()> {
    let (switch, [mut a, mut b, _c], mut watcher) = four("1", 256)?;
    watcher.send(&frame(BROADCAST, mac(4), b"hello"));
    [&mut a, &mut b].into_iter().for_each(|guest| drop(guest.receive()));
    let letter = noise(mac(4), mac(1), 64, 1);
    a.send(&letter);
    assert_eq!(watcher.receive_frame(), letter);
    assert!(add(&switch, "ids", "p1", "in", "p3")?.status.success());
    assert!(String::from_utf8_lossy(&status(&switch)?.stdout).contains("ids"));
    // Its address is known no more, and it gets no floods.
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    a.await_sent();
    assert_eq!(watcher.try_receive(), None);
    assert!(mirror(&switch, &["del", "ids"])?.status.success());
    a.send(&letter);
    assert_eq!((b.receive_frame(), watcher.receive_frame()), (letter.clone(), letter));
    assert!(refusal(&mirror(&switch, &["del", "ids"])?).contains("no mirror is named ids"));
    Ok(())
}

fn status(switch: &Switch) -> Result<Output> {
    let control = switch.control().display().to_string();
    switch.home().sv3_output(&["status", "--control", &control])
}

#[test]
fn a_mirror_of_a_mirror_is_refused() -> Result<()> {
    let (switch, _guests, _watcher) = four("1", 256)?;
    assert!(add(&switch, "first", "p0", "both", "p1")?.status.success());
    for (name, from, to, why) in [
        ("first", "p2", "p3", "already"),
        ("second", "p1", "p3", "loop"),
        ("second", "p3", "p0", "loop"),
        ("second", "p2", "p1", "already"),
        ("second", "p2", "p2", "its own"),
        ("second", "p9", "p3", "no port is named p9"),
    ] {
        let told = refusal(&add(&switch, name, from, "in", to)?);
        assert!(told.contains(why), "{from} to {to}: {told}");
    }
    Ok(())
}

#[test]
fn a_mirror_whose_port_takes_nothing_holds_nobody_back() -> Result<()> {
    for threads in THREADS {
        let (switch, [mut a, mut b, _c], _watcher) = four(threads, 8)?;
        assert!(add(&switch, "ids", "p0", "in", "p3")?.status.success());
        let mut flow = Flow::new(1, 2, 200);
        for _ in 0..20 {
            flow.send(&mut a, 60);
            flow.await_complete(&mut b);
        }
        a.await_sent();
        let status = switch.status()?;
        let port = |name: &str| status.port(name).cloned();
        let (sender, target) = (port("p0").unwrap(), port("p3").unwrap());
        assert!(sender.drops.is_empty(), "{:?}", sender.drops);
        let (got, lost) = (target.to_guest.frames, target.drops.get("no_rx_buffers").copied().unwrap_or(0));
        assert!(lost > 0 && got + lost == 20 * 60, "{got} and {lost}, {threads} threads");
        assert_eq!(flow.duplicates(), 0);
    }
    Ok(())
}

#[test]
fn a_mirror_outlives_workers_and_supervisors_and_ends_with_its_ports() -> Result<()> {
    let (mut switch, [mut a, mut b, c], mut watcher) = four("1", 256)?;
    assert!(add(&switch, "ids", "p0,p2", "in", "p3")?.status.success());
    let mut copied = |a: &mut Guest, b: &mut Guest, seed: u32| {
        let letter = noise(mac(2), mac(1), 100, seed);
        a.send(&letter);
        assert_eq!((b.receive_frame(), watcher.receive_frame()), (letter.clone(), letter));
        a.await_sent();
    };
    copied(&mut a, &mut b, 1);
    switch.kill_worker("KILL")?;
    copied(&mut a, &mut b, 2);
    switch.hand_over(&[])?;
    copied(&mut a, &mut b, 3);
    switch.kill_worker("SEGV")?;
    copied(&mut a, &mut b, 4);
    let from = |switch: &Switch| -> Result<Vec<Vec<String>>> {
        Ok(switch.status()?.mirrors.into_iter().map(|mirror| mirror.from).collect())
    };
    c.disconnect();
    switch.await_status("a smaller mirror", |status| status.mirrors.iter().all(|mirror| mirror.from == ["p0"]))?;
    copied(&mut a, &mut b, 5);
    assert_eq!(from(&switch)?, [["p0"]]);
    watcher.disconnect();
    switch.await_status("no mirror", |status| status.mirrors.is_empty())?;
    // Who takes the slot gets no copies.
    let mut next = Guest::connect(switch.socket());
    let letter = noise(mac(2), mac(1), 100, 6);
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    a.await_sent();
    assert_eq!(next.try_receive(), None);
    switch.await_event(&["mirror_end", "p3 has gone"])?;
    Ok(())
}

/// The same frame with a tag of this VLAN.
fn tagged(frame: &[u8], vid: u8) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, vid], &frame[12..]].concat()
}

#[test]
fn a_guarded_port_of_a_vlan_is_captured_with_its_drops_and_mirrored_as_it_sent() -> Result<()> {
    let switch = Switch::start()?;
    let control = switch.control().display().to_string();
    let [mut web, mut db, mut ids] = [
        &["web", "--vlan", "10", "--guard", "strict", "--mac", "52:54:00:00:01:01"][..],
        &["db", "--trunk", "10,20"],
        // Copies are held to none of this.
        &["ids", "--vlan", "20", "--rate-to-port", "1fps", "--burst-to-port", "1", "--static", "52:54:00:00:01:09"],
    ]
    .map(|words| {
        let output = switch.home().sv3_output(&[&["port", "add"], words, &["--control", &control]].concat()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Guest::connect(&switch.home().path(&format!("ports/{}.sock", words[0])))
    });
    assert!(add(&switch, "copies", "web", "both", "ids")?.status.success());
    let capture = Capture::start(&switch, "guarded", &["web"])?;
    let hello = noise(BROADCAST, mac(2), 64, 1);
    db.send(&tagged(&hello, 10));
    assert_eq!((web.receive_frame(), ids.receive_frame()), (hello.clone(), tagged(&hello, 10)));
    let [letter, forged, last] = [(1, 2), (7, 3), (1, 4)].map(|(src, seed)| noise(mac(2), mac(src), 100, seed));
    let hop = tagged(&letter, 20);
    [&letter, &forged, &hop, &last].into_iter().for_each(|frame| web.send(frame));
    for passed in [&letter, &last] {
        assert_eq!((db.receive_frame(), ids.receive_frame()), (tagged(passed, 10), passed.clone()));
    }
    // Nobody else is in this VLAN, and no frame goes to an address of a port that gets copies.
    [BROADCAST, mac(9)].into_iter().for_each(|dst| db.send(&tagged(&noise(dst, mac(2), 64, 5), 20)));
    for (port, reason, count) in [("db", "no_destination", 2), ("web", "guard_mac", 1), ("web", "vlan_tag", 1)] {
        switch.await_drops(port, reason, count)?;
    }
    assert_eq!((db.try_receive(), ids.try_receive()), (None, None));
    assert!(switch.port("ids")?.drops.is_empty());
    let captured = capture.end()?;
    let seen: Vec<_> = captured.iter().map(|one| (one.is_inbound(), one.frame.clone())).collect();
    assert_eq!(seen, [(false, hello), (true, letter), (true, forged), (true, hop), (true, last)]);
    for (captured, reason) in captured.iter().zip([None, None, Some("guard_mac"), Some("vlan_tag"), None]) {
        let dropped = reason.map_or("dropped".to_string(), |reason| format!("dropped: {reason}"));
        assert_eq!(captured.says(&dropped), reason.is_some(), "{captured:?}");
    }
    Ok(())
}

/// Declared ports are in a mirror from the start, and when their guests come back.
#[test]
fn a_mirror_of_declared_ports_outlives_their_guests() -> Result<()> {
    let mut switch = Switch::with(&["--threads", "2"])?;
    let control = switch.control().display().to_string();
    let port = |switch: &Switch, words: &[&str]| -> Result<bool> {
        let output = switch.home().sv3_output(&[&["port"], words, &["--control", &control]].concat())?;
        Ok(output.status.success())
    };
    for name in ["db", "ids", "web"] {
        assert!(port(&switch, &["add", name])?);
    }
    let home = std::rc::Rc::clone(switch.home());
    let attach = |name: &str| Guest::connect(&home.path(&format!("ports/{name}.sock")));
    assert!(add(&switch, "copies", "web,db", "both", "ids")?.status.success(), "nobody is attached");
    let mut front = Guest::connect(switch.socket());
    let (mut web, mut ids) = (attach("web"), attach("ids"));
    web.send(&frame(BROADCAST, mac(2), b"hello"));
    assert_eq!(front.receive_frame(), ids.receive_frame());
    let copied = |front: &mut Guest, web: &mut Guest, ids: &mut Guest, seed: u32| {
        let letter = noise(mac(2), mac(1), 100, seed);
        front.send(&letter);
        assert_eq!((web.receive_frame(), ids.receive_frame()), (letter.clone(), letter));
        front.await_sent();
        assert_eq!(ids.try_receive(), None);
    };
    copied(&mut front, &mut web, &mut ids, 1);
    // The mirrored guest comes back, then the one that gets the copies. It is no ordinary port for a moment.
    web.vanish();
    switch.await_ports(2)?;
    let mut web = attach("web");
    web.send(&frame(BROADCAST, mac(2), b"hello"));
    assert_eq!(front.receive_frame(), ids.receive_frame());
    copied(&mut front, &mut web, &mut ids, 2);
    ids.vanish();
    switch.await_ports(2)?;
    let letter = noise(mac(2), mac(1), 100, 3);
    front.send(&letter);
    assert_eq!(web.receive_frame(), letter);
    let mut ids = attach("ids");
    ids.send(&frame(BROADCAST, mac(3), b"hello"));
    switch.await_drops("ids", "mirror_port", 1)?;
    copied(&mut front, &mut web, &mut ids, 4);
    switch.kill_worker("KILL")?;
    copied(&mut front, &mut web, &mut ids, 5);
    switch.hand_over(&[])?;
    copied(&mut front, &mut web, &mut ids, 6);
    // Whoever gets the slot of a declaration that has ended is nobody's business.
    web.disconnect();
    switch.await_ports(2)?;
    assert!(port(&switch, &["remove", "web"])?);
    let from: Vec<_> = switch.status()?.mirrors.into_iter().map(|mirror| mirror.from).collect();
    assert_eq!(from, [["db"]]);
    let mut next = Guest::connect(switch.socket());
    next.send(&frame(BROADCAST, mac(2), b"hello"));
    front.receive();
    front.send(&noise(mac(2), mac(1), 100, 7));
    next.receive();
    front.await_sent();
    assert_eq!(ids.try_receive(), None);
    assert!(port(&switch, &["remove", "ids"])?);
    switch.await_event(&["mirror_end", "ids has gone"])?;
    Ok(())
}
