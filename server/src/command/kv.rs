//! Puts, deletes, transactions and compaction, as they stand in the log.

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::{BadBody, Wire};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{RangeFilter, RangeQuery, SortOrder, SortTarget};

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Put {
    pub key: Bytes,
    /// As sealed at the edge; empty with `ignore_value`.
    pub sealed_value: Bytes,
    pub lease: i64,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeleteRange {
    pub range: KeyRange,
    /// The reply lists what was deleted.
    pub prev: bool,
}

/// History before `revision` may go. Takes effect for readers at once; the bytes follow later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compact {
    pub revision: i64,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl Txn {
    /// A VALUE compare somewhere in the tree has no outcome yet.
    #[must_use]
    pub fn has_sealed_operands(&self) -> bool {
        let sealed = |compare: &Compare| {
            matches!(
                compare.target,
                CompareTarget::Value(ValueCompare::Sealed(_))
            )
        };
        let inner = |op: &Op| matches!(op, Op::Txn(txn) if txn.has_sealed_operands());
        self.compares.iter().any(sealed)
            || self.success.iter().any(inner)
            || self.failure.iter().any(inner)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Range(RangeQuery),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
}

/// Holds if every live key of the range compares; see `mvcc::txn` for the empty range.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CompareTarget {
    Version(i64),
    Created(i64),
    Modified(i64),
    Lease(i64),
    Value(ValueCompare),
}

/// A VALUE compare never enters the log with its operand.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueCompare {
    /// Between members: the operand, sealed under the first key of the compare's range.
    Sealed(Bytes),
    /// In the log: how it came out at `revision`, when the range had `live_keys` keys. It still
    /// holds if the range has as many and none was modified since.
    Outcome {
        result: bool,
        revision: i64,
        live_keys: u64,
    },
}

impl Wire for Put {
    type Message = wire::Put;
    fn to_wire(&self) -> wire::Put {
        wire::Put {
            key: self.key.clone(),
            sealed_value: self.sealed_value.clone(),
            lease: self.lease,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        }
    }
    fn from_wire(message: wire::Put) -> Result<Self, BadBody> {
        if message.key.is_empty() {
            return Err(BadBody);
        }
        Ok(Put {
            key: message.key,
            sealed_value: message.sealed_value,
            lease: message.lease,
            ignore_value: message.ignore_value,
            ignore_lease: message.ignore_lease,
        })
    }
}

impl Wire for DeleteRange {
    type Message = wire::DeleteRange;
    fn to_wire(&self) -> wire::DeleteRange {
        let (key, range_end) = (self.range.key().clone(), self.range.range_end());
        wire::DeleteRange {
            key,
            range_end,
            prev: self.prev,
        }
    }
    fn from_wire(message: wire::DeleteRange) -> Result<Self, BadBody> {
        Ok(DeleteRange {
            range: KeyRange::from_wire(message.key, message.range_end),
            prev: message.prev,
        })
    }
}

impl Wire for Compact {
    type Message = wire::Compact;
    fn to_wire(&self) -> wire::Compact {
        wire::Compact {
            revision: self.revision,
        }
    }
    fn from_wire(message: wire::Compact) -> Result<Self, BadBody> {
        Ok(Compact {
            revision: message.revision,
        })
    }
}

impl Wire for Txn {
    type Message = wire::Txn;
    fn to_wire(&self) -> wire::Txn {
        wire::Txn {
            compare: self.compares.iter().map(Wire::to_wire).collect(),
            success: self.success.iter().map(Wire::to_wire).collect(),
            failure: self.failure.iter().map(Wire::to_wire).collect(),
        }
    }
    fn from_wire(message: wire::Txn) -> Result<Self, BadBody> {
        Ok(Txn {
            compares: message
                .compare
                .into_iter()
                .map(Compare::from_wire)
                .collect::<Result<_, _>>()?,
            success: message
                .success
                .into_iter()
                .map(Op::from_wire)
                .collect::<Result<_, _>>()?,
            failure: message
                .failure
                .into_iter()
                .map(Op::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Wire for Op {
    type Message = wire::Op;
    fn to_wire(&self) -> wire::Op {
        let op = match self {
            Op::Range(query) => wire::op::Op::Range(query.to_wire()),
            Op::Put(put) => wire::op::Op::Put(put.to_wire()),
            Op::DeleteRange(delete) => wire::op::Op::DeleteRange(delete.to_wire()),
            Op::Txn(txn) => wire::op::Op::Txn(txn.to_wire()),
        };
        wire::Op { op: Some(op) }
    }
    fn from_wire(message: wire::Op) -> Result<Self, BadBody> {
        Ok(match message.op.ok_or(BadBody)? {
            wire::op::Op::Range(range) => Op::Range(RangeQuery::from_wire(range)?),
            wire::op::Op::Put(put) => Op::Put(Put::from_wire(put)?),
            wire::op::Op::DeleteRange(delete) => Op::DeleteRange(DeleteRange::from_wire(delete)?),
            wire::op::Op::Txn(txn) => Op::Txn(Txn::from_wire(txn)?),
        })
    }
}

impl CompareResult {
    /// etcd's number.
    fn number(self) -> u32 {
        match self {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]
        .into_iter()
        .find(|result| result.number() == number)
    }

    /// Whether an actual value that orders so against the operand satisfies the compare.
    #[must_use]
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => ordering.is_ne(),
        }
    }
}

impl Wire for Compare {
    type Message = wire::Compare;
    fn to_wire(&self) -> wire::Compare {
        use wire::compare::Target;
        let (key, range_end) = (self.range.key().clone(), self.range.range_end());
        let mut guard = (0, 0);
        let target = match &self.target {
            CompareTarget::Version(version) => Target::Version(*version),
            CompareTarget::Created(revision) => Target::CreateRevision(*revision),
            CompareTarget::Modified(revision) => Target::ModRevision(*revision),
            CompareTarget::Lease(lease) => Target::Lease(*lease),
            CompareTarget::Value(ValueCompare::Sealed(sealed)) => {
                Target::SealedValue(sealed.clone())
            }
            CompareTarget::Value(ValueCompare::Outcome {
                result,
                revision,
                live_keys,
            }) => {
                guard = (*revision, *live_keys);
                Target::Outcome(*result)
            }
        };
        wire::Compare {
            key,
            range_end,
            result: self.result.number(),
            target: Some(target),
            guard_revision: guard.0,
            guard_live_keys: guard.1,
        }
    }
    fn from_wire(message: wire::Compare) -> Result<Self, BadBody> {
        use wire::compare::Target;
        let (revision, live_keys) = (message.guard_revision, message.guard_live_keys);
        let target = match message.target.ok_or(BadBody)? {
            Target::Version(version) => CompareTarget::Version(version),
            Target::CreateRevision(revision) => CompareTarget::Created(revision),
            Target::ModRevision(revision) => CompareTarget::Modified(revision),
            Target::Lease(lease) => CompareTarget::Lease(lease),
            Target::SealedValue(sealed) => CompareTarget::Value(ValueCompare::Sealed(sealed)),
            Target::Outcome(result) => CompareTarget::Value(ValueCompare::Outcome {
                result,
                revision,
                live_keys,
            }),
        };
        Ok(Compare {
            range: KeyRange::from_wire(message.key, message.range_end),
            result: CompareResult::from_number(message.result).ok_or(BadBody)?,
            target,
        })
    }
}

impl Wire for RangeQuery {
    type Message = wire::Range;
    fn to_wire(&self) -> wire::Range {
        let (key, range_end) = (self.range.key().clone(), self.range.range_end());
        wire::Range {
            key,
            range_end,
            limit: self.limit,
            revision: self.revision,
            sort_order: self.sort_order.number(),
            sort_target: self.sort_target.number(),
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.filter.min_mod_revision,
            max_mod_revision: self.filter.max_mod_revision,
            min_create_revision: self.filter.min_create_revision,
            max_create_revision: self.filter.max_create_revision,
        }
    }
    fn from_wire(message: wire::Range) -> Result<Self, BadBody> {
        Ok(RangeQuery {
            range: KeyRange::from_wire(message.key, message.range_end),
            limit: message.limit,
            revision: message.revision,
            sort_order: SortOrder::from_number(message.sort_order).ok_or(BadBody)?,
            sort_target: SortTarget::from_number(message.sort_target).ok_or(BadBody)?,
            keys_only: message.keys_only,
            count_only: message.count_only,
            filter: RangeFilter {
                min_mod_revision: message.min_mod_revision,
                max_mod_revision: message.max_mod_revision,
                min_create_revision: message.min_create_revision,
                max_create_revision: message.max_create_revision,
            },
        })
    }
}
