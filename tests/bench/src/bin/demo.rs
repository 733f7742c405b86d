//! `scripts/demo`: two guests ping, stream, and fetch pages of the host through sv3 while its worker is killed again and
//! again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::switch::Switch;
use sv3_tests::uplink::{Uplink, serve};
use sv3_tests::vm::{Ping, Stream, Vm, has_kvm};

/// How the worker is killed, one after the other: by hand and as its own faults would.
const DEATHS: [&str; 5] = ["KILL", "SEGV", "BUS", "ABRT", "KILL"];
/// Seconds of the TCP streams.
const CALM: u32 = 10;
const STORM: u32 = 12;
/// Pages that a guest fetches meanwhile.
const PAGES: u32 = 30;

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            println!("The demo could not go on: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What the guests saw while workers died.
struct Seen {
    ping: Ping,
    stream: Stream,
    restarts: u64,
    /// Of both guests, before and after.
    carrier_changes: [(u32, u32); 2],
    /// After the last death.
    afterwards: Ping,
    /// Pages of the host that guest 2 got by slirp4netns.
    pages: u32,
}

fn demo() -> Result<bool> {
    let began = Instant::now();
    let say = |text: &str| println!("[{:3} s] {text}", began.elapsed().as_secs());

    let switch = Switch::start()?;
    let status = switch.status()?;
    let worker = status.worker.pid.unwrap_or_default();
    say(&format!("sv3 runs without privileges: supervisor {}, worker {worker}", status.supervisor.pid));

    let how = if has_kvm() { "with KVM" } else { "emulated, as there is no KVM: give them half a minute" };
    say(&format!("two QEMU guests boot ({how})"));
    let (first, second) = (Vm::number(1).start(switch.socket())?, Vm::number(2).start(switch.socket())?);
    let (mut first, mut second) = (first.booted()?, second.booted()?);

    let there = first.ping(&second.address(), 20)?;
    let back = second.ping(&first.address(), 20)?;
    say(&format!("guest 1 pings guest 2: {} of {} answered", there.answered, there.sent));
    say(&format!("guest 2 pings guest 1: {} of {} answered", back.answered, back.sent));
    second.serve_iperf3()?;
    let calm = first.iperf3(&second.address(), CALM, "")?;
    say(&format!("TCP from guest 1 to guest 2: {}", rate(&calm)));
    let reverse = first.iperf3(&second.address(), CALM, "-R")?;
    say(&format!("TCP from guest 2 to guest 1: {}", rate(&reverse)));

    let _uplink = Uplink::start(&switch, "slirp", "slirp4netns", &[])?;
    let (one, two) = (first.lease()?, second.lease()?);
    say(&format!("slirp4netns leases {one} to guest 1 and {two} to guest 2, without root"));
    // slirp4netns leads to this host's loopback by this address.
    let url = format!("http://10.0.2.2:{}/", serve("a page of the host\n")?);

    say("now the worker is killed five times, while guest 1 streams, and guest 2 pings and fetches pages of the host");
    let seen = storm(&switch, &mut first, &mut second, &url, say)?;
    Ok(summary(&calm, &seen))
}

fn storm(switch: &Switch, first: &mut Vm, second: &mut Vm, url: &str, say: impl Fn(&str)) -> Result<Seen> {
    let before = (first.carrier_changes()?, second.carrier_changes()?);
    let pings = STORM * 10;
    let stream = first.start_iperf3(&second.address(), STORM, "")?;
    let ping = second.start_ping(&first.address(), pings)?;
    let fetching = second.start_fetching(url, PAGES)?;
    for signal in DEATHS {
        std::thread::sleep(Duration::from_millis(1800));
        let old = switch.worker_pid()?;
        let killed = Instant::now();
        switch.kill_worker(signal)?;
        let took = killed.elapsed().as_millis();
        say(&format!("kill -{signal} {old}: worker {} serves after {took} ms", switch.worker_pid()?));
    }
    let stream = first.finish_iperf3(stream, STORM)?;
    let ping = second.finish_ping(ping, pings)?;
    let pages = second.finish_fetching(fetching, PAGES)?;
    let afterwards = first.ping(&second.address(), 20)?;
    Ok(Seen {
        ping,
        stream,
        restarts: switch.status()?.worker.restarts,
        carrier_changes: [(before.0, first.carrier_changes()?), (before.1, second.carrier_changes()?)],
        afterwards,
        pages,
    })
}

/// Prints what happened; whether sv3 kept its promise.
fn summary(calm: &Stream, seen: &Seen) -> bool {
    let Seen { ping, stream, restarts, carrier_changes, afterwards, pages } = seen;
    let links = carrier_changes.iter().all(|(before, after)| before == after);
    let restarted = usize::try_from(*restarts) == Ok(DEATHS.len());
    let flows = stream.bits_per_second > 0.0 && stream.stalled_seconds() <= 1;
    let answered = ping.longest_gap <= 5 && afterwards.lost() == 0;
    let [(first_before, first_after), (second_before, second_after)] = carrier_changes;

    println!();
    println!("worker restarts       {restarts} of {} deaths{}", DEATHS.len(), verdict(restarted));
    println!(
        "carrier changes       guest 1: {first_before} before, {first_after} after; \
         guest 2: {second_before} before, {second_after} after{}",
        verdict(links)
    );
    println!("TCP                   {} calm, {} while workers died{}", rate(calm), rate(stream), verdict(flows));
    println!(
        "pings lost            {} of {} while workers died, {} of {} afterwards{}",
        ping.lost(),
        ping.sent,
        afterwards.lost(),
        afterwards.sent,
        verdict(answered)
    );
    let fetched = *pages == PAGES;
    println!("pages of the host     {pages} of {PAGES} fetched while workers died{}", verdict(fetched));
    println!();
    let kept = links && restarted && flows && answered && fetched;
    println!("{}", if kept { "The guests did not notice." } else { "The guests noticed: sv3 broke its promise." });
    kept
}

fn rate(stream: &Stream) -> String {
    format!("{:.0} Mbit/s", stream.bits_per_second / 1e6)
}

fn verdict(good: bool) -> &'static str {
    if good { "" } else { "   <-- broken" }
}
