//! Answers to transactions: what was asked, beside what came of it.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;

use super::parse::{PlainOp, PlainTxn};
use super::values::{ValueError, Values};
use super::{header, range, sealing};
use crate::command::{
    CompareTarget, DeleteRangeReply, OpReply, PutReply, Txn, TxnReply, ValueCompare,
};
use crate::mvcc::read::ReadError;
use crate::mvcc::txn::{ResolveError, resolve_compares, run_read_only};
use crate::seal::SealerError;

/// Records that are fetched without leaving the thread that serves the connection.
const INLINE_RECORDS: usize = 64;

/// The response, without the header of the outermost transaction.
pub(super) fn respond(
    values: &Values<'_>,
    plain: &PlainTxn,
    reply: TxnReply,
) -> Result<pb::TxnResponse, ValueError> {
    let branch = if reply.succeeded {
        &plain.success
    } else {
        &plain.failure
    };
    let both = branch.iter().zip(reply.responses);
    let responses = both.map(|(plain, reply)| {
        let response = Some(respond_op(values, plain, reply)?);
        Ok(pb::ResponseOp { response })
    });
    let responses = responses.collect::<Result<_, ValueError>>()?;
    Ok(pb::TxnResponse {
        header: header::inner(0),
        succeeded: reply.succeeded,
        responses,
    })
}

fn respond_op(
    values: &Values<'_>,
    plain: &PlainOp,
    reply: OpReply,
) -> Result<Response, ValueError> {
    Ok(match (plain, reply) {
        (PlainOp::Range(plain), OpReply::Range(rows)) => {
            let header = header::inner(rows.revision);
            let response = range::respond(values, &plain.query, rows)?;
            Response::ResponseRange(pb::RangeResponse { header, ..response })
        }
        (PlainOp::Put(plain), OpReply::Put(reply)) => {
            let header = header::inner(reply.revision);
            let response = respond_put(values, plain.prev_kv, &reply)?;
            Response::ResponsePut(pb::PutResponse { header, ..response })
        }
        (PlainOp::DeleteRange(_), OpReply::DeleteRange(reply)) => {
            let header = header::inner(reply.revision);
            let response = respond_delete(values, &reply)?;
            Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, ..response })
        }
        (PlainOp::Txn(plain), OpReply::Txn(reply)) => {
            Response::ResponseTxn(respond(values, plain, reply)?)
        }
        // `apply` answers every operation in its own kind, in their order.
        _ => return Err(ReadError::ViewTooOld.into()),
    })
}

pub(super) fn respond_put(
    values: &Values<'_>,
    prev_kv: bool,
    reply: &PutReply,
) -> Result<pb::PutResponse, ValueError> {
    let prev = reply.prev.as_ref().filter(|_| prev_kv);
    let prev_kv = prev.map(|row| values.prev(row)).transpose()?.flatten();
    Ok(pb::PutResponse {
        header: None,
        prev_kv,
    })
}

pub(super) fn respond_delete(
    values: &Values<'_>,
    reply: &DeleteRangeReply,
) -> Result<pb::DeleteRangeResponse, ValueError> {
    let deleted = i64::try_from(reply.deleted).unwrap_or(i64::MAX);
    Ok(pb::DeleteRangeResponse {
        header: None,
        deleted,
        prev_kvs: values.prevs(&reply.prev)?,
    })
}

/// Answers a transaction of ranges from one view, without the log.
pub(super) fn read_only(
    values: &Values<'_>,
    plain: &PlainTxn,
) -> Result<(pb::TxnResponse, i64), ValueError> {
    let mut txn = sealing::txn(values.sealer, values.view, plain)?;
    if has_value_compare(&txn) {
        let open = |key: &[u8], sealed: &[u8]| -> Result<Vec<u8>, SealerError> {
            Ok(values.sealer.open(key, sealed)?.into())
        };
        resolve_compares(values.view, &open, &mut txn).map_err(|error| match error {
            ResolveError::Read(error) => ValueError::Read(error),
            ResolveError::Open(error) => ValueError::Sealer(error),
        })?;
    }
    let reply = run_read_only(values.view, &txn)?;
    let revision = reply.revision;
    Ok((respond(values, plain, reply)?, revision))
}

fn has_value_compare(txn: &Txn) -> bool {
    let sealed =
        |target: &CompareTarget| matches!(target, CompareTarget::Value(ValueCompare::Sealed(_)));
    txn.compares.iter().any(|compare| sealed(&compare.target))
}

/// Whether every part of it is.
pub(super) fn is_small(plain: &PlainTxn) -> bool {
    let compares = plain
        .compares
        .iter()
        .all(|it| it.range.as_single().is_some());
    let mut ops = plain.success.iter().chain(&plain.failure);
    let small = ops.all(|op| match op {
        PlainOp::Range(range) => range::is_small(&range.query),
        PlainOp::Txn(inner) => is_small(inner),
        PlainOp::Put(_) | PlainOp::DeleteRange(_) => true,
    });
    compares && small && plain.success.len() + plain.failure.len() <= INLINE_RECORDS
}

/// Records that the response to a reply fetches.
pub(super) fn is_small_reply(reply: &TxnReply) -> bool {
    fn records(reply: &TxnReply) -> usize {
        let of = |reply: &OpReply| match reply {
            OpReply::Range(rows) => rows.rows.len(),
            OpReply::Put(put) => usize::from(put.prev.is_some()),
            OpReply::DeleteRange(delete) => delete.prev.len(),
            OpReply::Txn(inner) => records(inner),
        };
        reply.responses.iter().map(of).sum()
    }
    records(reply) <= INLINE_RECORDS
}
