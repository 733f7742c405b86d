//! `sv3 restart`: a fresh worker takes over.

use clap::Args;
use sv3::control::ControlRequest;
use sv3::status::HandoverAnswer;

use crate::control::Control;
use crate::output::print;

/// Let a fresh worker take over from the one that serves; guests do not notice.
#[derive(Args)]
pub struct Restart {
    #[command(flatten)]
    control: Control,
}

impl Restart {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        report(self.control.ask(&ControlRequest::Restart)?)
    }
}

/// Prints how a handover went.
pub fn report(answer: serde_json::Value) -> Result<(), String> {
    let HandoverAnswer { old_pid, new_pid, gap_us, ports } = serde_json::from_value(answer)
        .map_err(|error| format!("it succeeded, but the switch is of another version ({error}); see `sv3 status`"))?;
    let ports = if ports == 1 { "1 port".to_string() } else { format!("{ports} ports") };
    print(&format!("worker {new_pid} took over {ports} from worker {old_pid} after a gap of {gap_us} us\n"))
}
