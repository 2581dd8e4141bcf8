//! Clients' calls, whole: any messages to any methods are answered or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::rpc::fuzzing::calls(bytes));
