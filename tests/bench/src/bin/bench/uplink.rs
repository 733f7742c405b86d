//! Taps: two networks joined by sv3 beside a bare relay, and a software guest on a tap beside the tap alone.
//!
//! Neither the switch nor the kernel's side is bound to a processor: on a host they are not, and a tap's work is done
//! by whoever makes the call.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};

use crate::link::Link;
use crate::options::Options;
use crate::place;
use crate::report::{Case, Figure};
use crate::tap_ceiling;
use crate::turns::{Effort, Player, by_turns};

const TCP: &[Figure] = &[Figure { name: "Gbit/s", digits: 2 }, Figure { name: "CPU ns/KiB", digits: 1 }];
const REQUESTS: &[Figure] = &[Figure { name: "requests/s", digits: 0 }, Figure { name: "CPU us/request", digits: 2 }];
const SMALL: &[Figure] = &[Figure { name: "kframes/s", digits: 0 }, Figure { name: "CPU ns/frame", digits: 0 }];
const IDLE: &[Figure] = &[Figure { name: "processor %", digits: 2 }];

/// Programs that measure run in whole seconds.
const LEAST: f64 = 2.0;

/// All of them.
pub fn uplink(options: &Options) -> Result<Vec<Case>> {
    place::everywhere()?;
    let cases = measure(options);
    place::pin(place::SWITCH)?;
    cases
}

fn measure(options: &Options) -> Result<Vec<Case>> {
    let links = [Link::sv3()?, Link::bare()?];
    let seconds = options.seconds.max(LEAST);
    let mut cases = vec![
        each(options, "TCP between two networks", TCP, &links, |link| {
            let (rate, cpu) = with_effort(link, || link.tcp(seconds))?;
            Ok(vec![rate / 1e9, cpu * 1e9 / (rate / 8192.0)])
        })?,
        each(options, "TCP_RR between two networks", REQUESTS, &links, |link| {
            let (rate, cpu) = with_effort(link, || link.requests(seconds))?;
            Ok(vec![rate, cpu * 1e6 / rate])
        })?,
        each(options, "64 B from one network to another", SMALL, &links, |link| small_frames(link, options.seconds))?,
    ];
    let [ours, _] = &links;
    cases.push(each(
        options,
        "a link between two networks that do nothing",
        IDLE,
        std::slice::from_ref(ours),
        |link| {
            std::thread::sleep(Duration::from_secs(1));
            let threads = link.threads()?;
            let effort = Effort::of(&threads)?;
            std::thread::sleep(Duration::from_secs(1));
            let (ran, seconds) = effort.so_far(&threads)?;
            Ok(vec![100.0 * ran / seconds])
        },
    )?);
    drop(links);
    cases.extend(tap_ceiling::cases(options)?);
    Ok(cases)
}

fn each<'a>(
    options: &Options,
    load: &str,
    figures: &'static [Figure],
    links: &'a [Link],
    measure: impl Fn(&Link) -> Result<Vec<f64>> + 'a + Copy,
) -> Result<Case> {
    let case = case_of(load, figures);
    let players = links.iter().map(|link| Player::new(link.name, move || measure(link))).collect();
    by_turns(options, case, players)
}

/// An empty case of this scenario.
pub fn case_of(load: &str, figures: &'static [Figure]) -> Case {
    let conditions = "anywhere".to_string();
    Case { scenario: "uplink", load: load.to_string(), conditions, figures, entries: Vec::new() }
}

/// What a load reaches, and the processors that the link's own threads had meanwhile.
fn with_effort(link: &Link, load: impl FnOnce() -> Result<f64>) -> Result<(f64, f64)> {
    let threads = link.threads()?;
    let effort = Effort::of(&threads)?;
    let reached = load()?;
    let (ran, seconds) = effort.so_far(&threads)?;
    Ok((reached, ran / seconds))
}

/// More frames than the link can move; those that come count.
fn small_frames(link: &Link, seconds: f64) -> Result<Vec<f64>> {
    let (socket, frame) = link.flood(60)?;
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            while !over.load(Relaxed) {
                socket.send_batch(&frame)?;
            }
            Ok(())
        });
        let measured = || {
            // Until all is warm.
            std::thread::sleep(Duration::from_millis(100));
            let threads = link.threads()?;
            let (effort, begin, before) = (Effort::of(&threads)?, Instant::now(), link.came()?);
            std::thread::sleep(Duration::from_secs_f64(seconds));
            let (frames, time) = ((link.came()? - before) as f64, begin.elapsed().as_secs_f64());
            let (ran, _) = effort.so_far(&threads)?;
            Ok(vec![frames / time / 1e3, ran * 1e9 / frames.max(1.0)])
        };
        let figures = measured();
        over.store(true, Relaxed);
        sender.join().unwrap_or_else(|_| Err(Failure::new("the sender panicked")))?;
        figures
    })
}
