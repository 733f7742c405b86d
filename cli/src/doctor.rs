//! `sv3 doctor`: looks at the machine and at a running switch, and says what to do about what is wrong.
//!
//! # Theory of operation
//!
//! A probe is a file below `doctor/`. It reads what it needs from [`machine::Machine`], or from the status of a switch,
//! and returns [`finding::Finding`]s: a sentence each, and, where something is to be done, what and at which cost. A
//! probe decides nothing for another one, changes nothing and needs no privilege. What a probe cannot read, it does not
//! guess.

mod finding;
mod guests;
mod kernel;
mod limits;
mod machine;
mod memory;
mod places;
mod processors;
mod qemu;
mod switch;
mod tap;
mod uplink;
mod vfio;

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use self::finding::{Finding, Report, State};
use self::machine::Machine;
use crate::control::Control;
use crate::output::{harmless_words, print};

/// Look for what is wrong with this machine and with a running switch, and say what to do.
///
/// What is to be done comes first, the cheapest first. Exit status: 0: nothing stops sv3 or a guest; 3: something does;
/// 1: the result could not be printed; 2: the command line is wrong.
#[derive(Args)]
pub struct Doctor {
    /// The control socket of the switch [default: that of `sv3 run`]
    socket: Option<PathBuf>,
    /// Print JSON; its fields are described in docs/operate/doctor.md
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks and prints. Returns whether nothing stops sv3 or a guest.
    pub fn exec(&self) -> Result<bool, String> {
        let machine = Machine::here();
        let control = Control::at(self.socket.clone());
        let mut findings = look_at(&machine);
        let switch = switch::look(&machine, &control, self.socket.is_some());
        let running = switch.running;
        findings.extend(switch.findings);
        let report = Report::new(control.path().display().to_string(), running, findings);
        let text = match self.json {
            true => serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n",
            false => words(&report),
        };
        print(&text)?;
        Ok(!report.findings.iter().any(|finding| finding.state == State::Fault))
    }
}

/// All probes of the machine.
fn look_at(machine: &Machine) -> Vec<Finding> {
    let probes = [
        kernel::probe,
        limits::probe,
        memory::probe,
        places::probe,
        processors::probe,
        qemu::probe,
        guests::probe,
        tap::probe,
        uplink::probe,
        vfio::probe,
    ];
    probes.iter().flat_map(|probe| probe(machine)).collect()
}

/// The report for people.
fn words(report: &Report) -> String {
    let mut out = String::new();
    let at = harmless_words(&report.socket);
    let what = match report.running {
        true => format!("this machine and the switch at {at}"),
        false => format!("this machine; no switch answers at {at}"),
    };
    let _ = writeln!(out, "sv3 {} looked at {what}", report.version);
    let (to_do, good): (Vec<_>, Vec<_>) = report.findings.iter().partition(|finding| finding.remedy.is_some());
    if to_do.is_empty() {
        let _ = writeln!(out, "\nthere is nothing to do");
    } else {
        let _ = writeln!(out, "\nto do, the cheapest first:");
    }
    for (number, finding) in to_do.iter().enumerate() {
        let Some(remedy) = &finding.remedy else { continue };
        let mark = if finding.state == State::Fault { "FAULT   " } else { "advice  " };
        let _ = writeln!(out, "{:>3}. {mark}{}", number + 1, subject(finding));
        let _ = writeln!(out, "     do      {}", harmless_words(&remedy.act));
        let _ = writeln!(out, "     costs   {}", remedy.cost.words());
    }
    let _ = writeln!(out, "\nas it should be:");
    for finding in good {
        let _ = writeln!(out, "     {}", subject(finding));
    }
    out
}

/// The sentence, with the port that it is about.
fn subject(finding: &Finding) -> String {
    let message = harmless_words(&finding.message);
    match &finding.port {
        Some(port) => format!("{}: {message}", harmless_words(port)),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::finding::Cost;
    use super::*;

    #[test]
    fn people_read_what_to_do_first_and_the_cheapest_first() {
        let findings = vec![
            Finding::good("kernel", "Linux 6.12"),
            Finding::advice("qemu", "QEMU is old").to(Cost::Host, "install a newer one"),
            Finding::fault("memory", "it has no memory").of("p1").to(Cost::Guest, "share=on"),
            Finding::fault("files", "too few files").to(Cost::Host, "ulimit"),
            Finding::advice("worker", "there was a death").to(Cost::Command, "`sv3 crashes`"),
        ];
        let text = words(&Report::new("/x/control.sock".to_string(), true, findings));
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} in {text}"));
        let order =
            ["1. advice  there", "2. FAULT   p1: it has", "3. FAULT   too few", "4. advice  QEMU", "Linux 6.12"];
        let places: Vec<usize> = order.iter().map(|words| at(words)).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains("the switch at /x/control.sock") && text.contains("costs   one guest starts again"));
    }

    #[test]
    fn nothing_to_do_is_said_and_nothing_moves_the_cursor() {
        let evil = vec![Finding::good("port", "a\u{1b}[2J").of("p\u{202e}0")];
        let text = words(&Report::new("/x\n".to_string(), false, evil));
        assert!(text.contains("nothing to do") && text.contains("no switch answers"), "{text}");
        assert!(
            !text.contains(['\u{1b}', '\u{202e}']) && text.lines().next().is_some_and(|line| line.contains("u000a"))
        );
    }

    #[test]
    fn the_document_has_each_topic_state_and_cost() {
        let document = include_str!("../../docs/operate/doctor.md");
        for word in finding::TOPICS.into_iter().chain(Cost::ALL.map(Cost::name)).chain(["good", "advice", "fault"]) {
            assert!(document.contains(&format!("`{word}`")), "docs/operate/doctor.md does not tell of `{word}`");
        }
    }
}
