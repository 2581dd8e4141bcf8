//! The leader's clock over the leases.
//!
//! Promise: a lease is never reported as expired before its time; a renewal that was answered is
//! not forgotten by a change of leader beyond what `checkpoint` and `promote` say. Every instant
//! is an argument, a monotonic time since the process started.
//! Not known here: storage, raft, keys of a lease. It deletes nothing: `expired` names leases, an
//! entry of the log ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::LeaseTable;

/// etcd's: what a TTL may be at most.
pub const TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// How often a long lease's remaining time is committed, and how long it must be to be.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5 * 60);
/// How long an expiry entry may take before it is proposed again.
const EXPIRY_RETRY: Duration = Duration::from_secs(7);

/// The least TTL that is granted: one and a half elections, in whole seconds.
#[must_use]
pub fn ttl_seconds_min(election_timeout: Duration) -> i64 {
    let millis = election_timeout.as_millis().saturating_mul(3).div_ceil(2);
    i64::try_from(millis.div_ceil(1000))
        .unwrap_or(TTL_SECONDS_MAX)
        .max(1)
}

/// What `apply` did to leases, for the lessor of the same member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted { id: i64, ttl_seconds: i64 },
    Ended { id: i64 },
    Checkpointed { id: i64, remaining_seconds: i64 },
}

/// What a keep-alive must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Done: the lease has its whole TTL again.
    Renewed { ttl_seconds: i64 },
    /// Commit `LeaseCheckpoint` with 0 for it, then renew again: else a next leader would start
    /// from the old checkpoint and end it before its time.
    TakeBackCheckpointFirst,
    /// Its time is over and an expiry is on its way: wait for the outcome, then ask again.
    Expiring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LessorError {
    #[error("lease not found")]
    NotFound,
    /// Only the leader keeps time.
    #[error("not the leader")]
    NotPrimary,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    ttl: Duration,
    checkpointed: bool,
    deadline: Duration,
    /// When it is due for a checkpoint or, once expired, for (another) expiry entry.
    next_checkpoint: Option<Duration>,
}

/// Deadlines while this member leads; nothing while it does not.
#[derive(Debug, Default)]
pub struct Lessor {
    leading: bool,
    clocks: BTreeMap<i64, Clock>,
    deadlines: BTreeSet<(Duration, i64)>,
    checkpoints: BTreeSet<(Duration, i64)>,
    /// Expiry entries on their way, and when to try again.
    expiring: BTreeMap<i64, Duration>,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Whole seconds, rounded up: a lease that is alive has at least one left.
fn whole_seconds(left: Duration) -> i64 {
    let up = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    i64::try_from(up).unwrap_or(i64::MAX)
}

impl Lessor {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This member leads now. Every lease gets its whole TTL, or what its checkpoint left, and
    /// `extend` (an election) on top: the time since the old leader's last renewal is unknown.
    pub fn promote(&mut self, leases: &LeaseTable, now: Duration, extend: Duration) {
        self.demote();
        self.leading = true;
        for (id, lease) in leases.iter() {
            let whole = seconds(lease.ttl_seconds);
            let left = if lease.remaining_seconds > 0 {
                seconds(lease.remaining_seconds)
            } else {
                whole
            };
            self.start(
                id,
                whole,
                now + left + extend,
                lease.remaining_seconds > 0,
                now,
            );
        }
    }

    /// Another leads: nothing expires here any more.
    pub fn demote(&mut self) {
        *self = Self::default();
    }

    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.leading
    }

    /// Follows what was applied, in its order.
    pub fn observe(&mut self, changes: &[LeaseChange], now: Duration) {
        if !self.leading {
            return;
        }
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl_seconds } => {
                    let ttl = seconds(ttl_seconds);
                    self.start(id, ttl, now + ttl, false, now);
                }
                LeaseChange::Ended { id } => self.stop(id),
                LeaseChange::Checkpointed {
                    id,
                    remaining_seconds,
                } => {
                    if let Some(clock) = self.clocks.get_mut(&id) {
                        clock.checkpointed = remaining_seconds > 0;
                    }
                }
            }
        }
    }

    /// Gives a lease its whole TTL again, counted from `now`.
    pub fn renew(&mut self, id: i64, now: Duration) -> Result<Renewal, LessorError> {
        let clock = *self.clock(id)?;
        if self.is_expiring(id, now) {
            return Ok(Renewal::Expiring);
        }
        if clock.checkpointed {
            return Ok(Renewal::TakeBackCheckpointFirst);
        }
        self.stop(id);
        self.start(id, clock.ttl, now + clock.ttl, false, now);
        Ok(Renewal::Renewed {
            ttl_seconds: whole_seconds(clock.ttl),
        })
    }

    /// Its time is over, and the entry that ends it is not applied yet.
    #[must_use]
    pub fn is_expiring(&self, id: i64, now: Duration) -> bool {
        let over = |clock: &Clock| clock.deadline <= now || self.expiring.contains_key(&id);
        self.clocks.get(&id).is_some_and(over)
    }

    /// Whole seconds left, at least 0.
    pub fn remaining(&self, id: i64, now: Duration) -> Result<i64, LessorError> {
        Ok(whole_seconds(self.clock(id)?.deadline.saturating_sub(now)))
    }

    /// All leases, the one that ends first in front.
    pub fn by_deadline(&self) -> impl Iterator<Item = i64> {
        self.deadlines.iter().map(|&(_, id)| id)
    }

    /// At most `most` leases whose time is over, each named once per seven seconds: until its
    /// entry is applied it stays, and is named again if that entry was lost.
    pub fn expired(&mut self, now: Duration, most: usize) -> Vec<i64> {
        let over = self.deadlines.range(..=(now, i64::MAX)).map(|&(_, id)| id);
        let due = over.filter(|id| self.expiring.get(id).is_none_or(|&again| again <= now));
        let ids: Vec<i64> = due.take(most).collect();
        for &id in &ids {
            self.expiring.insert(id, now + EXPIRY_RETRY);
        }
        ids
    }

    /// Leases with more than five minutes left that were not checkpointed for five minutes, and
    /// the seconds they have left.
    pub fn due_checkpoints(&mut self, now: Duration, most: usize) -> Vec<(i64, i64)> {
        let due: Vec<(Duration, i64)> = self
            .checkpoints
            .range(..=(now, i64::MAX))
            .take(most)
            .copied()
            .collect();
        let mut remaining = Vec::with_capacity(due.len());
        for entry in due {
            self.checkpoints.remove(&entry);
            let Some(clock) = self.clocks.get_mut(&entry.1) else {
                continue;
            };
            let left = clock.deadline.saturating_sub(now);
            clock.next_checkpoint = (left > CHECKPOINT_EVERY).then_some(now + CHECKPOINT_EVERY);
            if let Some(next) = clock.next_checkpoint {
                self.checkpoints.insert((next, entry.1));
            }
            if left > Duration::ZERO {
                remaining.push((entry.1, whole_seconds(left)));
            }
        }
        remaining
    }

    fn clock(&self, id: i64) -> Result<&Clock, LessorError> {
        if !self.leading {
            return Err(LessorError::NotPrimary);
        }
        self.clocks.get(&id).ok_or(LessorError::NotFound)
    }

    fn start(
        &mut self,
        id: i64,
        ttl: Duration,
        deadline: Duration,
        checkpointed: bool,
        now: Duration,
    ) {
        let long = deadline.saturating_sub(now) > CHECKPOINT_EVERY;
        let next_checkpoint = long.then_some(now + CHECKPOINT_EVERY);
        self.clocks.insert(
            id,
            Clock {
                ttl,
                checkpointed,
                deadline,
                next_checkpoint,
            },
        );
        self.deadlines.insert((deadline, id));
        if let Some(next) = next_checkpoint {
            self.checkpoints.insert((next, id));
        }
    }

    fn stop(&mut self, id: i64) {
        if let Some(clock) = self.clocks.remove(&id) {
            self.deadlines.remove(&(clock.deadline, id));
            if let Some(next) = clock.next_checkpoint {
                self.checkpoints.remove(&(next, id));
            }
        }
        self.expiring.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Lease;
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn leading(leases: &[(i64, i64, i64)]) -> Lessor {
        let mut table = LeaseTable::default();
        for &(id, ttl, remaining) in leases {
            table.insert(id, Lease::new(ttl, remaining));
        }
        let mut lessor = Lessor::new();
        lessor.promote(&table, at(0), at(1));
        lessor
    }

    #[test]
    fn the_least_ttl_is_one_and_a_half_elections_in_whole_seconds() {
        assert_eq!(ttl_seconds_min(Duration::from_millis(1000)), 2);
        assert_eq!(ttl_seconds_min(Duration::from_millis(2000)), 3);
        assert_eq!(ttl_seconds_min(Duration::from_millis(100)), 1);
    }

    #[test]
    fn a_lease_never_expires_before_its_time() {
        let mut lessor = leading(&[(7, 10, 0)]);
        assert!(
            lessor
                .expired(at(11) - Duration::from_nanos(1), 10)
                .is_empty()
        );
        assert_eq!(lessor.expired(at(11), 10), vec![7]);
    }

    #[test]
    fn an_expiry_is_named_again_only_after_its_entry_had_time() {
        let mut lessor = leading(&[(7, 10, 0)]);
        assert_eq!(lessor.expired(at(11), 10), vec![7]);
        assert!(lessor.expired(at(12), 10).is_empty());
        assert_eq!(lessor.expired(at(18), 10), vec![7]);
        lessor.observe(&[LeaseChange::Ended { id: 7 }], at(18));
        assert!(lessor.expired(at(100), 10).is_empty());
        assert_eq!(lessor.renew(7, at(18)), Err(LessorError::NotFound));
    }

    #[test]
    fn a_renewal_counts_from_now() {
        let mut lessor = leading(&[]);
        lessor.observe(
            &[LeaseChange::Granted {
                id: 1,
                ttl_seconds: 5,
            }],
            at(10),
        );
        assert_eq!(
            lessor.renew(1, at(14)),
            Ok(Renewal::Renewed { ttl_seconds: 5 })
        );
        assert_eq!(lessor.remaining(1, at(15)), Ok(4));
        assert!(lessor.expired(at(18), 10).is_empty());
        assert_eq!(lessor.expired(at(19), 10), vec![1]);
    }

    #[test]
    fn an_expired_lease_is_not_renewed_but_waited_for() {
        let mut lessor = leading(&[(1, 5, 0)]);
        assert!(!lessor.is_expiring(1, at(5)));
        assert_eq!(lessor.renew(1, at(6)), Ok(Renewal::Expiring));
        assert!(lessor.is_expiring(1, at(6)));
        lessor.observe(&[LeaseChange::Ended { id: 1 }], at(7));
        assert!(!lessor.is_expiring(1, at(7)));
    }

    #[test]
    fn a_checkpointed_lease_takes_its_checkpoint_back_before_it_is_renewed() {
        let mut lessor = leading(&[(1, 3600, 700)]);
        assert_eq!(lessor.remaining(1, at(0)), Ok(701));
        assert_eq!(lessor.renew(1, at(0)), Ok(Renewal::TakeBackCheckpointFirst));
        lessor.observe(
            &[LeaseChange::Checkpointed {
                id: 1,
                remaining_seconds: 0,
            }],
            at(0),
        );
        assert_eq!(
            lessor.renew(1, at(0)),
            Ok(Renewal::Renewed { ttl_seconds: 3600 })
        );
    }

    #[test]
    fn long_leases_are_due_for_a_checkpoint_every_five_minutes() {
        let mut lessor = leading(&[(1, 3600, 0), (2, 60, 0)]);
        assert!(lessor.due_checkpoints(at(299), 10).is_empty());
        assert_eq!(lessor.due_checkpoints(at(300), 10), vec![(1, 3301)]);
        assert!(lessor.due_checkpoints(at(300), 10).is_empty());
        assert_eq!(lessor.due_checkpoints(at(600), 10), vec![(1, 3001)]);
    }

    #[test]
    fn leases_are_listed_by_their_end() {
        let lessor = leading(&[(1, 30, 0), (2, 10, 0), (3, 20, 0)]);
        assert_eq!(lessor.by_deadline().collect::<Vec<_>>(), vec![2, 3, 1]);
    }

    #[test]
    fn nothing_expires_at_a_member_that_does_not_lead() {
        let mut lessor = leading(&[(1, 5, 0)]);
        lessor.demote();
        assert!(lessor.expired(at(1000), 10).is_empty());
        assert_eq!(lessor.renew(1, at(0)), Err(LessorError::NotPrimary));
    }
}
