//! Tests of `member.key`: made, read back, damaged, refused.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::provider::file::FileProvider;

fn provider(key: u8) -> FileProvider {
    FileProvider::from_secret(&Secret::from_bytes([key; 32]))
}

fn created() -> MemberKey {
    let directory_id = DirectoryId::from_bytes([2; 16]);
    MemberKey::create(1, directory_id, &provider(1)).expect("wrapped")
}

fn with_everything() -> MemberKey {
    let mut file = created();
    file.set_keyring_id(KeyringId::from_bytes([3; 16]));
    assert_eq!(file.add_storage_key(), Some(2));
    file.set_other_slots(&[SlotKeyPair::generate().public()]);
    file
}

#[test]
fn rows_sealed_before_a_restart_open_after_it() {
    let file = with_everything();
    let row = file.storage_keys().seal_row(1, b"row", b"plaintext");
    let bytes = file.encode().expect("usable slots");
    let again = MemberKey::open(&bytes, &provider(1)).expect("opens");
    assert_eq!(again.outline(), file.outline());
    assert_eq!(again.slot().public(), file.slot().public());
    let opened = again.storage_keys().open_row(1, b"row", &row);
    assert_eq!(opened, Ok(b"plaintext".to_vec()));
}

#[test]
fn rows_of_the_first_storage_key_open_beside_a_second() {
    let mut file = created();
    let row = file.storage_keys().seal_row(1, b"row", b"old");
    assert_eq!(file.add_storage_key(), Some(2));
    assert_eq!(file.storage_keys().newest_id(), 2);
    assert_eq!(
        file.storage_keys().open_row(1, b"row", &row),
        Ok(b"old".to_vec())
    );
}

#[test]
fn every_flipped_bit_is_damage() {
    let bytes = with_everything().encode().expect("usable slots");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = MemberKey::open(&damaged, &provider(1)).err();
        assert_eq!(error, Some(MemberKeyError::Damaged), "bit {bit}");
    }
}

#[test]
fn a_bit_changed_under_a_new_checksum_does_not_open_either() {
    let bytes = with_everything().encode().expect("usable slots");
    let content = bytes.len() - CHECKSUM_BYTES;
    for at in 0..content {
        let mut changed = bytes[..content].to_vec();
        changed[at] ^= 1;
        let checksum = Sha256::digest(&changed);
        changed.extend_from_slice(&checksum);
        assert!(
            MemberKey::open(&changed, &provider(1)).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn a_wrong_key_is_told_apart_from_damage() {
    let bytes = created().encode().expect("usable slots");
    let error = MemberKey::open(&bytes, &provider(9)).err();
    let wrong = ProviderError::WrongKey(ProviderKind::File);
    assert_eq!(error, Some(MemberKeyError::Provider(wrong)));
}

#[test]
fn another_slot_recovers_the_storage_keys_and_a_stranger_does_not() {
    let (offline, stranger) = (SlotKeyPair::generate(), SlotKeyPair::generate());
    let mut file = created();
    file.set_other_slots(&[offline.public(), file.slot().public(), offline.public()]);
    let row = file.storage_keys().seal_row(1, b"row", b"plaintext");
    let bytes = file.encode().expect("usable slots");
    let recovered = MemberKey::recover_storage_keys(&bytes, &offline).expect("opens");
    assert_eq!(
        recovered.open_row(1, b"row", &row),
        Ok(b"plaintext".to_vec())
    );
    assert!(MemberKey::recover_storage_keys(&bytes, &stranger).is_err());
}

#[test]
fn an_unusable_public_key_of_another_slot_is_refused() {
    let mut file = created();
    file.set_other_slots(&[SlotPublicKey::from_bytes([0; 32])]);
    assert_eq!(file.encode(), Err(InvalidSlotPublicKey));
}

#[test]
fn a_saved_file_replaces_the_one_before_whole_and_is_the_owner_s_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("member.key");
    assert!(matches!(
        MemberKey::load(&path, &provider(1)).err(),
        Some(MemberKeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound
    ));
    created().save(&path).expect("saved");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("mode set");
    let file = with_everything();
    file.save(&path).expect("saved");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    let again = MemberKey::load(&path, &provider(1)).expect("opens");
    assert_eq!(again.outline(), file.outline());
    assert_eq!(
        MemberKey::load_outline(&path).expect("reads"),
        *file.outline()
    );
}

#[test]
fn a_damaged_file_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("member.key");
    fs::write(&path, b"half a file").expect("written");
    let error = MemberKey::load(&path, &provider(1)).err().expect("refused");
    assert_eq!(error.to_string(), format!("{} is damaged", path.display()));
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error(
        mut bytes in vec(any::<u8>(), 0..400),
        header in any::<bool>(),
    ) {
        if header {
            let mut whole = MAGIC.to_vec();
            whole.extend_from_slice(&FORMAT.to_be_bytes());
            whole.append(&mut bytes);
            bytes = whole;
        }
        let checksum = Sha256::digest(&bytes);
        prop_assert!(MemberKey::open(&bytes, &provider(1)).is_err());
        bytes.extend_from_slice(&checksum);
        let _ = MemberKeyOutline::decode(&bytes);
        prop_assert!(MemberKey::open(&bytes, &provider(1)).is_err());
    }

    #[test]
    fn any_wrapped_slot_secret_is_refused_without_a_panic(record in vec(any::<u8>(), 0..120)) {
        let file = created();
        let context = file.outline().slot_context();
        prop_assert!(provider(1).unwrap(&context, &record).is_err());
    }

    #[test]
    fn any_row_or_value_is_refused_without_a_panic(sealed in vec(any::<u8>(), 0..120)) {
        let keys = StorageKeys::ephemeral();
        prop_assert!(keys.open_row(1, b"row", &sealed).is_err());
        prop_assert!(keys.open_block(b"header", &sealed).is_err());
        let header = crate::SealedHeader::parse(&sealed);
        prop_assert_eq!(header.is_ok() && crate::tag(&sealed).is_err(), false);
        let _ = crate::plaintext_len(&sealed);
    }
}
