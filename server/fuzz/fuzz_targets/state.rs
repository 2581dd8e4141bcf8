//! A state with damaged rows: records, leases, members, users, keys and counters are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::apply::fuzzing::damaged_state(bytes));
