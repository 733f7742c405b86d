//! `sv3 metrics`: prints the switch's metrics.

use std::fmt::Write;

use clap::Args;
use sv3::control::ControlRequest;

use crate::control::Control;

/// Print metrics as OpenMetrics text; docs/operate/metrics.md describes them.
#[derive(Args)]
pub struct Print {
    #[command(flatten)]
    control: Control,
    /// Print the older text of Prometheus (0.0.4) instead, which node_exporter's textfile collector and promtool read
    #[arg(long)]
    prometheus: bool,
}

impl Print {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let text = self.control.ask_text(&ControlRequest::Metrics)?;
        match text.strip_suffix("# EOF\n") {
            Some(body) if self.prometheus => crate::output::print(&older(body)),
            Some(_) => crate::output::print(&text),
            None => Err(format!("the switch is of another version: {}", text.trim_end())),
        }
    }
}

/// The same samples in the older text: it knows no units, and of the types counter, gauge and histogram only. A family of
/// counters has the name of its samples there.
fn older(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    // The name of the family, here and there.
    let mut family = ("", String::new());
    for line in body.lines() {
        let meta: Vec<&str> = line.splitn(4, ' ').collect();
        let _ = match meta[..] {
            ["#", "TYPE", name, kind] => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    kind => ("", kind),
                };
                family = (name, format!("{name}{suffix}"));
                writeln!(out, "# TYPE {} {kind}", family.1)
            }
            ["#", "HELP", name, words] if name == family.0 => writeln!(out, "# HELP {} {words}", family.1),
            ["#", ..] => Ok(()),
            _ => writeln!(out, "{line}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_has_the_same_samples() {
        let new = "# TYPE sv3_build info\n# HELP sv3_build Of it.\nsv3_build_info{version=\"1\"} 1\n\
                   # TYPE sv3_port_paused_seconds counter\n# HELP sv3_port_paused_seconds How long.\n\
                   # UNIT sv3_port_paused_seconds seconds\nsv3_port_paused_seconds_total{port=\"p0\"} 1.5\n\
                   # TYPE sv3_port_link stateset\nsv3_port_link{sv3_port_link=\"up\"} 1\n\
                   # TYPE sv3_ports gauge\nsv3_ports 1\n";
        let old = "# TYPE sv3_build_info gauge\n# HELP sv3_build_info Of it.\nsv3_build_info{version=\"1\"} 1\n\
                   # TYPE sv3_port_paused_seconds_total counter\n# HELP sv3_port_paused_seconds_total How long.\n\
                   sv3_port_paused_seconds_total{port=\"p0\"} 1.5\n\
                   # TYPE sv3_port_link gauge\nsv3_port_link{sv3_port_link=\"up\"} 1\n\
                   # TYPE sv3_ports gauge\nsv3_ports 1\n";
        assert_eq!(older(new), old);
    }
}
