//! What the switch does now: rates of two looks, by port, and sorted.

use std::cmp::Ordering;
use std::time::Instant;

use clap::ValueEnum;
use sv3::status::{Crash, Link, PortStatus, Status, SupervisorStatus, WorkerStatus};

use super::ask::Look;
use super::spark::Minute;

/// What the ports are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Slot, the order in which they came
    Slot,
    /// Name
    Name,
    /// Bits a second, both ways together
    #[default]
    Traffic,
    /// Frames a second from the guest
    From,
    /// Frames a second to the guest
    To,
    /// Dropped frames a second, then ever
    Drops,
    /// Time in pauses, its own and those of others for its sake
    Pauses,
    /// Deaths of workers
    Deaths,
}

impl Order {
    /// All, in the order of the columns.
    pub const ALL: [Order; 8] =
        [Order::Slot, Order::Name, Order::Traffic, Order::From, Order::To, Order::Drops, Order::Pauses, Order::Deaths];

    /// The key that selects it.
    pub fn key(self) -> char {
        match self {
            Order::Slot => 's',
            Order::Name => 'n',
            Order::Traffic => 'b',
            Order::From => 'f',
            Order::To => 't',
            Order::Drops => 'd',
            Order::Pauses => 'p',
            Order::Deaths => 'x',
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Order::Slot => "slot",
            Order::Name => "name",
            Order::Traffic => "traffic",
            Order::From => "from guest",
            Order::To => "to guest",
            Order::Drops => "drops",
            Order::Pauses => "pauses",
            Order::Deaths => "deaths",
        }
    }

    /// The next one or the one before.
    pub fn step(self, by: isize) -> Order {
        let at = Order::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Order::ALL.into_iter().cycle().nth((at + Order::ALL.len()).saturating_add_signed(by)).unwrap_or(self)
    }

    /// Which port is shown first.
    fn compare(self, a: &Port, b: &Port) -> Ordering {
        let most = |of: fn(&Port) -> f64| of(b).total_cmp(&of(a));
        match self {
            Order::Slot => Ordering::Equal,
            Order::Name => a.name.cmp(&b.name),
            Order::Traffic => most(|port| port.rates.bits()),
            Order::From => most(|port| port.rates.from_frames),
            Order::To => most(|port| port.rates.to_frames),
            Order::Drops => most(|port| port.rates.drops).then_with(|| b.dropped().cmp(&a.dropped())),
            Order::Pauses => most(|port| port.rates.paused + port.rates.paused_others),
            Order::Deaths => b.deaths.cmp(&a.deaths),
        }
        .then(a.slot.cmp(&b.slot))
    }
}

/// Rates of a port, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Frames from the guest.
    pub from_frames: f64,
    /// Bits from the guest.
    pub from_bits: f64,
    /// Frames to the guest.
    pub to_frames: f64,
    /// Bits to the guest.
    pub to_bits: f64,
    /// Dropped frames.
    pub drops: f64,
    /// The share of time in which the guest's frames waited; of several rings together.
    pub paused: f64,
    /// The share of time in which frames of others waited for it.
    pub paused_others: f64,
}

impl Rates {
    /// Bits a second both ways.
    pub fn bits(&self) -> f64 {
        self.from_bits + self.to_bits
    }
}

/// A reason for drops.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Its name.
    pub name: String,
    /// Frames ever.
    pub count: u64,
    /// Frames a second.
    pub rate: f64,
}

/// A port.
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u16,
    /// Its link.
    pub link: Link,
    /// Rates; 0 before the second look.
    pub rates: Rates,
    /// Reasons for its drops, the most frequent one of this moment first.
    pub reasons: Vec<Reason>,
    /// Deaths of workers that served it or could not access its memory, in the crash log.
    pub deaths: usize,
    /// What is wrong with it, in words.
    pub notes: Vec<String>,
    /// Bits a second, both ways, of the last minute.
    pub minute: Minute,
    last: PortStatus,
}

impl Port {
    /// Frames that were dropped ever.
    pub fn dropped(&self) -> u64 {
        self.reasons.iter().fold(0, |sum: u64, reason| sum.saturating_add(reason.count))
    }
}

/// The switch at the last look.
pub struct Switch {
    /// When that was.
    pub at: Instant,
    /// The supervisor.
    pub supervisor: SupervisorStatus,
    /// The worker.
    pub worker: WorkerStatus,
    /// Processor time that the worker used, as a share of time; if known.
    pub cpu: Option<f64>,
}

/// The switch and its ports.
pub struct Watch {
    switch: Option<Switch>,
    ports: Vec<Port>,
    crashes: Vec<Crash>,
    order: Order,
    is_reversed: bool,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(order: Order) -> Watch {
        Watch { switch: None, ports: Vec::new(), crashes: Vec::new(), order, is_reversed: false }
    }

    /// The switch, once it was seen.
    pub fn switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }

    /// The ports, sorted.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// What they are sorted by.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Whether the last one is shown first.
    pub fn is_reversed(&self) -> bool {
        self.is_reversed
    }

    /// Sorts by something else.
    pub fn sort(&mut self, order: Order) {
        self.order = order;
        self.arrange();
    }

    /// Turns the order around.
    pub fn reverse(&mut self) {
        self.is_reversed = !self.is_reversed;
        self.arrange();
    }

    /// Takes what the switch told. Returns how many workers were replaced, for the next look.
    pub fn update(&mut self, look: Look) -> Option<u64> {
        let Look { at, status: Status { supervisor, worker, ports, .. }, crashes } = look;
        if let Some(all) = crashes {
            self.crashes = all.crashes;
        }
        let restarts = worker.restarts;
        let cpu = self.switch.as_ref().and_then(|last| cpu(last, &worker, at));
        let before = self.switch.as_ref().map(|last| last.at);
        let mut old = std::mem::take(&mut self.ports);
        for now in ports {
            let place = old.iter().position(|port| is_same(&port.last, &now));
            let known = place.map(|place| old.swap_remove(place));
            let mut port = port(known, now, (before, at));
            port.deaths = self.crashes.iter().filter(|crash| culprit(crash) == Some(&port.name)).count();
            self.ports.push(port);
        }
        self.switch = Some(Switch { at, supervisor, worker, cpu });
        self.arrange();
        Some(restarts)
    }

    fn arrange(&mut self) {
        let (order, is_reversed) = (self.order, self.is_reversed);
        self.ports.sort_by(|a, b| if is_reversed { order.compare(b, a) } else { order.compare(a, b) });
    }
}

/// The port whose memory the worker could not access, else the one that it served.
fn culprit(crash: &Crash) -> Option<&String> {
    let fault = crash.fault.as_ref().and_then(|fault| fault.port.as_ref());
    fault.or(crash.serving.as_ref().map(|serving| &serving.port))
}

/// Another client may have come to a port since, with counters from 0.
fn is_same(last: &PortStatus, now: &PortStatus) -> bool {
    let grew = |of: fn(&PortStatus) -> u64| of(now) >= of(last);
    (&last.name, last.slot, last.client_pid) == (&now.name, now.slot, now.client_pid)
        && grew(|port| port.from_guest.frames)
        && grew(|port| port.to_guest.frames)
        && grew(|port| port.from_guest.bytes)
        && grew(|port| port.to_guest.bytes)
}

fn port(known: Option<Port>, now: PortStatus, (before, at): (Option<Instant>, Instant)) -> Port {
    let (minute, last) = known.map(|port| (port.minute, port.last)).unzip();
    let mut minute = minute.unwrap_or_default();
    let seconds = before.map_or(0.0, |before| at.saturating_duration_since(before).as_secs_f64());
    let since = last.as_ref().filter(|_| seconds > 0.0);
    let rate =
        |of: &dyn Fn(&PortStatus) -> u64| since.map_or(0.0, |last| of(&now).saturating_sub(of(last)) as f64 / seconds);
    let rates = Rates {
        from_frames: rate(&|port| port.from_guest.frames),
        from_bits: rate(&|port| port.from_guest.bytes) * 8.0,
        to_frames: rate(&|port| port.to_guest.frames),
        to_bits: rate(&|port| port.to_guest.bytes) * 8.0,
        drops: rate(&|port| port.drops.values().fold(0, |sum: u64, count| sum.saturating_add(*count))),
        paused: rate(&|port| port.paused.us) / 1e6,
        paused_others: rate(&|port| port.paused_others.us) / 1e6,
    };
    let reason = |(name, count): (&String, &u64)| {
        let rate = rate(&|port| port.drops.get(name).copied().unwrap_or(0));
        Reason { name: name.clone(), count: *count, rate }
    };
    let mut reasons: Vec<Reason> = now.drops.iter().map(reason).collect();
    reasons.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.count.cmp(&a.count)));
    if let (Some(before), Some(_)) = (before, since) {
        minute.add(before, at, rates.bits());
    }
    let (name, slot, link) = (now.name.clone(), now.slot, now.link);
    Port { name, slot, link, rates, reasons, deaths: 0, notes: notes(&now), minute, last: now }
}

/// What is wrong with a port, as `sv3 status` tells it.
fn notes(port: &PortStatus) -> Vec<String> {
    let quarantine = port.quarantine_s.map(|seconds| {
        let why = port.quarantine_why.as_deref().unwrap_or("it caused deaths of workers");
        format!("in quarantine for {seconds} s more: {why}")
    });
    let lacks = port.standby_lacks.as_ref().map(|why| format!("the standby lacks it: {why}"));
    [quarantine, port.hint.clone(), lacks].into_iter().flatten().collect()
}

/// Processor time of the worker since the last look.
fn cpu(last: &Switch, now: &WorkerStatus, at: Instant) -> Option<f64> {
    if last.worker.pid.is_none() || last.worker.pid != now.pid {
        return None;
    }
    let used = now.cpu_ms?.checked_sub(last.worker.cpu_ms?)? as f64 / 1e3;
    let seconds = at.saturating_duration_since(last.at).as_secs_f64();
    (seconds > 0.0).then(|| used / seconds)
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// The example of docs/use/status.md after so many seconds, changed.
    pub fn look(start: Instant, seconds: u64, change: impl FnOnce(&mut serde_json::Value)) -> Look {
        let document = include_str!("../../../docs/use/status.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        let mut status = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
        change(&mut status);
        let status = serde_json::from_value(status).unwrap();
        Look { at: start + Duration::from_secs(seconds), status, crashes: None }
    }

    const NIC: &str = "nic-0000-02-00.1";

    fn port<'a>(watch: &'a Watch, name: &str) -> &'a Port {
        watch.ports().iter().find(|port| port.name == name).unwrap()
    }

    fn names(watch: &Watch) -> Vec<&str> {
        watch.ports().iter().map(|port| port.name.as_str()).collect()
    }

    #[test]
    fn rates_are_of_two_looks() {
        let start = Instant::now();
        let mut watch = Watch::new(Order::Traffic);
        watch.update(look(start, 0, |_| ()));
        assert_eq!(port(&watch, "p0").rates, Rates::default());
        assert_eq!(names(&watch), ["p0", "host", NIC]);
        let frames = port(&watch, NIC).last.from_guest.frames;
        watch.update(look(start, 2, |status| {
            status["ports"][2]["from_guest"] = json!({ "frames": frames + 3000, "bytes": 10_000_000 });
            status["ports"][0]["drops"] = json!({ "no_rx_buffers": 5, "guard_mac": 8 });
            status["ports"][0]["paused"]["us"] = (500_000 + 1_000_000u64).into();
            status["worker"]["cpu_ms"] = 1_000_000_000u64.into();
        }));
        assert_eq!(names(&watch), [NIC, "p0", "host"]);
        assert_eq!(port(&watch, NIC).rates.from_frames, 1500.0);
        let p0 = port(&watch, "p0");
        assert_eq!(p0.rates.drops, 5.0);
        let reasons: Vec<_> = p0.reasons.iter().map(|reason| (&*reason.name, reason.count, reason.rate)).collect();
        assert_eq!(reasons, [("guard_mac", 8, 4.0), ("no_rx_buffers", 5, 1.0)]);
        assert!(watch.switch().unwrap().cpu.is_some_and(|share| share > 100.0));
        watch.sort(Order::Drops);
        assert_eq!(names(&watch), ["p0", "host", NIC]);
        watch.reverse();
        assert_eq!(names(&watch), [NIC, "host", "p0"]);
    }

    #[test]
    fn a_port_that_another_client_took_starts_afresh() {
        let start = Instant::now();
        let mut watch = Watch::new(Order::Slot);
        watch.update(look(start, 0, |_| ()));
        watch.update(look(start, 1, |status| status["ports"][0]["from_guest"]["frames"] = 0.into()));
        assert_eq!(port(&watch, "p0").rates, Rates::default());
        watch.update(look(start, 2, |status| {
            status["ports"][0]["client_pid"] = 77.into();
            status["ports"][0]["from_guest"]["frames"] = u64::MAX.into();
        }));
        assert_eq!(port(&watch, "p0").rates, Rates::default());
        watch.update(look(start, 3, |status| status["ports"] = json!([])));
        assert_eq!(watch.ports().len(), 0);
    }

    #[test]
    fn deaths_count_at_the_port_of_the_memory_or_else_of_the_ring() {
        let fault = |port: &str| json!({ "addr": 1, "port": port, "region": null });
        let crash = |fault, serving: &str| {
            let crash = Crash { serving: Some(Default::default()), ..Crash::default() };
            let mut crash = serde_json::to_value(crash).unwrap();
            (crash["fault"], crash["serving"]["port"]) = (fault, serving.into());
            crash
        };
        let crashes =
            json!({ "crashes": [crash(fault("p0"), "host"), crash(json!(null), "p0"), crash(json!(null), "gone")] });
        let mut first = look(Instant::now(), 0, |_| ());
        first.crashes = Some(serde_json::from_value(crashes).unwrap());
        let mut watch = Watch::new(Order::Deaths);
        watch.update(first);
        assert_eq!((port(&watch, "p0").deaths, port(&watch, "host").deaths), (2, 0));
        assert_eq!(names(&watch)[0], "p0");
    }

    #[test]
    fn orders_have_keys_of_their_own_and_follow_each_other() {
        let mut keys: Vec<char> = Order::ALL.map(Order::key).to_vec();
        keys.dedup();
        assert!(keys.len() == 8 && !keys.contains(&'q') && !keys.contains(&'r'));
        assert_eq!((Order::Slot.step(-1), Order::Deaths.step(1)), (Order::Deaths, Order::Slot));
    }
}
