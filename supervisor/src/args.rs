//! The command line. People use `sv3 run`, which fills it in.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::*;
use sv3::cpus::Cpus;
use sv3::ipc::{Settings, VERSION};
use sv3::ledger::THREADS;

use crate::doors::http::parse_address;

/// Most microseconds that a worker may spin: more is no bound, but a processor given away.
const POLL_US_MAX: u32 = 10_000_000;

/// What was asked for. Paths are absolute.
#[derive(Debug)]
pub struct Args {
    /// The front door.
    pub socket: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The worker's binary.
    pub worker: PathBuf,
    /// Replace stale sockets.
    pub force: bool,
    /// How the worker runs.
    pub settings: Settings,
    /// A second worker waits to take over.
    pub standby: bool,
    /// Deaths of workers in ten seconds that put a client in quarantine; 0: none do.
    pub blame: usize,
    /// Kill the worker at random times, so far apart on average.
    pub chaos: Option<Duration>,
    /// Where events go; to stderr if nowhere else.
    pub log: Option<PathBuf>,
    /// Where metrics are served; a loopback address.
    pub metrics: Option<SocketAddr>,
    /// The least landlock ABI to run with.
    pub require_landlock: u32,
    /// How many threads a worker has, 1 to [`THREADS`].
    pub threads: u16,
    /// Processors that workers run on; everywhere, if none are named.
    pub cpus: Option<Cpus>,
}

impl Args {
    /// Reads the command line, without the program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
        let mut option = String::new();
        Args::read(lexopt::Parser::from_args(args), &mut option).map_err(|error| format!("{option}{error}"))
    }

    /// `option` is the one that is being read.
    fn read(mut parser: lexopt::Parser, option: &mut String) -> Result<Args, lexopt::Error> {
        let (mut socket, mut control, mut worker) = (None, None, None);
        let (mut log, mut metrics, mut require_landlock, mut cpus) = (None, None, 0, None);
        let (mut force, mut standby, mut blame, mut chaos) = (false, true, 3, None);
        let mut threads = 1;
        let mut settings = Settings { version: VERSION, poll_us: 100, batch: 64 };
        while let Some(arg) = parser.next()? {
            *option = if let Long(name) = arg { format!("--{name}: ") } else { String::new() };
            match arg {
                Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
                Long("control") => control = Some(PathBuf::from(parser.value()?)),
                Long("worker") => worker = Some(PathBuf::from(parser.value()?)),
                Long("force") => force = true,
                Long("no-standby") => standby = false,
                Long("blame") => blame = parser.value()?.parse()?,
                Long("chaos") => chaos = Some(parser.value()?.parse_with(seconds)?),
                Long("log") => log = Some(PathBuf::from(parser.value()?)),
                Long("metrics") => metrics = Some(parser.value()?.parse_with(parse_address)?),
                Long("require-landlock") => require_landlock = parser.value()?.parse_with(landlock)?,
                Long("poll-us") => settings.poll_us = parser.value()?.parse()?,
                Long("batch") => settings.batch = parser.value()?.parse()?,
                Long("threads") => threads = parser.value()?.parse()?,
                Long("cpus") => cpus = Some(parser.value()?.parse::<Cpus>()?),
                other => return Err(other.unexpected()),
            }
        }
        option.clear();
        if settings.poll_us > POLL_US_MAX {
            return Err(format!("--poll-us must be 0 to {POLL_US_MAX}").into());
        }
        if !(1..=Settings::MAX_BATCH).contains(&settings.batch) {
            return Err(format!("--batch must be 1 to {}", Settings::MAX_BATCH).into());
        }
        if !(1..=THREADS).contains(&usize::from(threads)) {
            return Err(format!("--threads must be 1 to {THREADS}").into());
        }
        if let Some(named) = cpus.as_ref().map(|cpus| cpus.numbers().len()).filter(|_| threads > 1)
            && named != usize::from(threads)
        {
            return Err(format!("--cpus names {named} processors for {threads} threads: each thread takes one").into());
        }
        let path = |path: Option<PathBuf>, name: &str| -> Result<PathBuf, lexopt::Error> {
            let path = path.ok_or_else(|| format!("{name} is missing"))?;
            std::path::absolute(&path).map_err(|error| format!("{}: {error}", Path::display(&path)).into())
        };
        let (socket, control) = (path(socket, "--socket")?, path(control, "--control")?);
        if socket == control {
            return Err("--socket and --control must differ".into());
        }
        let worker = path(worker, "--worker")?;
        let args = Args {
            socket,
            control,
            worker,
            force,
            settings,
            standby,
            blame,
            chaos,
            log,
            metrics,
            require_landlock,
            threads,
            cpus,
        };
        Ok(args)
    }

    /// The command line of every worker, without the program's name.
    pub fn of_worker(&self) -> Vec<String> {
        let threads = (self.threads > 1).then(|| ["--threads".to_string(), self.threads.to_string()]);
        let cpus = self.cpus.iter().map(|cpus| ["--cpus".to_string(), cpus.to_string()]);
        threads.into_iter().chain(cpus).flatten().collect()
    }
}

fn landlock(text: &str) -> Result<u32, String> {
    let newest = sv3_policy::steps::NEWEST as u32;
    let abi: u32 =
        text.parse().map_err(|_| format!("is not a number; the newest landlock ABI that sv3 knows is {newest}"))?;
    match abi <= newest {
        true => Ok(abi),
        false => Err(format!("is above {newest}, the newest landlock ABI that sv3 knows")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds".to_string())?;
    let in_range = (0.001..=86400.0).contains(&seconds);
    if in_range { Ok(Duration::from_secs_f64(seconds)) } else { Err("must be 0.001 to 86400 seconds".to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn defaults_and_bounds() {
        let args = parse("--socket /a --control b --worker /c").unwrap();
        assert_eq!((args.settings.poll_us, args.settings.batch, args.force), (100, 64, false));
        assert!(args.control.is_absolute());
        let args = parse("--socket /a --control /b --worker /c --force --poll-us 0 --batch 256").unwrap();
        assert_eq!((args.settings.poll_us, args.settings.batch, args.force), (0, 256, true));
        for wrong in [
            "--batch 0",
            "--batch 257",
            "--poll-us -1",
            "--poll-us 10000001",
            "--nonsense",
            "--require-landlock 8",
            "--cpus 1,x",
            "--threads 0",
            "--threads 65",
            "--threads 2 --cpus 1",
        ] {
            assert!(parse(&format!("--socket /a --control /b --worker /c {wrong}")).is_err(), "{wrong}");
        }
        assert!(parse("--control /b --worker /c").unwrap_err().contains("--socket is missing"));
        assert!(parse("--socket /a --control /a --worker /c").is_err());
    }
}
