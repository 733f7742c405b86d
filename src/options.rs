//! The options of `sv3 run`, defined once for the command line, which offers them, and for the supervisor, which reads
//! them.

/// An option.
#[derive(Debug)]
pub struct RunOption {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// The name of its value in `--help`; `None` if the option takes no value.
    pub value: Option<&'static str>,
    /// The form of its value.
    pub kind: Kind,
    /// The value that holds without the option; empty if there is none.
    pub default: &'static str,
    /// Its text in `--help`.
    pub help: &'static str,
    /// Its letter, if it has one.
    pub short: Option<char>,
}

/// The form of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No value.
    Switch,
    /// A file name.
    Path,
    /// A file name, and words about it behind a comma. The option may be given several times.
    Paths,
    /// A whole number within these bounds.
    Number(u32, u32),
    /// A number of seconds.
    Seconds,
    /// Other text.
    Text,
}

const fn path(name: &'static str, value: &'static str, help: &'static str) -> RunOption {
    RunOption { name, value: Some(value), kind: Kind::Path, default: "", help, short: None }
}

const fn switch(name: &'static str, help: &'static str) -> RunOption {
    RunOption { name, value: None, kind: Kind::Switch, default: "", help, short: None }
}

const fn number(name: &'static str, bounds: (u32, u32), default: &'static str, help: &'static str) -> RunOption {
    RunOption { name, value: Some("N"), kind: Kind::Number(bounds.0, bounds.1), default, help, short: None }
}

const fn text(name: &'static str, value: &'static str, help: &'static str) -> RunOption {
    RunOption { name, value: Some(value), kind: Kind::Text, default: "", help, short: None }
}

/// The front door.
pub const SOCKET: RunOption = path(
    "socket",
    "PATH",
    "The front door that guests attach to [default: vhost-user.sock in $XDG_RUNTIME_DIR/sv3 or /tmp/sv3-UID]",
);
/// The control socket.
pub const CONTROL: RunOption = path(
    "control",
    "PATH",
    "The socket for `sv3 status` and other commands [default: control.sock beside the default front door]",
);
/// Doors for streams; may be given several times.
pub const STREAM: RunOption = RunOption {
    name: "stream",
    value: Some("PATH[,mtu=N][,vnet][,implied]"),
    kind: Kind::Paths,
    default: "",
    help: "One more door, where a client sends frames at once, each after its length, as QEMU's `-netdev stream` does; \
           may be given several times; see docs/use/attach.md",
    short: None,
};
/// The file with declared ports.
pub const CONFIG: RunOption =
    path("config", "FILE", "Declare the ports of this file, and what guests may do; see docs/use/config.md");
/// Replace stale sockets.
pub const FORCE: RunOption =
    switch("force", "Replace sockets that a dead switch left behind even if other users may write to their folder");
/// Take over from the running switch.
pub const TAKE_OVER: RunOption = switch(
    "take-over",
    "Take over from the switch that runs at the same sockets, with all its guests; see docs/operate/upgrade.md",
);
/// Run without a standby.
pub const NO_STANDBY: RunOption = switch(
    "no-standby",
    "Keep no second worker ready to take over (standby); a take-over then takes some milliseconds more",
);
/// Deaths of workers within 10 s that put a client in quarantine.
pub const BLAME: RunOption = number(
    "blame",
    (0, u32::MAX),
    "3",
    "Deaths of workers within 10 s that put the client that caused them in quarantine; 0: never [default: 3]",
);
/// Kill the worker at random times.
pub const CHAOS: RunOption = RunOption {
    name: "chaos",
    value: Some("SECONDS"),
    kind: Kind::Seconds,
    default: "",
    help: "Kill the worker at random times, SECONDS apart on average, to see that guests do not notice",
    short: None,
};
/// The file for events.
pub const LOG: RunOption = path(
    "log",
    "FILE",
    "Append events to a file instead of printing them; SIGHUP opens it anew; docs/operate/events.md describes events",
);
/// The form of events.
pub const LOG_FORMAT: RunOption = text(
    "log-format",
    "FORM",
    "How events are written: json (a line each), text (for people), journal (systemd's, with fields), or auto, which \
     takes text at a terminal and journal under systemd [default: auto]",
);
/// More in the log.
pub const VERBOSE: RunOption =
    RunOption { short: Some('v'), ..switch("verbose", "In text, write each event's name and fields too") };
/// Less in the log.
pub const QUIET: RunOption = RunOption {
    short: Some('q'),
    ..switch("quiet", "Write warnings and errors only, and do not print how to attach a guest")
};
/// The address for metrics.
pub const METRICS: RunOption = text(
    "metrics",
    "ADDRESS:PORT",
    "Serve metrics over HTTP at a loopback address, such as 127.0.0.1:9109, to every user of this machine",
);
/// The least landlock ABI.
pub const REQUIRE_LANDLOCK: RunOption = RunOption {
    name: "require-landlock",
    value: Some("ABI"),
    kind: Kind::Number(0, 7),
    default: "0",
    help: "Refuse to run with a lower landlock ABI (1 to 7); see docs/understand/confinement.md [default: any]",
    short: None,
};
/// The longest time that workers spin.
pub const POLL_US: RunOption = number(
    "poll-us",
    // A larger bound would mean a thread that never sleeps.
    (0, 10_000_000),
    "100",
    "Most microseconds to spin for a frame before sleeping, as far as that pays; 0: sleep at once [default: 100]",
);
/// Most frames that are taken from a ring at a time.
pub const BATCH: RunOption = number(
    "batch",
    (1, crate::ipc::Settings::MAX_BATCH as u32),
    "64",
    "Most frames taken from one ring at a time, 1 to 256 [default: 64]",
);
/// Number of threads that move frames.
pub const THREADS: RunOption = number(
    "threads",
    (1, crate::ledger::THREADS as u32),
    "1",
    "Threads that move frames, 1 to 64; see docs/operate/tuning.md [default: 1]",
);
/// The processors for workers.
pub const CPUS: RunOption = text(
    "cpus",
    "LIST",
    "Processors that workers run on, such as 2 or 0,2-3; with --threads, one for each \
     [default: where the kernel lets them]",
);

/// Snoop on IGMP and MLD.
pub const SNOOPING: RunOption = switch(
    "snooping",
    "Snoop on IGMP and MLD, so that frames to a multicast group go to its members only, and ask for members where nobody \
     else does; see docs/use/multicast.md",
);

/// All of them, in the order of `--help`.
pub const ALL: [&RunOption; 20] = [
    &SOCKET,
    &CONTROL,
    &CONFIG,
    &STREAM,
    &FORCE,
    &TAKE_OVER,
    &NO_STANDBY,
    &BLAME,
    &CHAOS,
    &LOG,
    &LOG_FORMAT,
    &VERBOSE,
    &QUIET,
    &METRICS,
    &REQUIRE_LANDLOCK,
    &POLL_US,
    &BATCH,
    &THREADS,
    &CPUS,
    &SNOOPING,
];

/// The worker's binary. Only `sv3 run` passes this option to the supervisor; people do not see it.
pub const WORKER: RunOption = path("worker", "PATH", "");

/// A configuration waits in stdin. Only `sv3 run` passes this option too.
pub const GIVEN: RunOption = switch("given", "");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_tells_the_defaults_and_the_bounds_that_hold() {
        for option in ALL {
            let RunOption { name, value, kind, default, help, .. } = option;
            assert_eq!(value.is_none(), *kind == Kind::Switch, "{name}");
            let Kind::Number(least, most) = *kind else { continue };
            let number: u32 = default.parse().unwrap();
            assert!((least..=most).contains(&number), "{name}");
            assert!(number == 0 || help.contains(&format!("[default: {default}]")), "{name}: {help}");
            let told = most > 1_000_000 || help.contains(&format!("{} to {most}", least.max(1)));
            assert!(told, "{name}: {help}");
        }
        let mut names: Vec<_> = ALL.iter().map(|option| option.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        let mut letters: Vec<_> = ALL.iter().filter_map(|option| option.short).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), ALL.iter().filter(|option| option.short.is_some()).count());
    }
}
