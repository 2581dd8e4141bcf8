//! HashKV: one number over the key space as of a revision, equal on all members.
//!
//! Covers revision, kind, key, create revision, version, lease and the value's origin tag of every
//! record that a reader at or after the compact revision can see, and of a delete exactly at it
//! (etcd #19179). Neither the storage key, nor a rewrap, nor how far the bytes of compacted history
//! are gone changes it.

use super::read::ReadError;
use super::read_view::ReadView;
use super::record::{BadRecord, Kind, Record};
use super::revision::Revision;
use crate::storage::Keyspace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    /// The revision it covers up to.
    pub hash_revision: i64,
    /// -1 before the first compaction.
    pub compact_revision: i64,
}

/// The hash up to `revision`, 0 for the newest; below it there is nothing, and as in etcd that is no error. Reads every
/// meta row: not for an async thread.
pub fn hash_kv(view: &ReadView, revision: i64) -> Result<KvHash, ReadError> {
    let compact_revision = view.compact_revision;
    if revision < 0 {
        return Ok(KvHash {
            hash: 0,
            hash_revision: revision,
            compact_revision,
        });
    }
    let hash_revision = if revision == 0 {
        view.revision
    } else {
        revision
    };
    if hash_revision > view.revision {
        return Err(ReadError::FutureRevision);
    }
    if hash_revision < compact_revision {
        return Err(ReadError::Compacted);
    }
    let end = Revision::new(hash_revision, u32::MAX).to_bytes();
    let mut hash = 0;
    for row in view.store.scan(Keyspace::Meta, ..=&end[..]) {
        let (key, row) = row?;
        let at = Revision::from_bytes(&key).ok_or(ReadError::Corrupt(Revision::default()))?;
        let record = Record::decode(row).map_err(|BadRecord| ReadError::Corrupt(at))?;
        if is_visible(view, compact_revision, at, &record) {
            hash = add(hash, at, &record);
        }
    }
    // A newer compaction takes keys out of the index that this one still counts.
    if view.compact_revision_now() > compact_revision {
        return Err(ReadError::ViewTooOld);
    }
    Ok(KvHash {
        hash,
        hash_revision,
        compact_revision,
    })
}

fn is_visible(view: &ReadView, compact_revision: i64, at: Revision, record: &Record) -> bool {
    if at.main > compact_revision {
        return true;
    }
    if record.kind == Kind::Delete {
        return at.main == compact_revision;
    }
    let found = view.index.read().get(&record.key, compact_revision);
    found.is_some_and(|found| found.modified == at)
}

fn add(hash: u32, at: Revision, record: &Record) -> u32 {
    let kind = if record.kind == Kind::Put { 1 } else { 2 };
    let hash = crc32c::crc32c_append(hash, &at.to_bytes());
    let hash = crc32c::crc32c_append(hash, &[kind]);
    let hash = crc32c::crc32c_append(hash, &(record.key.len() as u64).to_be_bytes());
    let hash = crc32c::crc32c_append(hash, &record.key);
    let numbers = [record.created, record.version, record.lease];
    let hash = numbers.iter().fold(hash, |hash, number| {
        crc32c::crc32c_append(hash, &number.to_be_bytes())
    });
    crc32c::crc32c_append(hash, &record.origin_tag)
}
