//! `sv3 trace`: what the switch would do with a frame, without doing it.

use sv3::drop_reason::DropReason;
use sv3::trace::{NamedStep, TraceAnswer};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::switch::Switch;

fn sv3(switch: &Switch, arguments: &[&str]) -> Result<String> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&[&["trace", "--control", &control], arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn steps(switch: &Switch, port: &str, frame: &[u8]) -> Result<Vec<NamedStep>> {
    let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
    let answer: TraceAnswer = serde_json::from_str(&sv3(switch, &[port, "--json", "--hex", &hex])?)?;
    assert_eq!(answer.port, port);
    Ok(answer.steps)
}

fn delivered(port: &str) -> NamedStep {
    NamedStep::Delivered { port: port.to_string(), cut: false, put: None }
}

fn dropped(reason: DropReason) -> NamedStep {
    NamedStep::Dropped { reason: reason.name().to_string() }
}

#[test]
fn a_trace_names_who_gets_a_frame_and_does_nothing() -> Result<()> {
    let switch = Switch::start()?;
    let mut guests = [(), (), ()].map(|()| Guest::connect(switch.socket()));
    // The second one is known, and no other.
    let letter = frame([0xff; 6], mac(2), b"here I am");
    guests[1].send(&letter);
    assert_eq!([guests[0].receive_frame(), guests[2].receive_frame()], [letter.clone(), letter]);
    let (new, known) = (NamedStep::SourceNew, NamedStep::SourceKnown);
    let found = NamedStep::Found { port: "p1".to_string() };
    let admitted = NamedStep::Admitted { vid: 0 };
    for _ in 0..2 {
        let to = |dst, src| frame(dst, src, b"never sent");
        let of = |port, frame: &[u8]| steps(&switch, port, frame);
        let start = [admitted.clone(), new.clone()];
        assert_eq!(of("p0", &to(mac(2), mac(1)))?, [&start[..], &[found.clone(), delivered("p1")]].concat());
        let both = [delivered("p1"), delivered("p2")];
        assert_eq!(of("p0", &to(mac(9), mac(1)))?, [&start[..], &[NamedStep::Unknown], &both].concat());
        assert_eq!(of("p0", &to([0xff; 6], mac(1)))?, [&start[..], &[NamedStep::Group], &both].concat());
        let moves = NamedStep::SourceMoves { port: "p1".to_string() };
        assert_eq!(of("p2", &to(mac(2), mac(2)))?, [admitted.clone(), moves, found.clone(), delivered("p1")]);
        assert_eq!(of("p1", &to(mac(2), mac(2)))?, [admitted.clone(), known.clone(), dropped(DropReason::Hairpin)]);
        assert_eq!(of("p0", &to([1, 0x80, 0xc2, 0, 0, 0], mac(1)))?, [dropped(DropReason::LinkLocal)]);
        assert_eq!(of("p0", &to(mac(1), [0xff; 6]))?, [dropped(DropReason::BadSource)]);
        // A long frame is looked at as far as it matters.
        assert_eq!(of("p0", &frame(mac(2), mac(1), &[7; 3000]))?.len(), 4);
    }
    for port in switch.status()?.ports {
        assert!(port.drops.is_empty() && port.to_guest.frames <= 1, "{port:?}");
    }
    let letter = frame(mac(2), mac(1), b"the first after the traces");
    guests[0].send(&letter);
    assert_eq!(guests[1].receive_frame(), letter);
    Ok(())
}

#[test]
fn people_read_why_and_what_is_wrong_with_a_request() -> Result<()> {
    let switch = Switch::start()?;
    let _guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    let frame = ["--from", "52:54:00:00:00:01", "--to", "ff:ff:ff:ff:ff:ff", "--vlan", "10", "--type", "0806"];
    let said = sv3(&switch, &[&["p1"], &frame[..]].concat())?;
    for shown in ["a frame from p1", "the port knows no VLANs", "source: new", "p0: gets it\n", "it goes to 1 port\n"] {
        assert!(said.contains(shown), "{shown} in {said}");
    }
    let group = sv3(&switch, &["p1", "--from", "52:54:00:00:00:01", "--to", "01:80:c2:00:00:0e"])?;
    assert!(group.contains("dropped: link_local (addressed to the bridge itself"), "{group}");
    // After a worker's death the next one answers.
    switch.kill_worker("KILL")?;
    assert!(sv3(&switch, &[&["p0"], &frame[..]].concat())?.contains("p1: gets it\n"));
    for (wrong, reason) in [
        (&["p7", "--from", "52:54:00:00:00:01", "--to", "ff:ff:ff:ff:ff:ff"][..], "there is no port \"p7\""),
        (&["p0", "--from", "52:54:00:00:00:01"], "--to"),
        (&["p0", "--hex", "ffff"], "14 octets"),
    ] {
        let refused = sv3(&switch, wrong).err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(refused.contains(reason), "{wrong:?}: {refused}");
    }
    Ok(())
}

#[test]
fn a_trace_knows_limits_of_this_moment_and_mirrors() -> Result<()> {
    let switch = Switch::start()?;
    let control = switch.control().display().to_string();
    let run = |words: &[&str]| -> Result<()> {
        let output = switch.home().sv3_output(&[words, &["--control", &control]].concat())?;
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // An octet a second.
    run(&["port", "add", "slow", "--rate-from-port", "8", "--burst-from-port", "100"])?;
    run(&["port", "add", "ids"])?;
    run(&["port", "add", "thin", "--rate-to-port", "8", "--burst-to-port", "100"])?;
    let connect = |name: &str| Guest::connect(&switch.home().path(&format!("ports/{name}.sock")));
    let (mut slow, _ids, mut thin) = (connect("slow"), connect("ids"), connect("thin"));
    run(&["mirror", "add", "copies", "--from", "thin", "--direction", "out", "--to", "ids"])?;
    let copied = NamedStep::Copied { mirror: "copies".to_string(), port: "ids".to_string() };
    let letter = frame([0xff; 6], mac(1), &[7; 80]);
    let start = [NamedStep::Admitted { vid: 0 }, NamedStep::SourceNew, NamedStep::Group];
    for _ in 0..2 {
        assert_eq!(steps(&switch, "slow", &letter)?, [&start[..], &[delivered("thin"), copied.clone()]].concat());
    }
    let to_ids = frame([0xff; 6], mac(3), b"of the mirror's port");
    assert_eq!(steps(&switch, "ids", &to_ids)?, [dropped(DropReason::MirrorPort)]);
    slow.send(&letter);
    assert_eq!(thin.receive_frame(), letter);
    slow.await_sent();
    // Both limits are used up for more than a minute.
    let limit = DropReason::RxLimit.name().to_string();
    let withheld = NamedStep::Withheld { port: "thin".to_string(), reason: limit };
    let admitted = NamedStep::Admitted { vid: 0 };
    let wanted = [NamedStep::Held, admitted, NamedStep::SourceKnown, NamedStep::Group, withheld];
    assert_eq!(steps(&switch, "slow", &letter)?, wanted);
    Ok(())
}
