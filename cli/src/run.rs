//! `sv3 run`: becomes the supervisor.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, value_parser};
use sv3::options::{self, Kind, RunOption};
use sv3::passed;

use crate::aside::Aside;
use crate::declare::door::Door;
use crate::declare::{file, give};
use crate::place;

/// Run a switch in the foreground, as any user, without privileges.
///
/// Prints how to attach a guest. Writes events to stderr or to --log: sentences at a terminal, else a line of JSON each.
/// Ends by Ctrl-C, SIGTERM or SIGQUIT, and when its terminal is closed.
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
        let own = [options::SOCKET.name, options::CONTROL.name, options::CONFIG.name];
        for (option, value) in self.options.0.iter().filter(|(option, _)| !own.contains(&option.name)) {
            command.arg(dashed(option)).args(value);
        }
        let control = self.path(&options::CONTROL, place::CONTROL)?;
        // If the supervisor cannot be started, the sockets go again.
        let doors = self.declare(&control, &mut command)?;
        // What a service manager has passed is for the supervisor alone.
        let pass_on = |may| passed::pass_on(may).map_err(|error| format!("what the service manager passed: {error}"));
        pass_on(false)?;
        self.aside.start(&control)?;
        pass_on(true)?;
        let error = command.exec();
        drop(doors);
        Err(format!("{}: {error}", supervisor.display()))
    }

    /// Reads the file of --config, and leaves what it declares in the supervisor's stdin. A switch that takes over goes
    /// on with what is declared.
    fn declare(&self, control: &Path, command: &mut Command) -> Result<Vec<Door>, String> {
        let Some(path) = self.given(&options::CONFIG) else { return Ok(Vec::new()) };
        let path = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config = file::read(&path)?;
        if self.options.0.iter().any(|(option, _)| option.name == options::TAKE_OVER.name) {
            return Ok(Vec::new());
        }
        let name = path.to_str().ok_or_else(|| format!("{}: not UTF-8 text", path.display()))?;
        let (stdin, doors) = give::first(control, config, name.to_string())?;
        command.arg(dashed(&options::GIVEN)).stdin(Stdio::from(stdin));
        Ok(doors)
    }

    /// The path that was given for an option.
    fn given(&self, option: &RunOption) -> Option<&Path> {
        let given = self.options.0.iter().find(|(given, _)| given.name == option.name);
        given.and_then(|(_, value)| value.as_deref()).map(Path::new)
    }

    fn path(&self, option: &RunOption, name: &str) -> Result<PathBuf, String> {
        match self.given(option) {
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
    let argument = Arg::new(option.name).long(option.name).short(option.short).help(option.help);
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
