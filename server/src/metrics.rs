//! What the process counts, under etcd's names, so that its dashboards and alerts work unchanged.
//!
//! Promise: counting costs an atomic addition; what stands here is counted for real, and a
//! family that nothing feeds does not stand here.
//! Not known here: who asks. One process is one member, so there is one set of them.

mod calls;
mod families;
mod frames;
mod peers;
mod process;

use std::sync::LazyLock;

use prometheus::{
    Encoder as _, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

pub use calls::{Call, Calls};
use families::{Families, doubling};
pub use frames::{Frames, Seen};
pub use peers::PeerMeters;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);

/// The one set of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Calls,
    pub peers: PeerMeters,

    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes_seen: IntCounter,
    pub proposals_committed: IntGauge,
    pub proposals_applied: IntGauge,
    pub proposals_pending: IntGauge,
    pub proposals_failed: IntCounter,
    pub read_indexes_failed: IntCounter,
    pub slow_applies: IntCounter,

    pub ranges: IntCounter,
    pub puts: IntCounter,
    pub deletes: IntCounter,
    pub txns: IntCounter,
    pub keys: IntGauge,
    pub auth_revision: IntGauge,
    pub current_revision: IntGauge,
    pub compact_revision: IntGauge,
    pub db_total_bytes: IntGauge,
    pub db_in_use_bytes: IntGauge,
    pub quota_bytes: IntGauge,

    pub watch_streams: IntGauge,
    pub watchers: IntGauge,
    pub events_sent: IntCounter,

    pub leases_granted: IntCounter,
    pub leases_revoked: IntCounter,
    pub leases_renewed: IntCounter,
    pub leases_expired: IntCounter,

    pub lease_ttl_seconds: Histogram,

    pub range_seconds: HistogramVec,
    pub apply_seconds: HistogramVec,
    pub slow_read_indexes: IntCounter,
    pub heartbeat_send_failures: IntCounter,
    pub snapshots_being_applied: IntGauge,
    pub compaction_last_seconds: IntGauge,
    pub compaction_keys: IntCounter,
    pub slow_watchers: IntGauge,

    pub values_sealed: IntCounter,
    pub values_opened: IntCounter,
    pub values_unopened: IntCounter,
    pub prefix_keys: IntGauge,
    pub key_versions: IntGauge,

    pub wal_write_seconds: Histogram,
    pub wal_fsync_seconds: Histogram,
    pub wal_write_bytes: IntGauge,
    pub backend_commit_seconds: Histogram,

    pub health_successes: IntCounter,
    pub health_failures: IntCounter,
    pub health_check: IntGaugeVec,
    pub health_checks: IntCounterVec,
    pub alarms: IntGaugeVec,
    features: IntGaugeVec,
    server_id: IntGaugeVec,

    /// 1 when this member has opened the root of the keys.
    pub root_opened: IntGauge,
}

/// Counts something in a gauge for as long as it lives.
#[derive(Debug)]
pub struct Held(&'static IntGauge);

impl Held {
    pub fn new(gauge: &'static IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// The call behind a request's path; `None` for what is no method.
    pub fn call(&self, path: &str) -> Option<&Call> {
        self.calls.find(path)
    }

    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    pub fn set_server_id(&self, member_id: u64) {
        self.server_id.reset();
        self.server_id
            .with_label_values(&[&format!("{member_id:x}")])
            .set(1);
    }

    /// One of the feature gates: its name, its stage, and whether it is on.
    pub fn set_feature(&self, name: &str, stage: &str, enabled: bool) {
        let feature = self.features.with_label_values(&[name, stage]);
        feature.set(i64::from(enabled));
    }

    /// In the text format that Prometheus scrapes.
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::new();
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
        families.extend(process::gather());
        TextEncoder::new()
            .encode(&families, &mut page)
            .expect("every family is gathered with at least one sample, and a Vec takes all bytes");
        page
    }

    fn register() -> Self {
        let to = Families(Registry::new());
        let server_version = to.gauges(
            "etcd_server_version",
            "Which version is running.",
            &["server_version"],
        );
        server_version
            .with_label_values(&[crate::config::ETCD_VERSION])
            .set(1);
        let cluster_version = to.gauges(
            "etcd_cluster_version",
            "Which version the cluster has.",
            &["cluster_version"],
        );
        // As etcd labels it, without the patch level.
        cluster_version.with_label_values(&["3.7"]).set(1);
        let build = to.gauges(
            "sealkv_build_info",
            "Which release is running.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            calls: Calls::register(&to),
            peers: PeerMeters::register(&to),
            has_leader: to.gauge("etcd_server_has_leader", "Whether or not a leader exists."),
            is_leader: to.gauge("etcd_server_is_leader", "Whether or not this member leads."),
            is_learner: to.gauge(
                "etcd_server_is_learner",
                "Whether or not this member is a learner.",
            ),
            leader_changes_seen: to.counter(
                "etcd_server_leader_changes_seen_total",
                "Leader changes seen.",
            ),
            proposals_committed: to.gauge(
                "etcd_server_proposals_committed_total",
                "Index of the last commit.",
            ),
            proposals_applied: to.gauge(
                "etcd_server_proposals_applied_total",
                "Index of the last entry applied.",
            ),
            proposals_pending: to.gauge(
                "etcd_server_proposals_pending",
                "Proposals waiting for their commit.",
            ),
            proposals_failed: to.counter(
                "etcd_server_proposals_failed_total",
                "Proposals that failed.",
            ),
            read_indexes_failed: to.counter(
                "etcd_server_read_indexes_failed_total",
                "Read indexes that failed.",
            ),
            slow_applies: to.counter(
                "etcd_server_slow_apply_total",
                "Applies slower than --warning-apply-duration.",
            ),
            ranges: to.counter("etcd_mvcc_range_total", "Ranges seen by this member."),
            puts: to.counter("etcd_mvcc_put_total", "Puts seen by this member."),
            deletes: to.counter(
                "etcd_mvcc_delete_total",
                "Keys deleted, as seen by this member.",
            ),
            txns: to.counter(
                "etcd_mvcc_txn_total",
                "Revisions of several changes seen by this member.",
            ),
            keys: to.gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
            auth_revision: to.gauge(
                "etcd_debugging_auth_revision",
                "The current revision of auth store.",
            ),
            current_revision: to.gauge(
                "etcd_debugging_mvcc_current_revision",
                "The current revision.",
            ),
            compact_revision: to.gauge(
                "etcd_debugging_mvcc_compact_revision",
                "The last compact revision.",
            ),
            db_total_bytes: to.gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes of the store on disk.",
            ),
            db_in_use_bytes: to.gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Logical bytes in use.",
            ),
            quota_bytes: to.gauge("etcd_server_quota_backend_bytes", "The quota; 0 for none."),
            watch_streams: to.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams."),
            watchers: to.gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            events_sent: to.counter(
                "etcd_debugging_mvcc_events_total",
                "Events sent by this member.",
            ),
            leases_granted: to.counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: to.counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            leases_renewed: to.counter(
                "etcd_debugging_lease_renewed_total",
                "Renewals seen by the leader.",
            ),
            leases_expired: to.counter(
                "etcd_debugging_server_lease_expired_total",
                "Leases expired.",
            ),
            lease_ttl_seconds: to.buckets(
                "etcd_debugging_lease_ttl_total",
                "TTLs of the leases that were granted.",
                doubling(1.0, 24),
            ),
            range_seconds: to.histograms(
                "etcd_server_range_duration_seconds",
                "How long ranges take in this member's state.",
                &["success"],
                doubling(0.0001, 20),
            ),
            apply_seconds: to.histograms(
                "etcd_server_apply_duration_seconds",
                "How long a batch of entries takes to apply.",
                &["version", "op", "success"],
                doubling(0.0001, 20),
            ),
            slow_read_indexes: to.counter(
                "etcd_server_slow_read_indexes_total",
                "Confirmations of leadership for reads that had to be tried again.",
            ),
            heartbeat_send_failures: to.counter(
                "etcd_server_heartbeat_send_failures_total",
                "Heartbeats that were not answered.",
            ),
            snapshots_being_applied: to.gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "Snapshots that are being received and applied.",
            ),
            compaction_last_seconds: to.gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "When a compaction last ended, in seconds since the epoch.",
            ),
            compaction_keys: to.counter(
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Revisions that compactions removed.",
            ),
            slow_watchers: to.gauge(
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers that are behind.",
            ),
            values_sealed: to.counter("sealkv_values_sealed_total", "Values sealed here."),
            values_opened: to.counter("sealkv_values_opened_total", "Values opened here."),
            values_unopened: to.counter(
                "sealkv_values_unopened_total",
                "Values that could not be opened: no key, or damage.",
            ),
            prefix_keys: to.gauge("sealkv_prefix_keys", "Prefixes with a key of their own."),
            key_versions: to.gauge("sealkv_key_versions", "Versions of all prefix keys."),
            wal_write_seconds: to.histogram(
                "etcd_disk_wal_write_duration_seconds",
                "How long the raft log's writes take, without the sync.",
            ),
            wal_fsync_seconds: to.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "How long the raft log's syncs take.",
            ),
            wal_write_bytes: to.gauge(
                "etcd_disk_wal_write_bytes_total",
                "Bytes written to the raft log.",
            ),
            backend_commit_seconds: to.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "How long the store's commits take.",
            ),
            health_successes: to.counter("etcd_server_health_success", "Successful health checks."),
            health_failures: to.counter("etcd_server_health_failures", "Failed health checks."),
            health_check: to.gauges(
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &["type", "name"],
            ),
            health_checks: to.counters(
                "etcd_server_healthchecks_total",
                "Each kind of healthcheck.",
                &["type", "name", "status"],
            ),
            alarms: to.gauges(
                "etcd_debugging_server_alarms",
                "Alarms of every member.",
                &["server_id", "alarm_type"],
            ),
            features: to.gauges(
                "etcd_server_feature_enabled",
                "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
                &["name", "stage"],
            ),
            server_id: to.gauges("etcd_server_id", "The member's id.", &["server_id"]),
            root_opened: to.gauge(
                "sealkv_root_opened",
                "Whether or not this member can open sealed values.",
            ),
            registry: to.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_etcds_families_from_the_first_scrape_on() {
        let page = String::from_utf8(metrics().page()).unwrap();
        for line in [
            "# TYPE etcd_mvcc_put_total counter",
            "# TYPE etcd_server_proposals_committed_total gauge",
            r#"etcd_server_version{server_version="3.7.1"} 1"#,
            r#"etcd_cluster_version{cluster_version="3.7"} 1"#,
            "# TYPE etcd_disk_wal_fsync_duration_seconds histogram",
            "# TYPE etcd_server_health_success counter",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }
}
