//! The calls of clients, by method, as etcd counts them.
//!
//! Promise: every method has its counters from the first scrape on; how long calls take is
//! counted for every method only when asked for, since that is a dozen series each.
//! Not known here: what a call does, and who makes it.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use tonic::Code;

use super::families::{Families, doubling};
use super::frames::Seen;

/// A client names its API's version; one that makes versions up gets no series of its own.
const API_VERSION_BYTES_MAX: usize = 5;

#[derive(Debug)]
pub struct Calls {
    by_path: HashMap<&'static str, Call>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    client_requests: IntCounterVec,
    handling_seconds: HistogramVec,
    /// Whether `handling_seconds` is wanted.
    extensive: OnceLock<()>,
}

/// The calls of one gRPC method.
#[derive(Debug)]
pub struct Call {
    path: &'static str,
    method: &'static str,
    service: &'static str,
    kind: &'static str,
    started: IntCounter,
    /// By code.
    handled: Vec<IntCounter>,
    received: IntCounter,
    sent: IntCounter,
    /// By success: whole requests, where etcd measures them.
    request_seconds: Option<[Histogram; 2]>,
    /// What only this method does.
    work_seconds: Option<Histogram>,
    in_flight: Option<IntGauge>,
    successes: Option<IntCounter>,
}

impl Calls {
    pub(super) fn find(&self, path: &str) -> Option<&Call> {
        self.by_path.get(path)
    }

    /// `--metrics=extensive`: for the life of the process.
    pub fn measure_handling(&self) {
        if self.extensive.set(()).is_ok() {
            for call in self.by_path.values() {
                self.handling(call);
            }
        }
    }

    fn handling(&self, call: &Call) -> Histogram {
        self.handling_seconds
            .with_label_values(&[call.method, call.service, call.kind])
    }

    /// `api_version` as the client's metadata has it.
    pub fn started(&self, call: &Call, api_version: Option<&str>) {
        call.started.inc();
        if let Some(in_flight) = &call.in_flight {
            in_flight.inc();
        }
        let kind = if call.is_unary() { "unary" } else { "stream" };
        let version = api_version
            .filter(|v| is_api_version(v))
            .unwrap_or("unknown");
        self.client_requests
            .with_label_values(&[kind, version])
            .inc();
    }

    pub fn handled(&self, call: &Call, code: Code, took: Duration) {
        let at = usize::try_from(code as i32).unwrap_or(usize::MAX);
        if let Some(counter) = call.handled.get(at) {
            counter.inc();
        }
        if let Some(in_flight) = &call.in_flight {
            in_flight.dec();
        }
        let well = code == Code::Ok;
        let seconds = took.as_secs_f64();
        if let Some(by_success) = &call.request_seconds {
            by_success[usize::from(well)].observe(seconds);
        }
        if let Some(work) = call.work_seconds.as_ref().filter(|_| well) {
            work.observe(seconds);
        }
        if let Some(successes) = call.successes.as_ref().filter(|_| well) {
            successes.inc();
        }
        if self.extensive.get().is_some() {
            self.handling(call).observe(seconds);
        }
    }

    /// Peers' calls are none of these.
    pub fn received(&self, call: &Call, seen: Seen) {
        self.received_bytes.inc_by(seen.bytes);
        call.received.inc_by(seen.messages);
    }

    pub fn sent(&self, call: &Call, seen: Seen) {
        self.sent_bytes.inc_by(seen.bytes);
        call.sent.inc_by(seen.messages);
    }

    pub(super) fn register(to: &Families) -> Self {
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let families = ByMethod {
            started: to.counters("grpc_server_started_total", "RPCs started.", &labels),
            handled: to.counters(
                "grpc_server_handled_total",
                "RPCs completed.",
                &["grpc_code", "grpc_method", "grpc_service", "grpc_type"],
            ),
            received: to.counters(
                "grpc_server_msg_received_total",
                "Messages received.",
                &labels,
            ),
            sent: to.counters("grpc_server_msg_sent_total", "Messages sent.", &labels),
            requests: to.histograms(
                "etcd_server_request_duration_seconds",
                "How long requests take, from their arrival to their answer.",
                &["success", "type"],
                doubling(0.0005, 14),
            ),
            defragmentations: to.gauge(
                "etcd_disk_defrag_inflight",
                "Whether or not this member is being defragmented.",
            ),
            promotions: to.counter(
                "etcd_server_learner_promote_successes",
                "Learners promoted at the request of this member's clients.",
            ),
            work: WORK.map(|(_, name, help, start, count)| {
                to.buckets(name, help, doubling(start, count))
            }),
        };
        let calls = METHODS
            .iter()
            .filter_map(|&(path, kind)| Some((path, families.call(path, kind)?)));
        Self {
            by_path: calls.collect(),
            received_bytes: to.counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes of clients' messages.",
            ),
            sent_bytes: to.counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "Bytes of messages to clients.",
            ),
            client_requests: to.counters(
                "etcd_server_client_requests_total",
                "Requests by kind and by the client's API version.",
                &["type", "client_api_version"],
            ),
            handling_seconds: to.histograms(
                "grpc_server_handling_seconds",
                "How long RPCs take.",
                &labels,
                HANDLING_BUCKETS.to_vec(),
            ),
            extensive: OnceLock::new(),
        }
    }
}

/// Two numbers and a point, at most two digits each.
fn is_api_version(given: &str) -> bool {
    let number =
        |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    given.len() <= API_VERSION_BYTES_MAX
        && given
            .split_once('.')
            .is_some_and(|(major, minor)| number(major) && number(minor))
}

impl Call {
    /// `/SERVICE/METHOD`
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// One request, one answer: how long it took means something.
    pub fn is_unary(&self) -> bool {
        self.kind == UNARY
    }
}

struct ByMethod {
    started: IntCounterVec,
    handled: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    requests: HistogramVec,
    defragmentations: IntGauge,
    promotions: IntCounter,
    work: [Histogram; WORK.len()],
}

impl ByMethod {
    fn call(&self, path: &'static str, kind: &'static str) -> Option<Call> {
        let (service, method) = path[1..].split_once('/')?;
        let labels = [method, service, kind];
        let by_code = (0..=16).map(|code| {
            let code = code_name(Code::from_i32(code));
            self.handled
                .with_label_values(&[code.as_str(), method, service, kind])
        });
        let request = REQUESTS.iter().find(|(of, _)| *of == path);
        let work = WORK.iter().position(|(of, ..)| *of == path);
        Some(Call {
            path,
            method,
            service,
            kind,
            started: self.started.with_label_values(&labels),
            handled: by_code.collect(),
            received: self.received.with_label_values(&labels),
            sent: self.sent.with_label_values(&labels),
            request_seconds: request.map(|(_, name)| {
                ["false", "true"].map(|success| self.requests.with_label_values(&[success, name]))
            }),
            work_seconds: work.map(|at| self.work[at].clone()),
            in_flight: (method == "Defragment").then(|| self.defragmentations.clone()),
            successes: (method == "MemberPromote").then(|| self.promotions.clone()),
        })
    }
}

/// grpc-go's names.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    }
}

/// grpc-go's buckets.
const HANDLING_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// etcd's types of requests.
const REQUESTS: &[(&str, &str)] = &[
    ("/etcdserverpb.KV/Range", "Range"),
    ("/etcdserverpb.KV/Put", "Put"),
    ("/etcdserverpb.KV/DeleteRange", "DeleteRange"),
    ("/etcdserverpb.KV/Txn", "Txn"),
    ("/etcdserverpb.KV/Compact", "Compaction"),
    ("/etcdserverpb.Lease/LeaseGrant", "LeaseGrant"),
    ("/etcdserverpb.Lease/LeaseRevoke", "LeaseRevoke"),
    ("/etcdserverpb.Maintenance/Alarm", "Alarm"),
];

/// Methods whose time etcd shows under a name of its own, with its buckets.
const WORK: [(&str, &str, &str, f64, usize); 4] = [
    (
        "/etcdserverpb.Maintenance/Defragment",
        "etcd_disk_backend_defrag_duration_seconds",
        "How long defragmentations take.",
        0.1,
        13,
    ),
    (
        "/etcdserverpb.Maintenance/Snapshot",
        "etcd_disk_backend_snapshot_duration_seconds",
        "How long sending a snapshot to a client takes.",
        0.01,
        17,
    ),
    (
        "/etcdserverpb.Maintenance/Hash",
        "etcd_mvcc_hash_duration_seconds",
        "How long hashing the store takes.",
        0.01,
        15,
    ),
    (
        "/etcdserverpb.Maintenance/HashKV",
        "etcd_mvcc_hash_rev_duration_seconds",
        "How long hashing the keys of a revision takes.",
        0.01,
        15,
    ),
];

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
    ("/etcdserverpb.Auth/AuthEnable", UNARY),
    ("/etcdserverpb.Auth/AuthDisable", UNARY),
    ("/etcdserverpb.Auth/AuthStatus", UNARY),
    ("/etcdserverpb.Auth/Authenticate", UNARY),
    ("/etcdserverpb.Auth/UserAdd", UNARY),
    ("/etcdserverpb.Auth/UserGet", UNARY),
    ("/etcdserverpb.Auth/UserList", UNARY),
    ("/etcdserverpb.Auth/UserDelete", UNARY),
    ("/etcdserverpb.Auth/UserChangePassword", UNARY),
    ("/etcdserverpb.Auth/UserGrantRole", UNARY),
    ("/etcdserverpb.Auth/UserRevokeRole", UNARY),
    ("/etcdserverpb.Auth/RoleAdd", UNARY),
    ("/etcdserverpb.Auth/RoleGet", UNARY),
    ("/etcdserverpb.Auth/RoleList", UNARY),
    ("/etcdserverpb.Auth/RoleDelete", UNARY),
    ("/etcdserverpb.Auth/RoleGrantPermission", UNARY),
    ("/etcdserverpb.Auth/RoleRevokePermission", UNARY),
    ("/v3lockpb.Lock/Lock", UNARY),
    ("/v3lockpb.Lock/Unlock", UNARY),
    ("/v3electionpb.Election/Campaign", UNARY),
    ("/v3electionpb.Election/Proclaim", UNARY),
    ("/v3electionpb.Election/Leader", UNARY),
    ("/v3electionpb.Election/Observe", SERVER),
    ("/v3electionpb.Election/Resign", UNARY),
    ("/grpc.health.v1.Health/Check", UNARY),
    ("/grpc.health.v1.Health/List", UNARY),
    ("/grpc.health.v1.Health/Watch", SERVER),
    ("/sealkv.v1.Keys/List", UNARY),
    ("/sealkv.v1.Keys/Add", UNARY),
    ("/sealkv.v1.Keys/Envelope", UNARY),
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
    use super::super::metrics;
    use super::*;

    #[test]
    fn calls_are_counted_by_code() {
        let call = metrics()
            .call("/etcdserverpb.Cluster/MemberPromote")
            .unwrap();
        let calls = metrics().calls();
        calls.started(call, Some("3.7"));
        calls.handled(call, Code::Cancelled, Duration::ZERO);
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

    #[test]
    fn a_client_cannot_make_series_up() {
        for version in ["3.7", "3.10"] {
            assert!(is_api_version(version), "{version}");
        }
        for version in ["", "3", "3.", "x.y", "3.7.1", "123.4", "unknown"] {
            assert!(!is_api_version(version), "{version}");
        }
    }
}
