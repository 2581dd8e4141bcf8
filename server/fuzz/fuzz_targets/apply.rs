//! Entries of the log: any commands are applied or refused, and what they leave can be recovered.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::apply::fuzzing::commands(bytes));
