//! The command line. The spawner of the supervisor writes it.

use std::ffi::OsString;

use sv3::cpus::Cpus;
use sv3::ledger::THREADS;
use sv3_policy::WorkerRole;

/// What a worker learns before it confines itself. Commands bring all else.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// Threads of the data path, 1 to [`THREADS`].
    pub threads: usize,
    /// Processors to run on. `None`: all processors.
    pub cpus: Option<Cpus>,
    /// What there may be: the policy has the syscalls for that.
    pub role: WorkerRole,
}

impl Args {
    /// Reads the command line, without the program's name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
        let mut args = Args { threads: 1, cpus: None, role: WorkerRole::Plain };
        let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(option) = words.next() {
            if let Some(role) = WorkerRole::of_option(&option) {
                args.role = role;
                continue;
            }
            let value = words.next().unwrap_or_default();
            match option.as_str() {
                "--cpus" => args.cpus = Some(value.parse()?),
                "--threads" => args.threads = value.parse().map_err(|_| format!("--threads {value}"))?,
                _ => return Err(format!("unknown option {option}; the supervisor starts this program: use `sv3 run`")),
            }
        }
        if !(1..=THREADS).contains(&args.threads) {
            return Err(format!("--threads must be 1 to {THREADS}"));
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_spawner_says_is_understood_and_nothing_else() {
        let parse = |line: &str| Args::parse(line.split_whitespace().map(OsString::from));
        assert_eq!(parse("").unwrap(), Args { threads: 1, cpus: None, role: WorkerRole::Plain });
        assert_eq!(parse("--cpus 0,2").unwrap().cpus, "0,2".parse().ok());
        assert_eq!(parse("--threads 3 --cpus 0-2").unwrap().threads, 3);
        let all = parse("--threads 2 --files --cpus 1").unwrap();
        assert!(all.role == WorkerRole::Files && all.threads == 2 && all.cpus.is_some());
        assert_eq!(parse("--cards").unwrap().role, WorkerRole::Cards);
        assert!(parse("--threads 0").is_err() && parse("--threads 65").is_err());
        assert!(parse("--cpus").is_err() && parse("--help").is_err());
    }
}
