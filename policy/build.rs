//! Compiles the policies: each `ROLE.json` becomes a BPF program and a table of its rules, as Rust constants.

#![allow(clippy::expect_used, clippy::panic)] // a build script reports by panicking

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use seccompiler::{BpfProgram, TargetArch};
use serde_json::Value;

const ROLES: [&str; 2] = ["worker", "supervisor"];
const SYSCALLS: &str = "syscalls-x86_64.txt";

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    assert_eq!(
        arch, "x86_64",
        "the policies are written for x86_64; {arch} needs rules and a syscall table of its own"
    );
    let mut out = String::new();
    for role in ROLES {
        let file = format!("{role}.json");
        println!("cargo::rerun-if-changed={file}");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        emit(&mut out, role, &text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    println!("cargo::rerun-if-changed={SYSCALLS}");
    names(&mut out);
    let to = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("policies.rs");
    std::fs::write(to, out).expect("OUT_DIR is writable");
}

fn emit(out: &mut String, role: &str, text: &str) -> Result<(), String> {
    let mut json: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut rules = String::new();
    let filter = json.pointer_mut(&format!("/{role}/filter")).and_then(Value::as_array_mut).ok_or("no filter")?;
    for rule in filter {
        let _ = write!(rules, "{},", emit_rule(rule).map_err(|e| format!("{e} in {rule}"))?);
    }
    let compiled: BTreeMap<String, BpfProgram> =
        seccompiler::compile_from_json(json.to_string().as_bytes(), TargetArch::x86_64)
            .map_err(|e| e.to_string())?
            .into_iter()
            .collect();
    let program = compiled.get(role).ok_or("no program")?;
    let name = role.to_uppercase();
    let _ = write!(out, "static {name}: Policy = Policy {{ role: {role:?}, rules: &[{rules}], program: &[");
    for i in program {
        let _ = write!(out, "({}, {}, {}, {}),", i.code, i.jt, i.jf, i.k);
    }
    out.push_str("]};\n");
    Ok(())
}

/// The rule as a Rust constant. Takes the `why` out, which seccompiler does not know.
fn emit_rule(rule: &mut Value) -> Result<String, String> {
    let why = rule.as_object_mut().and_then(|rule| rule.remove("why")).ok_or("no why")?;
    let (syscall, why) = (rule["syscall"].as_str().ok_or("no syscall")?, why.as_str().ok_or("why is no text")?);
    let args = rule.get("args").and_then(Value::as_array).map(Vec::as_slice).unwrap_or(&[]);
    let limits: Vec<String> = args.iter().map(emit_limit).collect::<Result<_, _>>()?;
    Ok(format!("Rule {{ syscall: {syscall:?}, limits: &[{}], why: {why:?} }}", limits.join(",")))
}

fn emit_limit(arg: &Value) -> Result<String, String> {
    let number = |key: &str| arg[key].as_u64().ok_or(format!("no {key}"));
    let width = match arg["type"].as_str() {
        Some("dword") => "Low32",
        Some("qword") => "All64",
        _ => return Err("an argument's type is dword or qword".to_string()),
    };
    let test = match &arg["op"] {
        Value::String(op) if op == "eq" => "Equal".to_string(),
        op => format!("Masked({:#x})", op["masked_eq"].as_u64().ok_or("an op that is neither eq nor masked_eq")?),
    };
    let meaning = arg["comment"].as_str().ok_or("an argument without comment")?;
    Ok(format!(
        "Limit {{ arg: {}, width: Width::{width}, test: Test::{test}, value: {:#x}, meaning: {meaning:?} }}",
        number("index")?,
        number("val")?
    ))
}

/// The kernel's table of syscalls by number.
fn names(out: &mut String) {
    let text = std::fs::read_to_string(SYSCALLS).expect("the syscall table is here");
    out.push_str("static SYSCALLS: &[(i32, &str)] = &[");
    for line in text.lines() {
        let (number, name) = line.split_once(' ').expect("a number and a name");
        let _ = write!(out, "({number}, {name:?}),");
    }
    out.push_str("];\n");
}
