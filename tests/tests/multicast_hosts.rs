//! Snooping with hosts of the kernel's: their IGMP and MLD, and the switch as their querier. Needs root, for network
//! namespaces.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use sv3::group_status::GroupsStatus;
use sv3::snooping::Snooping;
use sv3_tests::failure::Result;
use sv3_tests::network::{RawSocket, Station};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::Switch;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 1, 2, 3);
const MAC: &str = "01:00:5e:01:02:03";
const MAC6: &str = "33:33:00:02:00:03";
/// By family: a socket of IPv6 has its port for IPv4 as well.
const PORTS: [u16; 2] = [4321, 4322];
/// A member that does not answer is forgotten after 4.1 s.
const SETTING: Snooping = Snooping {
    querier: true,
    address: Ipv4Addr::UNSPECIFIED,
    interval_ms: 2000,
    response_ms: 100,
    last_member_ms: 200,
};

/// Three hosts, 10.9.0.1 to 10.9.0.3, with IPv6, at a switch that snoops: p0 to p2.
fn hosts() -> Result<(Switch, [Station; 3])> {
    let switch = Switch::start()?;
    switch.snoop(Some(SETTING))?;
    let mut stations = Vec::new();
    for number in 1..=3 {
        let station = Station::connect(switch.socket(), number)?;
        switch.await_ports(number.into())?;
        let network = station.network();
        network.inside(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")?;
            Ok(std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0")?)
        })?;
        network.ip(&format!("-6 address add fd00:9::{number}/64 dev eth0 nodad"))?;
        network.ip("route add 224.0.0.0/4 dev eth0")?;
        stations.push(station);
    }
    let stations = stations.try_into().map_err(|_| sv3_tests::failure::Failure::new("three stations"))?;
    Ok((switch, stations))
}

/// A socket of a host that is a member of a group.
fn join(station: &Station, v6: bool) -> Result<UdpSocket> {
    station.network().inside(|| {
        let socket = if v6 { UdpSocket::bind(("::", PORTS[1]))? } else { UdpSocket::bind(("0.0.0.0", PORTS[0]))? };
        match v6 {
            true => socket.join_multicast_v6(&GROUP6, nix::net::if_::if_nametoindex("eth0")?)?,
            false => socket.join_multicast_v4(&GROUP, &station_address(station)?)?,
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

/// Inside of the station's network.
fn station_address(_station: &Station) -> Result<Ipv4Addr> {
    let probe = UdpSocket::bind("0.0.0.0:0")?;
    probe.connect(("10.9.0.99", 9))?;
    match probe.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(_) => Ok(Ipv4Addr::UNSPECIFIED),
    }
}

fn send(station: &Station, v6: bool, text: &[u8]) -> Result<()> {
    station.network().inside(|| {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        match v6 {
            true => {
                let place = std::net::SocketAddrV6::new(GROUP6, PORTS[1], 0, index);
                UdpSocket::bind("[::]:0")?.send_to(text, place)?
            }
            false => UdpSocket::bind("0.0.0.0:0")?.send_to(text, (GROUP, PORTS[0]))?,
        };
        Ok(())
    })
}

fn members<'g>(groups: &'g GroupsStatus, mac: &str) -> Vec<&'g str> {
    let of = groups.groups.iter().filter(|group| group.group == mac).flat_map(|group| &group.members);
    of.filter(|member| !member.leaving).map(|member| member.port.as_str()).collect()
}

fn hears(socket: &UdpSocket, text: &[u8]) -> Result<()> {
    let mut octets = [0; 100];
    loop {
        let (count, _) = socket.recv_from(&mut octets)?;
        if octets.get(..count) == Some(text) {
            return Ok(());
        }
    }
}

/// Whether a frame with this text has come to a host.
fn saw(eyes: &RawSocket, text: &[u8]) -> Result<bool> {
    let mut seen = false;
    while let Some((_, frame)) = eyes.receive()? {
        seen |= frame.windows(text.len()).any(|window| window == text);
    }
    Ok(seen)
}

#[test]
#[ignore = "needs root"]
fn the_querier_keeps_members_and_others_get_nothing() -> Result<()> {
    let (switch, [sender, member, other]) = hosts()?;
    let eyes = RawSocket::open(other.network(), "eth0")?;
    let sockets = [join(&member, false)?, join(&member, true)?];
    switch.await_groups("members of both families", |groups| {
        let filters = groups.queriers.iter().filter(|one| one.vid == 0).all(|one| one.filters && one.querier == "self");
        let joined = [MAC, MAC6].iter().all(|group| members(groups, group) == ["p1"]);
        filters && joined && groups.open.is_empty()
    })?;
    saw(&eyes, b"what came before")?;
    // Longer than a member stays one without an answer.
    let end = Instant::now() + Duration::from_millis(5000);
    let mut round = 0;
    while Instant::now() < end {
        for (v6, socket) in [false, true].into_iter().zip(&sockets) {
            let text = format!("round {round}, {v6}");
            send(&sender, v6, text.as_bytes())?;
            hears(socket, text.as_bytes())?;
        }
        round += 1;
        if round == 3 {
            switch.kill_worker("KILL")?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for mac in [MAC, MAC6] {
        assert_eq!(members(&switch.groups()?, mac), ["p1"]);
    }
    assert!(!saw(&eyes, b"round ")?, "a host that is no member has got a group's frame");
    // The member leaves while another host is one.
    let others = [join(&other, false)?, join(&other, true)?];
    switch
        .await_groups("two members", |groups| [MAC, MAC6].iter().all(|group| members(groups, group) == ["p1", "p2"]))?;
    let eyes = RawSocket::open(member.network(), "eth0")?;
    drop(sockets);
    switch.await_groups("one member", |groups| {
        [MAC, MAC6].iter().all(|group| groups.groups.iter().any(|one| one.group == *group && one.members.len() == 1))
    })?;
    saw(&eyes, b"what came before")?;
    for (v6, socket) in [false, true].into_iter().zip(&others) {
        send(&sender, v6, b"for the one that stayed")?;
        hears(socket, b"for the one that stayed")?;
    }
    assert!(!saw(&eyes, b"for the one that stayed")?);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn two_sockets_of_a_host_are_one_member_until_both_have_left() -> Result<()> {
    let (switch, [sender, member, other]) = hosts()?;
    let (first, second) = (join(&member, false)?, join(&other, false)?);
    switch.await_groups("two members", |groups| members(groups, MAC) == ["p1", "p2"] && groups.open.is_empty())?;
    drop(second);
    switch.await_groups("one member", |groups| {
        groups.groups.iter().any(|group| group.group == MAC && group.members.len() == 1)
    })?;
    until("the member to hear", || {
        send(&sender, false, b"still here")?;
        first.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(hears(&first, b"still here").ok())
    })
}
