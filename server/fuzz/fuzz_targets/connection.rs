//! The bytes of a connection before HTTP sees them, and deadlines in headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::serve::fuzzing::connection(bytes));
