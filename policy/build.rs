//! Compiles the policies. Each `ROLE.json` becomes a BPF program and a table of its rules, as Rust constants: once
//! for release builds, and once for debug builds, which have a few more rules. A role that only adds to another one
//! names it (`adds_to`).

#![allow(clippy::expect_used, clippy::panic)] // a build script reports by panicking

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use seccompiler::{BpfProgram, TargetArch};
use serde_json::Value;

const ROLES: [&str; 6] = ["worker", "worker-files", "worker-cards", "supervisor", "web", "web-asker"];
const SYSCALLS: &str = "syscalls-x86_64.txt";

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    assert_eq!(
        arch, "x86_64",
        "the policies are written for x86_64; {arch} needs rules and a syscall table of its own"
    );
    let mut out = String::new();
    for role in ROLES {
        let body = body(role).unwrap_or_else(|e| panic!("{role}.json: {e}"));
        emit(&mut out, role, &body).unwrap_or_else(|e| panic!("{role}.json: {e}"));
    }
    println!("cargo::rerun-if-changed={SYSCALLS}");
    names(&mut out);
    let to = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("policies.rs");
    std::fs::write(to, out).expect("OUT_DIR is writable");
}

/// What the file of a role says, after what it adds to.
fn body(role: &str) -> Result<Value, String> {
    let file = format!("{role}.json");
    println!("cargo::rerun-if-changed={file}");
    let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let mut json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let added = json.get_mut(role).map(Value::take).ok_or("no such role")?;
    let Some(base) = added.get("adds_to").and_then(Value::as_str) else { return Ok(added) };
    if added.as_object().is_none_or(|fields| fields.len() != 2) {
        return Err("a role that adds to another one has only adds_to and filter".to_string());
    }
    let mut all = body(base)?;
    let more = added.get("filter").and_then(Value::as_array).ok_or("no filter")?;
    let filter = all.get_mut("filter").and_then(Value::as_array_mut).ok_or("no filter")?;
    filter.extend(more.iter().cloned());
    Ok(all)
}

fn emit(out: &mut String, role: &str, all: &Value) -> Result<(), String> {
    for debug in [false, true] {
        let mut body = all.clone();
        let body = body.as_object_mut().ok_or("no role")?;
        let unknown = action(&body.remove("unknown_action").ok_or("no unknown_action")?)?;
        let mismatch = action(&body["mismatch_action"])?;
        let filter = body.get_mut("filter").and_then(Value::as_array_mut).ok_or("no filter")?;
        filter.retain(|rule| is_meant(&rule["only"], debug));
        let mut rules = String::new();
        for rule in filter {
            let _ = write!(rules, "{},", emit_rule(rule).map_err(|e| format!("{e} in {rule}"))?);
        }
        let program = compile(role, &serde_json::json!({ role: body }))?;
        let name = role.to_uppercase().replace('-', "_") + if debug { "_DEBUG" } else { "" };
        let _ = write!(
            out,
            "static {name}: Policy = Policy {{ role: {role:?}, debug: {debug}, unknown: Verdict::{unknown}, \
             mismatch: Verdict::{mismatch}, rules: &[{rules}], program: &["
        );
        for (code, jt, jf, k) in gate(unknown) {
            let _ = write!(out, "({code}, {jt}, {jf}, {k}),");
        }
        for i in program {
            let _ = write!(out, "({}, {}, {}, {}),", i.code, i.jt, i.jf, i.k);
        }
        out.push_str("]};\n");
    }
    Ok(())
}

/// Whether a rule is for this build and this C library.
fn is_meant(only: &Value, debug: bool) -> bool {
    match only.as_str() {
        Some("debug") => debug,
        Some(library) => std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok(library),
        None => true,
    }
}

fn compile(role: &str, json: &Value) -> Result<BpfProgram, String> {
    let compiled: BTreeMap<String, BpfProgram> =
        seccompiler::compile_from_json(json.to_string().as_bytes(), TargetArch::x86_64)
            .map_err(|e| e.to_string())?
            .into_iter()
            .collect();
    compiled.get(role).cloned().ok_or("no program".to_string())
}

fn action(name: &Value) -> Result<&'static str, String> {
    match name.as_str() {
        Some("kill_process") => Ok("Kill"),
        Some("trap") => Ok("Trap"),
        _ => Err(format!("{name} is no action for a violation: it must be kill_process or trap")),
    }
}

/// Instructions before seccompiler's own: they end a syscall whose number is above the table's last, as all numbers
/// of x32 are.
fn gate(unknown: &str) -> [(u16, u8, u8, u32); 3] {
    // Classic BPF (linux/bpf_common.h, linux/seccomp.h).
    const LD_W_ABS: u16 = 0x20;
    const JGT_K: u16 = 0x25;
    const RET_K: u16 = 0x06;
    const NR: u32 = 0;
    let action = if unknown == "Kill" { 0x8000_0000 } else { 0x0003_0000 };
    [(LD_W_ABS, 0, 0, NR), (JGT_K, 0, 1, last_syscall()), (RET_K, 0, 0, action)]
}

/// Makes a Rust constant of the rule, and removes the fields that seccompiler does not know.
fn emit_rule(rule: &mut Value) -> Result<String, String> {
    let fields = rule.as_object_mut().ok_or("no rule")?;
    let why = fields.remove("why").ok_or("no why")?;
    let only = fields.remove("only").unwrap_or("debug".into());
    if !["debug", "gnu", "musl"].contains(&only.as_str().unwrap_or_default()) {
        return Err("only is debug, gnu or musl".to_string());
    }
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
        op => format!("Masked({:#x})", op["masked_eq"].as_u64().ok_or("an argument's op is eq or masked_eq")?),
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
    let _ = write!(out, "const LAST_SYSCALL: u32 = {};\nstatic SYSCALLS: &[(i32, &str)] = &[", last_syscall());
    for (number, name) in syscalls() {
        let _ = write!(out, "({number}, {name:?}),");
    }
    out.push_str("];\n");
}

fn syscalls() -> Vec<(u32, String)> {
    let text = std::fs::read_to_string(SYSCALLS).expect("the syscall table is here");
    let line = |line: &str| {
        let (number, name) = line.split_once(' ').expect("a number and a name");
        (number.parse().expect("a number"), name.to_string())
    };
    text.lines().map(line).collect()
}

fn last_syscall() -> u32 {
    syscalls().iter().map(|(number, _)| *number).max().expect("the table is not empty")
}
