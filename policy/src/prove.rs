//! Proof of a confinement: that the kernel does with it what the policy says.
//!
//! # Theory of operation
//!
//! Each trial is a child of its own. It confines itself by the very code by which the process does so in life, then makes
//! one syscall, by number, and ends. What came of that is read from how it ended; what should have come of it is asked from
//! the policy. So a trial can do no harm to the next one, and the kernel alone is believed.
//!
//! Syscalls are tried with arguments that name nothing (no fd, no address, no process), for should the filter let one
//! through, or be meant to, nothing may come of it. [`deeds`] are tried with arguments that mean something, once in full
//! confinement and once under landlock alone, which must hold even if seccomp did not.
//!
//! The outcome is lines of five fields separated by tabs; see [`Line`].

mod deeds;
mod sweep;
mod trial;

use std::fmt;
use std::io::Write;

use crate::Policy;
use crate::steps::Achieved;

/// What is to be proved.
pub struct Subject<'a> {
    /// The policy.
    pub policy: &'static Policy,
    /// Confines the process as in life.
    pub confine: &'a dyn Fn() -> Result<Achieved, String>,
    /// The same without its last step, seccomp.
    pub reach: &'a dyn Fn() -> Result<Achieved, String>,
    /// The number of the syscall that the process's own handler noted when it died of it. Forgets it.
    pub noted: &'a dyn Fn() -> Option<i32>,
    /// A live supervisor, to be signalled.
    pub live: Option<u32>,
    /// The folder in which the process may remove files, if there is one.
    pub removable: Option<&'a std::path::Path>,
}

/// One line of the outcome: `try`, group, what, declared, observed; or, at the start, `policy` with its digest and the
/// landlock ABI achieved, and at the end `end` with the number of trials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The group of trials.
    pub group: String,
    /// What was tried.
    pub what: String,
    /// What should come of it, in words.
    pub declared: String,
    /// What came of it, in words.
    pub observed: String,
    /// Whether that is the same.
    pub agrees: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.agrees { "agrees" } else { "differs" };
        write!(f, "{word}\t{}\t{}\t{}\t{}", self.group, self.what, self.declared, self.observed)
    }
}

impl Line {
    /// Reads what was shown.
    pub fn parse(text: &str) -> Option<Line> {
        let mut fields = text.split('\t').map(str::to_string);
        let agrees = match fields.next()?.as_str() {
            "agrees" => true,
            "differs" => false,
            _ => return None,
        };
        let [group, what, declared, observed] = std::array::from_fn(|_| fields.next());
        Some(Line { group: group?, what: what?, declared: declared?, observed: observed?, agrees })
    }
}

/// The live supervisor that `--prove PID` names.
pub fn live() -> Option<u32> {
    std::env::args().nth(2)?.parse().ok()
}

/// Tries everything and writes the outcome to stdout.
pub fn prove(subject: &Subject<'_>) -> Result<(), String> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut say = |line: String| writeln!(out, "{line}").map_err(|e| format!("stdout: {e}"));
    let achieved = trial::achieved(subject)?;
    say(format!("policy\t{:08x}\t{}", subject.policy.digest(), achieved.landlock_abi))?;
    let props = deeds::Props::new()?;
    let mut count = 0;
    for trial in sweep::trials(subject.policy).chain(props.trials(subject, achieved)) {
        say(trial.run(subject)?.to_string())?;
        count += 1;
    }
    say(format!("end\t{count}"))?;
    out.flush().map_err(|e| format!("stdout: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_shown() {
        let text = |text: &str| text.to_string();
        let (group, what) = (text("deeds"), text("open /etc/passwd"));
        let line = Line { group, what, declared: text("trapped"), observed: text("made: EBADF"), agrees: false };
        assert_eq!(Line::parse(&line.to_string()), Some(line));
        assert_eq!(Line::parse("end\t7"), None);
    }
}
