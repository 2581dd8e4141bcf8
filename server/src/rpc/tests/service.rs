//! Cluster, Maintenance, Keys, health, and methods that are not served.

use std::task::Poll;

use proto::etcdserverpb as pb;
use proto::sealkv::v1 as keys_pb;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::super::Limits;
use super::single::{MEMBER, TERM};
use super::wire::{assert_status, bytes, serve, serve_with};

#[tokio::test]
async fn members_are_listed_under_a_header_without_revision() {
    let served = serve().await;
    served.put("a", "1").await;
    let list = pb::MemberListRequest { linearizable: true };
    let response = served
        .cluster
        .clone()
        .member_list(list)
        .await
        .unwrap()
        .into_inner();
    let header = response.header.unwrap();
    assert_eq!(
        (header.member_id, header.raft_term, header.revision),
        (MEMBER, TERM, 0)
    );
    let member = &response.members[0];
    assert_eq!(
        (member.id, &member.name[..], member.client_ur_ls.len()),
        (MEMBER, "one", 1)
    );
    served.leaderless.send_replace(true);
    let message = "etcdserver: request timed out";
    assert_status(
        served.cluster.clone().member_list(list).await,
        Code::Unavailable,
        message,
    );
    let stale = pb::MemberListRequest {
        linearizable: false,
    };
    served.cluster.clone().member_list(stale).await.unwrap();
}

#[tokio::test]
async fn status_has_every_field_of_etcds() {
    let served = serve().await;
    served.put("a", "1").await;
    let mut maintenance = served.maintenance.clone();
    let activate = pb::AlarmRequest {
        action: 1,
        member_id: 9,
        alarm: 1,
    };
    maintenance.alarm(activate).await.unwrap();
    let status = maintenance
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&status.version[..], &status.storage_version[..]),
        ("3.7.1", "3.7.0")
    );
    assert_eq!((status.leader, status.raft_term), (MEMBER, TERM));
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0);
    assert!(status.db_size > 0 && status.db_size_in_use > 0);
    assert_eq!(status.db_size_quota, 2_147_483_648);
    assert_eq!(status.errors, ["memberID:9 alarm:NOSPACE"]);
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
}

#[tokio::test]
async fn a_hash_waits_for_its_turn_among_large_answers() {
    let limits = Limits::default();
    let answers = limits.answers.clone();
    let served = serve_with(limits).await;
    let mut turns = Vec::new();
    loop {
        let mut turn = Box::pin(answers.enter(false));
        match futures::poll!(&mut turn) {
            Poll::Ready(turn) => turns.push(turn.unwrap()),
            Poll::Pending => break,
        }
    }
    let mut maintenance = served.maintenance.clone();
    let mut hash =
        tokio::spawn(async move { maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await });
    // An answer that takes no turn comes after the hash was asked for on the same connection.
    let mut maintenance = served.maintenance.clone();
    for _ in 0..3 {
        maintenance.status(pb::StatusRequest {}).await.unwrap();
    }
    assert!(futures::poll!(&mut hash).is_pending());
    turns.clear();
    hash.await.unwrap().unwrap();
}

#[tokio::test]
async fn alarms_are_raised_listed_and_taken_back() {
    let served = serve().await;
    let mut maintenance = served.maintenance.clone();
    let mut alarm = async |action, member_id, alarm| {
        let request = pb::AlarmRequest {
            action,
            member_id,
            alarm,
        };
        maintenance
            .alarm(request)
            .await
            .unwrap()
            .into_inner()
            .alarms
    };
    let raised = pb::AlarmMember {
        member_id: 9,
        alarm: 1,
    };
    assert_eq!(alarm(1, 9, 1).await, [raised]);
    assert_eq!(alarm(0, 0, 0).await, [raised]);
    assert_eq!(alarm(0, 0, 2).await, []);
    assert_eq!(alarm(2, 9, 1).await, [raised]);
    assert_eq!(alarm(0, 0, 0).await, []);
}

#[tokio::test]
async fn a_hash_names_its_revision_and_minus_one_before_the_first_compaction() {
    let served = serve().await;
    served.put("a", "1").await;
    served.put("a", "2").await;
    let mut maintenance = served.maintenance.clone();
    let request = pb::HashKvRequest { revision: 2 };
    let hash = maintenance.hash_kv(request).await.unwrap().into_inner();
    assert_eq!((hash.compact_revision, hash.hash_revision), (-1, 2));
    assert_eq!(hash.header.unwrap().revision, 3);
    let future = pb::HashKvRequest { revision: 9 };
    let message = "etcdserver: mvcc: required revision is a future revision";
    assert_status(maintenance.hash_kv(future).await, Code::OutOfRange, message);
}

#[tokio::test]
async fn a_prefix_gets_its_own_key_and_values_follow_it() {
    let served = serve().await;
    let mut keys = served.keys.clone();
    served.put("tenant/a", "old").await;
    let add = keys_pb::KeysAddRequest {
        prefix: bytes("tenant/"),
    };
    let added = keys
        .add(add.clone())
        .await
        .unwrap()
        .into_inner()
        .key
        .unwrap();
    assert_eq!(
        (added.id, added.versions.len(), added.versions[0].current),
        (2, 1, true)
    );
    served.put("tenant/b", "new").await;
    assert_eq!(served.get("tenant/a").await, Some("old".into()));
    assert_eq!(served.get("tenant/b").await, Some("new".into()));
    let rotate = keys_pb::KeysRotateRequest {
        prefix: bytes("tenant/"),
    };
    let rotated = keys.rotate(rotate).await.unwrap().into_inner().key.unwrap();
    let current: Vec<_> = rotated
        .versions
        .iter()
        .map(|it| (it.version, it.current))
        .collect();
    assert_eq!(current, [(1, false), (2, true)]);
    assert_eq!(served.get("tenant/b").await, Some("new".into()));
    let list = keys
        .list(keys_pb::KeysListRequest {})
        .await
        .unwrap()
        .into_inner();
    let prefixes: Vec<_> = list.keys.iter().map(|key| key.prefix.clone()).collect();
    assert_eq!(prefixes, [bytes(""), bytes("tenant/")]);
    assert_eq!(
        (list.keyring_id.len(), list.root_version, list.slots.len()),
        (16, 1, 1)
    );
    let unknown = keys_pb::KeysRotateRequest { prefix: bytes("x") };
    let message = "sealkv: this prefix has no key of its own";
    assert_status(keys.rotate(unknown).await, Code::NotFound, message);
    assert_eq!(
        keys.add(add).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let empty = keys_pb::KeysAddRequest::default();
    let message = "sealkv: the empty prefix has a key from the first start";
    assert_status(keys.add(empty).await, Code::InvalidArgument, message);
}

#[tokio::test]
async fn a_watch_goes_on_over_a_rotation() {
    let served = serve().await;
    served.put("a", "1").await;
    let rotate = keys_pb::KeysRotateRequest::default();
    served.keys.clone().rotate(rotate).await.unwrap();
    served.put("a", "2").await;
    assert_eq!(served.get("a").await, Some("2".into()));
}

#[tokio::test]
async fn the_process_is_serving() {
    let served = serve().await;
    let mut health = HealthClient::new(served.channel.clone());
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let response = health.check(request).await.unwrap().into_inner();
    assert_eq!(response.status, i32::from(ServingStatus::Serving));
}

#[tokio::test]
async fn peer_urls_are_checked_before_anything_is_changed() {
    let served = serve().await;
    let bad = |given: &[&str]| given.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
    for urls in [
        bad(&[]),
        bad(&["localhost"]),
        bad(&["http://h"]),
        bad(&["ftp://h:1"]),
        bad(&["http://h:1/p"]),
        bad(&["http://h:1", ""]),
    ] {
        let add = pb::MemberAddRequest {
            peer_ur_ls: urls.clone(),
            is_learner: false,
        };
        assert_status(
            served.cluster.clone().member_add(add).await,
            Code::InvalidArgument,
            "etcdserver: given member URLs are invalid",
        );
        let update = |id| pb::MemberUpdateRequest {
            id,
            peer_ur_ls: urls.clone(),
        };
        assert_status(
            served.cluster.clone().member_update(update(MEMBER)).await,
            Code::InvalidArgument,
            "etcdserver: given member URLs are invalid",
        );
        assert_status(
            served.cluster.clone().member_update(update(1)).await,
            Code::NotFound,
            "etcdserver: member not found",
        );
    }
}
