//! When this member makes its applied state durable in the store, so that the log may be purged.
//!
//! A snapshot flushes the store's tables: cheap once per many entries, wasteful several times a
//! second. So `--snapshot-count` entries call for one, but under heavy load not sooner than those
//! entries would take at a thousand a second.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::consensus::Consensus;
use crate::clock;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const SLOWEST_ENTRY: Duration = Duration::from_millis(1);

impl Consensus {
    /// Lives as long as the member.
    pub async fn schedule_snapshots(self, snapshot_count: u64) {
        let count = u32::try_from(snapshot_count).unwrap_or(u32::MAX);
        let pause = SLOWEST_ENTRY.saturating_mul(count);
        let mut last = clock::monotonic();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (applied, covered) = {
                let metrics = self.raft().data_metrics();
                let metrics = metrics.borrow_watched();
                let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
                (index(metrics.last_applied), index(metrics.snapshot))
            };
            let due = applied >= covered.saturating_add(snapshot_count)
                && clock::monotonic() >= last + pause;
            if due {
                last = clock::monotonic();
                if self.raft().trigger().snapshot().await.is_err() {
                    return;
                }
            }
        }
    }
}
