//! The switch in numbers, as OpenMetrics text (version 1.0 of the format; docs/operate/metrics.md lists the families).

use std::fmt::{Display, Write};

use sv3::drop_reason::DropReason;
use sv3::status::{Link, Pauses, PortStatus, Status};

use crate::telemetry::crash_log::{CrashLog, GAP_BOUNDS};

/// The whole exposition.
pub fn render(status: &Status, crash_log: &CrashLog, events_lost: u64) -> String {
    let mut text = Text(String::new());
    processes(&mut text, status);
    deaths(&mut text, status, crash_log);
    text.counter("sv3_events_lost", "Events that could not be written or were too many.");
    text.sample("sv3_events_lost_total", "", events_lost);
    text.gauge("sv3_ports", "Ports.");
    text.sample("sv3_ports", "", status.ports.len());
    links(&mut text, &status.ports);
    traffic(&mut text, &status.ports);
    waits(&mut text, &status.ports);
    text.0 + "# EOF\n"
}

fn processes(text: &mut Text, status: &Status) {
    text.family("sv3_build", "info", "The switch's version.");
    text.sample("sv3_build_info", &format!("version=\"{}\"", status.version), 1);
    text.seconds("sv3_supervisor_uptime_seconds", "gauge", "Time since the supervisor started.");
    text.sample("sv3_supervisor_uptime_seconds", "", status.supervisor.uptime_s);
    text.gauge("sv3_worker_up", "1 if a worker serves.");
    text.sample("sv3_worker_up", "", u8::from(status.worker.pid.is_some()));
    text.seconds("sv3_worker_uptime_seconds", "gauge", "Time since the serving worker was started.");
    text.sample("sv3_worker_uptime_seconds", "", status.worker.uptime_s);
    text.gauge("sv3_standby_ready", "1 if the standby is ready to take over.");
    text.sample("sv3_standby_ready", "", u8::from(status.worker.standby_pid.is_some()));
}

fn deaths(text: &mut Text, status: &Status, crash_log: &CrashLog) {
    text.counter("sv3_worker_restarts", "Workers that died and were replaced.");
    text.sample("sv3_worker_restarts_total", "", status.worker.restarts);
    text.counter("sv3_worker_crashes", "Deaths of workers that served, by cause.");
    for (cause, count) in crash_log.causes() {
        text.sample("sv3_worker_crashes_total", &format!("cause=\"{cause}\""), count);
    }
    let gaps = crash_log.gaps();
    let help = "Time from the death of a worker until the next one served.";
    text.seconds("sv3_takeover_gap_seconds", "histogram", help);
    let mut up_to = 0;
    for ((_, bound), count) in GAP_BOUNDS.iter().zip(gaps.classes) {
        up_to += count;
        text.sample("sv3_takeover_gap_seconds_bucket", &format!("le=\"{bound}\""), up_to);
    }
    text.sample("sv3_takeover_gap_seconds_bucket", "le=\"+Inf\"", gaps.count);
    text.sample("sv3_takeover_gap_seconds_sum", "", gaps.sum.as_secs_f64());
    text.sample("sv3_takeover_gap_seconds_count", "", gaps.count);
}

fn links(text: &mut Text, ports: &[PortStatus]) {
    text.family("sv3_port_link", "stateset", "State of the port's link.");
    for port in ports {
        for (name, state) in [("up", Link::Up), ("starting", Link::Starting), ("down", Link::Down)] {
            let labels = format!("port=\"{}\",sv3_port_link=\"{name}\"", port.name);
            text.sample("sv3_port_link", &labels, u8::from(port.link == state));
        }
    }
    text.family("sv3_port_files", "info", "What is behind a port of open files.");
    for port in ports {
        let Some(files) = &port.files else { continue };
        let state = match (&files.stopped, port.quarantine_s, &files.conflict) {
            (Some(_), ..) if files.queues == 0 => "gone",
            (Some(_), ..) => "stopped",
            (None, Some(_), _) => "quarantine",
            (None, None, Some(_)) => "conflict",
            (None, None, None) => "running",
        };
        let (transport, learning) = (&files.transport, &files.learning);
        let labels = format!("{},transport=\"{transport}\",learning=\"{learning}\",state=\"{state}\"", of(port));
        text.sample("sv3_port_files_info", &labels, 1);
    }
    text.family("sv3_card_link_speed_mbit", "gauge", "Speed of a network card's link; 0: no link.");
    for (port, card) in ports.iter().filter_map(|port| Some((port, port.card.as_ref()?))) {
        text.sample("sv3_card_link_speed_mbit", &of(port), card.speed_mbit.unwrap_or(0));
    }
    text.counter("sv3_card_statistics", "What a network card counts, by the name of the statistic.");
    for (port, card) in ports.iter().filter_map(|port| Some((port, port.card.as_ref()?))) {
        for (name, count) in &card.statistics {
            text.sample("sv3_card_statistics_total", &format!("{},statistic=\"{name}\"", of(port)), *count);
        }
    }
    text.seconds("sv3_port_quarantine_seconds", "gauge", "Time for which the client is still in quarantine.");
    for port in ports {
        text.sample("sv3_port_quarantine_seconds", &of(port), port.quarantine_s.unwrap_or(0));
    }
}

fn traffic(text: &mut Text, ports: &[PortStatus]) {
    let ways = |port: &PortStatus| [("from_guest", port.from_guest), ("to_guest", port.to_guest)];
    text.counter("sv3_port_frames", "Frames taken from the guest and forwarded, and delivered to it.");
    for port in ports {
        for (way, traffic) in ways(port) {
            let labels = format!("{},direction=\"{way}\"", of(port));
            text.sample("sv3_port_frames_total", &labels, traffic.frames);
        }
    }
    text.family("sv3_port_bytes", "counter", "Octets of these Ethernet frames.");
    text.unit("sv3_port_bytes", "bytes");
    for port in ports {
        for (way, traffic) in ways(port) {
            text.sample("sv3_port_bytes_total", &format!("{},direction=\"{way}\"", of(port)), traffic.bytes);
        }
    }
    text.counter("sv3_port_drops", "Dropped frames, by reason.");
    for port in ports {
        for reason in DropReason::ALL.map(DropReason::name) {
            let count = port.drops.get(reason).copied().unwrap_or(0);
            text.sample("sv3_port_drops_total", &format!("{},reason=\"{reason}\"", of(port)), count);
        }
    }
    text.counter("sv3_port_calls", "Times that the guest was signalled.");
    for port in ports {
        text.sample("sv3_port_calls_total", &of(port), port.calls);
    }
    text.counter("sv3_port_kicks", "Times that the guest's kicks woke the worker.");
    for port in ports {
        text.sample("sv3_port_kicks_total", &of(port), port.kicks);
    }
    text.counter("sv3_port_moves", "Addresses that moved to the port from another one.");
    for port in ports {
        text.sample("sv3_port_moves_total", &of(port), port.moves);
    }
}

fn waits(text: &mut Text, ports: &[PortStatus]) {
    text.counter("sv3_port_pauses", "Times that frames waited for buffers of their receiver.");
    for (port, role, pauses) in pauses(ports) {
        text.sample("sv3_port_pauses_total", &format!("{},role=\"{role}\"", of(port)), pauses.times);
    }
    text.seconds("sv3_port_paused_seconds", "counter", "How long they waited.");
    for (port, role, pauses) in pauses(ports) {
        text.sample("sv3_port_paused_seconds_total", &format!("{},role=\"{role}\"", of(port)), pauses.us as f64 / 1e6);
    }
}

/// Each port twice: as the sender whose frames waited, and as the receiver that they waited for.
fn pauses(ports: &[PortStatus]) -> impl Iterator<Item = (&PortStatus, &'static str, Pauses)> {
    ports.iter().flat_map(|port| [(port, "sender", port.paused), (port, "receiver", port.paused_others)])
}

fn of(port: &PortStatus) -> String {
    format!("port=\"{}\"", port.name)
}

/// The exposition so far. Label values are sv3's own names, so nothing needs escaping.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn unit(&mut self, name: &str, unit: &str) {
        let _ = writeln!(self.0, "# UNIT {name} {unit}");
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.family(name, "counter", help);
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    fn seconds(&mut self, name: &str, kind: &str, help: &str) {
        self.family(name, kind, help);
        self.unit(name, "seconds");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn example() -> Status {
        let document = include_str!("../../../docs/use/status.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn families_are_those_of_the_document() {
        let document = include_str!("../../../docs/operate/metrics.md");
        let text = render(&example(), &CrashLog::default(), 0);
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for line in families {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(document.contains(&format!("| `{name}` | {kind} |")), "{line}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert_eq!(document.matches("\n| `sv3_").count(), text.matches("# TYPE ").count());
    }

    #[test]
    fn gaps_add_up_over_the_buckets() {
        let mut crash_log = CrashLog::default();
        for us in [50, 150, 250, 20_000_000] {
            let now = Instant::now();
            crash_log.could_not_start(now, "test");
            crash_log.took_over(now + Duration::from_micros(us), 0);
        }
        let text = render(&example(), &crash_log, 3);
        for line in [
            "sv3_takeover_gap_seconds_bucket{le=\"0.0001\"} 1",
            "sv3_takeover_gap_seconds_bucket{le=\"0.0002\"} 2",
            "sv3_takeover_gap_seconds_bucket{le=\"10.0\"} 3",
            "sv3_takeover_gap_seconds_bucket{le=\"+Inf\"} 4",
            "sv3_takeover_gap_seconds_sum 20.00045",
            "sv3_worker_crashes_total{cause=\"not_started\"} 4",
            "sv3_events_lost_total 3",
            "sv3_port_drops_total{port=\"p0\",reason=\"no_rx_buffers\"} 3",
            "sv3_port_moves_total{port=\"host\"} 12",
            "sv3_port_link{port=\"p0\",sv3_port_link=\"up\"} 1",
            "sv3_card_link_speed_mbit{port=\"nic-0000-02-00.1\"} 10000",
            "sv3_card_statistics_total{port=\"nic-0000-02-00.1\",statistic=\"missed\"} 3",
            "sv3_port_files_info{port=\"host\",transport=\"tap\",learning=\"uplink\",state=\"conflict\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }
}
