//! See `marks` in worker/src/fuzz.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sv3_worker::fuzz::marks(octets));
