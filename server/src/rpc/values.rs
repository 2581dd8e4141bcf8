//! Records to key-value pairs: values fetched from a view, and opened.
//!
//! Promise: a value that must be there and is not is corruption, never an empty value.

use bytes::Bytes;
use proto::mvccpb::KeyValue;

use crate::command::RecordRef;
use crate::mvcc::read::ReadError;
use crate::mvcc::read_view::ReadView;
use crate::mvcc::revision::Revision;
use crate::seal::{Sealer, SealerError};

/// Why a value cannot be given.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValueError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Sealer(#[from] SealerError),
}

impl ValueError {
    /// Whether a keyring that is newer than this member's may have the key.
    pub(super) fn is_key_absent(&self) -> bool {
        matches!(self, ValueError::Sealer(error) if error.is_key_absent())
    }
}

impl From<crate::storage::StorageError> for ValueError {
    fn from(error: crate::storage::StorageError) -> Self {
        ValueError::Read(error.into())
    }
}

/// Where values come from and what opens them.
pub(super) struct Values<'a> {
    pub(super) view: &'a ReadView,
    pub(super) sealer: &'a Sealer,
}

impl Values<'_> {
    /// The opened values of rows, in their order.
    pub(super) fn open(&self, rows: &[RecordRef]) -> Result<Vec<Bytes>, ValueError> {
        if let [row] = rows {
            return Ok(vec![self.open_one(row)?]);
        }
        let revisions: Vec<Revision> = rows.iter().map(|row| row.at).collect();
        let sealed = self.view.store.values(&revisions)?;
        let both = rows.iter().zip(sealed);
        both.map(|(row, sealed)| {
            let sealed = sealed.ok_or(ReadError::Corrupt(row.at))?;
            Ok(self.sealer.open(&row.key, &sealed)?)
        })
        .collect()
    }

    pub(super) fn open_one(&self, row: &RecordRef) -> Result<Bytes, ValueError> {
        let sealed = self
            .view
            .store
            .value(row.at)?
            .ok_or(ReadError::Corrupt(row.at))?;
        Ok(self.sealer.open(&row.key, &sealed)?)
    }

    /// What was there before a write. A compaction may have taken it since, as in etcd.
    pub(super) fn prev(&self, row: &RecordRef) -> Result<Option<KeyValue>, ValueError> {
        match self.view.store.value(row.at)? {
            Some(sealed) => Ok(Some(key_value(row, self.sealer.open(&row.key, &sealed)?))),
            None if row.at.main < self.view.compact_revision_now() => Ok(None),
            None => Err(ReadError::Corrupt(row.at).into()),
        }
    }

    pub(super) fn prevs(&self, rows: &[RecordRef]) -> Result<Vec<KeyValue>, ValueError> {
        let values = self.open(rows)?;
        Ok(rows
            .iter()
            .zip(values)
            .map(|(row, value)| key_value(row, value))
            .collect())
    }
}

pub(super) fn key_value(row: &RecordRef, value: Bytes) -> KeyValue {
    KeyValue {
        key: row.key.clone(),
        create_revision: row.created,
        mod_revision: row.at.main,
        version: row.version,
        value,
        lease: row.lease,
    }
}
