//! `sv3 metrics`: prints the switch's metrics.

use clap::Args;
use sv3::control::ControlRequest;

use crate::control::Control;

/// Print metrics as OpenMetrics text; docs/operate/metrics.md describes them.
#[derive(Args)]
pub struct Print {
    #[command(flatten)]
    control: Control,
}

impl Print {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let text = self.control.ask_text(&ControlRequest::Metrics)?;
        match text.ends_with("# EOF\n") {
            true => crate::output::print(&text),
            false => Err(format!("the switch is of another version: {}", text.trim_end())),
        }
    }
}
