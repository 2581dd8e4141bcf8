//! Protobuf to domain requests: everything that a client can get wrong is found here.
//!
//! Promise: what leaves here is valid; nobody checks it again. Values are plain still.
//! Not known here: keys, the state, who asks.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/key.go`.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as PbOp;

use super::intervals;
use crate::command::{CompareResult, CompareTarget, DeleteRange};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{RangeFilter, RangeQuery, SortOrder, SortTarget};

/// What is wrong with a request, whatever the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("key is not provided")]
    EmptyKey,
    /// etcd's answer to an operation of a transaction that is none.
    #[error("key not found")]
    KeyNotFound,
    #[error("value is provided")]
    ValueProvided,
    #[error("lease is provided")]
    LeaseProvided,
    #[error("too many operations in txn request")]
    TooManyOps,
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("invalid sort option")]
    InvalidSortOption,
    #[error("request is too large")]
    RequestTooLarge,
    #[error("RangeStream does not support custom sort orders")]
    StreamSortOrder,
    #[error("RangeStream does not support revision filters")]
    StreamFilter,
    #[error("the empty prefix has a key from the first start")]
    EmptyPrefix,
}

#[derive(Clone, Debug)]
pub(super) struct PlainRange {
    pub(super) query: RangeQuery,
    pub(super) serializable: bool,
}

#[derive(Clone, Debug)]
pub(super) struct PlainPut {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) lease: i64,
    pub(super) prev_kv: bool,
    pub(super) ignore_value: bool,
    pub(super) ignore_lease: bool,
}

#[derive(Clone, Debug)]
pub(super) struct PlainTxn {
    pub(super) compares: Vec<PlainCompare>,
    pub(super) success: Vec<PlainOp>,
    pub(super) failure: Vec<PlainOp>,
}

#[derive(Clone, Debug)]
pub(super) enum PlainOp {
    Range(PlainRange),
    Put(PlainPut),
    DeleteRange(DeleteRange),
    Txn(PlainTxn),
}

#[derive(Clone, Debug)]
pub(super) struct PlainCompare {
    pub(super) range: KeyRange,
    pub(super) result: CompareResult,
    pub(super) target: PlainTarget,
}

#[derive(Clone, Debug)]
pub(super) enum PlainTarget {
    Value(Bytes),
    /// Any of the others.
    Number(CompareTarget),
}

/// What etcd's raft request has besides the client's: a header with the request's number, and the
/// tag of the field that holds the client's.
const RAFT_REQUEST_BYTES: usize = 14;

/// A write's own bound; its message may be a little larger. As in etcd it is that of the raft
/// request, which here is another one.
pub(super) fn size(request: &impl prost::Message, bytes_max: usize) -> Result<(), BadRequest> {
    let own = request.encoded_len();
    if own + prost::length_delimiter_len(own) + RAFT_REQUEST_BYTES > bytes_max {
        Err(BadRequest::RequestTooLarge)
    } else {
        Ok(())
    }
}

fn key(key: Bytes) -> Result<Bytes, BadRequest> {
    if key.is_empty() {
        Err(BadRequest::EmptyKey)
    } else {
        Ok(key)
    }
}

fn key_range(first: Bytes, range_end: Bytes) -> Result<KeyRange, BadRequest> {
    Ok(KeyRange::from_wire(key(first)?, range_end))
}

pub(super) fn range(request: pb::RangeRequest) -> Result<PlainRange, BadRequest> {
    let range = key_range(request.key, request.range_end)?;
    let number = |number: i32| u32::try_from(number).ok();
    let sort_order = number(request.sort_order).and_then(SortOrder::from_number);
    let sort_target = number(request.sort_target).and_then(SortTarget::from_number);
    let query = RangeQuery {
        range,
        limit: request.limit,
        revision: request.revision,
        sort_order: sort_order.ok_or(BadRequest::InvalidSortOption)?,
        sort_target: sort_target.ok_or(BadRequest::InvalidSortOption)?,
        keys_only: request.keys_only,
        count_only: request.count_only,
        filter: RangeFilter {
            min_mod_revision: request.min_mod_revision,
            max_mod_revision: request.max_mod_revision,
            min_create_revision: request.min_create_revision,
            max_create_revision: request.max_create_revision,
        },
    };
    Ok(PlainRange {
        query,
        serializable: request.serializable,
    })
}

/// A range that is sent in pieces comes in key order and whole.
pub(super) fn range_stream(request: pb::RangeRequest) -> Result<PlainRange, BadRequest> {
    let plain = range(request)?;
    let ascending = matches!(plain.query.sort_order, SortOrder::None | SortOrder::Ascend);
    if !ascending || plain.query.sort_target != SortTarget::Key {
        return Err(BadRequest::StreamSortOrder);
    }
    if plain.query.filter != RangeFilter::default() {
        return Err(BadRequest::StreamFilter);
    }
    Ok(plain)
}

pub(super) fn put(request: pb::PutRequest) -> Result<PlainPut, BadRequest> {
    let key = key(request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(BadRequest::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(BadRequest::LeaseProvided);
    }
    Ok(PlainPut {
        key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(super) fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, BadRequest> {
    let range = key_range(request.key, request.range_end)?;
    Ok(DeleteRange {
        range,
        prev: request.prev_kv,
    })
}

pub(super) fn txn(request: pb::TxnRequest, ops_max: usize) -> Result<PlainTxn, BadRequest> {
    let txn = nested_txn(request, ops_max)?;
    intervals::check(&txn.success)?;
    intervals::check(&txn.failure)?;
    Ok(txn)
}

/// A nested transaction has what its parent's greatest list leaves of the budget.
fn nested_txn(request: pb::TxnRequest, ops_max: usize) -> Result<PlainTxn, BadRequest> {
    let pb::TxnRequest {
        compare: compares,
        success,
        failure,
    } = request;
    let ops = compares.len().max(success.len()).max(failure.len());
    let left = ops_max.checked_sub(ops).ok_or(BadRequest::TooManyOps)?;
    if compares.iter().any(|it| it.key.is_empty()) {
        return Err(BadRequest::EmptyKey);
    }
    Ok(PlainTxn {
        success: branch(success, left)?,
        failure: branch(failure, left)?,
        compares: compares.into_iter().filter_map(compare).collect(),
    })
}

fn branch(ops: Vec<pb::RequestOp>, ops_max: usize) -> Result<Vec<PlainOp>, BadRequest> {
    ops.into_iter().map(|it| op(it, ops_max)).collect()
}

fn op(op: pb::RequestOp, ops_max: usize) -> Result<PlainOp, BadRequest> {
    Ok(match op.request.ok_or(BadRequest::KeyNotFound)? {
        PbOp::RequestRange(request) => PlainOp::Range(range(request)?),
        PbOp::RequestPut(request) => PlainOp::Put(put(request)?),
        PbOp::RequestDeleteRange(request) => PlainOp::DeleteRange(delete_range(request)?),
        PbOp::RequestTxn(request) => PlainOp::Txn(nested_txn(request, ops_max)?),
    })
}

/// None for a compare that always holds: etcd lets an unknown result hold, and takes the two
/// sides of an unknown target for equal.
fn compare(compare: pb::Compare) -> Option<PlainCompare> {
    use pb::compare::{CompareResult as Result, CompareTarget as Target};
    let result = match Result::try_from(compare.result).ok()? {
        Result::Equal => CompareResult::Equal,
        Result::Greater => CompareResult::Greater,
        Result::Less => CompareResult::Less,
        Result::NotEqual => CompareResult::NotEqual,
    };
    let range = KeyRange::from_wire(compare.key, compare.range_end);
    let Ok(target) = Target::try_from(compare.target) else {
        if result == CompareResult::Equal {
            return None;
        }
        // No version is below 0.
        let target = PlainTarget::Number(CompareTarget::Version(0));
        return Some(PlainCompare {
            range,
            result: CompareResult::Less,
            target,
        });
    };
    // An operand of another kind, or none, counts as 0 or empty.
    let target = match (target, compare.target_union) {
        (Target::Version, Some(TargetUnion::Version(it))) => number(CompareTarget::Version, it),
        (Target::Version, _) => number(CompareTarget::Version, 0),
        (Target::Create, Some(TargetUnion::CreateRevision(it))) => {
            number(CompareTarget::Created, it)
        }
        (Target::Create, _) => number(CompareTarget::Created, 0),
        (Target::Mod, Some(TargetUnion::ModRevision(it))) => number(CompareTarget::Modified, it),
        (Target::Mod, _) => number(CompareTarget::Modified, 0),
        (Target::Lease, Some(TargetUnion::Lease(it))) => number(CompareTarget::Lease, it),
        (Target::Lease, _) => number(CompareTarget::Lease, 0),
        (Target::Value, Some(TargetUnion::Value(it))) => PlainTarget::Value(it),
        (Target::Value, _) => PlainTarget::Value(Bytes::new()),
    };
    Some(PlainCompare {
        range,
        result,
        target,
    })
}

fn number(target: fn(i64) -> CompareTarget, operand: i64) -> PlainTarget {
    PlainTarget::Number(target(operand))
}

impl PlainTxn {
    fn ops(&self) -> impl Iterator<Item = &PlainOp> {
        self.success.iter().chain(&self.failure)
    }

    /// Nothing but ranges; a nested transaction counts as a write, as in etcd.
    pub(super) fn is_read_only(&self) -> bool {
        self.ops().all(|op| matches!(op, PlainOp::Range(_)))
    }

    /// Of a transaction of ranges: whether all of them may be stale.
    pub(super) fn is_serializable(&self) -> bool {
        self.ops()
            .all(|op| matches!(op, PlainOp::Range(range) if range.serializable))
    }
}
