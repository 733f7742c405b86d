//! Proof of a confinement: shows that the kernel enforces what the policy says.
//!
//! # Theory of operation
//!
//! Each trial runs in its own child. The child confines itself with the code of the real process, makes one syscall
//! by number, and ends. Its end shows what came of the syscall; the policy says what should have come of it. So a
//! trial cannot harm the next one, and only the kernel's answer counts.
//!
//! Most syscalls get arguments that name nothing (no fd, no address, no process), so that nothing happens if the
//! filter allows one. [`attempts`] use arguments that mean something: once in full confinement, and once under
//! landlock alone, which must hold even if seccomp fails.
//!
//! The outcome is a list of lines of five fields, separated by tabs; see [`Line`].

mod attempts;
mod sweep;
mod trial;

use std::fmt;
use std::io::Write;

use crate::Policy;
use crate::steps::Achieved;

/// What is to be proved.
pub struct Subject<'a> {
    /// The policy to prove.
    pub policy: &'static Policy,
    /// Confines the process like the real one.
    pub confine: &'a dyn Fn() -> Result<Achieved, String>,
    /// Does the same without the last step, seccomp.
    pub reach: &'a dyn Fn() -> Result<Achieved, String>,
    /// The number of the syscall that the process's own handler noted when it died of SIGSYS. Clears it.
    pub noted: &'a dyn Fn() -> Option<i32>,
    /// A live supervisor, which an attempt signals.
    pub live: Option<u32>,
    /// The folder in which the process may remove files, if there is one.
    pub removable: Option<&'a std::path::Path>,
}

/// One line of the outcome: `agrees` or `differs`, group, what, declared, observed. Before the lines stands `policy`
/// with its digest and the achieved landlock ABI, and after them `end` with the number of trials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The group of trials.
    pub group: String,
    /// What was tried.
    pub what: String,
    /// What should come of it.
    pub declared: String,
    /// What came of it.
    pub observed: String,
    /// Whether both are the same.
    pub agrees: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.agrees { "agrees" } else { "differs" };
        write!(f, "{word}\t{}\t{}\t{}\t{}", self.group, self.what, self.declared, self.observed)
    }
}

impl Line {
    /// Reads a line as `Display` writes it.
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

/// The process id of the live supervisor that `--prove PID` names.
pub fn live() -> Option<u32> {
    std::env::args().nth(2)?.parse().ok()
}

/// Runs all trials and writes the outcome to stdout.
pub fn prove(subject: &Subject<'_>) -> Result<(), String> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut say = |line: String| writeln!(out, "{line}").map_err(|e| format!("stdout: {e}"));
    let achieved = trial::achieved(subject)?;
    say(format!("policy\t{:08x}\t{}", subject.policy.digest(), achieved.landlock_abi))?;
    let targets = attempts::Targets::new()?;
    let mut count = 0;
    for trial in sweep::trials(subject.policy).chain(targets.trials(subject, achieved)) {
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
        let (group, what) = (text("attempts"), text("open /etc/passwd"));
        let line = Line { group, what, declared: text("trapped"), observed: text("made: EBADF"), agrees: false };
        assert_eq!(Line::parse(&line.to_string()), Some(line));
        assert_eq!(Line::parse("end\t7"), None);
    }
}
