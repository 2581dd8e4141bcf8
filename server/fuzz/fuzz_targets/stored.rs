//! What is read back from disk once its seal is open: log batches, records, snapshots' chunks, backups.
#![no_main]

use bytes::Bytes;
use keys::StorageKeys;
use libfuzzer_sys::fuzz_target;
use server::apply::snapshot::SnapshotLoader;
use server::backup::BackupReader;
use server::mvcc::record::Record;
use server::raft::Identity;
use server::storage::Store;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let rest = Bytes::copy_from_slice(rest);
    match kind % 5 {
        0 => server::storage::log::fuzzing::batch(&rest),
        1 => {
            if let Ok(record) = Record::decode(rest) {
                assert_eq!(Record::decode(record.encode()).ok(), Some(record));
            }
        }
        2 => {
            if let Some(identity) = Identity::decode(&rest) {
                let again = Identity::decode(&identity.encode()).expect("it was written so");
                assert_eq!(again.encode(), identity.encode());
            }
        }
        3 => {
            if let Ok(backup) = BackupReader::new(&rest[..]) {
                let _ = backup.finish(true);
            }
        }
        _ => {
            let store = Store::in_memory(StorageKeys::ephemeral());
            let mut loader = SnapshotLoader::new(store);
            let _ = loader.chunk(&rest);
            assert!(loader.finish(None).is_err(), "it has no digest");
        }
    }
});
