#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate::listener::fuzzing::session(bytes));
