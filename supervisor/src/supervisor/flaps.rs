//! Addresses that move between two ports again and again, as the serving worker tells: behind the two is a loop, or two
//! machines have one address.

use std::time::{Duration, Instant};

use serde_json::json;
use sv3::MAX_PORTS;
use sv3::frame::MacAddr;
use sv3::ipc::Report;
use sv3::rules::{VID_MAX, Vid};
use sv3::status::FlapStatus;

use super::Supervisor;
use crate::telemetry::event::Named;
use crate::workers::breach::Breach;

/// Most addresses that are kept. The one that is longest ago makes room.
const MOST: usize = 16;
/// They are kept so long after the last report.
const KEPT: Duration = Duration::from_secs(300);
/// Shortest time between two events of one address.
const QUIET: Duration = Duration::from_secs(60);

/// The addresses of late.
#[derive(Default)]
pub struct Flaps(Vec<Flap>);

struct Flap {
    mac: MacAddr,
    vid: Vid,
    /// Names of the ports: from where it moved last, and to where.
    ports: [String; 2],
    moves: u64,
    last: Instant,
    said: Instant,
}

impl Flaps {
    /// Notes that an address has moved so often. Returns whether that is worth an event.
    fn note(&mut self, (mac, vid): (MacAddr, Vid), ports: [String; 2], moves: u64, now: Instant) -> bool {
        self.0.retain(|flap| now.saturating_duration_since(flap.last) < KEPT);
        if let Some(flap) = self.0.iter_mut().find(|flap| (flap.mac, flap.vid) == (mac, vid)) {
            (flap.ports, flap.last, flap.moves) = (ports, now, flap.moves.saturating_add(moves));
            let is_news = now.saturating_duration_since(flap.said) >= QUIET;
            flap.said = if is_news { now } else { flap.said };
            return is_news;
        }
        if self.0.len() >= MOST
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0.get(*at).map(|flap| flap.last))
        {
            self.0.remove(oldest);
        }
        self.0.push(Flap { mac, vid, ports, moves, last: now, said: now });
        true
    }

    /// For status.
    pub fn status(&self) -> Vec<FlapStatus> {
        let now = Instant::now();
        let recent = self.0.iter().filter(|flap| now.saturating_duration_since(flap.last) < KEPT);
        let status = |flap: &Flap| FlapStatus {
            address: flap.mac.to_string(),
            vlan: flap.vid,
            ports: flap.ports.clone(),
            moves: flap.moves,
            ago_s: now.saturating_duration_since(flap.last).as_secs(),
        };
        recent.map(status).collect()
    }
}

impl Supervisor {
    /// The serving worker reports an address that moves again and again.
    pub(super) fn address_flaps(&mut self, Report { port, ring, value, detail, .. }: Report) -> Result<(), Breach> {
        let (mac, vid) = (MacAddr::from_bits(value), Vid::try_from(value >> 48).ok().filter(|vid| *vid <= VID_MAX));
        let is_address = !mac.is_group() && !mac.is_zero();
        let Some(vid) = vid.filter(|_| is_address && [port, ring].iter().all(|slot| usize::from(*slot) < MAX_PORTS))
        else {
            return Err(Breach("it reported an address or ports that cannot be"));
        };
        let names = self.names();
        let [from, to] = [ring, port].map(|slot| names.get(&slot).cloned().unwrap_or(format!("p{slot}")));
        if !self.flaps.note((mac, vid), [from.clone(), to.clone()], detail, Instant::now()) {
            self.count_idle_report();
            return Ok(());
        }
        let within = if vid == 0 { String::new() } else { format!(" of VLAN {vid}") };
        let message = format!(
            "the address {mac}{within} moves between {from} and {to} again and again ({detail} times within seconds): \
             the networks behind the two are joined to a loop, or two machines have this address"
        );
        let fields = json!({ "other": from, "address": mac.to_string(), "vlan": vid, "moves": detail });
        self.telemetry.events.say_of_port(&Named { name: to, client: None }, "address_flaps", message, fields);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_of_once_a_minute_and_many_are_bounded() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        let mut note = |last: u64, seconds: u64| {
            let names = ["p0", "web"].map(str::to_string);
            let said = flaps.note((MacAddr::from_bits(last), 10), names, 10, start + Duration::from_secs(seconds));
            (said, flaps.0.len())
        };
        assert_eq!((note(1, 0), note(1, 1), note(1, 59), note(2, 59)), ((true, 1), (false, 1), (false, 1), (true, 2)));
        assert_eq!((note(1, 60), note(1, 61)), ((true, 2), (false, 2)));
        (3..100).for_each(|last| assert!(note(last, 70).0));
        assert_eq!(note(100, 71), (true, MOST));
        assert_eq!(note(1, 500), (true, 1), "the others are long ago");
        let [flap] = &flaps.status()[..] else { panic!("one") };
        assert_eq!((flap.moves, flap.vlan, flap.ports[1].as_str()), (10, 10, "web"));
    }
}
