//! What the switch reports: crashes, metrics, events.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use sv3::status::Crashes;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::hostile::client::Client;
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::{Home, Switch, send};

/// What `sv3 VERB` prints of this switch.
fn sv3(switch: &Switch, arguments: &[&str]) -> Result<String> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&[arguments, &["--control", &control]].concat())?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn crashes(switch: &Switch) -> Result<Crashes> {
    Ok(serde_json::from_str(&sv3(switch, &["crashes", "--json"])?)?)
}

/// Samples by name with labels, read line by line as strictly as the format is written.
fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let body = text.strip_suffix("# EOF\n").ok_or_else(|| Failure::new("no end"))?;
    let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
    let mut family = (String::new(), String::new());
    for line in body.lines() {
        let wrong = || Failure::new(format!("{line:?} in {text}"));
        if let Some(meta) = line.strip_prefix("# ") {
            let [keyword, name, rest] = meta.splitn(3, ' ').collect::<Vec<_>>()[..] else { return Err(wrong()) };
            match keyword {
                "TYPE" => {
                    family = (name.to_string(), rest.to_string());
                    assert!(families.insert(name.to_string(), ()).is_none(), "{name} comes twice");
                }
                "HELP" if name == family.0 => {}
                "UNIT" if name == family.0 => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => return Err(wrong()),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or_else(wrong)?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let suffix = name.strip_prefix(family.0.as_str()).ok_or_else(wrong)?;
        let allowed: &[&str] = match family.1.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            "gauge" | "stateset" => &[""],
            _ => return Err(wrong()),
        };
        assert!(allowed.contains(&suffix), "{line} in the {} {}", family.1, family.0);
        let labels = labels.strip_suffix('}').ok_or_else(wrong)?;
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (_, value) = label.split_once("=\"").ok_or_else(wrong)?;
            assert!(value.ends_with('"') && value.matches('"').count() == 1, "{line}");
        }
        assert!(samples.insert(series.to_string(), value.parse()?).is_none(), "{series} comes twice");
    }
    Ok(samples)
}

fn metrics(switch: &Switch) -> Result<BTreeMap<String, f64>> {
    parse(&sv3(switch, &["metrics"])?)
}

#[test]
fn a_crash_is_told_with_its_cause_and_its_gap() -> Result<()> {
    let switch = Switch::start()?;
    assert_eq!(sv3(&switch, &["crashes"])?, "no worker has died\n");
    let _guests = [Guest::connect(switch.socket()), Guest::connect(switch.socket())];
    let mut pids = Vec::new();
    for signal in ["SEGV", "KILL"] {
        pids.push(switch.worker_pid()?);
        switch.kill_worker(signal)?;
    }
    let crashes = crashes(&switch)?.crashes;
    let signals: Vec<_> = crashes.iter().map(|crash| crash.signal.as_deref()).collect();
    assert_eq!(signals, [Some("SIGSEGV"), Some("SIGKILL")]);
    let table = sv3(&switch, &["crashes"])?;
    for (crash, pid) in crashes.iter().zip(pids) {
        assert_eq!((crash.worker_pid, crash.ports), (Some(pid), Some(2)));
        let gap = crash.gap_us.ok_or_else(|| Failure::new("no gap"))?;
        assert!(gap > 0 && u128::from(gap) < PATIENCE.as_micros(), "{gap}");
        let row = table.lines().find(|row| row.contains(&pid.to_string())).ok_or_else(|| Failure::new("no row"))?;
        assert!(row.contains(&format!("{gap} us")) && row.ends_with(&crash.cause), "{table}");
        // Events say the same.
        let event = switch.await_event(&["\"crash\"", &format!("\"worker_pid\":{pid}")])?;
        assert_eq!(event["signal"].as_str(), crash.signal.as_deref(), "{event}");
        assert_eq!(event["uptime_ms"].as_u64(), Some(crash.uptime_ms), "{event}");
        let restart = switch.await_event(&["\"restart\"", &format!("\"before_pid\":{pid}")])?;
        assert_eq!(restart["ports"], 2, "{restart}");
        let told = restart["gap_us"].as_u64().ok_or_else(|| Failure::new("no gap in the event"))?;
        assert!(told.abs_diff(gap) < 5000, "{restart}");
    }
    Ok(())
}

#[test]
fn a_crash_in_a_guests_memory_names_the_guest() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    let victim = Guest::config().rings_at_region_end().ring_size(16).connect(switch.socket());
    let region = victim.memory().regions()[1].guest_addr;
    victim.memory().regions()[1].truncate(0);
    sender.send(&frame([0xff; 6], mac(1), b"nobody can take it"));
    let told = |crash: &&sv3::status::Crash| crash.gap_us.is_some();
    let crash = until("a crash that is over", || Ok(crashes(&switch)?.crashes.iter().find(told).cloned()))?;
    let fault = crash.fault.ok_or_else(|| Failure::new("no fault"))?;
    assert_eq!((crash.signal.as_deref(), fault.port.as_deref()), (Some("SIGBUS"), Some("p1")));
    assert_eq!(fault.region, Some(region));
    assert_eq!(crash.serving.map(|at| at.ring).into_iter().count(), 1, "a ring was in hand");
    let head = [vec![0; 12], frame([0xff; 6], mac(1), b"nobody can take it")[..14].to_vec()].concat();
    assert_eq!(crash.frame, Some(head.iter().map(|octet| format!("{octet:02x}")).collect()), "the frame in hand");
    let metrics = metrics(&switch)?;
    assert_eq!(metrics["sv3_worker_crashes_total{cause=\"SIGBUS\"}"], 1.0);
    Ok(())
}

#[test]
fn counters_grow_and_survive_the_worker() -> Result<()> {
    let switch = Switch::start()?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let frames = "sv3_port_frames_total{port=\"p0\",direction=\"from_guest\"}";
    let delivered = "sv3_port_frames_total{port=\"p1\",direction=\"to_guest\"}";
    let mut last = metrics(&switch)?;
    assert_eq!((last["sv3_ports"], last["sv3_takeover_gap_seconds_count"]), (2.0, 0.0));
    for round in 1..=3_u32 {
        for _ in 0..10 {
            let letter = frame([0xff; 6], mac(1), b"counted");
            a.send(&letter);
            assert_eq!(b.receive_frame(), letter);
        }
        // Counters are not ordered with what guests see.
        let wanted = f64::from(round) * 10.0;
        let now = until("every frame counted", || {
            let now = metrics(&switch)?;
            Ok((now[frames] == wanted && now[delivered] == wanted).then_some(now))
        })?;
        switch.kill_worker("SEGV")?;
        let after = metrics(&switch)?;
        for series in last.keys().filter(|name| name.contains("_total") || name.contains("gap_seconds")) {
            assert!(last[series] <= now[series] && now[series] <= after[series], "{series}");
        }
        let deaths = f64::from(round);
        for series in [
            "sv3_worker_restarts_total",
            "sv3_worker_crashes_total{cause=\"SIGSEGV\"}",
            "sv3_takeover_gap_seconds_count",
            "sv3_takeover_gap_seconds_bucket{le=\"10.0\"}",
            "sv3_takeover_gap_seconds_bucket{le=\"+Inf\"}",
        ] {
            assert_eq!(after[series], deaths, "{series}");
        }
        assert_eq!(after[frames], wanted);
        assert_eq!(after["sv3_port_link{port=\"p0\",sv3_port_link=\"up\"}"], 1.0);
        last = after;
    }
    Ok(())
}

/// Sends a request; the answer's head and body.
fn http(address: SocketAddr, request: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Failure::new("no head"))?;
    Ok((head.to_string(), body.to_string()))
}

fn address(switch: &Switch) -> Result<SocketAddr> {
    let event = switch.await_event(&["\"metrics\"", "address"])?;
    Ok(event["address"].as_str().ok_or_else(|| Failure::new("no address"))?.parse()?)
}

#[test]
fn a_scraper_gets_metrics_and_nothing_else() -> Result<()> {
    let switch = Switch::with(&["--metrics", "127.0.0.1:0"])?;
    let _guest = Guest::connect(switch.socket());
    let address = address(&switch)?;
    let (head, body) = http(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert_eq!(parse(&body)?["sv3_ports"], 1.0);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "404 "),
        ("GET /metrics/x HTTP/1.0\r\n\r\n", "404 "),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 "),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421 "),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400 "),
        ("nonsense\r\n\r\n", "400 "),
    ] {
        let (head, _) = http(address, request)?;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {head}");
    }
    let (head, body) = http(address, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.is_empty(), "{head}");
    // A crash does not change it.
    switch.kill_worker("KILL")?;
    let (_, body) = http(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    assert_eq!(parse(&body)?["sv3_worker_restarts_total"], 1.0);
    Ok(())
}

#[test]
fn slow_callers_keep_nobody_out() -> Result<()> {
    let switch = Switch::with(&["--metrics", "[::1]:0"])?;
    let address = address(&switch)?;
    let mut slow = (0..50).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>>>()?;
    for _ in 0..10 {
        for stream in &mut slow {
            // The switch may have given up on it.
            let _ = stream.write_all(b"G");
        }
        let (head, _) = http(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    }
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let letter = frame([0xff; 6], mac(1), b"still served");
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    let mut endless = TcpStream::connect(address)?;
    endless.set_read_timeout(Some(PATIENCE))?;
    let _ = endless.write_all(&[b'x'; 9000]);
    let mut answer = [0; 12];
    endless.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 431");
    Ok(())
}

#[test]
fn metrics_are_for_this_machine_only() -> Result<()> {
    let home = Home::new()?;
    for (address, reason) in [("0.0.0.0:0", "loopback"), ("[::]:0", "loopback"), ("localhost:0", "127.0.0.1:PORT")] {
        let output = home.sv3_output(&["run", "--metrics", address])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason) && said.contains(address), "{said}");
    }
    Ok(())
}

#[test]
fn events_go_to_a_file_if_one_is_named() -> Result<()> {
    let home = Home::new()?;
    let log = home.path("events.log");
    for run in 1..=2 {
        let switch = home.start(&["--log", &log.display().to_string()])?;
        // A client that is answered knows that the first worker serves.
        Guest::connect(switch.socket()).disconnect();
        switch.kill_worker("BUS")?;
        assert!(switch.end("TERM")?.success());
        let text = fs::read_to_string(&log)?;
        let events = text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
        for name in ["start", "listen", "crash", "restart", "stop"] {
            assert_eq!(events.iter().filter(|event| event["event"] == name).count(), run, "{name} in {text}");
        }
        assert_eq!(fs::read_to_string(home.path("stderr"))?, "");
    }
    let output = home.sv3_output(&["run", "--log", "/proc/none/log"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("/proc/none/log"), "{said}");
    Ok(())
}

/// DNS rebinding: a web page asks under its own name, which resolves to a loopback address.
#[test]
fn a_web_page_reads_no_metrics() -> Result<()> {
    let switch = Switch::with(&["--metrics", "127.0.0.1:0"])?;
    let address = address(&switch)?;
    for name in ["evil.example", "evil.example:9109", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1"] {
        for version in ["1.0", "1.1"] {
            let (head, body) = http(address, &format!("GET /metrics HTTP/{version}\r\nHost: {name}\r\n\r\n"))?;
            assert!(head.starts_with("HTTP/1.1 421 ") && !body.contains("sv3_"), "{name}: {head}\n{body}");
        }
    }
    Ok(())
}

#[test]
fn a_log_that_was_renamed_is_opened_anew_at_a_hang_up() -> Result<()> {
    let home = Home::new()?;
    let (log, old) = (home.path("events.log"), home.path("events.log.1"));
    let switch = home.start(&["--log", &log.display().to_string()])?;
    let supervisor = switch.supervisor_pid()?;
    for _ in 0..2 {
        fs::rename(&log, &old)?;
        send(supervisor, "HUP")?;
        until("a new log", || Ok(fs::read_to_string(&log).ok().filter(|text| text.contains("\"log\""))))?;
        switch.kill_worker("KILL")?;
        until("a crash in the new log", || Ok(fs::read_to_string(&log)?.contains("\"crash\"").then_some(())))?;
    }
    assert_eq!(switch.supervisor_pid()?, supervisor);
    assert!(switch.end("TERM")?.success());
    assert!(fs::read_to_string(&log)?.contains("asked to end by SIGTERM"));
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_is_told_once() -> Result<()> {
    let switch = Switch::with(&["--log", "/dev/full"])?;
    for _ in 0..3 {
        switch.kill_worker("KILL")?;
    }
    let said = fs::read_to_string(switch.home().path("stderr"))?;
    assert!(said.lines().count() == 1 && said.contains("/dev/full") && said.contains("No space left"), "{said}");
    Ok(())
}

/// As on a full disk: a part of a line fits, then nothing does, then there is room again.
#[test]
fn a_line_that_was_torn_spoils_no_other() -> Result<()> {
    const LIMIT: u64 = 8 << 30;
    let home = Home::new()?;
    let log = home.path("events.log");
    let file = fs::File::create(&log)?;
    file.set_len(LIMIT - 50)?;
    let owner = fs::metadata(home.path("."))?;
    std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    let limited = ["prlimit".to_string(), format!("--fsize={LIMIT}")];
    let switch = home.start_behind(&limited, &["--log", &log.display().to_string()])?;
    switch.kill_worker("KILL")?;
    // Room again: what was written stands at the front, where it ended as before.
    let mut torn = String::new();
    let mut file = fs::File::open(&log)?;
    file.seek(SeekFrom::Start(LIMIT - 50))?;
    file.read_to_string(&mut torn)?;
    assert_eq!(torn.len(), 50, "{torn}");
    fs::write(&log, torn)?;
    switch.kill_worker("KILL")?;
    assert!(switch.end("TERM")?.success());
    let text = fs::read_to_string(&log)?;
    let lines: Vec<Option<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let (torn, whole) = lines.split_first().ok_or_else(|| Failure::new("nothing was written"))?;
    assert!(torn.is_none() && whole.len() > 2 && whole.iter().all(Option::is_some), "{text}");
    // start (torn), listen, crash and restart, at least, and the first line that came through says so.
    let lost = whole[0].as_ref().and_then(|line| line["events_lost"].as_u64());
    assert!(lost.is_some_and(|lost| lost >= 4), "{text}");
    assert_eq!(fs::read_to_string(home.path("stderr"))?.lines().count(), 1);
    Ok(())
}

#[test]
fn a_client_whose_memory_is_not_shared_is_told() -> Result<()> {
    let switch = Switch::start()?;
    let mut client = Client::connect(switch.socket(), PATIENCE)?;
    client.negotiate(0)?;
    for ring in [0, 1] {
        client.start_ring(ring)?;
    }
    let event = switch.await_event(&["\"no_memory\"", "p0", "share=on"])?;
    assert_eq!(event["port"], "p0");
    let hint = switch.port("p0")?.hint;
    assert!(hint.as_deref().is_some_and(|hint| hint.contains("share=on")), "{hint:?}");
    assert!(sv3(&switch, &["status"])?.contains("share=on"));
    let count = switch.events()?.iter().filter(|event| event["event"] == "no_memory").count();
    assert_eq!(count, 1, "once for a connection");
    client.tell_memory()?;
    assert_eq!(switch.port("p0")?.hint, None);
    // A guest that shares its memory gets no warning.
    drop(client);
    Guest::connect(switch.socket()).disconnect();
    assert_eq!(switch.events()?.iter().filter(|event| event["event"] == "no_memory").count(), 1);
    Ok(())
}
