//! `scripts/two-hosts`: guests of two hosts are one segment, by sv3's uplinks, VXLAN and EVPN, and one of them moves.
//!
//! A host is a network namespace with all that a host has ([`host`]): sv3, whose uplink is a tap on the kernel's bridge,
//! a VXLAN device on the same bridge, and FRR. A guest is a kernel behind a front-end in software ([`station`]). All of
//! it belongs to this program and ends with it, however it ends.

mod front;
mod host;
mod report;
mod router;
mod station;
mod traffic;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use host::Host;
use report::Report;
use serde_json::json;
use station::Station;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::vm::Vm;
use traffic::{Gap, carried, gap_during};

const USAGE: &str = "usage: two-hosts [--rounds N] [--qemu] [--json]
  --rounds  how often a guest speaks first, and moves there and back; 3 unless told
  --qemu    also lets a QEMU guest on each host talk with the other
  --json    one JSON object instead of lines";

const PINGS: u32 = 20;
/// How long TCP runs to be measured.
const STREAM: Duration = Duration::from_secs(3);
/// The same between QEMU guests, in seconds.
const SECONDS: u32 = 5;
/// In what time a host must know what the other has heard, and forget what is gone. The kernel alone may take 1 s to
/// tell of a carrier that changed.
const SPREAD: Duration = Duration::from_secs(2);
/// How long TCP may stand still. After a lost frame it waits for a timer: 200 ms, then 400 ms.
const STANDSTILL: Duration = Duration::from_secs(1);
/// A frame of at least so many octets was not cut on its way.
const WHOLE: f64 = 9_000.0;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: u8,
    qemu: bool,
    json: bool,
}

impl Options {
    fn parse() -> Result<Options> {
        let mut options = Options { rounds: 3, qemu: false, json: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--qemu" => options.qemu = true,
                "--json" => options.json = true,
                "--rounds" => {
                    let value = arguments.next().and_then(|value| value.parse().ok());
                    let rounds = value.filter(|rounds| (1..=50).contains(rounds));
                    options.rounds = rounds.ok_or_else(|| Failure::new(format!("--rounds: 1 to 50\n{USAGE}")))?;
                }
                other => return Err(Failure::new(format!("what is {other}?\n{USAGE}"))),
            }
        }
        Ok(options)
    }
}

fn run() -> Result<bool> {
    let options = Options::parse()?;
    let began = Instant::now();
    let say = |text: &str| eprintln!("[{:6} ms] {text}", began.elapsed().as_millis());
    let hosts = Host::pair()?;
    say("two hosts: sv3, bridge, VXLAN, FRR");
    for host in &hosts {
        host.attach()?;
        host.await_peer()?;
    }
    say("FRR of the hosts talk with each other");
    let mut report = Report::default();
    measure(&hosts, &options, say, &mut report)?;
    if options.qemu {
        say("two QEMU guests boot, one on each host");
        qemu(&hosts, &mut report)?;
    }
    match options.json {
        true => println!("{}", report.json()),
        false => print!("\n{}", report.text()),
    }
    if !options.json {
        println!("\n{}", if report.kept() { "The hosts are one segment." } else { "A promise is broken." });
    }
    Ok(report.kept())
}

fn measure(hosts: &[Host; 2], options: &Options, say: impl Fn(&str), report: &mut Report) -> Result<()> {
    let [one, two] = hosts;
    let [near, mobile] = [Station::plug(1, one)?, Station::plug(2, one)?];
    let far = Station::plug(3, two)?;
    say("guests 1 and 2 on host 1, guest 3 on host 2");

    let answered = near.ping(&far, PINGS)?;
    let text = format!("{answered} of {PINGS} from guest 1 to guest 3");
    report.add("pings_answered", text, json!({ "sent": PINGS, "answered": answered }), answered == PINGS);
    let tcp = carried(&near, &far, STREAM)?;
    let text =
        format!("{:.2} Gbit/s both ways together, {:.0} octets a frame", tcp.bits_per_second / 1e9, tcp.octets_a_frame);
    let figures =
        json!({ "bits_per_second": tcp.bits_per_second.round(), "octets_a_frame": tcp.octets_a_frame.round() });
    report.add("tcp_whole", text, figures, tcp.octets_a_frame >= WHOLE);

    let rounds = options.rounds;
    say("new guests of host 1 speak for the first time");
    report.add_times("advertised_after", first_words(hosts, rounds, 100, Station::speak), SPREAD);
    let whispered = first_words(hosts, rounds, 150, |guest| guest.whisper(&near));
    report.add_times("advertised_when_quiet", whispered, SPREAD);

    say("guest 2 moves between the hosts while it talks with guest 1, then with guest 3");
    let gaps = moves(hosts, &near, &mobile, rounds);
    report.add_gaps(["move_seen_from_host_1", "tcp_from_host_1"], &gaps, STANDSTILL);
    let gaps = moves(hosts, &far, &mobile, rounds);
    report.add_gaps(["move_seen_from_host_2", "tcp_from_host_2"], &gaps, STANDSTILL);

    say("the worker of host 1 is killed while guests 1 and 3 talk");
    let gaps = (0..rounds).map(|_| gap_during(&near, &far, || one.switch().kill_worker("KILL"))).collect();
    report.add_gaps(["worker_death", "tcp_at_worker_death"], &gaps, STANDSTILL);

    say("the uplink of host 1 is detached, and attached anew");
    let quiet = Station::plug(4, one)?;
    quiet.whisper(&near)?;
    let (mut forgotten, mut back) = (Vec::new(), Vec::new());
    let away = (0..rounds).try_for_each(|_| {
        let times = away(hosts, [&near, &far, &quiet])?;
        forgotten.push(times[0]);
        back.push(times[1]);
        Ok(())
    });
    report.add_times("forgotten_after_detach", away.clone().map(|()| forgotten), SPREAD);
    report.add_times("known_after_attach", away.map(|()| back), SPREAD);
    Ok(())
}

/// How long after a guest of host 1 speaks for the first time host 2 knows its address. The guests have the numbers
/// from `first` on.
fn first_words(
    hosts: &[Host; 2],
    rounds: u8,
    first: u8,
    speak: impl Fn(&Station) -> Result<()>,
) -> Result<Vec<Duration>> {
    let [one, two] = hosts;
    let times = (0..rounds).map(|round| {
        let guest = Station::plug(first + round, one)?;
        if two.knows(&guest.mac())? {
            return Err(Failure::new("host 2 knows a guest that has not spoken"));
        }
        speak(&guest)?;
        two.await_known(&guest.mac(), true)
    });
    times.collect()
}

/// What a peer notices when a guest moves from host 1 to host 2. The guest moves back in between.
fn moves(hosts: &[Host; 2], peer: &Station, guest: &Station, rounds: u8) -> Result<Vec<Gap>> {
    let [one, two] = hosts;
    let gaps = (0..rounds).map(|_| {
        let gap = gap_during(peer, guest, || guest.move_to(two))?;
        // A guest that moves on before both hosts know where it is can be at both for them, until it speaks again.
        one.await_known(&guest.mac(), true)?;
        guest.move_to(one)?;
        two.await_known(&guest.mac(), true)?;
        Ok(gap)
    });
    gaps.collect()
}

/// How long after host 1's uplink is detached host 2 forgets a guest of host 1, and how long after it is attached anew
/// host 2 knows the guest again, though that says nothing. A TCP connection of two others survives this.
fn away(hosts: &[Host; 2], guests: [&Station; 3]) -> Result<[Duration; 2]> {
    let [one, two] = hosts;
    let [near, far, quiet] = guests;
    let mut times = [Duration::ZERO; 2];
    two.await_known(&quiet.mac(), true)?;
    gap_during(far, near, || {
        one.detach()?;
        times[0] = two.await_known(&quiet.mac(), false)?;
        one.attach()?;
        times[1] = two.await_known(&quiet.mac(), true)?;
        Ok(())
    })?;
    Ok(times)
}

/// A QEMU guest on each host: they ping and stream.
fn qemu(hosts: &[Host; 2], report: &mut Report) -> Result<()> {
    let [one, two] = hosts;
    let (first, second) = (Vm::number(1).start(one.switch().socket())?, Vm::number(2).start(two.switch().socket())?);
    let (mut first, mut second) = (first.booted()?, second.booted()?);
    let ping = first.ping(&second.address(), PINGS)?;
    let text = format!("{} of {} between QEMU guests", ping.answered, ping.sent);
    report.add("qemu_pings_answered", text, json!({ "sent": ping.sent, "answered": ping.answered }), ping.lost() == 0);
    second.serve_iperf3()?;
    let stream = first.iperf3(&second.address(), SECONDS, "")?;
    let text = format!("{:.2} Gbit/s between QEMU guests", stream.bits_per_second / 1e9);
    let figures = json!({ "bits_per_second": stream.bits_per_second.round() });
    report.add("qemu_tcp", text, figures, stream.bits_per_second > 0.0 && stream.stalled_seconds() == 0);
    Ok(())
}
