//! Reads of apply: what the open batch wrote, over what is committed.

use bytes::Bytes;
use prost::Message;

use crate::mvcc::read::MetaRows;
use crate::mvcc::revision::Revision;
use crate::storage::{Batch, Keyspace, StorageError, View};

pub(crate) struct Open {
    batch: Batch,
    committed: View,
}

impl Open {
    pub(crate) fn new(batch: Batch, committed: View) -> Self {
        Open { batch, committed }
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }

    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
    ) -> Result<Option<Bytes>, StorageError> {
        match self.batch.get(keyspace, key) {
            Some(pending) => Ok(pending.row().cloned()),
            None => self.committed.get(keyspace, key),
        }
    }

    pub(crate) fn value(&self, at: Revision) -> Result<Option<Bytes>, StorageError> {
        match self.batch.value(at) {
            Some(pending) => Ok(pending.row().cloned()),
            None => self.committed.value(at),
        }
    }

    pub(crate) fn put(&mut self, keyspace: Keyspace, key: &[u8], row: &[u8]) {
        self.batch.put(keyspace, key, row);
    }

    pub(crate) fn put_message(&mut self, keyspace: Keyspace, key: &[u8], row: &impl Message) {
        self.batch.put(keyspace, key, &row.encode_to_vec());
    }

    pub(crate) fn put_value(&mut self, at: Revision, sealed: Bytes) {
        self.batch.put_value(at, sealed);
    }

    pub(crate) fn delete(&mut self, keyspace: Keyspace, key: &[u8]) {
        self.batch.delete(keyspace, key);
    }
}

impl MetaRows for Open {
    fn meta_row(&self, at: Revision) -> Result<Option<Bytes>, StorageError> {
        self.get(Keyspace::Meta, &at.to_bytes())
    }
}
