//! Leases: grant, attach, renew, list, revoke, expiry, as etcd answers them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::mvccpb::Event;
use tests::client::{Client, prefix_end};
use tests::cluster::Cluster;
use tests::{txn, wait};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

async fn put_with_lease(client: &Client, key: &'static str, lease: i64) {
    client
        .put_request(pb::PutRequest {
            key: key.into(),
            value: "v".into(),
            lease,
            ..Default::default()
        })
        .await
        .unwrap();
}

async fn keys_of(client: &Client, lease: i64) -> Vec<Bytes> {
    let mut keys = client.time_to_live(lease, true).await.unwrap().keys;
    keys.sort();
    keys
}

#[tokio::test]
async fn a_grant_keeps_the_asked_id_or_picks_a_positive_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let asked = client.grant(42, 100).await.unwrap();
    assert_eq!(
        (
            asked.id,
            asked.ttl,
            asked.error.as_str(),
            asked.header.unwrap().revision
        ),
        (42, 100, "", 1)
    );
    let picked = client.grant(0, 100).await.unwrap();
    assert!(picked.id > 0);
    let raised = client.grant(43, 1).await.unwrap();
    assert_eq!(raised.ttl, 2, "raised to the minimum");
    assert_eq!(client.grant(44, 0).await.unwrap().ttl, 2);
}

#[tokio::test]
async fn time_to_live_tells_what_is_left_and_which_keys_hang_on_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(42, 100).await.unwrap();
    put_with_lease(&client, "b", 42).await;
    put_with_lease(&client, "a", 42).await;
    let left = client.time_to_live(42, false).await.unwrap();
    assert!((90..=100).contains(&left.ttl), "{}", left.ttl);
    assert_eq!((left.id, left.granted_ttl, left.keys.len()), (42, 100, 0));
    assert_eq!(keys_of(&client, 42).await, ["a", "b"]);
    let unknown = client.time_to_live(43, true).await.unwrap();
    assert_eq!(
        (
            unknown.id,
            unknown.ttl,
            unknown.granted_ttl,
            unknown.keys.len()
        ),
        (43, -1, 0, 0)
    );
}

#[tokio::test]
async fn keys_move_between_leases_and_leave_them() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(1, 100).await.unwrap();
    client.grant(2, 100).await.unwrap();
    put_with_lease(&client, "a", 1).await;
    put_with_lease(&client, "b", 1).await;
    put_with_lease(&client, "c", 1).await;
    put_with_lease(&client, "a", 2).await;
    client.put("b", "no lease").await.unwrap();
    client.delete("c").await.unwrap();
    assert_eq!(keys_of(&client, 1).await, Vec::<Bytes>::new());
    assert_eq!(keys_of(&client, 2).await, ["a"]);
    client.revoke(1).await.unwrap();
    assert_eq!(
        client.prefix("").await.unwrap_err().message(),
        "etcdserver: key is not provided"
    );
    let everything = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    assert_eq!(
        client.range(everything).await.unwrap().count,
        2,
        "revoking an empty lease removes nothing"
    );
}

#[tokio::test]
async fn revoking_deletes_the_attached_keys_as_one_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(7, 100).await.unwrap();
    put_with_lease(&client, "a", 7).await;
    put_with_lease(&client, "b", 7).await;
    let revoked = client.revoke(7).await.unwrap();
    assert_eq!(revoked.header.unwrap().revision, 4);
    assert_eq!(
        client
            .range(pb::RangeRequest {
                key: "a".into(),
                range_end: "c".into(),
                ..Default::default()
            })
            .await
            .unwrap()
            .count,
        0
    );
    assert_eq!(client.time_to_live(7, false).await.unwrap().ttl, -1);
    client.grant(8, 100).await.unwrap();
    assert_eq!(
        client.revoke(8).await.unwrap().header.unwrap().revision,
        4,
        "nothing attached, no new revision"
    );
}

#[tokio::test]
async fn leases_are_listed_by_what_is_left_of_them() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        client.grant(id, ttl).await.unwrap();
    }
    let ids: Vec<i64> = client
        .leases()
        .await
        .unwrap()
        .leases
        .iter()
        .map(|lease| lease.id)
        .collect();
    assert_eq!(ids, [2, 3, 1]);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_expires_with_its_keys_and_not_early() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let granted = Instant::now();
    client.grant(7, 2).await.unwrap();
    put_with_lease(&client, "l/a", 7).await;
    client.put("other", "stays").await.unwrap();
    let request = pb::WatchCreateRequest {
        key: "l/".into(),
        range_end: prefix_end(b"l/"),
        ..Default::default()
    };
    let mut stream = client.watch(request).await.unwrap();
    let events = stream.events(1).await;
    assert!(
        granted.elapsed() >= Duration::from_secs(2),
        "expired after {:?}",
        granted.elapsed()
    );
    assert_eq!(events[0].kv.as_ref().unwrap().key, "l/a");
    assert_eq!(client.get("other").await.unwrap().count, 1);
    assert_eq!(client.time_to_live(7, false).await.unwrap().ttl, -1);
}

#[tokio::test]
async fn a_lease_that_is_renewed_lives_on() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(7, 2).await.unwrap();
    put_with_lease(&client, "a", 7).await;
    let granted = Instant::now();
    while granted.elapsed() < Duration::from_secs(5) {
        assert_eq!(client.keep_alive(7).await.unwrap().ttl, 2);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(client.get("a").await.unwrap().count, 1);
    wait::until(
        "the lease to expire once nobody renews it",
        Duration::from_secs(15),
        async || (client.get("a").await.unwrap().count == 0).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn attached_in_a_transaction_and_kept_over_a_restart() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(7, 600).await.unwrap();
    let attached = pb::PutRequest {
        key: "a".into(),
        lease: 7,
        ..Default::default()
    };
    client
        .txn(txn::always(vec![
            txn::put_request(attached),
            txn::put("b", ""),
        ]))
        .await
        .unwrap();
    cluster.members[0].kill();
    cluster.members[0].start().await;
    let client = cluster.client().await;
    assert_eq!(keys_of(&client, 7).await, ["a"]);
    let left = client.time_to_live(7, false).await.unwrap();
    assert_eq!(left.granted_ttl, 600);
    assert!(left.ttl > 500);
    client.revoke(7).await.unwrap();
    assert_eq!(
        (
            client.get("a").await.unwrap().count,
            client.get("b").await.unwrap().count
        ),
        (0, 1)
    );
}

/// Renewals one after the other on one stream.
struct Renewals {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Renewals {
    /// The lease is renewed once before the stream is there.
    async fn open(client: &Client, id: i64) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        requests
            .send(pb::LeaseKeepAliveRequest { id })
            .await
            .unwrap();
        let answers = client
            .lease()
            .lease_keep_alive(ReceiverStream::new(receiver))
            .await;
        let mut answers = answers.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().ttl > 0);
        Renewals { requests, answers }
    }

    async fn renew(&mut self, id: i64) -> i64 {
        self.requests
            .send(pb::LeaseKeepAliveRequest { id })
            .await
            .unwrap();
        self.answers.message().await.unwrap().unwrap().ttl
    }
}

#[tokio::test]
async fn a_keep_alive_stream_of_a_follower_is_answered_over_a_leader_kill() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let client = cluster.members[(leader + 1) % 3].client().await;
    client.grant(7, 20).await.unwrap();
    put_with_lease(&client, "held", 7).await;
    let mut stream = Renewals::open(&client, 7).await;
    cluster.members[leader].kill();
    // The first waits for the next leader, and is not refused.
    for _ in 0..5 {
        assert_eq!(stream.renew(7).await, 20);
    }
    assert_eq!(client.get("held").await.unwrap().count, 1);
    let left = client.time_to_live(7, false).await.unwrap();
    // With the election that a next leader adds, should the load bring one more.
    assert!((15..=21).contains(&left.ttl), "{}", left.ttl);
}

#[tokio::test]
async fn a_lease_that_expires_while_there_is_no_leader_ends_after_the_next_is_elected() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let client = cluster.members[(leader + 1) % 3].client().await;
    let granted = Instant::now();
    client.grant(7, 3).await.unwrap();
    put_with_lease(&client, "held", 7).await;
    cluster.members[leader].kill();
    wait::until("its end", Duration::from_secs(30), async || {
        let held = client.get("held").await.ok()?;
        (held.count == 0).then_some(())
    })
    .await;
    assert!(granted.elapsed() >= Duration::from_secs(3));
    assert_eq!(client.time_to_live(7, false).await.unwrap().ttl, -1);
}

/// Checkpoints are five minutes apart, so this takes as long:
/// `cargo test --workspace --test lease -- --ignored checkpoint`.
#[tokio::test]
#[ignore = "takes more than five minutes"]
async fn a_long_lease_that_nobody_renews_keeps_its_checkpoint_over_leader_kills() {
    const TTL: i64 = 900;
    // A leader that a busy machine changes would have begun anew.
    let steady = Cluster::plan().members(3);
    let steady = steady
        .flag("--election-timeout=5000")
        .flag("--heartbeat-interval=500");
    let mut cluster = steady.start().await;
    let leader = cluster.leader().await;
    let client = cluster.client().await;
    let granted = Instant::now();
    client.grant(7, TTL).await.unwrap();
    client.grant(8, TTL).await.unwrap();
    // Past the first checkpoint, by as much as its entry may take.
    tokio::time::sleep(Duration::from_secs(310).saturating_sub(granted.elapsed())).await;
    let before = told(&client, 7).await.ttl;
    assert!((TTL - 360..TTL - 300).contains(&before), "{before}");
    // The other one has its whole time again, whatever was checkpointed.
    assert_eq!(client.keep_alive(8).await.unwrap().ttl, TTL);
    cluster.members[leader].kill();
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    let client = cluster.members[next].client().await;
    let left = told(&client, 7).await;
    // What was left at the checkpoint and one election, not the whole TTL.
    assert_eq!(left.granted_ttl, TTL);
    assert!(left.ttl <= TTL - 300 + 5 + 2, "{} of {before}", left.ttl);
    assert!(left.ttl >= before - 60, "{} of {before}", left.ttl);
    let renewed = told(&client, 8).await;
    assert!(renewed.ttl >= TTL - 60, "{}", renewed.ttl);
    assert_eq!(client.keep_alive(7).await.unwrap().ttl, TTL);
}

/// What is left of a lease; a busy machine may need to be asked again.
async fn told(client: &Client, id: i64) -> pb::LeaseTimeToLiveResponse {
    let left = || async { client.time_to_live(id, false).await.ok() };
    wait::until("what is left of a lease", Duration::from_secs(30), left).await
}

/// A leader that has just begun gives all leases their whole time, so that they end together.
#[tokio::test]
async fn writes_are_applied_between_the_ends_of_leases_that_end_together() {
    const LEASES: i64 = 1_500;
    /// Long enough for all of them to be granted, and for a member to start.
    const TTL: i64 = 15;
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut granting = JoinSet::new();
    for part in 0..16 {
        let client = client.clone();
        granting.spawn(async move {
            for id in (1..=LEASES).filter(|id| id % 16 == part) {
                client.grant(id, TTL).await.unwrap();
                let put = pb::PutRequest {
                    key: format!("leased/{id}").into(),
                    lease: id,
                    ..Default::default()
                };
                client.put_request(put).await.unwrap();
            }
        });
    }
    while let Some(granted) = granting.join_next().await {
        granted.unwrap();
    }
    cluster.members[0].terminate().await;
    cluster.members[0].start().await;
    let client = cluster.client().await;
    let (done, mut over) = oneshot::channel::<()>();
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        let mut written = Vec::new();
        while over.try_recv() == Err(TryRecvError::Empty) {
            let put = writer.put("meanwhile", "x").await.unwrap();
            written.push(put.header.unwrap().revision);
        }
        written
    });
    let ends = pb::WatchCreateRequest {
        key: "leased/".into(),
        range_end: prefix_end(b"leased/"),
        filters: vec![FilterType::Noput.into()],
        start_revision: 1,
        ..Default::default()
    };
    let mut ends = client.watch(ends).await.unwrap();
    let ended = ends.events(LEASES as usize).await;
    done.send(()).unwrap();
    let written = writing.await.unwrap();
    let at = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
    let (first, last) = (at(&ended[0]), at(&ended[ended.len() - 1]));
    let between = written.iter().filter(|at| (first..last).contains(*at));
    assert!(
        between.count() > 0,
        "none of {written:?} came between {first} and {last}"
    );
}
