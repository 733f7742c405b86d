//! `sv3 top`: live rates of the ports, on a terminal's screen or as lines.
//!
//! # Theory of operation
//!
//! A thread asks the switch ([`ask`]): an answer may take long, and keys and signals must not wait for it. [`watch`]
//! makes rates of two answers, [`screen`] makes lines of text of the rates and of the size of the terminal, and
//! [`terminal`] alone knows escape sequences and modes. Nothing that the switch says reaches the terminal as it is:
//! strings are escaped when they arrive ([`crate::output::harmless`]), and [`screen`] shows ASCII of them alone.
//!
//! The terminal must be as before at any end. Signals are blocked and read from a signalfd in the same loop as keys,
//! so no end comes between two steps. A panic aborts the process, so a hook restores the terminal before.

mod ask;
mod figures;
mod keys;
mod lines;
mod screen;
mod spark;
mod terminal;
mod watch;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;

use crate::control::Control;
use crate::output::{harmless_words, print};
use ask::{Asker, Look};
use keys::{Key, Keys};
use screen::{Screen, Scroll};
use terminal::{Terminal, Woken};
use watch::{Order, Watch};

/// Show live rates, drops, pauses and deaths by port; `q` ends it.
///
/// If stdin or stdout is no terminal, it prints lines instead. See docs/use/top.md.
#[derive(Args)]
pub struct Top {
    #[command(flatten)]
    control: Control,
    /// Time between two looks in seconds, 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one table, of the rates in one interval, and end
    #[arg(long)]
    once: bool,
    /// What the ports are sorted by
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = Order::Traffic)]
    sort: Order,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "an interval has 0.1 to 60 seconds".to_string())
}

impl Top {
    /// Watches until the end.
    pub fn exec(&self) -> Result<(), String> {
        // Who names a socket where no switch runs is told at once. Later the switch may go and come back.
        let first = ask::look(&self.control, None)?;
        let watch = Watch::new(self.sort);
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        match std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !is_dumb && !self.once {
            true => self.on_screen(watch, first),
            false => self.in_lines(watch, first),
        }
    }

    /// Prints a table for each interval.
    fn in_lines(&self, mut watch: Watch, first: Look) -> Result<(), String> {
        let mut last = watch.update(first);
        let mut missed = false;
        loop {
            std::thread::sleep(self.interval);
            match ask::look(&self.control, last) {
                Ok(look) => {
                    last = watch.update(look);
                    missed = false;
                    print(&lines::table(&watch))?;
                }
                Err(problem) if self.once => return Err(problem),
                Err(problem) if !missed => {
                    (missed, last) = (true, None);
                    print(&format!("{}\n\n", harmless_words(&problem)))?;
                }
                Err(_) => {}
            }
            if self.once || lines::nobody_reads() {
                return Ok(());
            }
        }
    }

    fn on_screen(&self, mut watch: Watch, first: Look) -> Result<(), String> {
        let last = watch.update(first);
        let mut terminal = Terminal::enter()?;
        let asker = Asker::start(self.control.clone(), self.interval, last)?;
        let mut screen = Screen { style: terminal::style(), scroll: Scroll::default(), problem: None };
        let mut keys = Keys::default();
        loop {
            let drawn = screen.draw(&watch, terminal.size(), Instant::now());
            if terminal.show(&drawn, screen.style).is_err() {
                // Nobody looks: the window was closed.
                return Ok(());
            }
            match terminal.wait(asker.bell())? {
                Woken::Signal(Signal::SIGTSTP) => terminal.pause()?,
                Woken::Signal(Signal::SIGWINCH) => {}
                Woken::Signal(Signal::SIGCONT) => terminal.again()?,
                Woken::Signal(signal) => return terminal.end_by(signal),
                Woken::Keys(None) => return Ok(()),
                Woken::Keys(Some(octets)) => {
                    for key in keys.read(&octets) {
                        if key == Key::Char('q') {
                            return Ok(());
                        }
                        act(key, &mut watch, &mut screen.scroll);
                    }
                }
                Woken::Bell => {
                    for news in asker.news() {
                        screen.problem = news.as_ref().err().cloned();
                        if let Ok(look) = news {
                            watch.update(look);
                        }
                    }
                }
            }
        }
    }
}

fn act(key: Key, watch: &mut Watch, scroll: &mut Scroll) {
    let by = |letter: char| Order::ALL.into_iter().find(|order| order.key() == letter);
    match key {
        Key::Up | Key::Char('k') => scroll.go(-1),
        Key::Down | Key::Char('j') => scroll.go(1),
        Key::PageUp => scroll.page(-1),
        Key::PageDown | Key::Char(' ') => scroll.page(1),
        Key::Home => scroll.go(isize::MIN),
        Key::End => scroll.go(isize::MAX),
        Key::Left => watch.sort(watch.order().step(-1)),
        Key::Right => watch.sort(watch.order().step(1)),
        Key::Char('r') => watch.reverse(),
        Key::Char(letter) => {
            if let Some(order) = by(letter) {
                watch.sort(order);
            }
        }
    }
}
