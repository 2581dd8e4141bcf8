//! Writes to the target, collected into transactions that every server takes.
//!
//! Promise: a transaction stays below the default bounds on operations and bytes, unless a single
//! value does not; a key stands in it once.
//! Not known here: where the writes come from.

use std::collections::BTreeSet;

use bytes::Bytes;
use pb::request_op::Request as Op;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;

use super::state::op;

/// One less than the least `--max-txn-ops` in use, since the state goes with it.
pub(super) const OPS_MAX: usize = 127;
/// Well below `--max-request-bytes`.
const BYTES_MAX: usize = 1 << 20;

/// What to do with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    Delete {
        key: Bytes,
    },
}

impl Write {
    pub(super) fn put(row: KeyValue) -> Self {
        Self::Put {
            key: row.key,
            value: row.value,
            lease: row.lease,
        }
    }

    pub(super) fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }

    fn op(self) -> pb::RequestOp {
        op(match self {
            Self::Put { key, value, lease } => Op::RequestPut(pb::PutRequest {
                key,
                value,
                lease,
                ..Default::default()
            }),
            Self::Delete { key } => Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                ..Default::default()
            }),
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    writes: Vec<Write>,
    keys: BTreeSet<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Whether these, all of them, still go in.
    pub(super) fn has_room(&self, writes: &[Write]) -> bool {
        let bytes: usize = writes.iter().map(Write::bytes).sum();
        self.writes.is_empty()
            || (self.writes.len() + writes.len() <= OPS_MAX
                && self.bytes + bytes <= BYTES_MAX
                && !writes.iter().any(|write| self.keys.contains(write.key())))
    }

    pub(super) fn add(&mut self, write: Write) {
        self.bytes += write.bytes();
        self.keys.insert(write.key().clone());
        self.writes.push(write);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<pb::RequestOp> {
        let batch = std::mem::take(self);
        batch.writes.into_iter().map(Write::op).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> Write {
        Write::Put {
            key: key.to_owned().into(),
            value: vec![0; bytes].into(),
            lease: 0,
        }
    }

    #[test]
    fn a_batch_takes_no_key_twice_and_not_too_much() {
        let mut batch = Batch::default();
        assert!(batch.has_room(&[put("a", 2 * BYTES_MAX)]), "alone it goes");
        batch.add(put("a", 1));
        assert!(!batch.has_room(&[put("a", 1)]));
        assert!(!batch.has_room(&[put("b", BYTES_MAX)]));
        assert!(batch.has_room(&[put("b", 1), Write::Delete { key: "c".into() }]));
        for number in 1..OPS_MAX {
            batch.add(put(&format!("k{number}"), 1));
        }
        assert!(!batch.has_room(&[put("b", 1)]));
        assert_eq!(batch.take().len(), OPS_MAX);
        assert!(batch.is_empty());
    }
}
