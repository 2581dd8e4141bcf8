//! When the leader compacts by itself: so much time behind, or so many revisions.
//!
//! Promise: etcd's rules. By time, the revision is sampled ten times in a period (or an hour, if
//! that is shorter), nothing is compacted until one whole period has passed, and then once in each
//! period or hour, always to the revision of one period ago. By revision, once every five minutes.
//! A member that does not lead goes on sampling and compacts nothing.
//! Not known here: how a compaction is carried out, raft.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3compactor`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Internal, Permitted};
use crate::clock;
use crate::command::{Body, Compact, NotApplied, Refusal, ReplyOf};
use crate::config::{AutoCompaction, show_duration};
use crate::replica::{ProposeError, Replica};

const HOUR: Duration = Duration::from_secs(3600);
const SAMPLES_PER_INTERVAL: u32 = 10;
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Below what Go's timers and ours can keep.
const SAMPLE_EVERY_MIN: Duration = Duration::from_millis(1);

/// Lives as long as the member.
pub async fn run(replica: Arc<dyn Replica>, mode: AutoCompaction) {
    match mode {
        AutoCompaction::Periodic(period) => run_periodic(&*replica, period).await,
        AutoCompaction::Revision(retention) => run_by_revision(&*replica, retention).await,
    }
}

async fn run_periodic(replica: &dyn Replica, period: Duration) {
    let mut periodic = Periodic::new(period, clock::monotonic());
    loop {
        periodic.sample(replica.view().revision);
        tokio::time::sleep(periodic.sample_every).await;
        if !leads(replica) {
            continue;
        }
        let Some(revision) = periodic.due(clock::monotonic()) else {
            continue;
        };
        let period = show_duration(period);
        tracing::info!(revision, compact_period = %period, "starting auto periodic compaction");
        match compact(replica, revision).await {
            Ok(()) => {
                tracing::info!(revision, compact_period = %period, "completed auto periodic compaction");
                periodic.compacted(revision, clock::monotonic());
            }
            Err(error) => tracing::warn!(
                revision, compact_period = %period, %error, "failed auto periodic compaction"
            ),
        }
    }
}

async fn run_by_revision(replica: &dyn Replica, retention: i64) {
    let mut last = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = replica.view().revision - retention;
        if !leads(replica) || revision <= 0 || revision == last {
            continue;
        }
        tracing::info!(
            revision,
            revision_compaction_retention = retention,
            "starting auto revision compaction"
        );
        match compact(replica, revision).await {
            Ok(()) => {
                tracing::info!(revision, "completed auto revision compaction");
                last = revision;
            }
            Err(error) => tracing::warn!(revision, %error, "failed auto revision compaction"),
        }
    }
}

fn leads(replica: &dyn Replica) -> bool {
    let place = replica.place();
    place.leader == place.member_id
}

/// Why there was no compaction; it is tried again.
#[derive(Debug, thiserror::Error)]
enum CompactError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    NotApplied(NotApplied),
}

/// One that somebody else was faster with is done.
async fn compact(replica: &dyn Replica, revision: i64) -> Result<(), CompactError> {
    let body = Body::from(Compact { revision });
    let applied = replica.propose(Permitted::internal(Internal::AutoCompaction, body));
    match Compact::reply(applied.await?.reply) {
        Ok(_) | Err(NotApplied::Refused(Refusal::Compacted)) => Ok(()),
        Err(error) => Err(CompactError::NotApplied(error)),
    }
}

/// The revisions of one period, oldest first, and when to compact to the oldest.
struct Periodic {
    period: Duration,
    sample_every: Duration,
    samples_max: usize,
    samples: VecDeque<i64>,
    last_revision: i64,
    last_success: Duration,
    /// From the last success to the next compaction: at first a whole period.
    wait: Duration,
}

impl Periodic {
    fn new(period: Duration, now: Duration) -> Self {
        let sample_every = (period.min(HOUR) / SAMPLES_PER_INTERVAL).max(SAMPLE_EVERY_MIN);
        let intervals = period.as_nanos() / sample_every.as_nanos();
        Self {
            period,
            sample_every,
            samples_max: usize::try_from(intervals)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            samples: VecDeque::new(),
            last_revision: 0,
            last_success: now,
            wait: period,
        }
    }

    fn sample(&mut self, revision: i64) {
        self.samples.push_back(revision);
        if self.samples.len() > self.samples_max {
            self.samples.pop_front();
        }
    }

    fn due(&mut self, now: Duration) -> Option<i64> {
        let oldest = *self.samples.front()?;
        if now.saturating_sub(self.last_success) < self.wait || oldest == self.last_revision {
            return None;
        }
        self.wait = self.period.min(HOUR);
        Some(oldest)
    }

    fn compacted(&mut self, revision: i64, now: Duration) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compacted, by sample number, when each sample finds a revision more.
    fn compactions(period: Duration, samples: i64) -> Vec<(i64, i64)> {
        let mut periodic = Periodic::new(period, Duration::ZERO);
        let mut done = Vec::new();
        for number in 1..=samples {
            periodic.sample(number);
            let now = periodic.sample_every * u32::try_from(number).unwrap();
            if let Some(revision) = periodic.due(now) {
                periodic.compacted(revision, now);
                done.push((number, revision));
            }
        }
        done
    }

    // etcd's TestPeriodicHourly, TestPeriodicMinutes and TestPeriodicSkipRevNotChange by their
    // figures: an hour of history is kept, and compacted once an hour.
    #[test]
    fn a_period_of_at_most_an_hour_is_compacted_once_per_period_to_a_period_ago() {
        for period in [HOUR, Duration::from_secs(300), Duration::from_secs(5)] {
            assert_eq!(compactions(period, 30), [(10, 1), (20, 10), (30, 20)]);
        }
    }

    #[test]
    fn a_longer_period_is_waited_for_once_and_then_compacted_hourly() {
        let done = compactions(2 * HOUR, 50);
        assert_eq!(done, [(20, 1), (30, 10), (40, 20), (50, 30)]);
    }

    #[test]
    fn an_idle_store_is_compacted_once() {
        let mut periodic = Periodic::new(HOUR, Duration::ZERO);
        let mut done = 0;
        for number in 1..=40 {
            periodic.sample(7);
            let now = periodic.sample_every * number;
            if let Some(revision) = periodic.due(now) {
                periodic.compacted(revision, now);
                done += 1;
            }
        }
        assert_eq!(done, 1);
    }

    #[test]
    fn a_compaction_that_failed_is_tried_at_the_next_sample() {
        let mut periodic = Periodic::new(HOUR, Duration::ZERO);
        (1..=10).for_each(|revision| periodic.sample(revision));
        assert_eq!(periodic.due(HOUR), Some(1));
        periodic.sample(11);
        periodic.sample(12);
        assert_eq!(periodic.due(HOUR + HOUR / 10), Some(2));
    }
}
