//! See `capture` in src/fuzz.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sv3::fuzz::capture(octets));
