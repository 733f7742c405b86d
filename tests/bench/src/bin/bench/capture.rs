//! What it costs a busy pair that it is captured to a file, or mirrored to a third port, beside Open vSwitch's mirror.
//!
//! There is no third processor: the program that writes the file shares the switch's with it. So what is compared is the
//! frames for each second that the switch's own thread ran, which is the rate that it would have alone, and the rate
//! that was reached stands beside it. The guest that gets a mirror's copies is driven by the thread that drives the
//! pair.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::switch::send;

use crate::arena::{Subject, compete};
use crate::clock::{cycles_of, per_second};
use crate::frame::Shape;
use crate::guest::Guest;
use crate::options::Options;
use crate::place::{GUESTS, SWITCH, pin};
use crate::report::{Case, Figure};
use crate::ring::Ring;
use crate::rules::{Setting, enter};
use crate::stream::{Flow, Stations, Stream, Tally, flow};
use crate::switch::{Switch, run_times};
use crate::throughput::{Load, introduce};

const FIGURES: &[Figure] = &[
    Figure { name: "Mframes/own s", digits: 2 },
    Figure { name: "Mframes/s", digits: 2 },
    Figure { name: "copies %", digits: 0 },
    Figure { name: "generator waited %", digits: 0 },
    Figure { name: "lost", digits: 0 },
];
const SETTLE: Duration = Duration::from_millis(100);
const CAPTURED: &str = "sv3, to a file";

/// A pair alone, captured, mirrored.
pub fn capture<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let mirror = "ovs-vsctl -- --id=@from get port v0 -- --id=@to get port v2 -- --id=@mirror create mirror name=m \
                  select-src-port=@from output-port=@to -- set bridge br0 mirrors=@mirror";
    let settings = vec![
        Setting::sv3("sv3, alone", 3, ""),
        Setting::sv3(CAPTURED, 3, ""),
        Setting::sv3("sv3, mirrored", 3, ""),
        Setting::ovs("OVS-DPDK, alone", Vec::new()),
        Setting::ovs("OVS-DPDK, mirrored", vec![mirror.to_string()]),
    ];
    let shape = Shape::plain(64);
    let mut contestants = enter::<R>(options, settings, 3, |_| options.plan(shape))?;
    let folder = tempfile::tempdir()?;
    let mut writer = None;
    for contestant in &contestants {
        let Some(switch) = contestant.switch() else { continue };
        match (contestant.name.as_str(), switch) {
            // Its port must be attached or declared.
            ("sv3, mirrored", _) => switch.tell("sv3 mirror add m --from v0 --direction in --to v2")?,
            (CAPTURED, Switch::Sv3(ours)) => {
                let program = ours.home().path("bin/sv3");
                writer = Some(Writer { program, control: ours.control().into(), file: folder.path().join("file") });
            }
            _ => {}
        }
    }
    let (load, conditions) = (format!("{} from a port to another", shape.words()), options.conditions());
    let case = Case { scenario: "capture", load, conditions, figures: FIGURES, entries: Vec::new() };
    let load = Load::new(options, shape);
    let case = compete(options, case, &mut contestants, |guests, subject| {
        let writer = writer.as_ref().filter(|_| subject.name == CAPTURED);
        measure(guests, subject, load, options.seconds, writer)
    })?;
    Ok(vec![case])
}

fn measure<R: Ring>(
    guests: &mut [Guest<R>],
    subject: &Subject,
    load: Load,
    seconds: f64,
    writer: Option<&Writer>,
) -> Result<Vec<f64>> {
    introduce(guests, load)?;
    let writing = writer.map(Writer::start).transpose()?;
    let from = guests.first().ok_or_else(|| Failure::new("no guest sends"))?;
    let (a, b) = load.pair;
    let stream = || Stream::new(from, Stations { ports: (a, b), count: 1 }, load.shape, load.window);
    // The second one sends nothing: copies come to its guest.
    let mut flows = [Flow { from: a, to: b, stream: stream() }, Flow { from: usize::MAX, to: 2, stream: stream() }];
    flow(guests, &mut flows, cycles_of(SETTLE));
    flows.iter_mut().for_each(|flow| flow.stream.tally = Tally::default());
    let before = run_times(&subject.processes)?;
    let pace = flow(guests, &mut flows, cycles_of(Duration::from_secs_f64(seconds)));
    let after = run_times(&subject.processes)?;
    let captured = writing.map(Writing::end).transpose()?;
    let [Flow { stream: Stream { tally, .. }, .. }, Flow { stream: copies, .. }] = flows;
    if tally.received == 0 || tally.damaged > 0 {
        return Err(Failure::new(format!("frames did not come as sent: {tally:?}")));
    }
    let ran = |(thread, time): (u32, Duration)| time.saturating_sub(before.get(&thread).copied().unwrap_or_default());
    let busiest = after.into_iter().map(ran).max().unwrap_or_default();
    let (frames, cycles) = (tally.received as f64, pace.cycles as f64);
    let share = captured.unwrap_or(copies.tally.received as f64 / frames);
    Ok(vec![
        frames / busiest.as_secs_f64() / 1e6,
        frames * per_second() / cycles / 1e6,
        100.0 * share,
        100.0 * pace.waited as f64 / cycles,
        tally.lost as f64,
    ])
}

/// `sv3 capture v0 -w FILE` of a switch.
struct Writer {
    program: PathBuf,
    control: PathBuf,
    file: PathBuf,
}

impl Writer {
    /// On the switch's processor; waits until it captures.
    fn start(&self) -> Result<Writing> {
        pin(SWITCH)?;
        let mut command = Command::new(&self.program);
        command.args(["capture", "v0", "-w"]).arg(&self.file).arg("--control").arg(&self.control);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        pin(GUESTS)?;
        let mut writing = Writing { child: child?, said: None, file: self.file.clone() };
        let mut line = String::new();
        let mut said = BufReader::new(writing.child.stderr.take().ok_or_else(|| Failure::new("no stderr"))?);
        said.read_line(&mut line)?;
        writing.said = Some(said);
        if line.contains("capturing") { Ok(writing) } else { Err(Failure::new(line)) }
    }
}

/// A capture that goes on. It ends, and its file goes, when this is dropped.
struct Writing {
    child: Child,
    said: Option<BufReader<ChildStderr>>,
    file: PathBuf,
}

impl Writing {
    /// Ends it. Returns which share of the frames is in the file.
    fn end(mut self) -> Result<f64> {
        send(self.child.id(), "INT")?;
        let mut text = String::new();
        if let Some(said) = &mut self.said {
            said.read_to_string(&mut text)?;
        }
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            [captured, lost] if captured + lost > 0.0 => Ok(captured / (captured + lost)),
            _ => Err(Failure::new(format!("the capture said {text:?}"))),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
