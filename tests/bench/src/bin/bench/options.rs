//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, ValueExt};

use crate::frame::{HEADER, Shape};
use crate::guest::Plan;
use crate::switch::Kind;

/// What `--help` prints.
pub const HELP: &str = "\
scripts/bench [SCENARIO...] [SIZE...] [OPTION...]

  throughput   known unicast one way, by size (64 256 512 1518 9000 tso unless some are named; `tso` is 64 KiB)
  both-ways    the same in both directions at once
  flows        the same between 2 to 1,000 addresses behind two ports
  flood        broadcasts to 1, 3, 7 and 15 others
  idle-ports   the same beside 0, 1, 16 and 128 ports that do nothing
  latency      there and back with nothing else under way, beside 1 Mpps, and beside half of what the switch can do
  wake-up      there and back after 1 ms in which nothing happened
  idle         processor and memory with two guests that do nothing
  bursts       the same with bursts of at most 1 to 64 frames: what a burst costs, and what a frame
  threads      sv3 with one thread and with two, guests and switch sharing both processors
  uplink       two networks joined by two taps, and a guest on a tap, beside what a tap allows; needs root
  streams      two stream peers, beside a loop that copies; a pair of guests beside streams and beside a tap that is
               flooded; needs root
  vlan         64 B between access ports of one VLAN
  guard        the same with a guard, beside flows of Open vSwitch that do the same
  rules        64 B beside each kind of rule and none
  declared     64 B beside 1,000 declared ports with 10,000 static addresses
  capture      64 B of a port that is captured to a file, or mirrored, beside Open vSwitch's mirror
  model        what two processors can do at all: copy over a ring, copy, and exchange a cache line
  all          all of them

  --packed       packed rings instead of split ones
  --no-huge      guests and peers in ordinary memory instead of huge pages
  --peers A,B    beside sv3: vhost, ovs, or none
  --rounds N     rounds that count (5)
  --seconds S    seconds of a measurement (0.3)
  --ring N       entries of a ring (256)
  --csv FILE, --json FILE, --plot FILE.png   every sample, and a picture of the medians";

/// Names of all scenarios, in the order in which they run.
pub const SCENARIOS: [&str; 18] = [
    "model",
    "throughput",
    "both-ways",
    "flows",
    "flood",
    "idle-ports",
    "latency",
    "wake-up",
    "idle",
    "bursts",
    "threads",
    "uplink",
    "streams",
    "vlan",
    "guard",
    "rules",
    "declared",
    "capture",
];

/// What is to be measured and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of scenarios.
    pub scenarios: Vec<String>,
    /// Frames' shapes, if some are named.
    pub shapes: Vec<Shape>,
    /// In packed rings.
    pub packed: bool,
    /// In huge pages.
    pub huge: bool,
    /// The switches to compare, sv3 first.
    pub kinds: Vec<Kind>,
    /// Rounds that count.
    pub rounds: usize,
    /// Seconds of a measurement.
    pub seconds: f64,
    /// Entries of a ring.
    pub entries: u16,
    /// Where samples go.
    pub csv: Option<PathBuf>,
    /// Where samples go, in JSON.
    pub json: Option<PathBuf>,
    /// Where the picture goes.
    pub plot: Option<PathBuf>,
}

impl Options {
    /// From the arguments; `None`: help is wanted.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
        let mut options = Options {
            scenarios: Vec::new(),
            shapes: Vec::new(),
            packed: false,
            huge: true,
            kinds: Kind::ALL.to_vec(),
            rounds: 5,
            seconds: 0.3,
            entries: 256,
            csv: None,
            json: None,
            plot: None,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("packed") => options.packed = true,
                Arg::Long("no-huge") => options.huge = false,
                Arg::Long("peers") => options.kinds = peers(&parser.value()?.string()?)?,
                Arg::Long("rounds") => options.rounds = parser.value()?.parse::<usize>()?.max(1),
                Arg::Long("seconds") => options.seconds = parser.value()?.parse::<f64>()?.clamp(0.01, 60.0),
                Arg::Long("ring") => options.entries = parser.value()?.parse_with(ring)?,
                Arg::Long("csv") => options.csv = Some(parser.value()?.into()),
                Arg::Long("json") => options.json = Some(parser.value()?.into()),
                Arg::Long("plot") => options.plot = Some(parser.value()?.into()),
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Value(value) => options.add(&value.string()?)?,
                other => return Err(other.unexpected()),
            }
        }
        if options.scenarios.is_empty() {
            options.scenarios.push("throughput".to_string());
        }
        Ok(Some(options))
    }

    /// Whether a scenario is wanted.
    pub fn wants(&self, scenario: &str) -> bool {
        self.scenarios.iter().any(|wanted| wanted == scenario || wanted == "all")
    }

    /// The shapes that are named, or these.
    pub fn shapes_or(&self, usual: &[Shape]) -> Vec<Shape> {
        if self.shapes.is_empty() { usual.to_vec() } else { self.shapes.clone() }
    }

    /// A guest for these frames: buffers of 2 KiB that are merged for longer frames, or of 4 KiB, as Linux does.
    pub fn plan(&self, shape: Shape) -> Plan {
        let rx_buffer = if shape.tso { 4096 } else { 2048 };
        Plan { shape, entries: self.entries, rx_buffer, rx_buffers: self.entries.into(), huge: self.huge }
    }

    /// Most frames in flight: as many as fit into the receiver's ring.
    pub fn window(&self, plan: Plan) -> u32 {
        let buffers = (plan.shape.octets + HEADER).div_ceil(plan.rx_buffer);
        u32::from(plan.entries) / buffers as u32
    }

    /// In words for a table.
    pub fn conditions(&self) -> String {
        let rings = if self.packed { "packed" } else { "split" };
        let pages = if self.huge { "huge pages" } else { "ordinary memory" };
        format!("{rings} rings of {}, {pages}", self.entries)
    }

    fn add(&mut self, word: &str) -> Result<(), lexopt::Error> {
        match word.parse::<usize>() {
            Ok(octets @ 60..=65_000) => self.shapes.push(Shape::plain(octets)),
            Ok(octets) => return Err(format!("frames of {octets} octets are not measured: 60 to 65000").into()),
            Err(_) if word == "tso" => self.shapes.push(Shape::large_segment()),
            Err(_) if word == "all" || SCENARIOS.contains(&word) => self.scenarios.push(word.to_string()),
            Err(_) => return Err(format!("there is no scenario {word}; see --help").into()),
        }
        Ok(())
    }
}

fn peers(list: &str) -> Result<Vec<Kind>, lexopt::Error> {
    let names = list.split(',').filter(|name| !name.is_empty() && *name != "none");
    let peers = names.map(|name| match name {
        "vhost" => Ok(Kind::Vhost),
        "ovs" => Ok(Kind::Ovs),
        _ => Err(format!("there is no peer {name}: vhost, ovs or none").into()),
    });
    std::iter::once(Ok(Kind::Sv3)).chain(peers).collect()
}

fn ring(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(entries @ 64..=4096u16) if entries.is_power_of_two() => Ok(entries),
        _ => Err("a ring has 64 to 4096 entries, a power of two".to_string()),
    }
}
