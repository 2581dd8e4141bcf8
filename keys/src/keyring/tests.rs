//! Tests of the keyring: what opens, what does not, and what changes do to it.

use super::*;
use crate::sealed::SEALED_VALUE_OVERHEAD_BYTES;
use crate::table::change::{CloseVersion, KeyChange};

fn holder(member_id: u64, slot: &SlotKeyPair) -> SlotHolder {
    SlotHolder {
        member_id,
        provider: ProviderKind::File,
        public_key: slot.public(),
    }
}

/// A table with a second key for `/a/`, and the keyring of its only member.
fn cluster() -> (KeyTable, Keyring) {
    let slot = Arc::new(SlotKeyPair::generate());
    let mut table = KeyTable::new();
    let init = Keyring::birth(&[holder(1, &slot)]).expect("one holder");
    table.init(&init, 0).expect("applies");
    let keyring = Keyring::open_table(&table, slot).expect("opens");
    let add = keyring.mint_prefix(&table, b"/a/").expect("free");
    table.add_prefix(&add, 0).expect("applies");
    let keyring = keyring.refresh(&table).expect("opens");
    (table, keyring)
}

fn rotated(table: &KeyTable, keyring: &Keyring, prefix: &[u8]) -> (KeyTable, Keyring) {
    let mut table = table.clone();
    let rotate = keyring.mint_rotation(&table, prefix).expect("known");
    table.rotate(&rotate, 0).expect("applies");
    let keyring = keyring.refresh(&table).expect("opens");
    (table, keyring)
}

#[test]
fn a_value_is_sealed_under_the_current_key_of_its_longest_prefix() {
    let (table, keyring) = cluster();
    let (table, keyring) = rotated(&table, &keyring, b"/a/");
    for (key, prefix_key_id, dek_version) in [(&b"/b"[..], 1, 1), (b"/a/b", 2, 2)] {
        let sealed = keyring.seal(&table, key, b"value").expect("sealed");
        let header = SealedHeader {
            prefix_key_id,
            dek_version,
        };
        assert_eq!(SealedHeader::parse(&sealed), Ok(header));
        assert_eq!(table.check_sealed(key, &header), Ok(()));
        assert_eq!(sealed.len(), 5 + SEALED_VALUE_OVERHEAD_BYTES);
        assert_eq!(keyring.open(key, &sealed), Ok(b"value".to_vec()));
    }
}

#[test]
fn swapped_values_do_not_open() {
    let (table, keyring) = cluster();
    let (newer_table, newer) = rotated(&table, &keyring, b"/a/");
    let sealed = keyring.seal(&table, b"/a/1", b"one").expect("sealed");
    // key ↔ key
    assert!(keyring.open(b"/a/2", &sealed).is_err());
    // prefix ↔ prefix
    let mut moved = sealed.clone();
    moved[4..8].copy_from_slice(&1u32.to_be_bytes());
    assert!(keyring.open(b"/a/1", &moved).is_err());
    // version ↔ version
    let mut moved = newer.seal(&newer_table, b"/a/1", b"two").expect("sealed");
    moved[8..12].copy_from_slice(&1u32.to_be_bytes());
    assert!(newer.open(b"/a/1", &moved).is_err());
    // keyring ↔ keyring
    let (_, other) = cluster();
    assert_eq!(
        other.open(b"/a/1", &sealed),
        Err(OpenError::NotAuthentic {
            prefix_key_id: 2,
            dek_version: 1
        })
    );
}

#[test]
fn an_error_names_the_key_and_nothing_else() {
    let (table, keyring) = cluster();
    let mut sealed = keyring.seal(&table, b"/a/1", b"one").expect("sealed");
    sealed[11] = 9;
    let absent = OpenError::KeyAbsent {
        prefix_key_id: 2,
        dek_version: 9,
    };
    assert_eq!(keyring.open(b"/a/1", &sealed), Err(absent));
    assert!(matches!(
        keyring.open(b"/a/1", b"not sealed"),
        Err(OpenError::Malformed(DecodeError::Truncated))
    ));
}

#[test]
fn a_keyring_older_than_its_table_seals_nothing_under_an_older_key() {
    let (table, older) = cluster();
    let (table, newer) = rotated(&table, &older, b"/a/");
    let absent = SealError::KeyAbsent {
        prefix_key_id: 2,
        dek_version: 2,
    };
    assert_eq!(older.seal(&table, b"/a/1", b"v"), Err(absent));
    assert!(older.seal(&table, b"/b", b"v").is_ok());
    assert!(newer.seal(&table, b"/a/1", b"v").is_ok());
}

#[test]
fn older_values_open_after_rotation_and_closing() {
    let (table, keyring) = cluster();
    let sealed = keyring.seal(&table, b"/a/1", b"one").expect("sealed");
    let (mut table, keyring) = rotated(&table, &keyring, b"/a/");
    let close = CloseVersion {
        prefix_key_id: 2,
        version: 1,
    };
    table.close_version(&close).expect("applies");
    let keyring = keyring.refresh(&table).expect("opens");
    assert_eq!(keyring.open(b"/a/1", &sealed), Ok(b"one".to_vec()));
}

#[test]
fn every_enrolled_member_opens_the_same_values_and_a_stranger_none() {
    let (mut table, keyring) = cluster();
    let sealed = keyring.seal(&table, b"/a/1", b"one").expect("sealed");
    let second = Arc::new(SlotKeyPair::generate());
    assert!(matches!(
        Keyring::open_table(&table, Arc::clone(&second)).err(),
        Some(OpenKeyringError::NoSlot)
    ));
    let enrol = keyring
        .mint_slot(&table, &holder(2, &second))
        .expect("minted");
    table.enrol_slot(&enrol).expect("applies");
    let theirs = Keyring::open_table(&table, second).expect("opens");
    assert_eq!(theirs.open(b"/a/1", &sealed), Ok(b"one".to_vec()));
    table
        .acknowledge_root(&theirs.acknowledgement().expect("by its slot"))
        .expect("applies");
    assert_eq!(table.proven_members().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_root_wrapped_for_another_slot_id_is_named_and_refused() {
    let (mut table, keyring) = cluster();
    let second = Arc::new(SlotKeyPair::generate());
    let mut enrol = keyring
        .mint_slot(&table, &holder(2, &second))
        .expect("minted");
    let first = table.slot(1).expect("born with it");
    enrol.slot.wrapped_root = first.wrapped_root.clone();
    table
        .enrol_slot(&enrol)
        .expect("apply has no key to see it");
    assert!(matches!(
        Keyring::open_table(&table, second).err(),
        Some(OpenKeyringError::Root {
            slot_id: 2,
            root_version: 1
        })
    ));
}

#[test]
fn one_key_that_does_not_open_leaves_the_others_usable() {
    let (mut table, keyring) = cluster();
    let mut rotate = keyring.mint_rotation(&table, b"/a/").expect("known");
    // Wrapped for another prefix: apply cannot see it, opening does.
    let foreign = keyring.mint_rotation(&table, b"").expect("known");
    rotate.wrapped_dek = foreign.wrapped_dek;
    table.apply(&KeyChange::Rotate(rotate), 0).expect("applies");
    let keyring = keyring.refresh(&table).expect("ROOT opens");
    let unopened = UnopenedKey {
        kind: KeyKind::Dek,
        prefix_key_id: 2,
        dek_version: 2,
    };
    assert_eq!(keyring.unopened(), [unopened]);
    assert!(keyring.seal(&table, b"/a/1", b"v").is_err());
    assert!(keyring.seal(&table, b"/b", b"v").is_ok());
}

#[test]
fn a_refresh_shares_what_was_open() {
    let (table, keyring) = cluster();
    let (_, newer) = rotated(&table, &keyring, b"/a/");
    let header = SealedHeader {
        prefix_key_id: 2,
        dek_version: 1,
    };
    let (Some(before), Some(after)) = (
        keyring.opened.deks.get(&header),
        newer.opened.deks.get(&header),
    ) else {
        panic!("both have it");
    };
    assert!(Arc::ptr_eq(before, after));
    assert!(Arc::ptr_eq(&keyring.opened.root, &newer.opened.root));
}

#[test]
fn a_slot_that_is_gone_from_the_table_opens_nothing_new() {
    let (mut table, keyring) = cluster();
    let second = SlotKeyPair::generate();
    let enrol = keyring
        .mint_slot(&table, &holder(2, &second))
        .expect("minted");
    table.enrol_slot(&enrol).expect("applies");
    let theirs = Keyring::open_table(&table, Arc::new(second)).expect("opens");
    table
        .acknowledge_root(&theirs.acknowledgement().expect("by its slot"))
        .expect("applies");
    let remove = crate::RemoveSlot { slot_id: 1 };
    table.remove_slot(&remove).expect("applies");
    assert!(matches!(
        keyring.refresh(&table).err(),
        Some(OpenKeyringError::NoSlot)
    ));
}

#[test]
fn what_cannot_be_minted_says_why() {
    let (table, keyring) = cluster();
    assert_eq!(Keyring::birth(&[]).err(), Some(MintError::NoSlots));
    let taken = MintError::PrefixTaken { prefix_key_id: 2 };
    assert_eq!(keyring.mint_prefix(&table, b"/a/").err(), Some(taken));
    let unknown = keyring.mint_rotation(&table, b"/a");
    assert_eq!(unknown.err(), Some(MintError::UnknownPrefix));
    let (other, _) = cluster();
    let foreign = keyring.mint_prefix(&other, b"/b/");
    assert_eq!(foreign.err(), Some(MintError::OtherKeyring));
    let unborn = keyring.mint_prefix(&KeyTable::new(), b"/b/");
    assert_eq!(unborn.err(), Some(MintError::NotInitialised));
    let unusable = SlotHolder {
        public_key: SlotPublicKey::from_bytes([0; 32]),
        ..holder(7, &SlotKeyPair::generate())
    };
    assert!(matches!(
        keyring.mint_slot(&table, &unusable).err(),
        Some(MintError::PublicKey { member_id: 7, .. })
    ));
}
