//! sv3's half.

use std::rc::Rc;

use super::{Fate, PORTS, Play, digest};
use crate::failure::Result;
use crate::guest::Guest;
use crate::guest::feature::{LINUX, RING_PACKED, VERSION_1};
use crate::switch::{Home, Switch};
use sv3::fdb::Which;

const NAMES: [&str; PORTS] = ["a", "b", "c", "d", "e", "f"];

/// A switch with declared ports of these names, and a guest at each of them.
pub fn start(home: &Rc<Home>) -> Result<(Switch, Vec<Guest>)> {
    let file = home.path("sv3.toml");
    std::fs::write(&file, NAMES.map(|name| format!("[ports.{name}]\n")).concat())?;
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let switch = home.start(&["--config", &file.display().to_string()])?;
    // Drivers of all kinds.
    let features = [LINUX, LINUX | RING_PACKED, VERSION_1, LINUX, 0, VERSION_1 | RING_PACKED];
    let guest =
        |(name, features)| Guest::config().features(features).connect(&home.path(&format!("ports/{name}.sock")));
    let guests = NAMES.into_iter().zip(features).map(guest).collect();
    Ok((switch, guests))
}

/// Plays; what became of each frame.
pub fn play(play: &Play, switch: &Switch, guests: &mut [Guest]) -> Result<Vec<Fate>> {
    let mut fates = Vec::new();
    for (setup, steps) in &play.0 {
        switch.declare(&setup.config(&NAMES))?;
        switch.flush(&Which::default())?;
        fates.extend(steps.iter().map(|step| send(guests, step.from, &step.frame)));
    }
    Ok(fates)
}

/// Sends a frame. Receivers have it before the sender gets its buffer back.
pub fn send(guests: &mut [Guest], from: usize, frame: &[u8]) -> Fate {
    guests[from].send(frame);
    guests[from].await_sent();
    let mut fate = Fate::new();
    for (port, guest) in (0..).zip(guests) {
        while let Some(received) = guest.try_receive() {
            fate.push((port, received.frame));
        }
    }
    fate
}

/// The file that a machine compares with: for each frame the number of receivers (1), then each receiver (1) and the digest
/// of what it got (8).
pub fn encode(fates: &[Fate]) -> Vec<u8> {
    let mut octets = Vec::new();
    for fate in fates {
        octets.push(fate.len() as u8);
        for (port, frame) in fate {
            octets.push(*port);
            octets.extend(digest(frame).to_le_bytes());
        }
    }
    octets
}
