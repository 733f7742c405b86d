//! `sv3-worker`; all of it is in the library, where tests and fuzzers reach it.

fn main() {
    sv3_worker::main()
}
