//! Frames for both switches.

use super::{Dice, Kind, Like, Play, Row, Setup, Step, VIDS, is_tagged, kind_of, said, static_of};
use crate::bridge::PORTS;
use crate::frames::{BROADCAST, Mac, mac, noise};

/// Octets of a frame behind its addresses and tags, at least.
const LEAST: usize = 50;
/// Longer than a port of the kernel's, with a tag.
const LONG: usize = 1600;

impl Play {
    /// Rounds of each kind, with so many frames each.
    pub fn draw(seed: u64, kinds: &[Kind], frames: usize) -> Play {
        let mut dice = Dice::new(seed);
        let round = |kind: &Kind| {
            let setup = Setup::draw(*kind, &mut dice);
            let steps = (0..frames).flat_map(|_| steps(&setup, &mut dice)).collect();
            (setup, steps)
        };
        Play(kinds.iter().map(round).collect())
    }

    /// All frames, with the settings that they meet.
    pub fn steps(&self) -> impl Iterator<Item = (&Setup, &Step)> {
        self.0.iter().flat_map(|(setup, steps)| steps.iter().map(move |step| (setup, step)))
    }
}

/// A frame, and its twin if it needs one.
fn steps(setup: &Setup, dice: &mut Dice) -> Vec<Step> {
    loop {
        let from = dice.below(PORTS);
        let mut frame = frame(setup, from, dice);
        match setup.rows(from, &frame).as_slice() {
            [] => return vec![Step { from, frame, row: None }],
            [row] => {
                // The kernel keeps the priority of a tag that it takes off, and the twin has none.
                if matches!(row, Row::OwnTag | Row::ServiceTag) {
                    frame[14] &= 0xf;
                }
                let twin = Step { from, frame: row.twin(&frame, from), row: None };
                return vec![Step { from, frame, row: Some(*row) }, twin];
            }
            // One thing at a time.
            _ => continue,
        }
    }
}

/// A frame of a port.
fn frame(setup: &Setup, from: usize, dice: &mut Dice) -> Vec<u8> {
    let (src, tags) = (source(from, dice), tags(setup, dice));
    let dst = destination(src, dice);
    let octets = match dice.below(50) {
        0 => LONG,
        1..4 => 1400,
        _ => 14 + LEAST + dice.below(100),
    };
    let plain = noise(dst, src, octets, dice.number() as u32);
    [&plain[..12], &tags, &plain[12..]].concat()
}

fn source(from: usize, dice: &mut Dice) -> Mac {
    match dice.below(100) {
        0..55 => mac(from as u8),
        55..75 => mac(dice.below(PORTS) as u8),
        75..90 => static_of(from, dice.below(2) as u8),
        90..97 => static_of(dice.below(PORTS), dice.below(2) as u8),
        97 => [0; 6],
        _ => [3, 0, 0, 0, 0, 1],
    }
}

fn destination(src: Mac, dice: &mut Dice) -> Mac {
    match dice.below(100) {
        0..45 => mac(dice.below(PORTS) as u8),
        45..60 => static_of(dice.below(PORTS), dice.below(2) as u8),
        60..70 => mac(200),
        70..82 => BROADCAST,
        82..92 => dice.one_of(&[[1, 0, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 1, 2, 3], [9, 0, 0, 0, 0, 1]]),
        92..96 => {
            let any = dice.below(16) as u8;
            [1, 0x80, 0xc2, 0, 0, dice.one_of(&[0, 11, any])]
        }
        96 => [0; 6],
        _ => src,
    }
}

/// The octets between the addresses and the rest.
fn tags(setup: &Setup, dice: &mut Dice) -> Vec<u8> {
    let own = setup.own_tag().unwrap_or_else(|| dice.one_of(&[0x8100, 0x88a8]));
    let vid = |dice: &mut Dice| dice.one_of(&[VIDS[0], VIDS[0], VIDS[1], VIDS[2], Setup::FOREIGN]);
    let bits = |dice: &mut Dice| (dice.below(16) as u16) << 12;
    let tag = |kind: u16, tci: u16| [kind, tci].map(u16::to_be_bytes).concat();
    let other = |dice: &mut Dice| dice.one_of(&[0x8100, 0x88a8, 0x9100]);
    match dice.below(100) {
        0..35 => Vec::new(),
        35..43 => tag(own, bits(dice)),
        43..78 => tag(own, bits(dice) | vid(dice)),
        78..80 => tag(own, bits(dice) | 4095),
        80..90 => {
            let outer = if dice.percent(50) { vid(dice) } else { 0 };
            [tag(own, bits(dice) | outer), tag(other(dice), vid(dice))].concat()
        }
        _ => tag(other(dice), bits(dice) | vid(dice)),
    }
}

impl Setup {
    /// How the two switches differ about a frame, but for [`Row::Hop`].
    fn rows(&self, from: usize, frame: &[u8]) -> Vec<Row> {
        let member = &self.ports[from].member;
        let (is_own, said) = (Some(kind_of(frame)) == self.own_tag(), said(frame));
        let mut rows = Vec::new();
        match self.kind {
            Kind::Customer if member.is_single() && is_own && Some(said) == member.untagged => rows.push(Row::OwnTag),
            Kind::Service if member.is_single() && is_own => rows.push(Row::ServiceTag),
            Kind::Service if member.is_single() => {}
            Kind::Customer | Kind::Service if is_tagged(frame) && !is_own && member.untagged.is_some() => {
                rows.push(Row::OtherTag);
            }
            _ => {}
        }
        if self.is_link_local(frame) {
            rows.push(Row::LinkLocal);
        }
        // To sv3, all frames of a tunnel port are of its VLAN.
        let mine = member.untagged.filter(|_| rows.contains(&Row::ServiceTag));
        let is_static = |port: usize| {
            let vids = self.vids_of(port);
            [self.vid_of(from, frame), mine].iter().flatten().any(|vid| vids.contains(vid))
        };
        let elsewhere = (0..PORTS).filter(|port| *port != from && is_static(*port));
        if elsewhere.into_iter().any(|port| self.ports[port].statics.iter().any(|mac| frame[6..12] == *mac)) {
            rows.push(Row::StaticElsewhere);
        }
        if frame.len() >= LONG {
            rows.push(Row::Long);
        }
        rows
    }

    /// Whether the kernel forwards a frame to a group that is reserved for bridges: the bridge group address, as long as
    /// there is no spanning tree, and in a provider bridge those of customers' bridges.
    fn is_link_local(&self, frame: &[u8]) -> bool {
        let passing: &[u8] = if self.kind == Kind::Service { &[0, 11, 12, 13, 15] } else { &[0] };
        frame[..5] == [1, 0x80, 0xc2, 0, 0] && passing.contains(&frame[5])
    }
}

impl Row {
    /// A frame that both switches forward, and as the one or the other forwards this one.
    fn twin(self, frame: &[u8], from: usize) -> Vec<u8> {
        let bare = |at: usize| [&frame[..12], &[0x88, 0xb6], &frame[at + 2..]].concat();
        match self {
            Row::OwnTag => bare(16),
            Row::OtherTag | Row::ServiceTag => bare(12),
            Row::LinkLocal => [&[1, 0x80, 0xc2, 0, 0, 0x20], &frame[6..]].concat(),
            Row::StaticElsewhere => [&frame[..6], &mac(210 + from as u8), &frame[12..]].concat(),
            Row::Long => frame[..100].to_vec(),
            Row::Hop => frame.to_vec(),
        }
    }

    /// How sv3 and the kernel forward the frame; `None`: not at all.
    pub fn likes(self, setup: &Setup, step: &Step) -> [Option<Like>; 2] {
        let said = said(&step.frame);
        match self {
            Row::OwnTag => [None, Some(Like::Tail(12, 16))],
            Row::OtherTag => [None, Some(Like::Tail(12, 12))],
            Row::ServiceTag => {
                let is_own = said == 0 || setup.ports[step.from].member.untagged == Some(said);
                [Some(Like::Tail(12, 12)), is_own.then_some(Like::Tail(12, 16))]
            }
            Row::LinkLocal | Row::StaticElsewhere => [None, Some(Like::Addresses)],
            Row::Long => [Some(Like::Tail(20, 20)), None],
            Row::Hop => [None, None],
        }
    }
}
