//! The metrics page, held against that of a real etcd under the same load.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::etcdserverpb as pb;
use tests::binary;
use tests::cluster::{Cluster, Program, READY_WITHIN};
use tests::wait;

/// Families of etcd's that are not here, and why nobody can miss them.
const NOT_HERE: &[(&str, &str)] = &[
    ("go_", "this server is not written in Go"),
    ("etcd_server_go_version", "nor built by it"),
    ("promhttp_", "of Go's own handler of the page"),
    ("etcd_grpc_proxy_", "of etcd's proxy, zero in a server"),
    (
        "etcd_debugging_store_",
        "of the store of etcd 2, zero since 3.6",
    ),
    (
        "etcd_debugging_disk_backend_commit_",
        "steps of a bbolt commit",
    ),
    (
        "etcd_debugging_snap_save_",
        "of raft snapshots as files, which there are none of",
    ),
    (
        "etcd_snap_",
        "of raft snapshots as files, which there are none of",
    ),
    (
        "etcd_mvcc_db_open_read_transactions",
        "of bbolt's read transactions",
    ),
    (
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "pauses are fixed here",
    ),
    (
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "compactions overlap here",
    ),
    (
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "the index never pauses",
    ),
    (
        "etcd_debugging_mvcc_pending_events_total",
        "watchers share events, nothing is pending each",
    ),
    (
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "the state machine sees sealed sizes only",
    ),
    (
        "etcd_debugging_server_watch_send_loop_",
        "there is no such loop",
    ),
];

/// Labels whose values are of the machine or of the member.
const FREE_LABELS: &[&str] = &["le", "Local", "Remote", "To", "From", "server_id"];

/// Families with other label values, and why.
const OTHER_VALUES: &[(&str, &str)] = &[
    (
        "etcd_server_apply_duration_seconds",
        "entries are applied in batches, one op for all",
    ),
    (
        "etcd_server_request_duration_seconds",
        "clients' requests alone, from their arrival on",
    ),
    (
        "etcd_server_feature_enabled",
        "lease checkpoints are on here",
    ),
];

type Labels = BTreeMap<String, String>;

/// One family: its type and its series' labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    series: BTreeSet<Labels>,
}

fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.kind.is_empty(), "{name} stands twice");
            family.kind = kind.to_owned();
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|n| families.contains_key(*n)))
                .unwrap_or(name);
            let family = families
                .get_mut(base)
                .unwrap_or_else(|| panic!("{line} has no type"));
            family.series.insert(read_labels(labels));
        }
    }
    families
}

fn read_labels(text: &str) -> Labels {
    let text = text.trim_end_matches('}');
    let pairs = text.split("\",").filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        })
        .collect()
}

async fn page(port: u16) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            break;
        }
        whole.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    whole
}

/// What dashboards look at: reads, writes, watches, leases, a compaction.
async fn load(cluster: &Cluster) {
    let client = cluster.client().await;
    let mut watch = client
        .watch(pb::WatchCreateRequest {
            key: "k".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let lease = client.grant(0, 60).await.unwrap().id;
    for number in 0..10 {
        client.put("k", format!("{number}")).await.unwrap();
    }
    client.get("k").await.unwrap();
    client.delete("k").await.unwrap();
    watch.events(11).await;
    client.keep_alive(lease).await.unwrap();
    client.revoke(lease).await.unwrap();
    client.compact(5).await.unwrap();
    assert!(client.compact(5).await.is_err());
}

async fn single(program: Program) -> Cluster {
    let cluster = Cluster::plan().program(program).flag("--metrics=extensive");
    let cluster = cluster.start().await;
    load(&cluster).await;
    cluster
}

fn excused(list: &[(&str, &str)], family: &str) -> bool {
    list.iter().any(|(name, _)| family.starts_with(name))
}

#[tokio::test]
async fn the_page_has_the_families_types_and_labels_of_etcd() {
    let test = "the_page_has_the_families_types_and_labels_of_etcd";
    if binary::etcd_or_skip(test).is_none() {
        return;
    }
    let (theirs, ours) = (single(Program::Etcd).await, single(Program::Sealkv).await);
    let theirs = parse(&page(theirs.members[0].client_port).await);
    let ours = parse(&page(ours.members[0].client_port).await);
    let mut wrong = Vec::new();
    for (name, family) in &theirs {
        let Some(found) = ours.get(name) else {
            if !excused(NOT_HERE, name) {
                wrong.push(format!("{name} ({}) is missing", family.kind));
            }
            continue;
        };
        if excused(NOT_HERE, name) {
            wrong.push(format!("{name} is here and needs no excuse"));
        }
        if found.kind != family.kind {
            wrong.push(format!(
                "{name} is a {}, in etcd a {}",
                found.kind, family.kind
            ));
        }
        let names = |family: &Family| -> BTreeSet<String> {
            let labels = family.series.iter().flat_map(BTreeMap::keys);
            labels.cloned().collect()
        };
        if names(found) != names(family) {
            wrong.push(format!(
                "{name} has {:?}, in etcd {:?}",
                names(found),
                names(family)
            ));
        }
        if excused(OTHER_VALUES, name) {
            continue;
        }
        let essence = |family: &Family| -> BTreeSet<Labels> {
            let of = |labels: &Labels| {
                let mut labels = labels.clone();
                labels.retain(|name, _| !FREE_LABELS.contains(&name.as_str()));
                labels
            };
            family.series.iter().map(of).collect()
        };
        for labels in essence(family).difference(&essence(found)) {
            wrong.push(format!("{name}{labels:?} is missing"));
        }
    }
    // What `promtool check metrics` would say of names that are not etcd's.
    let own = ours.iter().filter(|(name, _)| !name.starts_with("etcd_"));
    for (name, family) in own {
        if name.ends_with("_total") != (family.kind == "counter") {
            wrong.push(format!("{name} is no name of a {}", family.kind));
        }
        if name.chars().any(|letter| letter.is_ascii_uppercase()) {
            wrong.push(format!("{name} has capitals"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn the_page_counts_what_was_done() {
    let cluster = single(Program::Sealkv).await;
    let page = page(cluster.members[0].client_port).await;
    for line in [
        "etcd_mvcc_put_total 10",
        "etcd_mvcc_delete_total 1",
        "etcd_debugging_mvcc_keys_total 0",
        "etcd_debugging_mvcc_compact_revision 5",
        "etcd_debugging_lease_granted_total 1",
        "etcd_debugging_lease_revoked_total 1",
        "etcd_debugging_mvcc_events_total 11",
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 10"#,
        r#"grpc_server_handled_total{grpc_code="OutOfRange",grpc_method="Compact",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
        r#"grpc_server_msg_received_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 10"#,
        r#"grpc_server_msg_sent_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 10"#,
        r#"grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 10"#,
        r#"etcd_server_request_duration_seconds_count{success="true",type="Put"} 10"#,
        "etcd_debugging_lease_ttl_total_sum 60",
        "sealkv_values_sealed_total 10",
        "sealkv_root_opened 1",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not in\n{page}"
        );
    }
    let received = "etcd_network_client_grpc_received_bytes_total ";
    let bytes = page
        .lines()
        .find_map(|line| line.strip_prefix(received))
        .unwrap();
    assert!(bytes.parse::<f64>().unwrap() > 100.0, "{bytes}");
}

/// Every family that the queries of etcd's Grafana dashboard and Prometheus alerts name
/// (etcd 3.7.1, contrib/mixin), with a series in each member of three.
const OF_THE_MIXIN: &[&str] = &[
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total{From=",
    "etcd_network_peer_sent_bytes_total{To=",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total{",
    "grpc_server_handling_seconds_bucket{",
    "grpc_server_started_total{",
    // The dashboard's active streams.
    r#"grpc_server_started_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}"#,
    r#"grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#,
    "process_resident_memory_bytes",
];

#[tokio::test]
async fn every_query_of_etcds_dashboard_and_alerts_has_its_series() {
    let cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .flag("--metrics=extensive")
        .start()
        .await;
    load(&cluster).await;
    let leader = cluster.leader().await;
    for (index, member) in cluster.members.iter().enumerate() {
        let port = member.client_port;
        let mut wanted = OF_THE_MIXIN.to_vec();
        if index == leader {
            // Heartbeats go out from the leader.
            wanted.push("etcd_network_peer_round_trip_time_seconds_bucket{To=");
        }
        for name in wanted {
            wait::until(name, READY_WITHIN, || async {
                page(port)
                    .await
                    .lines()
                    .any(|line| line.starts_with(name))
                    .then_some(())
            })
            .await;
        }
        let known = page(port).await;
        let known = known
            .lines()
            .filter(|line| line.starts_with("etcd_network_known_peers{"));
        assert_eq!(known.count(), 3);
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_is_counted_as_lost() {
    let mut cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .start()
        .await;
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.members[gone].client().await.status().await.unwrap();
    let id = format!("{:x}", id.header.unwrap().member_id);
    cluster.members[gone].kill();
    let port = cluster.members[leader].client_port;
    let failed = format!("etcd_network_peer_sent_failures_total{{To=\"{id}\"}} ");
    wait::until("a failed call", Duration::from_secs(20), || async {
        page(port)
            .await
            .lines()
            .any(|line| line.starts_with(&failed))
            .then_some(())
    })
    .await;
    let inactive = format!("Remote=\"{id}\"}} 0");
    let page = page(port).await;
    assert!(
        page.lines()
            .any(|line| line.starts_with("etcd_network_active_peers{") && line.ends_with(&inactive)),
        "{page}"
    );
}
