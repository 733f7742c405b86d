//! Whether a well-behaved client is served: handshake, features, rings, and one frame taken.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::hostile::client::Client;
use crate::hostile::peer::Peer;

/// Time between attempts to be served.
const PAUSE: Duration = Duration::from_millis(50);

/// Is served, by this process, or says at which step it is not. It is tried again within the patience: a back-end may
/// need a moment until it is done with the client before.
pub fn probe(socket: &Path, patience: Duration) -> Result<Peer> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match attempt(socket, left.min(patience / 2).max(PAUSE)) {
            Ok(peer) => return Ok(peer),
            Err(failure) if Instant::now() + PAUSE >= deadline => return Err(failure),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn attempt(socket: &Path, patience: Duration) -> Result<Peer> {
    let at = |step: &'static str| move |failure: Failure| Failure::new(format!("{step}: {failure}"));
    let mut client = Client::connect(socket, patience).map_err(at("connecting"))?;
    let peer = Peer::of(client.wire.socket());
    client.negotiate(0).map_err(at("negotiating features"))?;
    client.start().map_err(at("starting rings"))?;
    match client.transmit_good(patience) {
        true => Ok(peer),
        false => Err(Failure::new("a frame is not taken")),
    }
}
