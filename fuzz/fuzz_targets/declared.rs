//! See `declared` in supervisor/src/fuzz.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sv3_supervisor::fuzz::declared(octets));
