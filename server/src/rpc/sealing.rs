//! Plain requests to commands: every value and every VALUE operand sealed on the way.

use bytes::Bytes;

use super::parse::{PlainCompare, PlainOp, PlainPut, PlainTarget, PlainTxn};
use crate::command::{Compare, CompareTarget, Op, Put, Txn, ValueCompare};
use crate::mvcc::read_view::ReadView;
use crate::seal::{Sealer, SealerError};

pub(super) fn put(sealer: &Sealer, view: &ReadView, plain: &PlainPut) -> Result<Put, SealerError> {
    let sealed_value = if plain.ignore_value {
        Bytes::new()
    } else {
        sealer.seal(view, &plain.key, &plain.value)?
    };
    Ok(Put {
        key: plain.key.clone(),
        sealed_value,
        lease: plain.lease,
        ignore_value: plain.ignore_value,
        ignore_lease: plain.ignore_lease,
    })
}

pub(super) fn txn(sealer: &Sealer, view: &ReadView, plain: &PlainTxn) -> Result<Txn, SealerError> {
    let compares = plain.compares.iter().map(|it| compare(sealer, view, it));
    let success = plain.success.iter().map(|it| op(sealer, view, it));
    let failure = plain.failure.iter().map(|it| op(sealer, view, it));
    Ok(Txn {
        compares: compares.collect::<Result<_, _>>()?,
        success: success.collect::<Result<_, _>>()?,
        failure: failure.collect::<Result<_, _>>()?,
    })
}

fn op(sealer: &Sealer, view: &ReadView, plain: &PlainOp) -> Result<Op, SealerError> {
    Ok(match plain {
        PlainOp::Range(range) => Op::Range(range.query.clone()),
        PlainOp::Put(plain) => Op::Put(put(sealer, view, plain)?),
        PlainOp::DeleteRange(delete) => Op::DeleteRange(delete.clone()),
        PlainOp::Txn(inner) => Op::Txn(txn(sealer, view, inner)?),
    })
}

/// An operand is sealed as the value of the first key of its range.
fn compare(sealer: &Sealer, view: &ReadView, plain: &PlainCompare) -> Result<Compare, SealerError> {
    let target = match &plain.target {
        PlainTarget::Number(target) => target.clone(),
        PlainTarget::Value(operand) => {
            let sealed = sealer.seal(view, plain.range.key(), operand)?;
            CompareTarget::Value(ValueCompare::Sealed(sealed))
        }
    };
    Ok(Compare {
        range: plain.range.clone(),
        result: plain.result,
        target,
    })
}
