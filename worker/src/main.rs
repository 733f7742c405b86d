//! `sv3-worker`. All of it is in the library, so that tests and fuzzers reach it.

fn main() {
    sv3_worker::main()
}
