//! The watch as lines of a terminal's screen, for any size of it.

use std::time::Instant;

use sv3::status::Link;

use super::figures::{figure, percent};
use super::lines::reasons;
use super::watch::{Order, Port, Watch};
use crate::status::duration;

/// Least and largest width of the column of names; longer ones are cut.
const NAMES: (usize, usize) = (8, 24);
/// Least width of the last minute.
const SPARK_MIN: usize = 5;
/// Least height of a screen that shows more of the port at the cursor.
const TALL: usize = 16;
/// Lines about that port.
const ABOUT: usize = 4;

/// How the terminal can show text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// It has more characters than ASCII.
    pub has_utf8: bool,
    /// Colours are wanted.
    pub has_colour: bool,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As text.
    Plain,
    /// As a headline.
    Head,
    /// As the row at the cursor.
    Cursor,
    /// As something wrong.
    Alert,
}

/// A line of the screen, not longer than the screen is wide.
pub type Line = (Look, String);

/// Which ports are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scroll {
    cursor: usize,
    first: usize,
    /// Rows of ports on the screen.
    rows: usize,
}

impl Scroll {
    /// Moves the cursor. It stops at the first and, when it is drawn, at the last port.
    pub fn go(&mut self, by: isize) {
        self.cursor = self.cursor.saturating_add_signed(by);
    }

    /// Moves the cursor by pages.
    pub fn page(&mut self, by: isize) {
        self.go(by.saturating_mul(isize::try_from(self.rows.max(1)).unwrap_or(isize::MAX)));
    }

    /// Fits it to so many ports and rows.
    fn fit(&mut self, ports: usize, rows: usize) {
        self.rows = rows;
        self.cursor = self.cursor.min(ports.saturating_sub(1));
        let least = self.cursor.saturating_sub(rows.saturating_sub(1));
        self.first = self.first.clamp(least, self.cursor).min(ports.saturating_sub(rows));
    }
}

/// What is shown beside the watch.
pub struct Screen {
    /// How.
    pub style: Style,
    /// Where.
    pub scroll: Scroll,
    /// Why the switch gives no answer, if it does not.
    pub problem: Option<String>,
}

impl Screen {
    /// The lines for a screen of that width and height, one for each line of it.
    pub fn draw(&mut self, watch: &Watch, (width, height): (usize, usize), now: Instant) -> Vec<Line> {
        let mut lines: Vec<Line> = header(watch).into_iter().map(|line| (Look::Plain, line)).collect();
        lines.push(match (&self.problem, watch.switch()) {
            (Some(problem), Some(switch)) => {
                let ago = now.saturating_duration_since(switch.at).as_secs();
                (Look::Alert, format!("as of {} ago: {}", duration(ago), plain(problem)))
            }
            _ => (Look::Plain, String::new()),
        });
        let longest = watch.ports().iter().map(|port| port.name.len()).max().unwrap_or(0);
        let wide = longest.min(width.saturating_sub(row_width(0))).clamp(NAMES.0, NAMES.1);
        let spark = width.saturating_sub(row_width(wide) + 2);
        let [groups, names] = heads(wide);
        let minute = if spark >= SPARK_MIN { cut("  LAST MINUTE", spark + 2) } else { String::new() };
        lines.extend([(Look::Plain, groups), (Look::Head, fill(&format!("{names}{minute}"), width))]);
        let about = if height >= TALL { ABOUT } else { 0 };
        let rows = height.saturating_sub(lines.len() + about + 1);
        self.scroll.fit(watch.ports().len(), rows);
        let Scroll { cursor, first, .. } = self.scroll;
        for (at, port) in watch.ports().iter().enumerate().skip(first).take(rows) {
            let mut row = cells(port, wide);
            if spark >= SPARK_MIN {
                row = format!("{row}  {}", port.minute.row(now, spark, self.style.has_utf8));
            }
            match at == cursor {
                true => lines.push((Look::Cursor, fill(&row, width))),
                false if port.notes.is_empty() && port.rates.drops == 0.0 => lines.push((Look::Plain, row)),
                false => lines.push((Look::Alert, row)),
            }
        }
        lines.resize(height.saturating_sub(about + 1), (Look::Plain, String::new()));
        if about > 0 {
            lines.extend(watch.ports().get(cursor).map(about_port).unwrap_or_default());
            lines.resize(height.saturating_sub(1), (Look::Plain, String::new()));
        }
        lines.push((Look::Head, fill(&footer(watch, self.scroll), width)));
        lines.truncate(height);
        lines.into_iter().map(|(look, line)| (look, cut(&line, width))).collect()
    }
}

/// Three lines about the switch.
pub fn header(watch: &Watch) -> Vec<String> {
    let Some(switch) = watch.switch() else { return Vec::new() };
    let (supervisor, worker) = (&switch.supervisor, &switch.worker);
    let pid = worker.pid.map_or("starting".to_string(), |pid| format!("pid {pid}, up {}", duration(worker.uptime_s)));
    let cpu = switch.cpu.map_or(String::new(), |share| format!(", {} of a processor", percent(share)));
    let standby = worker.standby_pid.map_or("starting".to_string(), |pid| format!("pid {pid}"));
    let last = worker.last_death.as_ref().map_or(String::new(), |death| format!(", the last one: {}", plain(death)));
    let sum = |of: fn(&Port) -> f64| figure(watch.ports().iter().map(of).sum());
    let up = watch.ports().iter().filter(|port| matches!(port.link, Link::Up)).count();
    vec![
        format!(
            "worker {pid}{cpu}; standby {standby}; switch pid {}, up {}",
            supervisor.pid,
            duration(supervisor.uptime_s)
        ),
        format!("restarts {}{last}", worker.restarts),
        format!(
            "ports {}, {up} up; {} frames/s, {} bit/s from guests; {} frames/s, {} bit/s to guests; {} drops/s",
            watch.ports().len(),
            sum(|port| port.rates.from_frames),
            sum(|port| port.rates.from_bits),
            sum(|port| port.rates.to_frames),
            sum(|port| port.rates.to_bits),
            sum(|port| port.rates.drops),
        ),
    ]
}

/// Headlines over [`cells`], with names so wide.
pub fn heads(names: usize) -> [String; 2] {
    [
        format!("{:names$}        {:>14} {:>14} {:>7} {:>13}", "", "FROM GUEST", "TO GUEST", "", "TIME PAUSED"),
        format!(
            "{:names$}  {:5} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6}",
            "PORT", "LINK", "FRAME/S", "BIT/S", "FRAME/S", "BIT/S", "DROPS/S", "OWN", "OTHERS", "DEATHS"
        ),
    ]
}

fn row_width(names: usize) -> usize {
    heads(names)[1].chars().count()
}

/// The row of a port, but for its end.
pub fn cells(port: &Port, names: usize) -> String {
    let link = match port.link {
        Link::Up => "up",
        Link::Starting => "start",
        Link::Down => "down",
    };
    let rates = &port.rates;
    format!(
        "{:names$}  {link:5} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6}",
        cut(&plain(&port.name), names),
        figure(rates.from_frames),
        figure(rates.from_bits),
        figure(rates.to_frames),
        figure(rates.to_bits),
        figure(rates.drops),
        percent(rates.paused),
        percent(rates.paused_others),
        port.deaths
    )
}

fn about_port(port: &Port) -> Vec<Line> {
    let mut lines = vec![
        (Look::Head, format!("{}, slot {}", plain(&port.name), port.slot)),
        (Look::Plain, format!("  drops: {}", reasons(port))),
    ];
    lines.extend(port.notes.iter().map(|note| (Look::Alert, format!("  {}", plain(note)))).take(ABOUT - 2));
    lines
}

fn footer(watch: &Watch, scroll: Scroll) -> String {
    let turned = if watch.is_reversed() { ", reversed" } else { "" };
    let seen = match watch.ports().len() {
        0 => "no ports".to_string(),
        count => format!("{} of {count}", scroll.cursor + 1),
    };
    let keys: Vec<String> = Order::ALL.iter().map(|order| format!("{} {}", order.key(), order.name())).collect();
    format!("{seen}, by {}{turned} | q quit  r reverse  {}", watch.order().name(), keys.join("  "))
}

/// Text of a switch as ASCII: one character is one column, and none is missing in the terminal's font.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// The first so many characters.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// Blanks behind it up to that width.
fn fill(text: &str, width: usize) -> String {
    format!("{text:width$}")
}

#[cfg(test)]
mod tests {
    use super::super::lines::table;
    use super::super::watch::tests::look;
    use super::*;

    const ASCII: Style = Style { has_utf8: false, has_colour: false };

    fn watch() -> Watch {
        let start = Instant::now();
        let mut watch = Watch::new(Order::Traffic);
        watch.update(look(start, 0, |_| ()));
        watch.update(look(start, 1, |status| {
            status["ports"][0]["from_guest"] =
                serde_json::json!({ "frames": 1_000_000_000u64, "bytes": 64_000_000_000u64 });
            status["ports"][0]["drops"] = serde_json::json!({ "no_rx_buffers": 12, "x\u{1b}[2J\u{9b}é": 1 });
            status["ports"][0]["hint"] = "look \u{1b}]0;here".into();
        }));
        watch
    }

    fn screen() -> Screen {
        Screen { style: ASCII, scroll: Scroll::default(), problem: None }
    }

    #[test]
    fn it_fits_any_screen() {
        let (watch, now) = (watch(), Instant::now());
        for height in 0..40 {
            for width in [0, 1, 5, 20, 79, 80, 81, 120, 500] {
                let mut screen = screen();
                screen.problem = Some("gone".to_string());
                let lines = screen.draw(&watch, (width, height), now);
                assert_eq!(lines.len(), height, "{width} x {height}");
                assert!(lines.iter().all(|(_, line)| line.chars().count() <= width), "{width} x {height}: {lines:#?}");
            }
        }
        let mut huge = screen();
        assert_eq!(huge.draw(&watch, (1000, 1000), now).len(), 1000);
    }

    #[test]
    fn people_see_rates_reasons_and_what_is_wrong() {
        let (watch, now) = (watch(), Instant::now());
        let lines = screen().draw(&watch, (100, 24), now);
        let text: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        let text = text.join("\n");
        for shown in [
            "restarts 1, the last one: killed by SIGBUS",
            "PORT",
            "LAST MINUTE",
            "p0",
            "nic-0000-02-00.1",
            "no_rx_buffers 12 (",
            "q quit",
        ] {
            assert!(text.contains(shown), "{shown}\n{text}");
        }
        assert!(text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{text}");
        assert!(text.contains("look ?]0;here") && text.contains("x?[2J?? 1"), "{text}");
        let lines = table(&watch);
        assert!(lines.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{lines}");
        assert!(lines.contains("no_rx_buffers 12 (") && lines.ends_with("\n\n"), "{lines}");
        let named = lines
            .lines()
            .filter(|line| ["p0 ", "host ", "nic-0000-02-00.1 "].iter().any(|name| line.starts_with(name)));
        assert_eq!(named.count(), 3, "{lines}");
    }

    #[test]
    fn the_cursor_stays_on_the_screen() {
        let mut scroll = Scroll::default();
        scroll.go(-1);
        scroll.fit(100, 10);
        assert_eq!((scroll.cursor, scroll.first), (0, 0));
        scroll.page(1);
        scroll.fit(100, 10);
        assert_eq!((scroll.cursor, scroll.first), (10, 1));
        scroll.go(isize::MAX);
        scroll.fit(100, 10);
        assert_eq!((scroll.cursor, scroll.first), (99, 90));
        scroll.fit(5, 10);
        assert_eq!((scroll.cursor, scroll.first), (4, 0));
        scroll.fit(0, 0);
        assert_eq!((scroll.cursor, scroll.first), (0, 0));
        scroll.go(isize::MIN);
        scroll.fit(100, 0);
        assert_eq!((scroll.cursor, scroll.first), (0, 0));
    }
}
