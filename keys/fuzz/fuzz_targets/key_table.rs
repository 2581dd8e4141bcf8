//! The key table, its changes and the envelope of a backup: bytes are refused, or are the one encoding of what they say.
#![no_main]

use keys::{BackupEnvelope, KeyChange, KeyTable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(change) = KeyChange::decode(bytes) {
        assert_eq!(change.encode(), bytes);
        let mut table = KeyTable::new();
        if table.apply(&change, 0).is_ok() {
            assert_eq!(KeyTable::decode(&table.encode()).as_ref(), Ok(&table));
        }
    }
    if let Ok(envelope) = BackupEnvelope::decode(bytes) {
        assert_eq!(envelope.encode(), bytes);
    }
    if let Ok(table) = KeyTable::decode(bytes) {
        assert_eq!(table.encode(), bytes);
        assert_eq!(table.prefix_for(bytes).is_some(), table.is_initialised());
    }
});
