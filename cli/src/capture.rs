//! `sv3 capture`: shows or writes the frames that pass ports of the switch.
//!
//! The switch's worker copies frames into memory that it shares with this process ([`sv3::capture`]). This process reads
//! them, applies the expression, and writes what it lets pass. So whatever a frame or an expression does to a decoder
//! happens here, with the rights of who asked.

mod filter;
mod line;
mod pcapng;
mod rings;
mod session;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use sv3::capture::{CaptureRequest, Record, SNAPLEN_MAX};
use sv3::status::Status;

use crate::control::Control;
use crate::output::{complain, print};
use crate::uplink::watch::Signals;
use filter::Filter;
use rings::Rings;
use session::Session;

/// With an expression, at least so many octets of each frame are looked at.
const FILTERED_LEN: u32 = 512;
/// Frames between two looks at signals and at the switch.
const LOOK: usize = 256;
/// How long this process sleeps at least and at most when there is no frame.
const SLEEP: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(8));
/// How long it reads on when it is told to end.
const LAST: Duration = Duration::from_millis(500);

/// Show the frames that pass ports, or write them for tcpdump and Wireshark.
///
/// Frames are written as pcapng: each port is an interface, each frame tells its direction (in: from the port), why it was
/// dropped if it was, and its offloads. Live: `sv3 capture web | tcpdump -r -`. See docs/use/capture.md.
#[derive(Args)]
pub struct Capture {
    /// Names of ports [default: all], then an expression in tcpdump's language
    #[arg(value_name = "PORT|EXPRESSION")]
    words: Vec<String>,
    /// The expression, if its first word is also the name of a port
    #[arg(last = true, value_name = "EXPRESSION")]
    expression: Vec<String>,
    /// Write to this file; `-` is stdout [default: stdout, and a line a frame if that is a terminal]
    #[arg(short = 'w', long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Octets of each frame that are kept
    #[arg(long, default_value_t = SNAPLEN_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(SNAPLEN_MAX)))]
    snaplen: u32,
    /// End after so many frames
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    control: Control,
}

/// Where frames go.
enum Sink {
    Lines,
    Pcapng(Box<pcapng::Writer<BufWriter<Box<dyn Write>>>>),
}

/// What was seen.
#[derive(Default)]
struct Seen {
    /// Frames that the expression let pass.
    passed: u64,
    /// Frames that were read, by interface.
    read: BTreeMap<usize, u64>,
}

impl Capture {
    /// Captures until there are enough frames, a signal comes, or the reader of the output is gone.
    pub fn exec(&self) -> Result<(), String> {
        let (_, status) = self.control.running()?;
        let (ports, expression) = self.divide(&status)?;
        let filter = Filter::compile(&expression)?;
        let signals = Signals::block()?;
        let rings = Rings::create(status.worker.threads.into())?;
        let least = if expression.is_empty() { 0 } else { FILTERED_LEN };
        let request = CaptureRequest { snaplen: self.snaplen.max(least), ports };
        let (readers, clock) = (rings.readers(), rings.clock());
        let session = Session::open(&self.control, request, &rings)?;
        let sink = self.sink()?;
        if !matches!(sink, Sink::Lines) {
            complain("capturing; Ctrl-C ends it");
        }
        let mut reading = Reading { capture: self, filter, signals, session, sink, seen: Seen::default() };
        let (lost, broken) = reading.run(readers, clock)?;
        let passed = reading.seen.passed;
        complain(&format!("{passed} frames captured, {lost} lost because they were not read in time"));
        match broken {
            0 => Ok(()),
            _ => Err(format!("a worker wrote nonsense {broken} times, and what it wrote was passed over")),
        }
    }

    /// The ports and the expression.
    fn divide(&self, status: &Status) -> Result<(Vec<String>, String), String> {
        let is_port = |word: &&String| status.port(word).is_some();
        let ports: Vec<String> = self.words.iter().take_while(is_port).cloned().collect();
        let rest: Vec<String> = self.words.iter().skip(ports.len()).cloned().collect();
        match (rest.first(), self.expression.is_empty()) {
            (Some(word), false) => Err(format!("no port is named {word}; `sv3 status` lists all ports")),
            (None, false) => Ok((ports, self.expression.join(" "))),
            (_, true) => Ok((ports, rest.join(" "))),
        }
    }

    fn sink(&self) -> Result<Sink, String> {
        let stdout = io::stdout();
        let out: Box<dyn Write> = match &self.write {
            None if stdout.is_terminal() => return Ok(Sink::Lines),
            Some(path) if path.as_os_str() != "-" => {
                Box::new(File::create(path).map_err(|error| format!("{}: {error}", path.display()))?)
            }
            Some(_) if stdout.is_terminal() => {
                return Err(
                    "a capture would confuse the terminal: name a file, or pipe it (`| tcpdump -r -`)".to_string()
                );
            }
            _ => Box::new(stdout.lock()),
        };
        let writer = pcapng::Writer::new(BufWriter::with_capacity(1 << 20, out), self.snaplen);
        writer.map(|writer| Sink::Pcapng(Box::new(writer))).map_err(|error| format!("cannot write: {error}"))
    }
}

/// A capture under way.
struct Reading<'c> {
    capture: &'c Capture,
    filter: Filter,
    signals: Signals,
    session: Session<'c>,
    sink: Sink,
    seen: Seen,
}

/// Why no more is read.
enum End {
    /// There are enough frames, or nobody wants more.
    Enough,
    Failed(String),
}

impl Reading<'_> {
    /// Reads until the end. Returns how many frames were lost, and how often a ring made no sense.
    fn run(&mut self, mut readers: rings::Readers<'_>, clock: rings::Clock) -> Result<(u64, u64), String> {
        let mut sleep = SLEEP.0;
        let mut until: Option<Instant> = None;
        let end = loop {
            match self.read_some(&mut readers, clock) {
                Err(end) => break end,
                Ok(0) if until.is_some() => break End::Enough,
                Ok(0) => match self.signals.pause(sleep, None) {
                    Ok(true) => sleep = (sleep * 2).min(SLEEP.1),
                    Ok(false) => {}
                    Err(why) => break End::Failed(why),
                },
                Ok(_) => sleep = SLEEP.0,
            }
            if until.is_none() && (self.signals.told() || !self.session.goes_on()?) {
                until = Some(Instant::now() + LAST);
            }
            if until.is_some_and(|until| Instant::now() > until) {
                break End::Enough;
            }
        };
        let (lost, broken) = (readers.lost(), readers.broken());
        if let Sink::Pcapng(writer) = &mut self.sink {
            let finished = writer.finish(&self.seen.read, lost, clock.now());
            if let Err(End::Failed(why)) = finished.map_err(written) {
                return Err(why);
            }
        }
        match end {
            End::Enough => Ok((lost, broken)),
            End::Failed(why) => Err(why),
        }
    }

    /// Reads what is there, at most [`LOOK`] frames. Returns how many.
    fn read_some(&mut self, readers: &mut rings::Readers<'_>, clock: rings::Clock) -> Result<usize, End> {
        let mut frame = Vec::new();
        for read in 0..LOOK {
            let Some(record) = readers.next(&mut frame) else {
                if let Sink::Pcapng(writer) = &mut self.sink {
                    writer.flush().map_err(written)?;
                }
                return Ok(read);
            };
            self.take(&record, &frame, clock)?;
        }
        Ok(LOOK)
    }

    fn take(&mut self, record: &Record, frame: &[u8], clock: rings::Clock) -> Result<(), End> {
        let (interface, name) = self.session.interface(record.slot);
        *self.seen.read.entry(interface).or_default() += 1;
        if !self.filter.passes(frame, record.len) {
            return Ok(());
        }
        let kept = frame.get(..self.capture.snaplen as usize).unwrap_or(frame);
        let time = clock.real(record.time_ns);
        match &mut self.sink {
            Sink::Lines => print(&line::of(record, kept, name, time)).map_err(End::Failed)?,
            Sink::Pcapng(writer) => writer.frame((interface, name), record, kept, time).map_err(written)?,
        }
        self.seen.passed += 1;
        match self.capture.count {
            Some(count) if self.seen.passed >= count => Err(End::Enough),
            _ => Ok(()),
        }
    }
}

/// A reader that ends (`| head`) is not an error.
fn written(error: io::Error) -> End {
    match error.kind() {
        ErrorKind::BrokenPipe => End::Enough,
        _ => End::Failed(format!("cannot write: {error}")),
    }
}
