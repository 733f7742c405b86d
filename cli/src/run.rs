//! `sv3 run`: becomes the supervisor.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, value_parser};
use sv3::options::{self, Kind, RunOption};

use crate::aside::Aside;
use crate::place;

/// Run a switch in the foreground, as any user, without privileges.
///
/// Prints how to attach a guest. Writes events to stderr or to --log, a line of JSON each. Ends by Ctrl-C, SIGTERM or
/// SIGQUIT, and when its terminal is closed.
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    aside: Aside,
}

/// The options of [`sv3::options`] that were given, each with its value.
struct Options(Vec<(&'static RunOption, Option<OsString>)>);

impl Run {
    /// Becomes the supervisor; returns only if that fails.
    pub fn exec(&self) -> Result<(), String> {
        let supervisor = place::sibling("sv3-supervisor")?;
        let mut command = Command::new(&supervisor);
        for (option, name) in [(&options::SOCKET, place::SOCKET), (&options::CONTROL, place::CONTROL)] {
            command.arg(dashed(option)).arg(self.path(option, name)?);
        }
        command.arg(dashed(&options::WORKER)).arg(place::sibling("sv3-worker")?);
        let paths = [options::SOCKET.name, options::CONTROL.name];
        for (option, value) in self.options.0.iter().filter(|(option, _)| !paths.contains(&option.name)) {
            command.arg(dashed(option)).args(value);
        }
        self.aside.start(&self.path(&options::CONTROL, place::CONTROL)?)?;
        Err(format!("{}: {}", supervisor.display(), command.exec()))
    }

    fn path(&self, option: &RunOption, name: &str) -> Result<PathBuf, String> {
        let given = self.options.0.iter().find(|(given, _)| given.name == option.name);
        match given.and_then(|(_, value)| value.as_deref()).map(Path::new) {
            Some(path) => std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display())),
            None => {
                let folder = place::folder();
                place::prepare(&folder)?;
                Ok(folder.join(name))
            }
        }
    }
}

fn dashed(option: &RunOption) -> String {
    format!("--{}", option.name)
}

impl Args for Options {
    fn augment_args(command: clap::Command) -> clap::Command {
        options::ALL.into_iter().fold(command, |command, option| command.arg(argument(option)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Options::augment_args(command)
    }
}

fn argument(option: &'static RunOption) -> Arg {
    let argument = Arg::new(option.name).long(option.name).help(option.help);
    let Some(value) = option.value else { return argument.action(ArgAction::SetTrue) };
    // The supervisor checks bounds and forms.
    let parser: ValueParser = match option.kind {
        Kind::Number(..) => value_parser!(u32).into(),
        Kind::Seconds => value_parser!(f64).into(),
        Kind::Path => value_parser!(PathBuf),
        Kind::Switch | Kind::Text | Kind::Paths => value_parser!(OsString),
    };
    let action = if option.kind == Kind::Paths { ArgAction::Append } else { ArgAction::Set };
    argument.action(action).value_name(value).value_parser(parser).allow_negative_numbers(option.kind == Kind::Seconds)
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Options, clap::Error> {
        let given = options::ALL.into_iter().flat_map(|option| match option.value {
            None => Vec::from_iter(matches.get_flag(option.name).then_some((option, None))),
            Some(_) => {
                let values = matches.get_raw(option.name).into_iter().flatten();
                values.map(|value| (option, Some(OsStr::to_os_string(value)))).collect()
            }
        });
        Ok(Options(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Options::from_arg_matches(matches)?;
        Ok(())
    }
}
