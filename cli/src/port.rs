//! `sv3 port`: declares ports, changes them, takes them down and up, and ends quarantines.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Subcommand};
use sv3::config::{Config, PortConfig};
use sv3::control::ControlRequest;

use crate::control::Control;
use crate::declare::draft::Draft;
use crate::declare::keys::{self, Key};
use crate::declare::{difference, give, one_port};
use crate::output::print;

/// Declare a port, change it, take it down and up.
///
/// What these do holds until the switch ends or reads a file (`sv3 reload`). `sv3 config show` prints it as a file.
#[derive(Args)]
pub struct Port {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Declare a port: it has a name that lasts and a socket of its own
    Add {
        /// The port's name
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        control: Control,
    },
    /// Change settings of a declared port, or of one that was attached under this name
    Set {
        /// The port's name
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        control: Control,
    },
    /// End a declaration: the port's client is sent away and its socket goes
    Remove {
        /// The port's name
        name: String,
        #[command(flatten)]
        control: Control,
    },
    /// Take a port out of service: its client is sent away and turned away, and no frame passes
    Down {
        /// The port's name
        name: String,
        #[command(flatten)]
        control: Control,
    },
    /// Put a port into service again
    Up {
        /// The port's name
        name: String,
        #[command(flatten)]
        control: Control,
    },
    /// End the quarantine of a client that caused deaths of workers
    Release {
        /// The port's name, as `sv3 status` shows it
        name: String,
        #[command(flatten)]
        control: Control,
    },
}

/// The settings that were given, in the order of [`keys::ALL`].
struct Settings(Vec<(&'static Key, Vec<String>)>);

impl Port {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        match &self.verb {
            Verb::Add { name, settings, control } => add(control, name, settings),
            Verb::Set { name, settings, control } => change(control, name, |port| settings.apply(Draft::of(&port))),
            Verb::Remove { name, control } => remove(control, name),
            Verb::Down { name, control } => change(control, name, |port| Ok(PortConfig { up: false, ..port })),
            Verb::Up { name, control } => change(control, name, |port| Ok(PortConfig { up: true, ..port })),
            Verb::Release { name, control } => {
                control.ask(&ControlRequest::Release(name.clone()))?;
                print(&format!("{name} is served again\n"))
            }
        }
    }
}

fn add(control: &Control, name: &str, settings: &Settings) -> Result<(), String> {
    let before = give::in_force(control)?;
    if before.config.ports.contains_key(name) {
        return Err(format!("a port {name} is declared already: `sv3 port set {name}` changes it"));
    }
    let port = settings.apply(Draft::default())?;
    let has_door = port.kind.has_door();
    let mut config = before.config.clone();
    config.ports.insert(name.to_string(), port);
    give::declare(control, &before, config, None)?;
    let path = control.running()?.1.declared.into_iter().find(|declared| declared.name == name);
    match path.and_then(|declared| declared.socket).filter(|_| has_door) {
        Some(socket) => print(&format!("{name} is declared; its guest attaches at {socket}\n")),
        None => print(&format!("{name} is declared; `sv3 attach --name {name}` brings what is behind it\n")),
    }
}

fn remove(control: &Control, name: &str) -> Result<(), String> {
    let before = give::in_force(control)?;
    let mut config = before.config.clone();
    if config.ports.remove(name).is_none() {
        return Err(one_port::unknown(control, name));
    }
    give::declare(control, &before, config, None)?;
    print(&format!("{name} is removed\n"))
}

/// Changes one port, and prints what changed.
fn change(
    control: &Control,
    name: &str,
    change: impl FnOnce(PortConfig) -> Result<PortConfig, String>,
) -> Result<(), String> {
    let before = give::in_force(control)?;
    let port = change(one_port::declared(control, &before, name)?)?;
    let mut config: Config = before.config.clone();
    config.ports.insert(name.to_string(), port);
    let lines = difference::lines(&before.config, &config);
    if lines.is_empty() {
        return print("nothing differs\n");
    }
    give::declare(control, &before, config, None)?;
    lines.iter().try_for_each(|line| print(&format!("{}\n", line.trim_start())))
}

impl Settings {
    fn apply(&self, mut draft: Draft) -> Result<PortConfig, String> {
        let mut said = Vec::new();
        for (key, values) in &self.0 {
            if let Some(other) = keys::excluded(&said, key.name) {
                let (name, other) = (option(key), other.replace('_', "-"));
                return Err(format!("--{other} and --{name} exclude each other: keep one"));
            }
            said.push(key.name);
            draft.set(key.name, values).map_err(|why| format!("--{}: {why}", option(key)))?;
        }
        draft.finish()
    }
}

fn option(key: &Key) -> String {
    key.name.replace('_', "-")
}

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        keys::all().fold(command, |command, key| {
            // The names live as long as the process.
            let long: &'static str = option(key).leak();
            let argument = Arg::new(key.name).long(long).help(key.help).value_parser(clap::value_parser!(String));
            command.arg(match key.value {
                "" => argument.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
                value => argument.value_name(value),
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Settings::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Settings, clap::Error> {
        let given = keys::all().filter_map(|key| {
            let values = matches.get_raw(key.name)?.map(|value| OsString::from(value).to_string_lossy().into_owned());
            Some((key, values.collect()))
        });
        Ok(Settings(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Settings::from_arg_matches(matches)?;
        Ok(())
    }
}
