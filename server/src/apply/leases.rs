//! Lease commands, and the deletes that the end of a lease brings.

use super::{Context, Machine, Poison, Stop, Work, rows};
use crate::command::{
    LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseGrantReply, LeaseRevoke, NoEffect, Refusal,
};
use crate::lease::lessor::{LeaseChange, TTL_SECONDS_MAX};
use crate::lease::table::{LEASE_BYTES, Lease};
use crate::mvcc::event::Cause;
use crate::mvcc::key_range::KeyRange;
use crate::storage::Keyspace;

impl Machine {
    pub(super) fn lease_grant(
        &mut self,
        work: &mut Work,
        grant: &LeaseGrant,
    ) -> Result<LeaseGrantReply, Stop> {
        let LeaseGrant { id, ttl_seconds } = *grant;
        if ttl_seconds > TTL_SECONDS_MAX {
            return Err(Refusal::LeaseTtlTooLarge.into());
        }
        if self.leases.read().contains(id) {
            return Err(Refusal::LeaseExists.into());
        }
        let lease = Lease::new(ttl_seconds, 0);
        work.open
            .put_message(Keyspace::Lease, &rows::lease(id), &lease.to_row());
        self.leases.write().insert(id, lease);
        self.counters.stored_bytes += LEASE_BYTES;
        work.lease_changes
            .push(LeaseChange::Granted { id, ttl_seconds });
        Ok(LeaseGrantReply { id, ttl_seconds })
    }

    pub(super) fn lease_revoke(
        &mut self,
        work: &mut Work,
        revoke: &LeaseRevoke,
    ) -> Result<(), Stop> {
        if !self.end_lease(work, revoke.id)? {
            return Err(Refusal::LeaseNotFound.into());
        }
        Ok(())
    }

    /// Only the leader of the entry's own term can have seen a lease expire: one that was deposed
    /// and did not know it proposes under its old term.
    pub(super) fn lease_expire(
        &mut self,
        work: &mut Work,
        context: Context,
        expire: &LeaseExpire,
    ) -> Result<(), Stop> {
        if expire.term != context.term {
            return Err(NoEffect::StaleTerm.into());
        }
        for &id in &expire.ids {
            self.end_lease(work, id)?;
        }
        Ok(())
    }

    pub(super) fn lease_checkpoint(&mut self, work: &mut Work, checkpoint: &LeaseCheckpoint) {
        let mut leases = self.leases.write();
        for &(id, remaining_seconds) in &checkpoint.remaining_seconds {
            let Some(lease) = leases.checkpoint(id, remaining_seconds) else {
                continue;
            };
            work.open
                .put_message(Keyspace::Lease, &rows::lease(id), &lease.to_row());
            work.lease_changes.push(LeaseChange::Checkpointed {
                id,
                remaining_seconds,
            });
        }
    }

    /// Deletes the keys of a lease in key order, as one revision, and the lease. Says whether
    /// there was one.
    fn end_lease(&mut self, work: &mut Work, id: i64) -> Result<bool, Poison> {
        let Some(lease) = self.leases.write().remove(id) else {
            return Ok(false);
        };
        work.open.delete(Keyspace::Lease, &rows::lease(id));
        self.counters.stored_bytes = self.counters.stored_bytes.saturating_sub(LEASE_BYTES);
        self.write(work, Cause::Lease, 0, |write| {
            for key in lease.keys() {
                write.delete_range(&KeyRange::single(key.clone()))?;
            }
            Ok(())
        })?;
        work.lease_changes.push(LeaseChange::Ended { id });
        Ok(true)
    }
}
