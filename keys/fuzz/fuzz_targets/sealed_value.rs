//! Sealed values, stored rows and log blocks: any bytes are refused without a panic.
#![no_main]

use std::sync::{Arc, LazyLock};

use keys::{
    KeyTable, Keyring, ProviderKind, SEALED_VALUE_OVERHEAD_BYTES, SealedHeader, Secret, SlotHolder,
    SlotKeyPair, StorageKeys,
};
use libfuzzer_sys::fuzz_target;

static STORAGE_KEYS: LazyLock<StorageKeys> = LazyLock::new(StorageKeys::ephemeral);

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let slot = Arc::new(SlotKeyPair::from_secret(Secret::from_bytes([1; 32])));
    let holder = SlotHolder {
        member_id: 1,
        provider: ProviderKind::File,
        public_key: slot.public(),
    };
    let mut table = KeyTable::new();
    let init = Keyring::birth(&[holder]).expect("one holder");
    table.init(&init, 0).expect("an empty table");
    Keyring::open_table(&table, slot).expect("its own table")
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = SealedHeader::parse(bytes) {
        assert!(keys::tag(bytes).is_ok_and(|tag| bytes.ends_with(&tag)));
        let length = keys::plaintext_len(bytes).expect("parsed");
        assert_eq!(length + SEALED_VALUE_OVERHEAD_BYTES, bytes.len());
        assert_eq!(header.prefix_key_id.to_be_bytes(), bytes[4..8]);
    }
    assert!(KEYRING.open(b"key", bytes).is_err());
    assert!(STORAGE_KEYS.open_row(0, b"row", bytes).is_err());
    assert!(STORAGE_KEYS.open_block(b"header", bytes).is_err());
});
