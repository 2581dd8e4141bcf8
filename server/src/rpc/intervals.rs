//! Whether a transaction writes a key twice.
//!
//! Source: etcd 3.7.1, `checkIntervals` in `server/etcdserver/api/v3rpc/key.go`, its order of
//! checks included: puts of nested transactions meet the deletes that were seen so far. An
//! open-ended delete (`range_end` of `"\0"`) is an interval that ends before it begins there, so
//! it overlaps no put; a client that relies on it gets the same answer here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::parse::{BadRequest, PlainOp};

/// Disjoint half-open intervals of keys: begin to end.
#[derive(Default)]
struct Deletes(BTreeMap<Bytes, Bytes>);

#[derive(Default)]
pub(super) struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Deletes,
}

impl Deletes {
    fn contains(&self, key: &Bytes) -> bool {
        self.0
            .range(..=key.clone())
            .next_back()
            .is_some_and(|(_, end)| key < end)
    }

    fn add(&mut self, mut begin: Bytes, mut end: Bytes) {
        if end <= begin {
            return;
        }
        // Whatever touches the new interval becomes part of it.
        while let Some((other_begin, other_end)) = self.last_touching(&begin, &end) {
            self.0.remove(&other_begin);
            begin = begin.min(other_begin);
            end = end.max(other_end);
        }
        self.0.insert(begin, end);
    }

    fn last_touching(&self, begin: &Bytes, end: &Bytes) -> Option<(Bytes, Bytes)> {
        let bounds = (Bound::Unbounded, Bound::Included(end.clone()));
        let (other_begin, other_end) = self.0.range::<Bytes, _>(bounds).next_back()?;
        (other_end >= begin).then(|| (other_begin.clone(), other_end.clone()))
    }

    fn union(&mut self, other: Deletes) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for (begin, end) in other.0 {
            self.add(begin, end);
        }
    }
}

/// What the operations of one branch write, or that they write a key twice.
pub(super) fn check(ops: &[PlainOp]) -> Result<Writes, BadRequest> {
    let mut writes = Writes::default();
    for op in ops {
        if let PlainOp::DeleteRange(delete) = op {
            let (key, range_end) = (delete.range.key().clone(), delete.range.range_end());
            let end = if range_end.is_empty() {
                successor(&key)
            } else {
                range_end
            };
            writes.deletes.add(key, end);
        }
    }
    for op in ops {
        if let PlainOp::Txn(inner) = op {
            let success = check(&inner.success)?;
            let failure = check(&inner.failure)?;
            writes.take_nested(success, failure)?;
        }
    }
    for op in ops {
        if let PlainOp::Put(put) = op {
            writes.put(put.key.clone())?;
        }
    }
    Ok(writes)
}

impl Writes {
    fn put(&mut self, key: Bytes) -> Result<(), BadRequest> {
        if self.deletes.contains(&key) || !self.puts.insert(key) {
            return Err(BadRequest::DuplicateKey);
        }
        Ok(())
    }

    /// The branches of one nested transaction: only one of them runs, so they may share keys.
    fn take_nested(&mut self, success: Writes, failure: Writes) -> Result<(), BadRequest> {
        let here =
            |writes: &Writes, key: &Bytes| self.puts.contains(key) || writes.deletes.contains(key);
        let mut nested = success.puts.iter().chain(&failure.puts);
        if nested.any(|key| here(self, key)) {
            return Err(BadRequest::DuplicateKey);
        }
        for mut puts in [success.puts, failure.puts] {
            if puts.len() > self.puts.len() {
                std::mem::swap(&mut puts, &mut self.puts);
            }
            self.puts.extend(puts);
        }
        self.deletes.union(success.deletes);
        self.deletes.union(failure.deletes);
        Ok(())
    }
}

/// The first key behind this one.
fn successor(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
