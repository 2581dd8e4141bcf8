//! Maintenance: hashes, alarms, the space quota, downgrades, defragmentation, auto-compaction.
//!
//! All of it runs against a real etcd as well (`SEALKV_TEST_SERVER=etcd`).

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::{txn, wait};
use tonic::transport::Channel;
use tonic::{Code, Status};

const NO_SPACE: i32 = 1;
const CORRUPT: i32 = 2;

fn maintenance(client: &Client) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(client.channel())
}

async fn hash_kv(client: &Client, revision: i64) -> Result<pb::HashKvResponse, Status> {
    let request = pb::HashKvRequest { revision };
    let answer = maintenance(client).hash_kv(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn alarm(client: &Client, action: AlarmAction, member_id: u64, kind: i32) -> Vec<(u64, i32)> {
    let request = pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: kind,
    };
    let answer = maintenance(client).alarm(request).await.unwrap();
    let alarms = answer.into_inner().alarms;
    alarms.iter().map(|it| (it.member_id, it.alarm)).collect()
}

async fn downgrade(
    client: &Client,
    action: DowngradeAction,
    version: &str,
) -> Result<String, (Code, String)> {
    let request = pb::DowngradeRequest {
        action: action.into(),
        version: version.to_owned(),
    };
    match maintenance(client).downgrade(request).await {
        Ok(answer) => Ok(answer.into_inner().version),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.expect_err(message);
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test]
async fn a_hash_is_of_a_revision_that_is_there() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("k", value).await.unwrap();
    }
    let newest = hash_kv(&client, 0).await.unwrap();
    assert_eq!((newest.compact_revision, newest.hash_revision), (-1, 4));
    assert_eq!(newest.header.unwrap().revision, 4);
    let older = hash_kv(&client, 3).await.unwrap();
    assert_eq!(
        (older.hash_revision, older.header.unwrap().revision),
        (3, 4)
    );
    assert_ne!(older.hash, newest.hash);
    // Nothing was ever there, which is no error to etcd.
    let before_all = hash_kv(&client, -3).await.unwrap();
    assert_eq!(
        (
            before_all.hash_revision,
            before_all.header.unwrap().revision
        ),
        (-3, 4)
    );
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(hash_kv(&client, 5).await, Code::OutOfRange, future);
    client.compact(3).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(hash_kv(&client, 2).await, Code::OutOfRange, compacted);
    let after = hash_kv(&client, 4).await.unwrap();
    assert_eq!((after.compact_revision, after.hash_revision), (3, 4));
}

#[tokio::test]
async fn a_hash_is_equal_on_all_members() {
    let cluster = Cluster::three().await;
    let client = cluster.client().await;
    for number in 0..20 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    client.delete("k3").await.unwrap();
    let mut hashes = Vec::new();
    for member in &cluster.members {
        let client = member.client().await;
        client.get("k1").await.unwrap();
        let hash = hash_kv(&client, 22).await.unwrap();
        hashes.push((hash.hash, hash.hash_revision, hash.compact_revision));
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[0], hashes[2]);
}

#[tokio::test]
async fn an_alarm_is_raised_once_listed_and_taken_back() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let raised = alarm(&client, AlarmAction::Activate, 7, NO_SPACE).await;
    assert_eq!(raised, [(7, NO_SPACE)]);
    let again = alarm(&client, AlarmAction::Activate, 7, NO_SPACE).await;
    assert_eq!(again, [(7, NO_SPACE)]);
    assert_eq!(
        alarm(&client, AlarmAction::Get, 0, 0).await,
        [(7, NO_SPACE)]
    );
    assert_eq!(
        alarm(&client, AlarmAction::Get, 9, NO_SPACE).await,
        [(7, NO_SPACE)]
    );
    assert_eq!(alarm(&client, AlarmAction::Get, 0, CORRUPT).await, []);
    let status = client.status().await.unwrap();
    assert_eq!(status.errors, ["memberID:7 alarm:NOSPACE"]);
    // Neither another member nor no kind takes it back.
    assert_eq!(
        alarm(&client, AlarmAction::Deactivate, 8, NO_SPACE).await,
        []
    );
    assert_eq!(alarm(&client, AlarmAction::Deactivate, 7, 0).await, []);
    assert_eq!(alarm(&client, AlarmAction::Activate, 7, 0).await, []);
    let taken_back = alarm(&client, AlarmAction::Deactivate, 7, NO_SPACE).await;
    assert_eq!(taken_back, [(7, NO_SPACE)]);
    assert_eq!(alarm(&client, AlarmAction::Get, 0, 0).await, []);
}

#[tokio::test]
async fn a_corrupt_cluster_serves_and_writes_nothing_through_the_log() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    client.grant(1, 600).await.unwrap();
    alarm(&client, AlarmAction::Activate, 7, CORRUPT).await;
    let corrupt = "etcdserver: corrupt cluster";
    refused(client.put("k", "w").await, Code::DataLoss, corrupt);
    refused(client.delete("k").await, Code::DataLoss, corrupt);
    refused(client.grant(2, 600).await, Code::DataLoss, corrupt);
    refused(client.revoke(1).await, Code::DataLoss, corrupt);
    refused(client.compact(2).await, Code::DataLoss, corrupt);
    let write = txn::always(vec![txn::put("a", "b")]);
    refused(client.txn(write).await, Code::DataLoss, corrupt);
    alarm(&client, AlarmAction::Deactivate, 7, CORRUPT).await;
    client.put("k", "w").await.unwrap();
}

#[tokio::test]
async fn without_space_only_what_takes_space_is_refused() {
    let flag = format!("--quota-backend-bytes={}", 4 << 20);
    let cluster = Cluster::plan().flag(flag).start().await;
    let client = cluster.client().await;
    client.put("small", "v").await.unwrap();
    client.grant(1, 600).await.unwrap();
    let value = vec![b'x'; 512 << 10];
    let full = "etcdserver: mvcc: database space exceeded";
    let refusal = loop {
        match client.put("big", value.clone()).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::ResourceExhausted, full)
    );
    wait::until("the alarm", Duration::from_secs(10), || async {
        let raised = alarm(&client, AlarmAction::Get, 0, 0).await;
        (raised.len() == 1).then_some(())
    })
    .await;
    refused(client.put("a", "b").await, Code::ResourceExhausted, full);
    refused(client.grant(2, 600).await, Code::ResourceExhausted, full);
    let nested = txn::always(vec![txn::nested(txn::always(vec![txn::put("a", "b")]))]);
    refused(client.txn(nested).await, Code::ResourceExhausted, full);
    let both = txn::always(vec![txn::delete("none")]);
    client.txn(both).await.unwrap();
    assert_eq!(client.value("small").await.unwrap().unwrap(), "v");
    client.revoke(1).await.unwrap();
    let revision = client.delete("big").await.unwrap().header.unwrap().revision;
    client.compact(revision).await.unwrap();
    maintenance(&client)
        .defragment(pb::DefragmentRequest {})
        .await
        .unwrap();
    // Space alone does not take the alarm back.
    refused(client.put("a", "b").await, Code::ResourceExhausted, full);
    let raised = alarm(&client, AlarmAction::Get, 0, 0).await;
    alarm(&client, AlarmAction::Deactivate, raised[0].0, NO_SPACE).await;
    client.put("a", "b").await.unwrap();
    client.grant(2, 600).await.unwrap();
}

#[tokio::test]
async fn a_downgrade_goes_one_minor_version_back_and_can_be_cancelled() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    // A real etcd decides on its cluster version some time after it serves.
    wait::until("the cluster version", Duration::from_secs(20), || async {
        let answer = downgrade(&client, DowngradeAction::Validate, "3.6").await;
        (answer == Ok("3.7".to_owned())).then_some(())
    })
    .await;
    let format = "etcdserver: wrong downgrade target version format";
    let target = "etcdserver: invalid downgrade target version";
    for (version, message) in [
        ("", format),
        ("3", format),
        ("x.y", format),
        ("3.5", target),
        ("3.7.1", target),
        ("4.0", target),
    ] {
        for action in [DowngradeAction::Validate, DowngradeAction::Enable] {
            let refused = Err((Code::InvalidArgument, message.to_owned()));
            let answer = downgrade(&client, action, version).await;
            assert_eq!(answer, refused, "{version:?}");
        }
    }
    let version = || Ok("3.7".to_owned());
    assert_eq!(
        downgrade(&client, DowngradeAction::Cancel, "").await,
        version()
    );
    assert_eq!(
        downgrade(&client, DowngradeAction::Enable, "3.6.9").await,
        version()
    );
    let info = client.status().await.unwrap().downgrade_info.unwrap();
    assert_eq!(
        (info.enabled, info.target_version.as_str()),
        (true, "3.6.0")
    );
    wait::until(
        "3.6 as the cluster version",
        Duration::from_secs(20),
        || async {
            let answer = downgrade(&client, DowngradeAction::Validate, "3.5").await;
            let in_progress = "etcdserver: cluster has a downgrade job in progress";
            (answer == Err((Code::FailedPrecondition, in_progress.to_owned()))).then_some(())
        },
    )
    .await;
    let cancelled = downgrade(&client, DowngradeAction::Cancel, "").await;
    assert_eq!(cancelled, Ok("3.6".to_owned()));
    let info = client.status().await.unwrap().downgrade_info.unwrap();
    assert_eq!((info.enabled, info.target_version.as_str()), (false, ""));
}

#[tokio::test]
async fn a_defragmented_member_has_everything_and_takes_less_space() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for number in 0..40 {
        let value = vec![b'x'; 256 << 10];
        client.put(format!("big{number:02}"), value).await.unwrap();
    }
    // Everything is in its place on disk now, and nothing else.
    let defragment = || async {
        let answer = maintenance(&client)
            .defragment(pb::DefragmentRequest {})
            .await;
        assert_eq!(answer.unwrap().into_inner().header, None);
        client.status().await.unwrap().db_size
    };
    let before = defragment().await;
    let most = pb::DeleteRangeRequest {
        key: "big01".into(),
        range_end: "big99".into(),
        ..Default::default()
    };
    client.delete_range(most).await.unwrap();
    let compact = pb::CompactionRequest {
        revision: 42,
        physical: true,
    };
    client.kv().compact(compact).await.unwrap();
    let after = defragment().await;
    assert!(
        after + (8 << 20) < before,
        "{before} bytes before, {after} after"
    );
    let kept = client.value("big00").await.unwrap().unwrap();
    assert_eq!(kept.len(), 256 << 10);
    assert_eq!(client.prefix("big").await.unwrap().count, 1);
}

#[tokio::test]
async fn writes_go_on_while_a_member_is_defragmented() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            writer.put(format!("k{number}"), "v").await.unwrap();
        }
    });
    for _ in 0..3 {
        let mut maintenance = maintenance(&client);
        maintenance
            .defragment(pb::DefragmentRequest {})
            .await
            .unwrap();
    }
    writing.await.unwrap();
    assert_eq!(client.prefix("k").await.unwrap().count, 200);
}

#[tokio::test]
async fn the_leader_compacts_what_is_older_than_the_period() {
    for members in [1, 3] {
        let plan = Cluster::plan().members(members);
        let cluster = plan.flag("--auto-compaction-retention=1s").start().await;
        let client = cluster.client().await;
        let first = client
            .put("k", "first")
            .await
            .unwrap()
            .header
            .unwrap()
            .revision;
        wait::until("a compaction", Duration::from_secs(30), || async {
            client.put("k", "again").await.unwrap();
            let hash = hash_kv(&client, 0).await.unwrap();
            (hash.compact_revision > first).then_some(())
        })
        .await;
        let old = client.range(pb::RangeRequest {
            key: "k".into(),
            revision: first,
            ..Default::default()
        });
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        refused(old.await, Code::OutOfRange, compacted);
        assert_eq!(client.value("k").await.unwrap().unwrap(), "again");
    }
}

#[tokio::test]
async fn healthy_members_pass_the_corruption_check() {
    let plan = Cluster::plan()
        .members(3)
        .flag("--corrupt-check-time=200ms");
    let cluster = plan.start().await;
    let client = cluster.client().await;
    for number in 0..100 {
        client.put(format!("k{}", number % 7), "v").await.unwrap();
        if number == 50 {
            client.compact(20).await.unwrap();
        }
    }
    if Program::under_test() == Program::Sealkv {
        let leader = cluster.leader().await;
        let checked = "finished peer corruption check";
        wait::until_true("a check", Duration::from_secs(20), || {
            cluster.members[leader].log().contains(checked)
        })
        .await;
    }
    assert_eq!(alarm(&client, AlarmAction::Get, 0, 0).await, []);
    client.put("k", "v").await.unwrap();
}
