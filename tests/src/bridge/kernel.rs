//! The kernel's half, in a machine whose kernel's bridge knows VLANs. By root.
//!
//! A frame that a process writes to a tap goes through the bridge at once, but nobody promises that. So a marker follows
//! each frame, by two more ports in a VLAN of their own. A processor handles what comes in by taps in the order in which it
//! came, and the machine has one processor. When the marker is through, the frame is.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};

use super::{Fate, Kind, PORTS, Play, Setup, digest};
use crate::failure::{Failure, Result};
use crate::frames::{frame, mac};
use crate::network::{Namespace, Tap};
use crate::patience::until;

/// The VLAN of the markers.
const MARKERS: u16 = 4000;
/// The marker's receiver.
const RECEIVER: u8 = 250;
const HEADER: usize = 12;

/// The bridge's network, with a tap for each port and two for markers.
pub struct Taps {
    network: Namespace,
    files: Vec<File>,
    room: Vec<u8>,
    markers: u32,
}

impl Taps {
    /// Makes them.
    pub fn open() -> Result<Taps> {
        let network = Namespace::new()?;
        let tap = |at: usize| Ok(Tap::open(&network, &name(at), false)?.into_file());
        let files = (0..PORTS + 2).map(tap).collect::<Result<Vec<_>>>()?;
        Ok(Taps { network, files, room: vec![0; 4096], markers: 0 })
    }

    /// Makes the bridge, in place of an earlier one, by words for `ip` and for `bridge`, a command a line.
    pub fn make(&self, [ip, bridge]: [String; 2]) -> Result<()> {
        for (program, words) in [("ip", &ip), ("bridge", &bridge)] {
            let file = std::env::temp_dir().join(program);
            fs::write(&file, words)?;
            let said = self.network.run(program, &format!("-batch {}", file.display()));
            said.map_err(|failure| Failure::new(format!("{failure}\n{words}")))?;
        }
        Ok(())
    }

    /// Ends the bridge.
    pub fn end(&self) -> Result<()> {
        self.network.ip("link delete br0").map(drop)
    }

    /// Sends a frame; where it went.
    pub fn send(&mut self, from: usize, octets: &[u8]) -> Result<Fate> {
        self.write(from, octets)?;
        self.pass_marker()?;
        let mut fate = Fate::new();
        for port in 0..PORTS {
            while let Some(frame) = self.read(port)? {
                // A bridge that snoops is itself a member of 224.0.0.106, and says so at random moments.
                if frame.get(6..12) == octets.get(6..12) {
                    fate.push((port as u8, frame));
                }
            }
        }
        Ok(fate)
    }

    fn pass_marker(&mut self) -> Result<()> {
        self.markers += 1;
        let marker = frame(mac(RECEIVER), mac(RECEIVER + 1), &self.markers.to_be_bytes());
        self.write(PORTS, &marker)?;
        until("a marker", || Ok(self.read(PORTS + 1)?.filter(|came| *came == marker).map(drop)))
    }

    fn write(&mut self, at: usize, frame: &[u8]) -> Result<()> {
        let octets = [&[0; HEADER], frame].concat();
        match self.files[at].write(&octets)? {
            written if written == octets.len() => Ok(()),
            written => Err(Failure::new(format!("{written} of {} octets were written", octets.len()))),
        }
    }

    fn read(&mut self, at: usize) -> Result<Option<Vec<u8>>> {
        match self.files[at].read(&mut self.room) {
            Ok(count) => Ok(Some(self.room[HEADER.min(count)..count].to_vec())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The interface of a port; those of markers follow.
fn name(at: usize) -> String {
    format!("t{at}")
}

/// Commands for a bridge whose last two ports pass markers.
pub fn with_markers([mut ip, mut bridge]: [String; 2], kind: Kind) -> [String; 2] {
    for at in [PORTS, PORTS + 1] {
        let name = name(at);
        ip += &format!("link set {name} master br0\nlink set {name} up\n");
        bridge += &format!("link set dev {name} learning off flood off mcast_flood off bcast_flood off\n");
        if kind != Kind::Unaware {
            bridge += &format!("vlan add dev {name} vid {MARKERS} pvid untagged\n");
        }
    }
    let receiver = mac(RECEIVER).map(|octet| format!("{octet:02x}")).join(":");
    let vlan = if kind == Kind::Unaware { String::new() } else { format!(" vlan {MARKERS}") };
    bridge += &format!("fdb add {receiver} dev {} master static{vlan}\n", name(PORTS + 1));
    [ip, bridge]
}

/// Plays, and tells each frame that did not go where `ours` says ([`super::ours::encode`]): a line with its number, and the
/// port and the octets of each receiver.
pub fn play(play: &Play, ours: &[u8], mut tell: impl FnMut(&str)) -> Result<()> {
    let mut taps = Taps::open()?;
    let (mut ours, mut number) = (ours, 0);
    for (setup, steps) in &play.0 {
        taps.make(with_markers(setup.commands(name), setup.kind))?;
        for step in steps {
            let fate = taps.send(step.from, &step.frame)?;
            if !is_same(&mut ours, &fate)? {
                tell(&line(number, &fate));
            }
            number += 1;
        }
        taps.end()?;
    }
    tell(&format!("{number} frames"));
    Ok(())
}

/// Plays [`super::groups`] on a bridge that snoops and is no querier.
pub fn play_groups() -> Result<()> {
    let mut taps = Taps::open()?;
    let mut ip = "link add br0 type bridge mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2\n".to_string();
    ip += "link set br0 up\n";
    (0..PORTS).for_each(|at| ip += &format!("link set {0} master br0\nlink set {0} up\n", name(at)));
    taps.make(with_markers([ip, String::new()], Kind::Unaware))?;
    super::groups::play(super::groups::Which::Kernel, |from, frame| taps.send(from, frame))
}

fn is_same(ours: &mut &[u8], fate: &Fate) -> Result<bool> {
    let short = || Failure::new("sv3's half is too short");
    let (count, rest) = ours.split_first().ok_or_else(short)?;
    let (entries, rest) = rest.split_at_checked(usize::from(*count) * 9).ok_or_else(short)?;
    *ours = rest;
    let theirs: Vec<u8> =
        fate.iter().flat_map(|(port, frame)| [&[*port][..], &digest(frame).to_le_bytes()].concat()).collect();
    Ok(entries == theirs)
}

/// How [`play`] tells of a frame.
fn line(number: usize, fate: &Fate) -> String {
    let hex = |frame: &[u8]| frame.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let to = fate.iter().map(|(port, frame)| format!(" {port}:{}", hex(frame)));
    format!("{number}{}", to.collect::<String>())
}

/// Reads such a line.
pub fn parse(line: &str) -> Result<(usize, Fate)> {
    let bad = || Failure::new(format!("what the machine says: {line:?}"));
    let mut words = line.split(' ');
    let number = words.next().ok_or_else(bad)?.parse()?;
    let to = |word: &str| {
        let (port, hex) = word.split_once(':').ok_or_else(bad)?;
        let octet = |at: usize| Ok(u8::from_str_radix(hex.get(at..at + 2).ok_or_else(bad)?, 16)?);
        Ok((port.parse()?, (0..hex.len()).step_by(2).map(octet).collect::<Result<Vec<u8>>>()?))
    };
    Ok((number, words.map(to).collect::<Result<Fate>>()?))
}

/// Whether frames of this VLAN leave by a port without a tag.
pub fn leaves_bare(setup: &Setup, port: u8, vid: u16) -> bool {
    setup.ports[usize::from(port)].member.untagged == Some(vid)
}
