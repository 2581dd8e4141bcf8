//! Messages between members and raft's own records: any bytes are understood or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| server::raft::fuzzing::peer_message(bytes));
