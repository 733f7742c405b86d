#!/usr/bin/env bash
# serde 1.0.229 with serde_json 1.0.154 and toml 1.2.2: a derived struct is read from an array as well.
#
# One would guess that a struct with named fields takes an object (TOML: a table) and nothing else, and that
# `deny_unknown_fields` makes that stricter. Seen: an array gives the fields by their order. If all fields have defaults,
# `[]` is the struct of all defaults, and a short array leaves the later fields at theirs, whatever `deny_unknown_fields`
# says. JSON refuses an array that is too long, TOML does not. In TOML, `limits = []` is read for what should be
# the table `[limits]`. So a program that must not take one form for another has to look at the form itself,
# and a field that is added in the middle changes what an old array means.
#
# Builds the crates in a temporary folder; fails if the behaviour has changed. Needs cargo.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "struct-from-array"
version = "0.0.0"
edition = "2021"

[dependencies]
serde = { version = "=1.0.229", features = ["derive"] }
serde_json = "=1.0.154"
toml = "=1.2.2"

[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use serde::Deserialize;

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    frames: u32,
    octets: u32,
}

#[derive(Deserialize)]
struct File {
    limits: Limits,
}

fn main() {
    let read = |text: &str| serde_json::from_str::<Limits>(text);
    for (text, wanted) in [
        (r#"{"octets": 7}"#, Some((0, 7))),
        ("[]", Some((0, 0))),
        ("[5]", Some((5, 0))),
        ("[5, 7]", Some((5, 7))),
        ("[5, 7, 9]", None),
        (r#"{"other": 7}"#, None),
    ] {
        let got = read(text).ok().map(|limits| (limits.frames, limits.octets));
        println!("{text:18} {got:?}");
        assert_eq!(got, wanted, "CHANGED: JSON {text}");
    }
    for (text, wanted) in [
        ("[limits]\noctets = 7", Some((0, 7))),
        ("limits = []", Some((0, 0))),
        ("limits = [5, 7]", Some((5, 7))),
        ("limits = [5, 7, 9]", Some((5, 7))),
        ("limits = 5", None),
    ] {
        let got = toml::from_str::<File>(text).ok().map(|file| (file.limits.frames, file.limits.octets));
        println!("TOML {text:?}: {got:?}");
        assert_eq!(got, wanted, "CHANGED: TOML {text}");
    }
}
RUST
cd "$folder"
CARGO_TARGET_DIR="$folder/target" cargo run --quiet
