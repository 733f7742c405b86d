//! Groups: the same messages of IGMP and MLD, and the same frames to groups, through both switches while they snoop.
//!
//! Where each frame goes is said here for both. The two differ in four ways, which docs/use/multicast.md tells.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Fate;
use super::packets::{datagram, datagram6, igmp, mld};
use crate::failure::{Failure, Result};
use crate::frames::{frame, mac};
use crate::patience::until;

/// A switch of which one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// sv3.
    Ours,
    /// The kernel's bridge.
    Kernel,
}

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
/// Has the same Ethernet address.
const ALIAS: Ipv4Addr = Ipv4Addr::new(238, 1, 2, 3);
const NOBODYS: Ipv4Addr = Ipv4Addr::new(239, 9, 9, 9);
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 1, 2, 3);
const NOBODYS6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 9, 9, 9);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_V2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// All ports but the querier's, and but the sender's.
const OTHERS: [u8; 5] = [1, 2, 3, 4, 5];
const BUT_5: [u8; 5] = [0, 1, 2, 3, 4];

/// What a station says.
struct Said {
    what: &'static str,
    from: u8,
    frame: Vec<u8>,
    /// Who hears it in sv3.
    ours: Vec<u8>,
    /// And in the kernel's bridge.
    kernel: Vec<u8>,
}

fn same(what: &'static str, from: u8, frame: Vec<u8>, to: &[u8]) -> Said {
    Said { what, from, frame, ours: to.to_vec(), kernel: to.to_vec() }
}

fn differs(what: &'static str, from: u8, frame: Vec<u8>, ours: &[u8], kernel: &[u8]) -> Said {
    Said { what, from, frame, ours: ours.to_vec(), kernel: kernel.to_vec() }
}

/// The queries of the host at port 0, which is the querier and so a router. Members have 100 ms to answer.
fn queries() -> Vec<Said> {
    let (query, body) =
        (igmp(0, ALL_HOSTS, &[0x11, 1, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), [&[0; 16][..], &[2, 125, 0, 0]].concat());
    let query6 = mld(0, ALL_NODES, &[&[130, 0, 0, 0, 0, 100, 0, 0], &body[..]].concat());
    vec![same("a query", 0, query, &OTHERS), same("a query of MLD", 0, query6, &OTHERS)]
}

/// Hosts 1 and 2 are members of a group of IPv4, 3 and 4 of one of IPv6. Host 5 sends.
fn members() -> Vec<Said> {
    let v2 = igmp(1, GROUP, &[&[0x16, 0, 0, 0], &GROUP.octets()[..]].concat());
    let v3 = igmp(2, ALL_V3_ROUTERS, &[&[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0], &GROUP.octets()[..]].concat());
    let v1 = mld(3, GROUP6, &[&[131, 0, 0, 0, 0, 0, 0, 0], &GROUP6.octets()[..]].concat());
    let mld2 = mld(4, ALL_V2_ROUTERS, &[&[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0], &GROUP6.octets()[..]].concat());
    vec![
        same("a report", 1, v2, &[0]),
        differs("a report of IGMPv3", 2, v3, &[0], &[0, 1, 3, 4, 5]),
        same("a report of MLD", 3, v1, &[0]),
        differs("a report of MLDv2", 4, mld2, &[0], &[0, 1, 2, 3, 5]),
        same("for members", 5, datagram(5, GROUP), &[0, 1, 2]),
        same("for members of IPv6", 5, datagram6(5, GROUP6), &[0, 3, 4]),
        same("of a member", 1, datagram(1, GROUP), &[0, 2]),
        differs("for the address of members", 5, datagram(5, ALIAS), &[0, 1, 2], &[0]),
        differs("for a group without members", 5, datagram(5, NOBODYS), &BUT_5, &[0]),
        differs("for a group of IPv6 without members", 5, datagram6(5, NOBODYS6), &BUT_5, &[0]),
        same("for 224.0.0.x", 5, datagram(5, Ipv4Addr::new(224, 0, 0, 251)), &BUT_5),
        same("for all nodes", 5, datagram6(5, ALL_NODES), &BUT_5),
        same("not of IP", 5, frame([1, 0, 0x5e, 1, 2, 3], mac(5), &[0; 46]), &BUT_5),
    ]
}

/// Host 1 leaves, the querier asks, and host 2 answers.
fn leaving() -> Vec<Said> {
    let group = GROUP.octets();
    let leave = igmp(1, ALL_ROUTERS, &[&[0x17, 0, 0, 0], &group[..]].concat());
    let asked = igmp(0, GROUP, &[&[0x11, 1, 0, 0], &group[..], &[2, 125, 0, 0]].concat());
    let stays = igmp(2, GROUP, &[&[0x16, 0, 0, 0], &group[..]].concat());
    vec![
        differs("a leave", 1, leave, &[0], &[0, 2, 3, 4, 5]),
        same("a query for the group", 0, asked, &OTHERS),
        same("an answer", 2, stays, &[0]),
    ]
}

/// Sends all this, and compares where it goes.
pub fn play(which: Which, mut send: impl FnMut(usize, &[u8]) -> Result<Fate>) -> Result<()> {
    for said in queries() {
        judge(which, &said, &send(said.from.into(), &said.frame)?)?;
    }
    // Groups are filtered when members have had time to answer. Until then reports go anywhere, and they are said again.
    let (joined, rest): (Vec<Said>, Vec<Said>) =
        members().into_iter().partition(|said| said.what.starts_with("a report"));
    for said in &joined {
        send(said.from.into(), &said.frame)?;
    }
    for (group, others) in [(datagram(5, GROUP), 3), (datagram6(5, GROUP6), 1)] {
        until("groups to be filtered", || Ok((!has(&send(5, &group)?, others)).then_some(())))?;
    }
    let mut check =
        |all: Vec<Said>| all.iter().try_for_each(|said| judge(which, said, &send(said.from.into(), &said.frame)?));
    check(joined)?;
    check(rest)?;
    check(leaving())?;
    until("a member to be gone", || Ok((!has(&send(5, &datagram(5, GROUP))?, 1)).then_some(())))?;
    judge(which, &same("for the one that stayed", 5, datagram(5, GROUP), &[0, 2]), &send(5, &datagram(5, GROUP))?)
}

fn has(fate: &Fate, port: u8) -> bool {
    fate.iter().any(|(to, _)| *to == port)
}

fn judge(which: Which, said: &Said, came: &Fate) -> Result<()> {
    let expected = if which == Which::Ours { &said.ours } else { &said.kernel };
    let to: Vec<u8> = came.iter().map(|(port, _)| *port).collect();
    match to == *expected && came.iter().all(|(_, octets)| *octets == said.frame) {
        true => Ok(()),
        false => Err(Failure::new(format!("{which:?}: {} went to {to:?}, not to {expected:?}", said.what))),
    }
}
