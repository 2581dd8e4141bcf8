//! Ways to write down effects and refusals.

use crate::{DeleteRangeOp, Effects, HandlerError, LeaseId, Op, PutOp, RetryInfo};

impl Effects {
    pub fn none() -> Effects {
        Effects { ops: Vec::new() }
    }

    /// Lease 0 is no lease.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: LeaseId) {
        self.ops.push(Op::Put(PutOp {
            key: key.into(),
            value: value.into(),
            lease,
        }));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.delete_range(key, Vec::new());
    }

    /// All keys from `key` up to, not including, `range_end`.
    pub fn delete_range(&mut self, key: impl Into<Vec<u8>>, range_end: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(DeleteRangeOp {
            key: key.into(),
            range_end: range_end.into(),
        }));
    }
}

impl HandlerError {
    /// The same batch again, not earlier than `after_ms` from now.
    pub fn retry_after(after_ms: u64, message: impl Into<String>) -> HandlerError {
        HandlerError::Retry(RetryInfo {
            message: message.into(),
            after_ms: Some(after_ms),
        })
    }

    /// This batch will never work: the host finds the revision at fault, records it as a
    /// dead letter and goes on.
    pub fn reject(message: impl Into<String>) -> HandlerError {
        HandlerError::Reject(message.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_keep_the_order_they_were_given_in() {
        let mut effects = Effects::none();
        effects.delete("/a");
        effects.put("/b", "value", 7);
        let [Op::DeleteRange(delete), Op::Put(put)] = &effects.ops[..] else {
            panic!("a delete, then a put");
        };
        assert!(delete.range_end.is_empty());
        assert_eq!((put.key.as_slice(), put.lease), (&b"/b"[..], 7));
    }
}
