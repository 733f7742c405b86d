//! Lets a binary prove its confinement, and sums up the outcomes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use sv3::audit::{Outcome, Proof};
use sv3_policy::WorkerRole;
use sv3_policy::prove::Line;

/// Groups whose trials are shown one by one.
const ATTEMPTS: [(&str, &str); 2] = [("attempts", ""), ("the same under landlock alone", ", under landlock alone")];

/// Runs `binary --prove` for a role of its own, which also tries to signal the live supervisor. Returns the proof and all differences, in
/// words.
pub fn prove(role: &str, binary: &Path, supervisor: u32) -> Result<(Proof, Vec<String>), String> {
    let fail = |what: String| format!("{} --prove: {what}", binary.display());
    let mut command = Command::new(binary);
    command.arg("--prove").arg(supervisor.to_string()).stdin(Stdio::null());
    let role_of = WorkerRole::ALL.into_iter().find(|known| sv3_policy::worker(*known).role() == role);
    if let Some(option) = role_of.and_then(WorkerRole::option) {
        command.arg(OsStr::from_bytes(option.to_bytes()));
    }
    let output = command.output().map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(format!("{}; {}", output.status, said.trim())));
    }
    let name = binary.display().to_string();
    sum_up(role, name, &String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| fail("the binary is of another version than this sv3".to_string()))
}

fn sum_up(role: &str, binary: String, text: &str) -> Option<(Proof, Vec<String>)> {
    let mut lines = text.lines();
    let (policy, abi) = lines.next()?.strip_prefix("policy\t")?.split_once('\t')?;
    let mut proof = Proof {
        role: role.to_string(),
        binary,
        policy: policy.to_string(),
        landlock_abi: abi.parse().ok()?,
        ..Proof::default()
    };
    let mut differences = Vec::new();
    for text in lines {
        if let Some(count) = text.strip_prefix("end\t") {
            proof.trials = count.parse().ok()?;
            return Some((proof, differences));
        }
        let line = Line::parse(text)?;
        if !line.agrees {
            let Line { group, what, declared, observed, .. } = &line;
            differences.push(format!("{role}: {group}: {what}: declared {declared}, observed {observed}"));
        }
        count(&mut proof.outcomes, line);
    }
    // The output has no end line.
    None
}

fn count(outcomes: &mut Vec<Outcome>, line: Line) {
    let Line { group, what, declared, observed, agrees } = line;
    let attempt = ATTEMPTS.iter().find(|(name, _)| *name == group).map(|(_, suffix)| format!("{what}{suffix}"));
    let tried = attempt.unwrap_or(group);
    let same = |outcome: &&mut Outcome| {
        (&outcome.tried, &outcome.declared, &outcome.observed) == (&tried, &declared, &observed)
    };
    match outcomes.iter_mut().find(same) {
        Some(outcome) => outcome.count += 1,
        None => outcomes.push(Outcome { tried, count: 1, declared, observed, agrees }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_trials_are_counted_and_a_proof_without_an_end_is_none() {
        let text = "policy\t0badcafe\t7\nagrees\tx32\t1\tkilled\tkilled\nagrees\tx32\t2\tkilled\tkilled\n\
                    differs\tdeeds\topen\tkilled\tmade\nend\t3\n";
        let (proof, differences) = sum_up("worker", String::new(), text).unwrap();
        assert_eq!((proof.trials, proof.landlock_abi, proof.outcomes.len()), (3, 7, 2));
        assert_eq!((proof.outcomes[0].count, proof.outcomes[1].agrees), (2, false));
        assert_eq!(differences, ["worker: deeds: open: declared killed, observed made"]);
        assert!(sum_up("worker", String::new(), text.strip_suffix("end\t3\n").unwrap()).is_none());
    }
}
