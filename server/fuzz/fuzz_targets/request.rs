//! Clients' messages: any bytes are a request or a refusal, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::rpc::fuzzing::request(bytes));
