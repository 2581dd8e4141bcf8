//! Puts, deletes, transactions and compaction.
//!
//! Everything that can refuse is asked before the first write: a transaction happens whole or not
//! at all, and a refused entry leaves no trace.

use std::sync::Arc;

use bytes::Bytes;

use super::{Context, Machine, Poison, Stop, Work};
use crate::command::{
    Body, Compact, CompactReply, DeleteRange, DeleteRangeReply, EffectOp, NoEffect, Op, OpReply,
    Put, PutReply, RangeReply, Refusal, Txn, TxnReply,
};
use crate::lease::table::{LEASE_BYTES, LeaseTable};
use crate::mvcc::event::Cause;
use crate::mvcc::read::{self, RangeQuery, ReadError};
use crate::mvcc::record::RECORD_OVERHEAD_BYTES;
use crate::mvcc::revision::Revision;
use crate::mvcc::txn::{self, Path};
use crate::mvcc::write::{SealedValue, Write};

/// Whether a CORRUPT alarm stops it: everything that touches keys or leases.
pub(super) fn reads_or_writes(body: &Body) -> bool {
    match body {
        Body::Put(_)
        | Body::DeleteRange(_)
        | Body::Txn(_)
        | Body::Compact(_)
        | Body::LeaseGrant(_)
        | Body::LeaseRevoke(_)
        | Body::LeaseExpire(_)
        | Body::CommitPlugin(_) => true,
        Body::LeaseCheckpoint(_)
        | Body::ChangeKeys(_)
        | Body::PublishMember(_)
        | Body::Alarm(_)
        | Body::Downgrade(_)
        | Body::PluginChunk(_)
        | Body::DeployPlugin(_)
        | Body::SetPluginState(_)
        | Body::DeletePlugin(_)
        | Body::ChangeAuth(_)
        | Body::Authenticate(_) => false,
    }
}

/// What a command may add to the space in use; etcd's rules, with our overhead of a record.
#[must_use]
pub fn quota_cost(body: &Body) -> u64 {
    match body {
        Body::Put(put) => put_cost(put),
        Body::Txn(txn) => txn_cost(txn),
        Body::LeaseGrant(_) => LEASE_BYTES,
        Body::PluginChunk(chunk) => chunk.data.len() as u64,
        Body::CommitPlugin(commit) => commit.effects.iter().map(effect_cost).sum(),
        Body::DeleteRange(_)
        | Body::Compact(_)
        | Body::LeaseRevoke(_)
        | Body::LeaseExpire(_)
        | Body::LeaseCheckpoint(_)
        | Body::ChangeKeys(_)
        | Body::PublishMember(_)
        | Body::Alarm(_)
        | Body::Downgrade(_)
        | Body::DeployPlugin(_)
        | Body::SetPluginState(_)
        | Body::DeletePlugin(_)
        | Body::ChangeAuth(_)
        | Body::Authenticate(_) => 0,
    }
}

fn put_cost(put: &Put) -> u64 {
    RECORD_OVERHEAD_BYTES + put.key.len() as u64 + put.sealed_value.len() as u64
}

fn effect_cost(effect: &EffectOp) -> u64 {
    match effect {
        EffectOp::Put(put) => put_cost(put),
        EffectOp::DeleteRange(_) => 0,
    }
}

/// The dearer branch, nested transactions included.
fn txn_cost(txn: &Txn) -> u64 {
    let branch = |ops: &[Op]| -> u64 {
        let cost = |op: &Op| match op {
            Op::Put(put) => put_cost(put),
            Op::Txn(inner) => txn_cost(inner),
            Op::Range(_) | Op::DeleteRange(_) => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

impl Machine {
    /// Runs `change` as one revision, and keeps its events.
    pub(super) fn write<T>(
        &mut self,
        work: &mut Work,
        cause: Cause,
        hops: u8,
        change: impl FnOnce(&mut Write<'_>) -> Result<T, Poison>,
    ) -> Result<T, Poison> {
        let mut write = Write::new(
            &mut work.open,
            &self.index,
            &self.leases,
            &mut self.counters,
            cause,
            hops,
        );
        let result = change(&mut write)?;
        work.events.extend(write.finish().map(Arc::new));
        Ok(result)
    }

    pub(super) fn put(&mut self, work: &mut Work, put: &Put) -> Result<PutReply, Stop> {
        self.check_header(put)?;
        self.checked_write(work, |write| {
            check_put(write, put)?;
            Ok(run_put(write, put)?)
        })
    }

    pub(super) fn delete_range(
        &mut self,
        work: &mut Work,
        context: Context,
        delete: &DeleteRange,
    ) -> Result<DeleteRangeReply, Stop> {
        Ok(self.write(work, Cause::Client, 0, |write| {
            run_delete(write, context, delete)
        })?)
    }

    pub(super) fn txn(
        &mut self,
        work: &mut Work,
        context: Context,
        txn: &Txn,
    ) -> Result<TxnReply, Stop> {
        let revision = self.counters.revision;
        let chosen = txn::path(txn, &mut |compare| {
            txn::ask(&self.index, &work.open, revision, compare)
        })?;
        let chosen = chosen.ok_or(NoEffect::Guard)?;
        self.check_headers(txn, &chosen)?;
        self.checked_write(work, |write| {
            check_branch(write, txn, &chosen)?;
            let responses = run_branch(write, context, txn, &chosen)?;
            let (succeeded, revision) = (chosen.succeeded, write.revision());
            Ok(TxnReply {
                succeeded,
                revision,
                responses,
            })
        })
    }

    /// As `write`, for a change that may refuse before it has written anything.
    fn checked_write<T>(
        &mut self,
        work: &mut Work,
        change: impl FnOnce(&mut Write<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.write(work, Cause::Client, 0, |write| match change(write) {
            Ok(done) => Ok(Ok(done)),
            Err(Stop::Poison(poison)) => Err(poison),
            Err(stop) => Ok(Err(stop)),
        })?
    }

    /// A new value must lie under the key that its prefix has at this point of the log.
    fn check_header(&self, put: &Put) -> Result<(), NoEffect> {
        if put.ignore_value {
            return Ok(());
        }
        self.check_sealed(put)
    }

    pub(super) fn check_sealed(&self, put: &Put) -> Result<(), NoEffect> {
        let header =
            keys::SealedHeader::parse(&put.sealed_value).map_err(|_| NoEffect::KeyHeader)?;
        self.key_table
            .check_sealed(&put.key, &header)
            .map_err(|_| NoEffect::KeyHeader)
    }

    fn check_headers(&self, txn: &Txn, chosen: &Path) -> Result<(), NoEffect> {
        let mut nested = chosen.nested.iter();
        for op in chosen.branch(txn) {
            match op {
                Op::Put(put) => self.check_header(put)?,
                Op::Txn(inner) => self.check_headers(inner, next(&mut nested))?,
                Op::Range(_) | Op::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn compact(
        &mut self,
        work: &mut Work,
        compact: &Compact,
    ) -> Result<CompactReply, Stop> {
        let counters = &mut self.counters;
        if compact.revision <= counters.compact_revision {
            return Err(Refusal::Compacted.into());
        }
        if compact.revision > counters.revision {
            return Err(Refusal::FutureRevision.into());
        }
        let released = if compact.revision == counters.revision {
            counters.superseded_bytes
        } else if compact.revision < 1 {
            0
        } else {
            let next = Revision::new(compact.revision + 1, 0);
            read::record_at(&work.open, next)?.superseded_bytes
        };
        counters.release(released);
        counters.compact_revision = compact.revision;
        work.compacted = true;
        Ok(CompactReply {
            revision: counters.revision,
        })
    }
}

fn next<'p>(nested: &mut std::slice::Iter<'p, Path>) -> &'p Path {
    nested
        .next()
        .expect("the path has one step per nested transaction of the branch")
}

/// etcd's `checkPut`: the lease first, then what an ignore flag needs.
fn check_put(write: &Write<'_>, put: &Put) -> Result<(), Stop> {
    if put.lease != 0 && !lease_exists(&write.leases.read(), put.lease) {
        return Err(Refusal::LeaseNotFound.into());
    }
    if (put.ignore_value || put.ignore_lease) && write.current(&put.key)?.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(())
}

fn lease_exists(leases: &LeaseTable, id: i64) -> bool {
    leases.contains(id)
}

/// etcd's `checkTxn`, of the branch that is taken, on the state before the transaction.
fn check_branch(write: &Write<'_>, txn: &Txn, chosen: &Path) -> Result<(), Stop> {
    let mut nested = chosen.nested.iter();
    for op in chosen.branch(txn) {
        match op {
            Op::Range(query) => check_range(write, query)?,
            Op::Put(put) => check_put(write, put)?,
            Op::DeleteRange(_) => {}
            Op::Txn(inner) => check_branch(write, inner, next(&mut nested))?,
        }
    }
    Ok(())
}

fn check_range(write: &Write<'_>, query: &RangeQuery) -> Result<(), Stop> {
    if query.revision > write.revision() {
        return Err(Refusal::FutureRevision.into());
    }
    if query.revision != 0 && query.revision < write.compact_revision() {
        return Err(Refusal::Compacted.into());
    }
    Ok(())
}

fn run_branch(
    write: &mut Write<'_>,
    context: Context,
    txn: &Txn,
    chosen: &Path,
) -> Result<Vec<OpReply>, Poison> {
    let mut nested = chosen.nested.iter();
    let ops = chosen.branch(txn).iter();
    ops.map(|op| run_op(write, context, op, &mut nested))
        .collect()
}

fn run_op(
    write: &mut Write<'_>,
    context: Context,
    op: &Op,
    nested: &mut std::slice::Iter<'_, Path>,
) -> Result<OpReply, Poison> {
    Ok(match op {
        Op::Range(query) => OpReply::Range(run_range(write, context, query)?),
        Op::Put(put) => OpReply::Put(run_put(write, put)?),
        Op::DeleteRange(delete) => OpReply::DeleteRange(run_delete(write, context, delete)?),
        Op::Txn(inner) => {
            let chosen = next(nested);
            let responses = run_branch(write, context, inner, chosen)?;
            OpReply::Txn(TxnReply {
                succeeded: chosen.succeeded,
                revision: write.revision(),
                responses,
            })
        }
    })
}

/// Members that answer nobody skip it; it changes nothing.
fn run_range(
    write: &Write<'_>,
    context: Context,
    query: &RangeQuery,
) -> Result<RangeReply, Poison> {
    if !context.reply_wanted {
        return Ok(RangeReply::default());
    }
    let current = write.revision();
    let at = if query.revision <= 0 {
        current
    } else {
        query.revision
    };
    let rows = read::select(write.index, write.open, query, at, current);
    // A compaction that was applied earlier in this batch has not been given to the compactor.
    rows.map_err(|error: ReadError| Poison::from(error))
}

fn run_put(write: &mut Write<'_>, put: &Put) -> Result<PutReply, Poison> {
    let current = if put.ignore_value || put.ignore_lease {
        write.current(&put.key)?
    } else {
        None
    };
    let value = match &current {
        Some(record) if put.ignore_value => write.stored_value(record)?,
        // Deleted earlier in the same transaction, which the edge refuses: there is nothing to keep.
        None if put.ignore_value => {
            let revision = write.revision();
            return Ok(PutReply {
                revision,
                prev: None,
            });
        }
        _ => new_value(put.sealed_value.clone()),
    };
    let lease = match &current {
        Some(record) if put.ignore_lease => record.lease,
        _ => put.lease,
    };
    let prev = write.put(&put.key, value, lease)?;
    Ok(PutReply {
        revision: write.own_revision(),
        prev,
    })
}

/// A value at its first sealing. What is too short to be one did not pass the header check.
pub(super) fn new_value(sealed: Bytes) -> SealedValue {
    let tag = keys::tag(&sealed).unwrap_or_default();
    SealedValue {
        sealed,
        tag,
        origin_tag: tag,
    }
}

fn run_delete(
    write: &mut Write<'_>,
    context: Context,
    delete: &DeleteRange,
) -> Result<DeleteRangeReply, Poison> {
    let mut prev = write.delete_range(&delete.range)?;
    let deleted = prev.len() as u64;
    if !(context.reply_wanted && delete.prev) {
        prev = Vec::new();
    }
    Ok(DeleteRangeReply {
        revision: write.revision(),
        deleted,
        prev,
    })
}
