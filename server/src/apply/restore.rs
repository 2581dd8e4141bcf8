//! A loaded state as the first one of a new cluster.
//!
//! Promise: records, history, leases, plugins with their cursors and everything else that clients
//! put there are as they were; what belonged to the old cluster's members and log is gone. The
//! same backup and the same members give the same state on each of them.
//! Not known here: where the state comes from, raft's bytes.

use bytes::Bytes;
use prost::Message;
use proto::sealkv::replicated as wire;

use super::{Applied, Counters, LogPosition, Poison, bad_row, decode_row, rows};
use crate::mvcc::key_range::KeyRange;
use crate::storage::{Keyspace, Store};

/// What the new cluster begins with.
pub struct Beginning {
    /// raft's own bytes.
    pub membership: Bytes,
    /// Whom it names.
    pub member_ids: Vec<u64>,
    /// What opened the backup, and has to open its key table.
    pub root: keys::RootKey,
    /// If not 0: how far the revision moves, and then everything up to there counts as compacted.
    pub revision_bump: i64,
}

/// The revision that the new cluster begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    pub revision: i64,
    /// The log begins behind this. Members that were restored from backups of different moments by
    /// mistake differ in it, and the one with the newer state wins.
    pub position: LogPosition,
}

/// The state has everything to be a member's but the keyring that its backup names.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Row(#[from] Poison),
    #[error("the root key that opened the backup does not open its key table")]
    OtherKeyTable,
    #[error("the revision cannot move by {bump} from {revision}")]
    Bump { bump: i64, revision: i64 },
}

impl From<crate::storage::StorageError> for RestoreError {
    fn from(error: crate::storage::StorageError) -> Self {
        RestoreError::Row(error.into())
    }
}

/// Rewrites the rows of a staged store, in one batch.
pub fn begin_anew(store: &Store, beginning: &Beginning) -> Result<Begun, RestoreError> {
    let view = store.view();
    let mut batch = store.batch();
    let counters = view.get(Keyspace::System, rows::COUNTERS)?;
    let counters = counters.ok_or_else(|| bad_row(Keyspace::System, rows::COUNTERS))?;
    let counters: wire::Counters = decode_row(Keyspace::System, rows::COUNTERS, counters)?;
    let counters = bumped(Counters::from_row(&counters), beginning.revision_bump)?;
    let row = counters.to_row().encode_to_vec();
    batch.put(Keyspace::System, rows::COUNTERS, &row);

    // The old cluster's ids mean nothing in the new one, which may make some of them again.
    for name in [rows::MEMBER, rows::REMOVED] {
        let members = KeyRange::prefix(Bytes::from_static(name));
        for row in view.scan(Keyspace::System, members.bounds()) {
            batch.delete(Keyspace::System, &row?.0);
        }
    }
    batch.delete(Keyspace::System, rows::DOWNGRADE);

    let table = view.get(Keyspace::KeyTable, rows::KEY_TABLE)?;
    let table = table.ok_or(RestoreError::OtherKeyTable)?;
    let table = keys::KeyTable::decode(&table)
        .map_err(|_| bad_row(Keyspace::KeyTable, rows::KEY_TABLE))?
        .restored(&beginning.root)
        .ok_or(RestoreError::OtherKeyTable)?;
    batch.put(Keyspace::KeyTable, rows::KEY_TABLE, &table.encode());

    let position = LogPosition {
        index: counters.revision.cast_unsigned().max(1),
        term: 0,
        leader: 0,
    };
    let applied = Applied {
        last: Some(position),
        membership: beginning.membership.clone(),
        membership_at: Some(position),
        member_ids: beginning.member_ids.clone(),
    };
    let row = applied.to_row().encode_to_vec();
    batch.put(Keyspace::Raft, rows::APPLIED, &row);
    store.commit(batch)?;
    let revision = counters.revision;
    Ok(Begun { revision, position })
}

fn bumped(mut counters: Counters, bump: i64) -> Result<Counters, RestoreError> {
    if bump == 0 {
        return Ok(counters);
    }
    let revision = counters.revision;
    let moved = revision.checked_add(bump).filter(|_| bump > 0);
    counters.revision = moved.ok_or(RestoreError::Bump { bump, revision })?;
    counters.compact_revision = counters.revision;
    counters.release(counters.superseded_bytes);
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bumped_revision_counts_as_compacted_and_frees_what_was_superseded() {
        let before = Counters {
            revision: 10,
            stored_bytes: 1000,
            superseded_bytes: 300,
            released_bytes: 100,
            ..Counters::FRESH
        };
        let after = bumped(before.clone(), 5).unwrap();
        assert_eq!((after.revision, after.compact_revision), (15, 15));
        assert_eq!((after.stored_bytes, after.released_bytes), (800, 300));
        assert_eq!(bumped(before.clone(), 0).unwrap(), before);
        for bump in [-1, i64::MAX] {
            assert!(bumped(before.clone(), bump).is_err());
        }
    }
}
