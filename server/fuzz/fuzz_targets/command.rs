//! Replicated commands: what can be read is written the same again; anything else is refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use server::command::{Body, Command, Envelope, FLAG_SEALED_OPERANDS};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let envelope = Envelope::read(&bytes);
    let Ok(mut command) = Command::decode(&bytes) else {
        return;
    };
    assert!(envelope.is_ok(), "a command has an envelope");
    // The bytes may differ (fields may stand in any order); what they say may not.
    // Whether operands are sealed is said by the body, and by the flag as it is written.
    if matches!(&command.body, Body::Txn(txn) if txn.has_sealed_operands()) {
        command.header.flags |= FLAG_SEALED_OPERANDS;
    } else {
        command.header.flags &= !FLAG_SEALED_OPERANDS;
    }
    let again = Command::decode(&command.encode()).expect("what was written can be read");
    assert_eq!(command, again);
});
