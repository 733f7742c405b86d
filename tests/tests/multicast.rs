//! Snooping: a group's frames reach its members and nobody else, members stay members over deaths of workers, and
//! whatever is not known is flooded. Guests are software, so they answer no query that a test does not answer.

use std::net::Ipv4Addr;

use sv3::attachment::Transport;
use sv3::group_status::GroupsStatus;
use sv3::snooping::Snooping;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, Mac, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::network::ports::{attach_stream, uplink};
use sv3_tests::switch::{Home, Switch};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const ALL_V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const CHANGE_TO_INCLUDE: u8 = 3;
const CHANGE_TO_EXCLUDE: u8 = 4;
const UDP: u8 = 17;
const IGMP: u8 = 2;
/// Queries come once, and members have long to answer again, whatever the machine does meanwhile.
const PATIENT: Snooping = Snooping {
    querier: true,
    address: Ipv4Addr::UNSPECIFIED,
    interval_ms: 600_000,
    response_ms: 100,
    last_member_ms: 100,
};

fn checked(mut octets: Vec<u8>, at: usize) -> Vec<u8> {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// A packet of station `n` to a group.
fn packet(n: u8, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let [_, b, c, d] = to.octets();
    let dst: Mac = [1, 0, 0x5e, b & 0x7f, c, d];
    let len = (20 + body.len()) as u8;
    let header = [&[0x45, 0, 0, len, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, n][..], &to.octets()].concat();
    [&dst[..], &mac(n), &[8, 0], &checked(header, 10), body].concat()
}

/// Station `n` joins a group, or leaves it.
fn report(n: u8, change: u8, group: Ipv4Addr) -> Vec<u8> {
    let body = [&[0x22, 0, 0, 0, 0, 0, 0, 1, change, 0, 0, 0][..], &group.octets()].concat();
    packet(n, ALL_V3_ROUTERS, IGMP, &checked(body, 2))
}

fn datagram(n: u8, group: Ipv4Addr, text: &[u8]) -> Vec<u8> {
    packet(n, group, UDP, text)
}

/// The next frame that is neither the switch's own nor a greeting.
fn next(guest: &mut Guest) -> Vec<u8> {
    loop {
        let frame = guest.receive_frame();
        if frame[6..9] != [0x72, 0x76, 0x33] && !frame.ends_with(b"greeting") {
            return frame;
        }
    }
}

/// A switch that snoops, stations 1 to 3, of which 2 is a member of the group, and the switch knows all that it must.
fn members() -> Result<(Switch, [Guest; 3])> {
    let switch = Switch::start()?;
    switch.snoop(Some(PATIENT))?;
    let guests = members_at(&switch)?;
    Ok((switch, guests))
}

/// The same at a switch that snoops.
fn members_at(switch: &Switch) -> Result<[Guest; 3]> {
    let mut guests = [(); 3].map(|()| Guest::connect(switch.socket()));
    for (n, guest) in (1..).zip(&mut guests) {
        guest.send(&frame(BROADCAST, mac(n), b"greeting"));
        guest.await_sent();
    }
    switch.await_groups("groups to be filtered", |groups| groups.open.is_empty() && filters(groups))?;
    guests[1].send(&report(2, CHANGE_TO_EXCLUDE, GROUP));
    switch.await_groups("a member", |groups| members_of(groups) == ["p1"])?;
    Ok(guests)
}

fn filters(groups: &GroupsStatus) -> bool {
    groups.queriers.iter().any(|one| one.protocol == "igmp" && one.filters)
}

fn members_of(groups: &GroupsStatus) -> Vec<String> {
    groups.groups.iter().flat_map(|group| &group.members).map(|member| member.port.clone()).collect()
}

/// Station 1 sends a datagram and then a marker to all. Asserts that these stations get the datagram.
fn assert_reaches(guests: &mut [Guest; 3], text: &[u8], wanted: [bool; 2]) {
    let (sent, marker) = (datagram(1, GROUP, text), frame(BROADCAST, mac(1), b"marker"));
    guests[0].send(&sent);
    guests[0].send(&marker);
    for (guest, wanted) in guests[1..].iter_mut().zip(wanted) {
        if wanted {
            assert_eq!(next(guest), sent);
        }
        assert_eq!(next(guest), marker);
    }
}

#[test]
fn a_group_s_frames_reach_members_only_over_deaths_of_workers() -> Result<()> {
    let (switch, mut guests) = members()?;
    assert_reaches(&mut guests, b"for the member", [true, false]);
    for signal in ["KILL", "SEGV"] {
        switch.kill_worker(signal)?;
        assert_reaches(&mut guests, signal.as_bytes(), [true, false]);
    }
    assert_eq!(switch.drops("p0", "no_destination")?, 0);
    // Nobody has joined, or everybody gets it.
    let (other, reserved) = (Ipv4Addr::new(239, 9, 9, 9), Ipv4Addr::new(224, 0, 0, 251));
    for group in [other, reserved] {
        let sent = datagram(1, group, b"for all");
        guests[0].send(&sent);
        guests[1..].iter_mut().for_each(|guest| assert_eq!(next(guest), sent));
    }
    Ok(())
}

#[test]
fn a_port_whose_member_has_left_is_asked_and_then_gets_no_more() -> Result<()> {
    let (switch, mut guests) = members()?;
    guests[2].send(&report(3, CHANGE_TO_EXCLUDE, GROUP));
    switch.await_groups("two members", |groups| members_of(groups) == ["p1", "p2"])?;
    assert_reaches(&mut guests, b"for both", [true, true]);
    guests[1].send(&report(2, CHANGE_TO_INCLUDE, GROUP));
    switch.await_groups("a member to be gone", |groups| members_of(groups) == ["p2"])?;
    assert_reaches(&mut guests, b"for the other one", [false, true]);
    // The last one goes, and nobody is known: flooded.
    guests[2].send(&report(3, CHANGE_TO_INCLUDE, GROUP));
    switch.await_groups("all to be gone", |groups| groups.groups.is_empty())?;
    assert_reaches(&mut guests, b"for anybody", [true, true]);
    switch.snoop(None)?;
    assert!(switch.groups()?.snooping.is_none());
    Ok(())
}

#[test]
fn reports_go_to_uplinks_and_not_to_other_guests() -> Result<()> {
    let (switch, mut guests) = members()?;
    let mut network = attach_stream(&switch, &uplink(Transport::Stream, "up"))?;
    // A switch that gets its first port of files takes a moment to serve it.
    let greeting = frame(BROADCAST, mac(9), b"greeting");
    network.send(&greeting)?;
    while guests[0].receive_frame() != greeting {}
    switch.await_groups("the uplink to be asked", |groups| groups.open.is_empty() && filters(groups))?;
    let (again, marker) = (report(2, CHANGE_TO_EXCLUDE, GROUP), frame(BROADCAST, mac(2), b"marker"));
    guests[1].send(&again);
    guests[1].send(&marker);
    for guest in [0, 2] {
        assert_eq!(next(&mut guests[guest]), marker);
    }
    while network.receive()?.1 != again {}
    while network.receive()?.1 != marker {}
    // The network gets groups, and a guest that is no member does not get what comes from there.
    let (sent, marker) = (datagram(9, GROUP, b"from outside"), frame(BROADCAST, mac(9), b"marker"));
    network.send(&sent)?;
    network.send(&marker)?;
    assert_eq!((next(&mut guests[1]), next(&mut guests[1])), (sent, marker.clone()));
    assert_eq!(next(&mut guests[2]), marker);
    let sent = datagram(1, GROUP, b"to outside");
    guests[0].send(&sent);
    while network.receive()?.1 != sent {}
    Ok(())
}

#[test]
fn a_guest_that_comes_back_gets_all_groups_until_it_was_asked() -> Result<()> {
    let (switch, mut guests) = members()?;
    let slow = Snooping { response_ms: 60_000, ..PATIENT };
    switch.snoop(Some(slow))?;
    let mut newcomer = Guest::connect(switch.socket());
    switch.await_groups("an open port", |groups| groups.open.iter().any(|port| port.port == "p3"))?;
    let sent = datagram(1, GROUP, b"for whom it may concern");
    guests[0].send(&sent);
    assert_eq!(next(&mut newcomer), sent);
    assert_eq!(next(&mut guests[1]), sent);
    Ok(())
}

#[test]
fn a_file_says_how_the_switch_snoops_and_the_next_supervisor_knows_the_groups() -> Result<()> {
    let home = Home::new()?;
    let (path, name) = (home.path("sv3.toml"), home.path("sv3.toml").display().to_string());
    let write = |text: &str| -> Result<()> {
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?)
    };
    let text = "[snooping]\non = true\ninterval = 600\nresponse = 0.1\nlast_member = 0.1\n";
    write(text)?;
    let mut switch = home.start(&["--config", &name])?;
    assert_eq!(switch.groups()?.snooping, Some(PATIENT));
    let mut guests = members_at(&switch)?;
    assert_reaches(&mut guests, b"for the member", [true, false]);
    switch.hand_over(&[])?;
    switch.await_status("a worker of the next supervisor", |status| status.worker.pid.is_some())?;
    assert_eq!((switch.groups()?.snooping, members_of(&switch.groups()?)), (Some(PATIENT), vec!["p1".to_string()]));
    assert_reaches(&mut guests, b"for the member still", [true, false]);
    let control = switch.control().display().to_string();
    let sv3 = |words: &[&str]| -> Result<String> {
        let output = home.sv3(words).args(["--control", &control]).output()?;
        assert!(output.status.success(), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(sv3(&["config", "show"])?, text);
    // A file, and a port that is added, leave alone what they do not speak of.
    write("")?;
    assert_eq!(sv3(&["reload"])?, "nothing differs\n");
    sv3(&["port", "add", "web"])?;
    assert_eq!(members_of(&switch.groups()?), ["p1"]);
    write("[ports.web]\n[snooping]\non = false\n")?;
    let told = sv3(&["reload"])?;
    assert!(told.contains("snooping: on = false (was true)"), "{told}");
    assert_eq!(switch.groups()?.snooping, None);
    assert_reaches(&mut guests, b"for all", [true, true]);
    Ok(())
}
