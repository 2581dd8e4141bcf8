//! What the process counts, under etcd's names, so that its dashboards and alerts work unchanged.
//!
//! Promise: counting costs an atomic addition; what stands here is counted for real, and a
//! family that nothing feeds does not stand here.
//! Not known here: who asks. One process is one member, so there is one set of them.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tonic::Code;

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
    calls: HashMap<&'static str, Call>,

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

    pub wal_fsync_seconds: Histogram,
    pub wal_write_bytes: IntGauge,
    pub backend_commit_seconds: Histogram,

    pub health_successes: IntCounter,
    pub health_failures: IntCounter,
    pub health_check: IntGaugeVec,
    pub health_checks: IntCounterVec,
    pub alarms: IntGaugeVec,
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

/// The calls of one gRPC method.
#[derive(Debug)]
pub struct Call {
    path: &'static str,
    unary: bool,
    started: IntCounter,
    /// By code.
    handled: Vec<IntCounter>,
    /// Only with `--metrics=extensive`.
    seconds: OnceLock<Histogram>,
}

impl Call {
    /// `/SERVICE/METHOD`
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// One request, one answer: how long it took means something.
    pub fn is_unary(&self) -> bool {
        self.unary
    }

    pub fn started(&self) {
        self.started.inc();
    }

    pub fn handled(&self, code: Code, took: Duration) {
        if let Some(seconds) = self.seconds.get() {
            seconds.observe(took.as_secs_f64());
        }
        if let Some(counter) = usize::try_from(code as i32)
            .ok()
            .and_then(|i| self.handled.get(i))
        {
            counter.inc();
        }
    }
}

impl Metrics {
    /// The call behind a request's path; `None` for what is no method.
    pub fn call(&self, path: &str) -> Option<&Call> {
        self.calls.get(path)
    }

    /// From here on how long each call takes is counted too.
    pub fn time_calls(&self) {
        let options = HistogramOpts::new(
            "grpc_server_handling_seconds",
            "How long RPCs took until their end.",
        );
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let Ok(family) = HistogramVec::new(options, &labels) else {
            return;
        };
        // Registered once; a second call finds it there and changes nothing.
        if self.registry.register(Box::new(family.clone())).is_err() {
            return;
        }
        for &(path, kind) in METHODS {
            if let Some((service, method)) = path[1..].split_once('/')
                && let Some(call) = self.calls.get(path)
            {
                let seconds = family.with_label_values(&[method, service, kind]);
                let _ = call.seconds.set(seconds);
            }
        }
    }

    pub fn set_server_id(&self, member_id: u64) {
        self.server_id.reset();
        self.server_id
            .with_label_values(&[&format!("{member_id:x}")])
            .set(1);
    }

    /// In the text format that Prometheus scrapes.
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::new();
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
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
            calls: to.calls(),
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
            server_id: to.gauges("etcd_server_id", "The member's id.", &["server_id"]),
            root_opened: to.gauge(
                "sealkv_root_opened",
                "Whether or not this member can open sealed values.",
            ),
            registry: to.0,
        }
    }
}

/// A registry whose families are named in this file, each once.
struct Families(Registry);

impl Families {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        family: prometheus::Result<C>,
    ) -> C {
        let family = family.expect("names and labels in this file are valid");
        self.0
            .register(Box::new(family.clone()))
            .expect("each name stands once in this file");
        family
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// etcd's buckets for what a disk does: 1 ms to 8 s.
    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 14)
            .expect("start and factor are above zero and one");
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets),
        ))
    }

    fn calls(&self) -> HashMap<&'static str, Call> {
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let started = self.counters("grpc_server_started_total", "RPCs started.", &labels);
        let labels = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let handled = self.counters("grpc_server_handled_total", "RPCs completed.", &labels);
        let mut calls = HashMap::new();
        for &(path, kind) in METHODS {
            let Some((service, method)) = path[1..].split_once('/') else {
                continue;
            };
            let by_code = (0..=16).map(|code| {
                let code = format!("{:?}", Code::from_i32(code));
                // grpc-go's names.
                let code = if code == "Ok" { "OK" } else { &code };
                let code = if code == "Cancelled" {
                    "Canceled"
                } else {
                    code
                };
                handled.with_label_values(&[code, method, service, kind])
            });
            let call = Call {
                path,
                unary: kind == UNARY,
                started: started.with_label_values(&[method, service, kind]),
                handled: by_code.collect(),
                seconds: OnceLock::new(),
            };
            calls.insert(path, call);
        }
        calls
    }
}

const UNARY: &str = "unary";
const BIDI: &str = "bidi_stream";
const SERVER: &str = "server_stream";
const CLIENT: &str = "client_stream";

/// Every method that is counted, from the first scrape on.
const METHODS: &[(&str, &str)] = &[
    ("/etcdserverpb.KV/Range", UNARY),
    ("/etcdserverpb.KV/RangeStream", SERVER),
    ("/etcdserverpb.KV/Put", UNARY),
    ("/etcdserverpb.KV/DeleteRange", UNARY),
    ("/etcdserverpb.KV/Txn", UNARY),
    ("/etcdserverpb.KV/Compact", UNARY),
    ("/etcdserverpb.Watch/Watch", BIDI),
    ("/etcdserverpb.Lease/LeaseGrant", UNARY),
    ("/etcdserverpb.Lease/LeaseRevoke", UNARY),
    ("/etcdserverpb.Lease/LeaseKeepAlive", BIDI),
    ("/etcdserverpb.Lease/LeaseTimeToLive", UNARY),
    ("/etcdserverpb.Lease/LeaseLeases", UNARY),
    ("/etcdserverpb.Cluster/MemberAdd", UNARY),
    ("/etcdserverpb.Cluster/MemberRemove", UNARY),
    ("/etcdserverpb.Cluster/MemberUpdate", UNARY),
    ("/etcdserverpb.Cluster/MemberList", UNARY),
    ("/etcdserverpb.Cluster/MemberPromote", UNARY),
    ("/etcdserverpb.Maintenance/Alarm", UNARY),
    ("/etcdserverpb.Maintenance/Status", UNARY),
    ("/etcdserverpb.Maintenance/Defragment", UNARY),
    ("/etcdserverpb.Maintenance/Hash", UNARY),
    ("/etcdserverpb.Maintenance/HashKV", UNARY),
    ("/etcdserverpb.Maintenance/Snapshot", SERVER),
    ("/etcdserverpb.Maintenance/MoveLeader", UNARY),
    ("/etcdserverpb.Maintenance/Downgrade", UNARY),
    ("/etcdserverpb.Auth/AuthStatus", UNARY),
    ("/etcdserverpb.Auth/Authenticate", UNARY),
    ("/v3lockpb.Lock/Lock", UNARY),
    ("/v3lockpb.Lock/Unlock", UNARY),
    ("/v3electionpb.Election/Campaign", UNARY),
    ("/v3electionpb.Election/Proclaim", UNARY),
    ("/v3electionpb.Election/Leader", UNARY),
    ("/v3electionpb.Election/Observe", SERVER),
    ("/v3electionpb.Election/Resign", UNARY),
    ("/sealkv.v1.Keys/List", UNARY),
    ("/sealkv.v1.Keys/Add", UNARY),
    ("/sealkv.v1.Keys/Rotate", UNARY),
    ("/sealkv.v1.Plugins/Deploy", CLIENT),
    ("/sealkv.v1.Plugins/List", UNARY),
    ("/sealkv.v1.Plugins/DeadLetters", UNARY),
    ("/sealkv.v1.Plugins/Pause", UNARY),
    ("/sealkv.v1.Plugins/Resume", UNARY),
    ("/sealkv.v1.Plugins/Delete", UNARY),
];

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

    #[test]
    fn calls_are_counted_by_code() {
        let call = metrics()
            .call("/etcdserverpb.Cluster/MemberPromote")
            .unwrap();
        call.started();
        call.handled(Code::Cancelled, Duration::ZERO);
        let page = String::from_utf8(metrics().page()).unwrap();
        let labels = r#"grpc_method="MemberPromote",grpc_service="etcdserverpb.Cluster",grpc_type="unary"} 1"#;
        assert!(
            page.contains(&format!("grpc_server_started_total{{{labels}")),
            "{page}"
        );
        assert!(
            page.contains(&format!(
                "grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}"
            )),
            "{page}"
        );
        assert!(metrics().call("/etcdserverpb.KV/Nothing").is_none());
    }
}
