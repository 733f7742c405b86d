//! The real Prometheus reads a switch's metrics, and the rules and the dashboard of scripts/monitoring fit them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::image::{Suite, program};
use sv3_tests::patience::until;
use sv3_tests::switch::Switch;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/monitoring");

/// What `promtool` says; it must succeed.
fn promtool(arguments: &[&str], stdin: Stdio) -> Result<String> {
    let mut command = program(Suite::Monitoring, "promtool")?;
    let output = command.args(arguments).current_dir(FOLDER).stdin(stdin).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(Failure::new(format!("{arguments:?}: {said}"))) }
}

fn metrics(switch: &Switch, options: &[&str]) -> Result<String> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&[&["metrics", "--control", &control], options].concat())?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn the_rules_load_and_fire_on_what_they_are_for() -> Result<()> {
    promtool(&["check", "config", "prometheus.yml"], Stdio::null())?;
    promtool(&["test", "rules", "alerts-test.yml"], Stdio::null())?;
    let (rules, tests) =
        (fs::read_to_string(format!("{FOLDER}/alerts.yml"))?, fs::read_to_string(format!("{FOLDER}/alerts-test.yml"))?);
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    let words: Vec<&str> = tests.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    for name in names {
        let told = words.iter().filter(|word| **word == name).count();
        assert_eq!(told, 3, "{name} names a test and fires in it, and does not fire in the other one");
    }
    Ok(())
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() -> Result<()> {
    let switch = Switch::start()?;
    let _guest = Guest::connect(switch.socket());
    switch.kill_worker("SEGV")?;
    let text = switch.home().path("metrics");
    fs::write(&text, metrics(&switch, &["--prometheus"])?)?;
    promtool(&["check", "metrics"], Stdio::from(fs::File::open(&text)?)).map(drop)
}

/// Names of this project's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("sv3_") && !word.ends_with('_')).map(str::to_string).collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() -> Result<()> {
    let document = fs::read_to_string(format!("{FOLDER}/../../docs/operate/metrics.md"))?;
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let known: BTreeSet<String> = rows
        .flat_map(|(family, rest)| {
            let suffixes: &[&str] = match rest.split(' ').next() {
                Some("counter") => &["_total"],
                Some("info") => &["_info"],
                Some("histogram") => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().map(move |suffix| format!("{family}{suffix}"))
        })
        .collect();
    for file in ["alerts.yml", "alerts-test.yml", "grafana.json"] {
        let text = fs::read_to_string(format!("{FOLDER}/{file}"))?;
        let unknown: Vec<String> = names(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}, which docs/operate/metrics.md does not tell of");
    }
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(format!("{FOLDER}/grafana.json"))?)?;
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    assert!(panels.len() > 10 && panels.iter().all(|panel| panel["targets"][0]["expr"].is_string()));
    Ok(())
}

/// Asks Prometheus; its answer's `data`, or null.
fn ask(address: &str, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Failure::new("no answer"))?;
    // Before it is ready, it says so in text.
    Ok(serde_json::from_str::<Value>(body).map_or(Value::Null, |answer| answer["data"].clone()))
}

/// Prometheus with this configuration, and where it listens.
fn prometheus(config: &Path, folder: &Path) -> Result<(std::process::Child, String)> {
    let mut command: Command = program(Suite::Monitoring, "prometheus")?;
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.display()));
    command.args(["--web.listen-address=127.0.0.1:0", "--log.format=json"]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let said = process.stderr.take().ok_or_else(|| Failure::new("no stderr"))?;
    let mut lines = BufReader::new(said).lines();
    let address = lines.by_ref().map_while(std::result::Result::ok).find_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        (line["msg"] == "Listening on").then(|| line["address"].as_str().map(str::to_string))?
    });
    // Nobody waits for a reader of the rest.
    std::thread::spawn(move || lines.for_each(drop));
    match address {
        Some(address) => Ok((process, address)),
        None => Err(Failure::new(format!("Prometheus does not listen: {:?}", process.wait()))),
    }
}

#[test]
fn the_real_prometheus_scrapes_a_switch() -> Result<()> {
    let switch = Switch::with(&["--metrics", "127.0.0.1:0"])?;
    let mut guests = [Guest::connect(switch.socket()), Guest::connect(switch.socket())];
    let letter = frame([0xff; 6], mac(1), b"counted");
    guests[0].send(&letter);
    assert_eq!(guests[1].receive_frame(), letter);
    let event = switch.await_event(&["\"metrics\"", "address"])?;
    let target = event["address"].as_str().unwrap_or_default();
    let folder = tempfile::tempdir()?;
    let config = fs::read_to_string(format!("{FOLDER}/prometheus.yml"))?;
    let config = config.replace("127.0.0.1:9109", target).replace("15s", "1s");
    let config = config.replace("alerts.yml", &format!("{FOLDER}/alerts.yml"));
    fs::write(folder.path().join("prometheus.yml"), config)?;
    let (mut process, address) = prometheus(&folder.path().join("prometheus.yml"), folder.path())?;
    let seen = (|| {
        let query = "/api/v1/query?query=sv3_port_frames_total%7Bport%3D%22p1%22%2Cdirection%3D%22to_guest%22%7D";
        until("a scrape", || {
            let data = ask(&address, query)?;
            Ok((data["result"][0]["value"][1] == "1").then_some(()))
        })?;
        let targets = ask(&address, "/api/v1/targets")?["activeTargets"][0].clone();
        assert_eq!((&targets["health"], &targets["lastError"]), (&"up".into(), &"".into()), "{targets}");
        let rules = ask(&address, "/api/v1/rules")?["groups"][0]["rules"].clone();
        let rules = rules.as_array().cloned().unwrap_or_default();
        assert!(rules.len() > 10 && rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        Ok(())
    })();
    process.kill()?;
    process.wait()?;
    seen
}
