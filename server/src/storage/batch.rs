//! Changes that become visible together.
//!
//! Promise: a batch reads its own writes; rows are sealed once, when it is committed, however
//! often they were written.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use bytes::Bytes;

use super::layout::Keyspace;
use crate::mvcc::Revision;

/// What an open batch will do to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending<'a> {
    Put(&'a Bytes),
    Delete,
}

impl<'a> Pending<'a> {
    fn of(row: &'a Option<Bytes>) -> Self {
        row.as_ref().map_or(Pending::Delete, Pending::Put)
    }

    pub fn row(self) -> Option<&'a Bytes> {
        match self {
            Pending::Put(row) => Some(row),
            Pending::Delete => None,
        }
    }
}

/// Row keys with what becomes of them: no bytes for a deletion.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// The changes of one commit, in plaintext but for values.
#[derive(Debug, Default)]
pub struct Batch {
    keyspaces: [Changes; Keyspace::COUNT],
}

impl Batch {
    pub fn put(&mut self, keyspace: Keyspace, key: &[u8], row: &[u8]) {
        self.set(keyspace, key, Some(Bytes::copy_from_slice(row)));
    }

    /// The value goes in as it is: it was sealed before it was proposed.
    pub fn put_value(&mut self, revision: Revision, sealed: Bytes) {
        self.set(Keyspace::Value, &revision.to_bytes(), Some(sealed));
    }

    pub fn delete(&mut self, keyspace: Keyspace, key: &[u8]) {
        self.set(keyspace, key, None);
    }

    /// Nothing if this batch leaves the row alone.
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Option<Pending<'_>> {
        self.keyspaces[keyspace.ordinal()].get(key).map(Pending::of)
    }

    /// Nothing if this batch leaves the value alone.
    pub fn value(&self, revision: Revision) -> Option<Pending<'_>> {
        self.get(Keyspace::Value, &revision.to_bytes())
    }

    /// The touched rows of a range of row keys, ascending.
    pub fn range<'a>(
        &'a self,
        keyspace: Keyspace,
        keys: impl RangeBounds<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, Pending<'a>)> {
        let bounds = (keys.start_bound().cloned(), keys.end_bound().cloned());
        let rows = &self.keyspaces[keyspace.ordinal()];
        let rows = is_ordered(bounds).then(|| rows.range::<[u8], _>(bounds));
        rows.into_iter()
            .flatten()
            .map(|(key, row)| (key, Pending::of(row)))
    }

    pub fn is_empty(&self) -> bool {
        self.keyspaces.iter().all(BTreeMap::is_empty)
    }

    /// How many rows it touches.
    pub fn len(&self) -> usize {
        self.keyspaces.iter().map(BTreeMap::len).sum()
    }

    /// How many rows its commit seals: values are sealed already.
    pub(crate) fn rows_to_seal(&self) -> usize {
        let rows = Keyspace::ALL.into_iter().zip(&self.keyspaces);
        rows.filter(|(keyspace, _)| *keyspace != Keyspace::Value)
            .map(|(_, rows)| rows.values().filter(|row| row.is_some()).count())
            .sum()
    }

    pub(crate) fn into_keyspaces(self) -> impl Iterator<Item = (Keyspace, Changes)> {
        Keyspace::ALL.into_iter().zip(self.keyspaces)
    }

    fn set(&mut self, keyspace: Keyspace, key: &[u8], row: Option<Bytes>) {
        debug_assert!(key > super::layout::MARKER_KEY, "the store's own row");
        let key = Bytes::copy_from_slice(key);
        self.keyspaces[keyspace.ordinal()].insert(key, row);
    }
}

/// `BTreeMap::range` panics on bounds that are the wrong way round; these have no rows.
pub(crate) fn is_ordered(bounds: (std::ops::Bound<&[u8]>, std::ops::Bound<&[u8]>)) -> bool {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    match bounds {
        (Unbounded, _) | (_, Unbounded) => true,
        (Included(from), Included(to)) => from <= to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from < to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_what_it_wrote_last() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        assert_eq!(batch.get(Keyspace::Lease, b"a"), None);
        batch.put(Keyspace::Lease, b"a", b"1");
        batch.put(Keyspace::Lease, b"a", b"2");
        let row = batch.get(Keyspace::Lease, b"a").and_then(Pending::row);
        assert_eq!(row, Some(&Bytes::from_static(b"2")));
        batch.delete(Keyspace::Lease, b"a");
        assert_eq!(batch.get(Keyspace::Lease, b"a"), Some(Pending::Delete));
        assert_eq!(batch.get(Keyspace::System, b"a"), None);
        assert_eq!(batch.len(), 1);
    }

    #[test]
    fn a_range_of_a_batch_is_ascending_and_may_be_empty() {
        let mut batch = Batch::default();
        for key in [b"c", b"a", b"b"] {
            batch.put(Keyspace::Plugin, key, key);
        }
        batch.delete(Keyspace::Plugin, b"b");
        let keys = |from: &'static [u8], to: &'static [u8]| {
            let rows = batch.range(Keyspace::Plugin, from..to);
            rows.map(|(key, row)| (key.clone(), row.row().is_some()))
                .collect::<Vec<_>>()
        };
        let expected = [
            (Bytes::from_static(b"a"), true),
            (Bytes::from_static(b"b"), false),
        ];
        assert_eq!(keys(b"a", b"c"), expected);
        assert_eq!(keys(b"c", b"a"), []);
        assert_eq!(keys(b"a", b"a"), []);
    }
}
