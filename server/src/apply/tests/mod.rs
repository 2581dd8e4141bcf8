//! One test per rule of the state machine.

mod compaction;
mod kv;
mod leases;
mod limits;
mod plugins;
mod stored;
mod txn;

use crate::command::{NoEffect, NotApplied, Refusal};

const GUARD: Result<(), NotApplied> = Err(NotApplied::NoEffect(NoEffect::Guard));

fn refused<T: std::fmt::Debug>(result: Result<T, NotApplied>) -> Refusal {
    match result {
        Err(NotApplied::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn void<T: std::fmt::Debug>(result: Result<T, NotApplied>) -> NoEffect {
    match result {
        Err(NotApplied::NoEffect(reason)) => reason,
        other => panic!("expected no effect, got {other:?}"),
    }
}
