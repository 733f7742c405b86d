//! The binary `sv3-supervisor`. All code is in the library, so that tests and fuzzers reach it.

fn main() -> std::process::ExitCode {
    sv3_supervisor::main()
}
