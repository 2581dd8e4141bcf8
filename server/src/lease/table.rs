//! The replicated part of leases: which exist, and which keys hang on each.
//!
//! Promise: changed by `apply` alone, so it is the same on every member. The keys are not stored:
//! a record names its lease, and recovery attaches the live ones again.
//! Not known here: time. When a lease ends is the lessor's business, and only at the leader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::sealkv::replicated as wire;

/// What a lease costs of the space quota.
pub const LEASE_BYTES: u64 = 64;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lease {
    pub ttl_seconds: i64,
    /// What was left at the last checkpoint; 0 for none.
    pub remaining_seconds: i64,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    #[must_use]
    pub fn new(ttl_seconds: i64, remaining_seconds: i64) -> Self {
        Lease {
            ttl_seconds,
            remaining_seconds,
            keys: BTreeSet::new(),
        }
    }

    /// In byte order.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }

    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn to_row(&self) -> wire::LeaseRow {
        wire::LeaseRow {
            ttl_seconds: self.ttl_seconds,
            remaining_seconds: self.remaining_seconds,
        }
    }

    pub(crate) fn from_row(row: &wire::LeaseRow) -> Self {
        Lease::new(row.ttl_seconds, row.remaining_seconds)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
}

impl LeaseTable {
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    #[must_use]
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub(crate) fn insert(&mut self, id: i64, lease: Lease) {
        self.leases.insert(id, lease);
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Returns the lease as it is then, if there is one.
    pub(crate) fn checkpoint(&mut self, id: i64, remaining_seconds: i64) -> Option<&Lease> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_seconds = remaining_seconds;
        Some(lease)
    }

    /// A lease that does not exist is no lease: 0, or one that ended in the same transaction.
    pub(crate) fn attach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            // A key out of a request would keep the memory of the whole request.
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    pub(crate) fn detach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
