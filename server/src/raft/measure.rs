//! What was applied, counted and timed.
//!
//! Promise: nothing but numbers and times is logged.
//! Not known here: how it was applied.

use std::time::Duration;

use crate::apply::Outcome;
use crate::config::show_duration;
use crate::lease::lessor::LeaseChange;
use crate::metrics::metrics;
use crate::mvcc::event::Kind;

pub(super) fn applied(outcome: &Outcome, entries: usize, took: Duration, slow: Duration) {
    let metrics = metrics();
    for revision in &outcome.events {
        let puts = revision
            .events
            .iter()
            .filter(|event| event.kind == Kind::Put)
            .count();
        metrics.puts.inc_by(puts as u64);
        metrics
            .deletes
            .inc_by((revision.events.len() - puts) as u64);
        if revision.events.len() > 1 {
            metrics.txns.inc();
        }
    }
    for change in &outcome.lease_changes {
        match change {
            LeaseChange::Granted { ttl_seconds, .. } => {
                metrics.leases_granted.inc();
                metrics.lease_ttl_seconds.observe(*ttl_seconds as f64);
            }
            LeaseChange::Ended { .. } => metrics.leases_revoked.inc(),
            LeaseChange::Checkpointed { .. } => {}
        }
    }
    metrics
        .apply_seconds
        .with_label_values(&["v3", "Batch", "true"])
        .observe(took.as_secs_f64());
    if took > slow {
        metrics.slow_applies.inc();
        tracing::warn!(
            took = show_duration(took),
            expected_duration = show_duration(slow),
            entries,
            revisions = outcome.events.len(),
            "apply request took too long"
        );
    }
}
