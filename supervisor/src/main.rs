//! `sv3-supervisor`; all of it is in the library, where tests and fuzzers reach it.

fn main() -> std::process::ExitCode {
    sv3_supervisor::main()
}
