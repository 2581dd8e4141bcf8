//! Compares, and the path they choose through a transaction.
//!
//! Promise: every compare of the tree sees the state before the transaction, and only the compares
//! of nested transactions that the path reaches are asked. VALUE compares are answered by the
//! leader on a view and hold at apply only while what they saw has not changed.
//! Not known here: keys. Values are opened by a function of the caller.

use std::cmp::Ordering;

use parking_lot::RwLock;

use super::index::Index;
use super::key_range::KeyRange;
use super::read::{self, MetaRows, ReadError, rows_in_key_order};
use super::read_view::ReadView;
use crate::command::{
    Compare, CompareResult, CompareTarget, Op, OpReply, RecordRef, Txn, TxnReply, ValueCompare,
};

/// Which branch is taken, and in it which branch of each nested transaction, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) succeeded: bool,
    pub(crate) nested: Vec<Path>,
}

/// How a compare came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    Fails,
    /// What a VALUE compare was answered on has changed.
    Moved,
}

impl Path {
    pub(crate) fn branch<'t>(&self, txn: &'t Txn) -> &'t [Op] {
        if self.succeeded {
            &txn.success
        } else {
            &txn.failure
        }
    }
}

/// Chooses the path; none if a guard on it does not hold.
pub(crate) fn path<E>(
    txn: &Txn,
    ask: &mut impl FnMut(&Compare) -> Result<Verdict, E>,
) -> Result<Option<Path>, E> {
    let mut succeeded = true;
    for compare in &txn.compares {
        match ask(compare)? {
            Verdict::Holds => {}
            Verdict::Fails => succeeded = false,
            Verdict::Moved => return Ok(None),
        }
        if !succeeded {
            break;
        }
    }
    let mut chosen = Path {
        succeeded,
        nested: Vec::new(),
    };
    for op in chosen.branch(txn) {
        if let Op::Txn(inner) = op {
            match path(inner, ask)? {
                Some(inner) => chosen.nested.push(inner),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(chosen))
}

/// Answers one compare on the state at `at`, which is the newest.
pub(crate) fn ask(
    index: &RwLock<Index>,
    metas: &impl MetaRows,
    at: i64,
    compare: &Compare,
) -> Result<Verdict, ReadError> {
    let operand = match &compare.target {
        CompareTarget::Value(ValueCompare::Outcome {
            result,
            revision,
            live_keys,
        }) => {
            return Ok(guarded(
                index,
                &compare.range,
                *result,
                *revision,
                *live_keys,
            ));
        }
        // The leader answers every one before it proposes.
        CompareTarget::Value(ValueCompare::Sealed(_)) => return Ok(Verdict::Moved),
        CompareTarget::Version(operand)
        | CompareTarget::Created(operand)
        | CompareTarget::Modified(operand)
        | CompareTarget::Lease(operand) => *operand,
    };
    let rows = rows_in_key_order(index, metas, &compare.range, at, None)?;
    let holds = |actual: i64| compare.result.holds(actual.cmp(&operand));
    // A key that does not exist compares as one that has 0 everywhere.
    let all = if rows.is_empty() {
        holds(0)
    } else {
        rows.iter().all(|row| holds(number(&compare.target, row)))
    };
    Ok(if all { Verdict::Holds } else { Verdict::Fails })
}

fn number(target: &CompareTarget, row: &RecordRef) -> i64 {
    match target {
        CompareTarget::Version(_) => row.version,
        CompareTarget::Created(_) => row.created,
        CompareTarget::Modified(_) => row.at.main,
        CompareTarget::Lease(_) => row.lease,
        CompareTarget::Value(_) => 0,
    }
}

fn guarded(
    index: &RwLock<Index>,
    range: &KeyRange,
    result: bool,
    revision: i64,
    live_keys: u64,
) -> Verdict {
    let guard = index.read().guard(range);
    if guard.live_keys != live_keys || guard.max_mod_revision > revision {
        return Verdict::Moved;
    }
    if result {
        Verdict::Holds
    } else {
        Verdict::Fails
    }
}

/// Why a VALUE compare could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError<E> {
    #[error(transparent)]
    Read(ReadError),
    /// The caller's own: a value or an operand did not open.
    #[error("a value cannot be opened")]
    Open(E),
}

impl<E> From<ReadError> for ResolveError<E> {
    fn from(error: ReadError) -> Self {
        ResolveError::Read(error)
    }
}

impl<E> From<crate::storage::StorageError> for ResolveError<E> {
    fn from(error: crate::storage::StorageError) -> Self {
        ResolveError::Read(error.into())
    }
}

/// Opens a value that is sealed under a key.
pub type Open<'a, E> = dyn Fn(&[u8], &[u8]) -> Result<Vec<u8>, E> + 'a;

/// Replaces every sealed operand of the tree by its outcome on this view, with its guard. `open`
/// opens a value that is sealed under a key, for as long as the comparison takes.
pub fn resolve_compares<E>(
    view: &ReadView,
    open: &Open<'_, E>,
    txn: &mut Txn,
) -> Result<(), ResolveError<E>> {
    for compare in &mut txn.compares {
        let CompareTarget::Value(ValueCompare::Sealed(sealed)) = &compare.target else {
            continue;
        };
        let operand = open(compare.range.key(), sealed).map_err(ResolveError::Open)?;
        let (result, live_keys) =
            value_outcome(view, open, &compare.range, compare.result, &operand)?;
        compare.target = CompareTarget::Value(ValueCompare::Outcome {
            result,
            revision: view.revision,
            live_keys,
        });
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        if let Op::Txn(inner) = op {
            resolve_compares(view, open, inner)?;
        }
    }
    Ok(())
}

/// The ranges that an unresolved or guarded VALUE compare of the tree looks at: what the leader
/// holds back its own writes from on a second attempt.
pub fn guarded_ranges(txn: &Txn) -> Vec<KeyRange> {
    let mut ranges: Vec<KeyRange> = txn
        .compares
        .iter()
        .filter(|compare| matches!(compare.target, CompareTarget::Value(_)))
        .map(|compare| compare.range.clone())
        .collect();
    for op in txn.success.iter().chain(&txn.failure) {
        if let Op::Txn(inner) = op {
            ranges.extend(guarded_ranges(inner));
        }
    }
    ranges
}

fn value_outcome<E>(
    view: &ReadView,
    open: &Open<'_, E>,
    range: &KeyRange,
    wanted: CompareResult,
    operand: &[u8],
) -> Result<(bool, u64), ResolveError<E>> {
    let rows = rows_in_key_order(&view.index, &view.store, range, view.revision, None)?;
    let live_keys = rows.len() as u64;
    if view.revision < view.compact_revision_now() {
        return Err(ReadError::ViewTooOld.into());
    }
    // etcd: no key has no value, and no value compares to anything.
    let mut holds = live_keys > 0;
    for row in rows {
        let sealed = view
            .store
            .value(row.at)?
            .ok_or(ReadError::Corrupt(row.at))?;
        let value = open(&row.key, &sealed).map_err(ResolveError::Open)?;
        let ordering: Ordering = value[..].cmp(operand);
        if !wanted.holds(ordering) {
            holds = false;
            break;
        }
    }
    Ok((holds, live_keys))
}

/// Whether a transaction may be answered without the log: nothing but ranges at its top level.
/// A nested transaction counts as a write, as in etcd.
#[must_use]
pub fn is_read_only(txn: &Txn) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .all(|op| matches!(op, Op::Range(_)))
}

/// Answers a transaction of ranges on one view. Its VALUE compares were resolved on the same view.
pub fn run_read_only(view: &ReadView, txn: &Txn) -> Result<TxnReply, ReadError> {
    let chosen = path(txn, &mut |compare: &Compare| match &compare.target {
        CompareTarget::Value(ValueCompare::Outcome { result, .. }) => Ok(if *result {
            Verdict::Holds
        } else {
            Verdict::Fails
        }),
        _ => ask(&view.index, &view.store, view.revision, compare),
    })?;
    let chosen = chosen.ok_or(ReadError::ViewTooOld)?;
    let mut responses = Vec::new();
    for op in chosen.branch(txn) {
        if let Op::Range(query) = op {
            // As in a transaction that writes, and unlike a lone range, negative is not "the newest".
            if query.revision < 0 && query.revision < view.compact_revision {
                return Err(ReadError::Compacted);
            }
            responses.push(OpReply::Range(read::range(view, query)?));
        }
    }
    if view.revision < view.compact_revision_now() {
        return Err(ReadError::ViewTooOld);
    }
    Ok(TxnReply {
        succeeded: chosen.succeeded,
        revision: view.revision,
        responses,
    })
}
