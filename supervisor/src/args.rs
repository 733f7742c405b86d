//! The command line. `sv3 run` writes it for people; [`sv3::options`] lists the options.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::Arg::Long;
use sv3::config::FOLDER;
use sv3::cpus::Cpus;
use sv3::ipc::{Settings, VERSION};
use sv3::options::{self, Kind, RunOption};
use sv3::snooping::{Snooping, SnoopingRun};

use crate::doors::stream::StreamDoor;
use crate::telemetry::form::{Verbosity, Wanted};
use sv3::http::parse_address;

/// The parsed command line. Paths are absolute.
#[derive(Debug)]
pub struct Args {
    /// The front door.
    pub socket: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The doors for streams.
    pub streams: Vec<StreamDoor>,
    /// The worker's binary.
    pub worker: PathBuf,
    /// Replace stale sockets.
    pub force: bool,
    /// Take over from the switch that runs at these sockets.
    pub take_over: bool,
    /// How the worker runs.
    pub settings: Settings,
    /// A second worker waits to take over.
    pub standby: bool,
    /// Deaths of workers in ten seconds that put a client in quarantine; 0: none do.
    pub blame: usize,
    /// Kill the worker at random times; this is the mean time between two kills.
    pub chaos: Option<Duration>,
    /// The file for events; absent: they go to stderr.
    pub log: Option<PathBuf>,
    /// The form of events.
    pub log_format: Wanted,
    /// How many events are written.
    pub verbosity: Verbosity,
    /// The loopback address at which metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The supervisor refuses to run with a lower landlock ABI.
    pub require_landlock: u32,
    /// The first configuration, and the sockets that belong to it, wait in the socket that is stdin.
    pub given: bool,
    /// How many threads a worker has.
    pub threads: u16,
    /// Processors that workers run on; absent: all.
    pub cpus: Option<Cpus>,
}

impl Args {
    /// Reads the command line, without the program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
        let given = Given::read(args)?;
        let settings = Settings {
            version: VERSION,
            poll_us: given.number(&options::POLL_US)?,
            batch: given.number(&options::BATCH)?,
            snooping: given.has(&options::SNOOPING).then(|| SnoopingRun::begin(Snooping::default())),
        };
        let (threads, cpus) = (given.number(&options::THREADS)?, given.value(&options::CPUS, str::parse::<Cpus>)?);
        if let Some(named) = cpus.as_ref().map(|cpus| cpus.numbers().len()).filter(|_| threads > 1)
            && named != usize::from(threads)
        {
            return Err(format!("--cpus names {named} processors for {threads} threads: each thread takes one"));
        }
        let (socket, control) = (given.path(&options::SOCKET)?, given.path(&options::CONTROL)?);
        if socket == control {
            return Err("--socket and --control must differ".into());
        }
        let streams = given.values(&options::STREAM, StreamDoor::parse)?;
        let mut paths: Vec<&Path> = [&socket, &control].into_iter().map(PathBuf::as_path).collect();
        for door in &streams {
            if paths.contains(&&*door.path) {
                return Err(of(&options::STREAM, &format!("{} is given twice", door.path.display())));
            }
            paths.push(&door.path);
        }
        Ok(Args {
            socket,
            control,
            streams,
            worker: given.path(&options::WORKER)?,
            force: given.has(&options::FORCE),
            given: given.has(&options::GIVEN),
            take_over: given.has(&options::TAKE_OVER),
            settings,
            standby: !given.has(&options::NO_STANDBY),
            blame: given.number::<u32>(&options::BLAME)? as usize,
            chaos: given.value(&options::CHAOS, seconds)?,
            log: given.last(&options::LOG).map(PathBuf::from),
            log_format: given.value(&options::LOG_FORMAT, Wanted::parse)?.unwrap_or_default(),
            verbosity: given.verbosity()?,
            metrics: given.value(&options::METRICS, parse_address)?,
            require_landlock: given.value(&options::REQUIRE_LANDLOCK, landlock)?.unwrap_or(0),
            threads,
            cpus,
        })
    }

    /// The paths of the sockets in the file system.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        let streams = self.streams.iter().map(|door| door.path.as_path());
        [self.socket.as_path(), self.control.as_path()].into_iter().chain(streams)
    }

    /// The folder of declared ports' sockets, beside the control socket.
    pub fn ports_folder(&self) -> PathBuf {
        self.control.parent().unwrap_or(Path::new("/")).join(FOLDER)
    }

    /// The command line of every worker, without the program's name.
    pub fn of_worker(&self) -> Vec<String> {
        let threads = (self.threads > 1).then(|| ["--threads".to_string(), self.threads.to_string()]);
        let cpus = self.cpus.iter().map(|cpus| ["--cpus".to_string(), cpus.to_string()]);
        threads.into_iter().chain(cpus).flatten().collect()
    }
}

/// The options that were given, each with its values. If an option was given twice, the last value counts, unless it is
/// one that may be given several times.
struct Given(BTreeMap<&'static str, Vec<OsString>>);

impl Given {
    fn read(args: impl IntoIterator<Item = OsString>) -> Result<Given, String> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut given = BTreeMap::<_, Vec<OsString>>::new();
        while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
            let known = options::ALL.into_iter().chain([&options::WORKER, &options::GIVEN]);
            let option = match &arg {
                Long(name) => known.into_iter().find(|option| option.name == *name),
                _ => None,
            };
            let Some(option) = option else { return Err(unexpected(arg)) };
            let value = match option.value {
                Some(_) => parser.value().map_err(|error| of(option, &error.to_string()))?,
                None => OsString::new(),
            };
            given.entry(option.name).or_default().push(value);
        }
        Ok(Given(given))
    }

    fn has(&self, option: &RunOption) -> bool {
        self.0.contains_key(option.name)
    }

    fn last(&self, option: &RunOption) -> Option<&OsString> {
        self.0.get(option.name)?.last()
    }

    /// All values of an option.
    fn values<T>(&self, option: &RunOption, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
        let values = self.0.get(option.name).into_iter().flatten();
        let value = |value: &OsString| {
            let text = value.to_str().ok_or_else(|| of(option, &format!("{value:?} is not UTF-8 text")))?;
            read(text).map_err(|why| of(option, &why))
        };
        values.map(value).collect()
    }

    /// An option's value, if it was given.
    fn value<T, E: ToString>(
        &self,
        option: &RunOption,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.last(option) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| of(option, &format!("{value:?} is not UTF-8 text")))?;
        let read = read(text).map_err(|error| format!("cannot parse argument {text:?}: {}", error.to_string()));
        read.map(Some).map_err(|why| of(option, &why))
    }

    /// A number within its option's bounds, given or by default.
    fn number<T: TryFrom<u32>>(&self, option: &RunOption) -> Result<T, String> {
        let Kind::Number(least, most) = option.kind else { return Err(of(option, "is not a number")) };
        let number = match self.value(option, str::parse::<u32>)? {
            Some(number) => number,
            None => option.default.parse().map_err(|_| of(option, "has no default"))?,
        };
        let number = Some(number).filter(|number| (least..=most).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("--{} must be {least} to {most}", option.name))
    }

    fn verbosity(&self) -> Result<Verbosity, String> {
        match (self.has(&options::VERBOSE), self.has(&options::QUIET)) {
            (true, true) => Err("--verbose and --quiet exclude each other".to_string()),
            (true, false) => Ok(Verbosity::Verbose),
            (false, true) => Ok(Verbosity::Quiet),
            (false, false) => Ok(Verbosity::Usual),
        }
    }

    /// A path. It is an error if the option was not given.
    fn path(&self, option: &RunOption) -> Result<PathBuf, String> {
        let path = self.last(option).ok_or_else(|| format!("--{} is missing", option.name))?;
        std::path::absolute(path).map_err(|error| format!("{}: {error}", Path::new(path).display()))
    }
}

/// An error about the value of an option.
fn of(option: &RunOption, why: &str) -> String {
    format!("--{}: {why}", option.name)
}

fn unexpected(arg: lexopt::Arg<'_>) -> String {
    let name = if let Long(name) = arg { format!("--{name}: ") } else { String::new() };
    format!("{name}{}", arg.unexpected())
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
            "--log-format xml",
            "--verbose --quiet",
        ] {
            assert!(parse(&format!("--socket /a --control /b --worker /c {wrong}")).is_err(), "{wrong}");
        }
        assert!(parse("--control /b --worker /c").unwrap_err().contains("--socket is missing"));
        assert!(parse("--socket /a --control /a --worker /c").is_err());
    }

    #[test]
    fn doors_for_streams_may_be_many_and_differ() {
        let args = parse("--socket /a --control /b --worker /c --stream /d --stream /e,vnet,mtu=9000").unwrap();
        let doors: Vec<_> = args.streams.iter().map(|door| (door.path.to_str().unwrap(), door.form.mtu)).collect();
        assert_eq!(doors, [("/d", 1500), ("/e", 9000)]);
        for wrong in ["--stream /a", "--stream /d --stream /d,vnet", "--stream /d,nonsense"] {
            let told = parse(&format!("--socket /a --control /b --worker /c {wrong}")).unwrap_err();
            assert!(told.starts_with("--stream: "), "{told}");
        }
    }
}
