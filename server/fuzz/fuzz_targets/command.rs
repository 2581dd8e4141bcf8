//! Replicated commands: what can be read is written the same again; anything else is refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use server::command::{Command, Envelope};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let envelope = Envelope::read(&bytes);
    let Ok(command) = Command::decode(&bytes) else {
        return;
    };
    assert!(envelope.is_ok(), "a command has an envelope");
    // The bytes may differ (fields may stand in any order); what they say may not.
    let again = Command::decode(&command.encode()).expect("what was written can be read");
    assert_eq!(command, again);
});
