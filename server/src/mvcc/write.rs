//! Writing one revision: what a put or a delete changes in rows, index and leases.
//!
//! Promise: all changes of one `Write` are one revision, in the order they were made; nothing is
//! written twice; a write that changed nothing takes no revision.
//! Not known here: whether the write is allowed. Whoever calls has checked everything before.

use bytes::Bytes;
use parking_lot::RwLock;

use super::event::{Cause, Event, Kind, RevisionEvents};
use super::index::Index;
use super::key_history::Latest;
use super::key_range::KeyRange;
use super::read::{record_at, resolve, rows_in_key_order};
use super::record::{self, Record};
use super::revision::Revision;
use crate::apply::{Counters, Open, Poison};
use crate::command::RecordRef;
use crate::lease::table::LeaseTable;
use crate::storage::Keyspace;

/// A value on its way into the store.
pub(crate) struct SealedValue {
    pub(crate) sealed: Bytes,
    pub(crate) tag: [u8; 16],
    pub(crate) origin_tag: [u8; 16],
}

pub(crate) struct Write<'a> {
    pub(crate) open: &'a mut Open,
    pub(crate) index: &'a RwLock<Index>,
    pub(crate) leases: &'a RwLock<LeaseTable>,
    counters: &'a mut Counters,
    cause: Cause,
    hops: u8,
    revision: i64,
    superseded_before: u64,
    events: Vec<Event>,
}

impl<'a> Write<'a> {
    pub(crate) fn new(
        open: &'a mut Open,
        index: &'a RwLock<Index>,
        leases: &'a RwLock<LeaseTable>,
        counters: &'a mut Counters,
        cause: Cause,
        hops: u8,
    ) -> Self {
        let revision = counters.revision + 1;
        let superseded_before = counters.superseded_bytes;
        Write {
            open,
            index,
            leases,
            counters,
            cause,
            hops,
            revision,
            superseded_before,
            events: Vec::new(),
        }
    }

    /// What a read inside this write is at: its own revision once it has changed something.
    pub(crate) fn revision(&self) -> i64 {
        if self.events.is_empty() {
            self.revision - 1
        } else {
            self.revision
        }
    }

    /// The revision that its changes get.
    pub(crate) fn own_revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compact_revision(&self) -> i64 {
        self.counters.compact_revision
    }

    /// The record of a key as this write sees it.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<RecordRef>, Poison> {
        let found = self.index.read().get(key, self.revision);
        Ok(found.map(|found| resolve(found, self.open)).transpose()?)
    }

    /// Returns what it replaced.
    pub(crate) fn put(
        &mut self,
        key: &Bytes,
        value: SealedValue,
        lease: i64,
    ) -> Result<Option<RecordRef>, Poison> {
        let prev = self.current(key)?;
        let at = self.next_revision();
        let key = key.clone();
        let (created, version) = prev
            .as_ref()
            .map_or((at.main, 1), |prev| (prev.created, prev.version + 1));
        if let Some(prev) = &prev {
            self.supersede(prev);
        }
        let old_lease = prev.as_ref().map_or(0, |prev| prev.lease);
        self.move_lease(&key, old_lease, lease);
        let value_bytes =
            u32::try_from(value.sealed.len()).expect("a request is far smaller than 4 GiB");
        let record = Record {
            kind: Kind::Put,
            key: key.clone(),
            created,
            version,
            lease,
            cause: self.cause,
            hops: self.hops,
            value_bytes,
            superseded_bytes: self.superseded_before,
            value_tag: value.tag,
            origin_tag: value.origin_tag,
        };
        self.counters.stored_bytes += record.stored_bytes();
        self.open
            .put(Keyspace::Meta, &at.to_bytes(), &record.encode());
        self.open.put_value(at, value.sealed.clone());
        self.index.write().put(
            key.clone(),
            Latest {
                modified: at,
                created,
                version,
                lease,
                value_bytes,
            },
        );
        let record = RecordRef {
            key,
            at,
            created,
            version,
            lease,
            value_bytes,
        };
        self.push(Kind::Put, record, value.sealed, prev.clone());
        Ok(prev)
    }

    /// Returns what was deleted, in key order.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> Result<Vec<RecordRef>, Poison> {
        let rows = rows_in_key_order(self.index, self.open, range, self.revision, None)?;
        for row in &rows {
            self.delete(row);
        }
        Ok(rows)
    }

    fn delete(&mut self, prev: &RecordRef) {
        let at = self.next_revision();
        self.supersede(prev);
        self.move_lease(&prev.key, prev.lease, 0);
        let record = Record {
            kind: Kind::Delete,
            key: prev.key.clone(),
            created: 0,
            version: 0,
            lease: 0,
            cause: self.cause,
            hops: self.hops,
            value_bytes: 0,
            superseded_bytes: self.superseded_before,
            value_tag: [0; 16],
            origin_tag: [0; 16],
        };
        self.counters.stored_bytes += record.stored_bytes();
        // A compaction after it takes the delete itself away too.
        self.counters.superseded_bytes += record.stored_bytes();
        self.open
            .put(Keyspace::Meta, &at.to_bytes(), &record.encode());
        self.index.write().delete(&prev.key, at);
        let record = RecordRef {
            key: prev.key.clone(),
            at,
            created: 0,
            version: 0,
            lease: 0,
            value_bytes: 0,
        };
        self.push(Kind::Delete, record, Bytes::new(), Some(prev.clone()));
    }

    /// The value of a record as it is stored, for a put that keeps it.
    pub(crate) fn stored_value(&self, record: &RecordRef) -> Result<SealedValue, Poison> {
        let sealed = self
            .open
            .value(record.at)?
            .ok_or(Poison::Record(record.at))?;
        let meta = record_at(self.open, record.at)?;
        Ok(SealedValue {
            sealed,
            tag: meta.value_tag,
            origin_tag: meta.origin_tag,
        })
    }

    /// The events of the revision, if it came to be one.
    pub(crate) fn finish(self) -> Option<RevisionEvents> {
        if self.events.is_empty() {
            return None;
        }
        self.counters.revision = self.revision;
        Some(RevisionEvents {
            revision: self.revision,
            events: self.events,
        })
    }

    fn next_revision(&self) -> Revision {
        let sub = u32::try_from(self.events.len())
            .expect("a batch in memory has fewer than 2^32 changes");
        Revision::new(self.revision, sub)
    }

    fn supersede(&mut self, prev: &RecordRef) {
        self.counters.superseded_bytes += record::stored_bytes(&prev.key, prev.value_bytes);
    }

    fn move_lease(&self, key: &Bytes, from: i64, to: i64) {
        if from != to {
            let mut leases = self.leases.write();
            leases.detach(from, key);
            leases.attach(to, key);
        }
    }

    /// An event's previous record is that of the revision before. An open-ended delete can meet what
    /// its own transaction has put, as etcd sees no overlap there.
    fn before_this_revision(&self, prev: RecordRef) -> Option<RecordRef> {
        if prev.at.main != self.revision {
            return Some(prev);
        }
        let own = |event: &&Event| event.record.at == prev.at && event.record.key == prev.key;
        match self.events.iter().rev().find(own) {
            Some(put) => put.prev.clone(),
            None => Some(prev),
        }
    }

    fn push(&mut self, kind: Kind, record: RecordRef, value: Bytes, prev: Option<RecordRef>) {
        let prev = prev.and_then(|prev| self.before_this_revision(prev));
        self.events.push(Event {
            kind,
            record,
            value,
            prev,
            cause: self.cause,
            hops: self.hops,
        });
    }
}
