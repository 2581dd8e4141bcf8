//! Budgets that a plugin keeps from one call to the next: log lines a second, and how many
//! different metric series.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::METRIC_SERIES_MAX;

/// A bucket of one second's lines that fills at the plugin's rate.
#[derive(Debug)]
pub(crate) struct LogBudget {
    per_second: u32,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    lines: u32,
    /// The time up to which lines were filled in.
    filled: Instant,
}

impl LogBudget {
    pub(crate) fn new(per_second: u32) -> LogBudget {
        LogBudget {
            per_second,
            bucket: Mutex::new(Bucket {
                lines: per_second,
                filled: Instant::now(),
            }),
        }
    }

    /// Whether one more line may pass.
    pub(crate) fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = Duration::from_secs(1) / self.per_second.max(1);
        let elapsed = now.saturating_duration_since(bucket.filled);
        let lines = u32::try_from(elapsed.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        if lines > 0 {
            bucket.lines = bucket.lines.saturating_add(lines).min(self.per_second);
            bucket.filled = now;
        }
        let passes = bucket.lines > 0;
        bucket.lines = bucket.lines.saturating_sub(1);
        passes
    }
}

/// The metric series a plugin has used so far.
#[derive(Debug, Default)]
pub(crate) struct Series(Mutex<BTreeSet<NameAndLabels>>);

type NameAndLabels = (String, Vec<(String, String)>);

impl Series {
    /// Whether this series is known or there is room for it.
    pub(crate) fn admit(&self, name: &str, labels: &[(String, String)]) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = (name.to_owned(), labels.to_vec());
        if known.contains(&series) {
            return true;
        }
        known.len() < METRIC_SERIES_MAX && known.insert(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pass_up_to_the_rate_and_again_as_time_goes_by() {
        let budget = LogBudget::new(10);
        let start = Instant::now();
        let passed = (0..50).filter(|_| budget.take_at(start)).count();
        assert_eq!(passed, 10);
        let later = start + Duration::from_millis(250);
        let passed = (0..50).filter(|_| budget.take_at(later)).count();
        assert_eq!(passed, 2);
        let much_later = start + Duration::from_secs(3_600);
        let passed = (0..50).filter(|_| budget.take_at(much_later)).count();
        assert_eq!(passed, 10);
    }

    #[test]
    fn new_series_stop_at_the_limit_and_known_ones_go_on() {
        let series = Series::default();
        let admitted = (0..METRIC_SERIES_MAX + 5)
            .filter(|index| series.admit(&format!("m{index}"), &[]))
            .count();
        assert_eq!(admitted, METRIC_SERIES_MAX);
        assert!(series.admit("m0", &[]));
    }
}
