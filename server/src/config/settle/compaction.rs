//! What history is kept, how it goes, and when what is left is compared.

use std::time::Duration;

use super::super::AutoCompaction;
use super::super::duration::parse_duration;
use super::super::mistake::Problem;
use super::Settling;

impl Settling<'_> {
    /// etcd's reading: a whole number is revisions or hours; anything else is a duration, which in
    /// revision mode counts as its nanoseconds.
    pub(super) fn auto_compaction(&mut self) -> Option<AutoCompaction> {
        const MODE: &str = "auto-compaction-mode";
        const RETENTION: &str = "auto-compaction-retention";
        let by_revision = match self.given.text(MODE).unwrap_or("periodic") {
            "periodic" => false,
            "revision" => true,
            _ => {
                let allowed = "periodic or revision";
                self.mistake(MODE, Problem::Choice { allowed });
                return None;
            }
        };
        let given = self.given.text(RETENTION).unwrap_or("0");
        let given = if given.is_empty() { "0" } else { given };
        let retention = match given.parse::<u32>() {
            Ok(count) if by_revision => return positive(i64::from(count)),
            Ok(hours) => Some(Duration::from_secs(u64::from(hours) * 3600)),
            Err(_) => parse_duration(given),
        };
        let Some(retention) = retention else {
            self.mistake(RETENTION, Problem::Duration);
            return None;
        };
        if by_revision {
            return positive(i64::try_from(retention.as_nanos()).unwrap_or(i64::MAX));
        }
        (!retention.is_zero()).then_some(AutoCompaction::Periodic(retention))
    }

    /// 0 is etcd's default, as in etcd.
    pub(super) fn compaction_batch_limit(&mut self) -> usize {
        let limit = self.given.signed("compaction-batch-limit").unwrap_or(0);
        match usize::try_from(limit) {
            Ok(0) => 1_000,
            Ok(limit) => limit,
            Err(_) => {
                self.mistake("compaction-batch-limit", Problem::Unsigned);
                1_000
            }
        }
    }

    pub(super) fn compaction_sleep_interval(&self) -> Duration {
        let interval = self.duration("compaction-sleep-interval", 10);
        if interval.is_zero() {
            return Duration::from_millis(10);
        }
        interval
    }

    pub(super) fn compact_hash_check_interval(&mut self) -> Duration {
        let interval = self.duration("compact-hash-check-time", 60_000);
        if interval.is_zero() {
            self.mistake("compact-hash-check-time", Problem::Zero);
        }
        interval
    }
}

fn positive(revisions: i64) -> Option<AutoCompaction> {
    (revisions > 0).then_some(AutoCompaction::Revision(revisions))
}
