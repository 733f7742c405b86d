//! What `--json` prints and what the log has is as the schemas in docs/schema say, which programs may rely on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sv3::control::PROTOCOL;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::schema::Schema;
use sv3_tests::switch::Switch;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

fn schema(name: &str) -> Result<Schema> {
    let text = fs::read_to_string(format!("{DOCS}/schema/{name}.json"))?;
    Schema::parse(&text).map_err(|why| Failure::new(format!("{name}.json: {why}")))
}

fn check(name: &str, value: &Value) -> Result<()> {
    schema(name)?.check(value).map_err(|why| Failure::new(format!("{name}.json: {why}")))
}

#[test]
fn each_verb_prints_what_its_schema_says() -> Result<()> {
    let switch = Switch::with(&["--metrics", "127.0.0.1:0"])?;
    let mut guests = [Guest::connect(switch.socket()), Guest::connect(switch.socket())];
    switch.kill_worker("SEGV")?;
    let letter = frame([0xff; 6], mac(1), b"counted");
    guests[0].send(&letter);
    assert_eq!(guests[1].receive_frame(), letter);
    let control = switch.control().display().to_string();
    for (schema, verb) in [
        ("status", &["status", "--json", "--control", &control][..]),
        ("crashes", &["crashes", "--json", "--control", &control]),
        ("audit", &["audit", "--json", "--control", &control]),
        ("doctor", &["doctor", "--json", &control]),
    ] {
        let output = switch.home().sv3_output(verb)?;
        let value: Value = serde_json::from_slice(&output.stdout)?;
        check(schema, &value)?;
        if schema == "status" {
            assert_eq!(value["protocol"], PROTOCOL);
        }
    }
    let events = switch.events()?;
    assert!(events.iter().any(|event| event["event"] == "crash") && events.len() > 4, "{events:?}");
    events.iter().try_for_each(|event| check("events", event))
}

#[test]
fn each_example_of_a_document_is_as_its_schema_says() -> Result<()> {
    for (name, document) in [
        ("status", "use/status.md"),
        ("crashes", "operate/crashes.md"),
        ("audit", "operate/audit.md"),
        ("doctor", "operate/doctor.md"),
    ] {
        let text = fs::read_to_string(format!("{DOCS}/{document}"))?;
        let (_, rest) = text.split_once("```json\n").ok_or_else(|| Failure::new(document))?;
        let example: Value = serde_json::from_str(rest.split("```").next().unwrap_or_default())?;
        check(name, &example)?;
        let told = schema(name)?.fields().into_iter().map(str::to_string).collect::<Vec<_>>();
        assert!(told.iter().all(|field| example.get(field).is_some()), "{document}: {told:?}");
    }
    let text = fs::read_to_string(format!("{DOCS}/operate/events.md"))?;
    for line in text.lines().filter(|line| line.starts_with('{')) {
        check("events", &serde_json::from_str(line)?)?;
    }
    Ok(())
}

#[test]
fn every_schema_is_told_of() -> Result<()> {
    let text = fs::read_to_string(format!("{DOCS}/operate/control.md"))?;
    let mut count = 0;
    for entry in fs::read_dir(Path::new(DOCS).join("schema"))? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(text.contains(&format!("(../schema/{name})")), "docs/operate/control.md does not tell of {name}");
        schema(name.trim_end_matches(".json"))?;
        count += 1;
    }
    assert_eq!(count, 5);
    Ok(())
}
