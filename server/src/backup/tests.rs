//! Backups written, read, cut short and changed.

use std::io::Cursor;

use bytes::Bytes;
use keys::{OpenBackupError, StorageKeys};
use proptest::prelude::*;

use super::*;
use crate::apply::snapshot::SnapshotLoader;
use crate::command::{Body, Put};
use crate::mvcc::hash::hash_kv;
use crate::replica::{KeyAdmin, Replica};
use crate::rpc::tests::single::{CLUSTER, MEMBER, Single, provider};
use crate::storage::Store;

/// A backup of a member with so many keys.
fn backup(keys: usize) -> (std::sync::Arc<Single>, Vec<u8>) {
    let member = Single::start();
    for number in 0..keys {
        put(&member, number);
    }
    let bytes = write(&member);
    (member, bytes)
}

fn put(member: &Single, number: usize) {
    let key = Bytes::from(format!("/secret/{number:05}"));
    let view = member.view();
    let sealed_value = member.sealer.seal(&view, &key, &[7; 3000]).unwrap();
    let put = Put {
        key,
        sealed_value,
        lease: 0,
        ignore_value: false,
        ignore_lease: false,
    };
    member.run(Body::Put(put));
}

fn write(member: &Single) -> Vec<u8> {
    let view = member.view();
    let (key, envelope) = member.seal_backup(&view).unwrap();
    let measured = measure(&view).unwrap();
    let header = Header {
        cluster_id: CLUSTER,
        member_id: MEMBER,
        envelope,
        revision: view.revision,
        compact_revision: view.compact_revision,
        records: measured.records,
        sections: measured.sections,
        body_bytes: measured.body_bytes,
        data_keys: measured.data_keys,
        storage_version: "3.7.0".into(),
        layout: crate::storage::layout::FORMAT,
    };
    let mut writer = BackupWriter::new(&view, &header, key);
    let total = writer.total_bytes(&header);
    let mut bytes = Vec::new();
    for piece in writer.by_ref() {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes.len() as u64, total);
    bytes.extend_from_slice(&writer.sha256());
    bytes
}

/// Reads to the end with the right key file.
fn open(bytes: &[u8]) -> Result<(Store, Summary), BackupError> {
    let mut reader = BackupReader::new(Cursor::new(bytes))?;
    let envelope = &reader.header().envelope;
    let key = envelope
        .open_root(&provider())
        .and_then(|root| envelope.open(&root));
    let key = key.map_err(|_| BackupError::OtherHeader)?;
    let mut loader = SnapshotLoader::new(Store::in_memory(StorageKeys::ephemeral()));
    while let Some(chunk) = reader.chunk(&key)? {
        loader.chunk(&chunk).unwrap();
    }
    let summary = reader.finish(false)?;
    Ok((loader.finish(None).unwrap().0, summary))
}

#[test]
fn a_backup_holds_the_whole_state_and_its_header_says_what() {
    let (member, bytes) = backup(600);
    let view = member.view();
    let reader = BackupReader::new(Cursor::new(&bytes)).unwrap();
    let header = reader.header().clone();
    assert_eq!((header.revision, header.records), (601, 600));
    assert!(header.sections > 2, "{header:?}");
    assert_eq!(
        header.data_keys.iter().map(|key| key.values).sum::<u64>(),
        600
    );
    assert_eq!(reader.finish(false).unwrap().bytes, bytes.len() as u64);

    let (store, _) = open(&bytes).unwrap();
    let restored = crate::apply::Machine::recover(store, MEMBER).unwrap();
    let hash = |view: &crate::mvcc::read_view::ReadView| hash_kv(view, 0).unwrap();
    assert_eq!(hash(&restored.view()), hash(&view));
    assert_eq!(restored.view().key_table.encode(), view.key_table.encode());
}

#[test]
fn a_backup_has_the_size_that_etcds_clients_insist_on() {
    for keys in [0, 1, 3] {
        let (_, bytes) = backup(keys);
        assert_eq!(bytes.len() % 512, 32);
        assert_eq!(
            bytes[bytes.len() - 32..],
            sha256(&bytes[..bytes.len() - 32])
        );
    }
}

#[test]
fn a_backup_shows_no_key_name_and_no_value() {
    let (_, bytes) = backup(3);
    assert!(!bytes.windows(8).any(|window| window == b"/secret/"));
    assert!(!bytes.windows(32).any(|window| window == [7; 32]));
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let (_, bytes) = backup(2);
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(open(&changed).is_err(), "byte {at}");
        // The tags find by themselves what lies in the head or in a section.
        let length = changed.len() - 32;
        let sum = sha256(&changed[..length]);
        changed[length..].copy_from_slice(&sum);
        assert!(at >= length || open(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn a_backup_that_was_cut_or_goes_on_is_refused() {
    let (_, bytes) = backup(2);
    for length in [
        0,
        5,
        30,
        400,
        bytes.len() - 600,
        bytes.len() - 33,
        bytes.len() - 1,
    ] {
        assert!(open(&bytes[..length]).is_err(), "{length} bytes");
    }
    let without_hash = &bytes[..bytes.len() - 32];
    assert!(matches!(open(without_hash), Err(BackupError::NoHash)));
    let reader = BackupReader::new(Cursor::new(without_hash)).unwrap();
    assert_eq!(reader.finish(true).unwrap().sha256, None);
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(open(&longer), Err(BackupError::TrailingBytes)));
}

#[test]
fn sections_of_two_backups_cannot_be_mixed() {
    let member = Single::start();
    put(&member, 1);
    let (one, other) = (write(&member), write(&member));
    let head = |bytes: &[u8]| {
        let reader = BackupReader::new(Cursor::new(bytes)).unwrap();
        usize::try_from(reader.read).unwrap()
    };
    let mut mixed = [&one[..head(&one)], &other[head(&other)..]].concat();
    let length = mixed.len() - 32;
    let sum = sha256(&mixed[..length]);
    mixed[length..].copy_from_slice(&sum);
    assert!(matches!(
        open(&mixed),
        Err(BackupError::Section { number: 0 })
    ));
}

#[test]
fn another_root_key_does_not_open_it() {
    let (_, bytes) = backup(1);
    let reader = BackupReader::new(Cursor::new(&bytes)).unwrap();
    let other = keys::FileProvider::from_secret(&keys::Secret::from_bytes([6; 32]));
    let refused = reader.header().envelope.open_root(&other).err();
    assert!(matches!(
        refused,
        Some(OpenBackupError::Provider {
            member_id: MEMBER,
            ..
        })
    ));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let begun = [&MAGIC[..], &[0, 1], &bytes].concat();
        for bytes in [bytes, begun] {
            if let Ok(reader) = BackupReader::new(Cursor::new(&bytes)) {
                prop_assert!(reader.finish(true).is_err());
            }
        }
    }
}
