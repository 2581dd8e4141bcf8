//! etcd's lock and election services: who holds, who waits, and what is left when somebody goes.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use bytes::Bytes;
use proto::mvccpb::KeyValue;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use proto::v3lockpb::lock_client::LockClient;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tests::client::Client;
use tests::cluster::Cluster;
use tests::wait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

const WITHIN: Duration = Duration::from_secs(20);

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest {
        name: name.to_owned().into(),
        lease,
    };
    let answer = LockClient::new(client.channel()).lock(request).await?;
    Ok(answer.into_inner())
}

async fn unlock(client: &Client, key: &Bytes) {
    let request = UnlockRequest { key: key.clone() };
    let mut locks = LockClient::new(client.channel());
    locks.unlock(request).await.unwrap();
}

/// A lock that is waited for in the background.
fn waiting(
    client: &Client,
    name: &'static str,
    lease: i64,
) -> JoinHandle<Result<LockResponse, Status>> {
    let client = client.clone();
    tokio::spawn(async move { lock(&client, name, lease).await })
}

async fn keys(client: &Client, prefix: &str) -> Vec<String> {
    let answer = client.prefix(prefix).await.unwrap();
    let text = |kv: KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
    answer.kvs.into_iter().map(text).collect()
}

async fn until_keys(client: &Client, prefix: &str, expected: &[&str]) {
    wait::until("these keys", WITHIN, || async {
        (keys(client, prefix).await == expected).then_some(())
    })
    .await;
}

async fn campaign(
    client: &Client,
    name: &str,
    lease: i64,
    value: &str,
) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest {
        name: name.to_owned().into(),
        lease,
        value: value.to_owned().into(),
    };
    let mut elections = ElectionClient::new(client.channel());
    Ok(elections.campaign(request).await?.into_inner())
}

fn campaigning(
    client: &Client,
    name: &'static str,
    lease: i64,
    value: &'static str,
) -> JoinHandle<Result<CampaignResponse, Status>> {
    let client = client.clone();
    tokio::spawn(async move { campaign(&client, name, lease, value).await })
}

async fn proclaim(client: &Client, leader: Option<LeaderKey>, value: &str) -> Result<i64, Status> {
    let request = ProclaimRequest {
        leader,
        value: value.to_owned().into(),
    };
    let mut elections = ElectionClient::new(client.channel());
    let answer = elections.proclaim(request).await?.into_inner();
    Ok(answer.header.unwrap().revision)
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<i64, Status> {
    let request = ResignRequest { leader };
    let mut elections = ElectionClient::new(client.channel());
    let answer = elections.resign(request).await?.into_inner();
    Ok(answer.header.unwrap().revision)
}

async fn leader(client: &Client, name: &str) -> Result<LeaderResponse, Status> {
    let name = name.to_owned().into();
    let mut elections = ElectionClient::new(client.channel());
    Ok(elections.leader(LeaderRequest { name }).await?.into_inner())
}

/// etcd answers the call only when it has a leader to name, so it is made in the background.
fn observe(client: &Client, name: &'static str) -> mpsc::Receiver<LeaderResponse> {
    let mut elections = ElectionClient::new(client.channel());
    let (sender, seen) = mpsc::channel(16);
    tokio::spawn(async move {
        let name = Bytes::from(name);
        let answer = elections.observe(LeaderRequest { name }).await;
        let mut leaders = answer.unwrap().into_inner();
        while let Ok(Some(leader)) = leaders.message().await {
            if sender.send(leader).await.is_err() {
                return;
            }
        }
    });
    seen
}

/// The next leader's value, and the revision of its response and of its key.
async fn observed(leaders: &mut mpsc::Receiver<LeaderResponse>) -> (Bytes, i64, i64) {
    let next = tokio::time::timeout(WITHIN, leaders.recv()).await;
    let leader = next
        .expect("a leader is named in time")
        .expect("the stream goes on");
    let kv = leader.kv.unwrap();
    (kv.value, leader.header.unwrap().revision, kv.mod_revision)
}

fn assert_error<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test]
async fn a_lock_is_a_key_under_its_name_that_ends_with_its_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(0x2a, 100).await.unwrap();
    let held = lock(&client, "door", 0x2a).await.unwrap();
    let header = held.header.unwrap();
    assert_eq!((&held.key[..], header.revision), (&b"door/2a"[..], 2));
    assert!(header.member_id != 0 && header.cluster_id != 0 && header.raft_term != 0);
    let pair = client.get("door/2a").await.unwrap().kvs.remove(0);
    assert_eq!(
        (pair.lease, pair.value.len(), pair.create_revision),
        (0x2a, 0, 2)
    );
    let again = lock(&client, "door", 0x2a).await.unwrap();
    assert_eq!((again.key, again.header.unwrap().revision), (held.key, 2));
    client.revoke(0x2a).await.unwrap();
    assert_eq!(keys(&client, "door/").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one_of_a_minute() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let held = lock(&client, "", 0).await.unwrap();
    let pair = client.get(held.key.clone()).await.unwrap().kvs.remove(0);
    assert_eq!(held.key, format!("/{:x}", pair.lease));
    let left = client.time_to_live(pair.lease, true).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![held.key.clone()]));
    unlock(&client, &held.key).await;
    unlock(&client, &held.key).await;
    assert!(client.time_to_live(pair.lease, false).await.unwrap().ttl > 0);
}

#[tokio::test]
async fn waiters_get_the_lock_in_the_order_in_which_they_came() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for lease in 1..=3 {
        client.grant(lease, 100).await.unwrap();
    }
    let first = lock(&client, "door", 1).await.unwrap();
    let second = waiting(&client, "door", 2);
    until_keys(&client, "door/", &["door/1", "door/2"]).await;
    let third = waiting(&client, "door", 3);
    until_keys(&client, "door/", &["door/1", "door/2", "door/3"]).await;
    // A name that begins with this one is another lock.
    client.grant(9, 100).await.unwrap();
    lock(&client, "door2", 9).await.unwrap();
    assert!(!second.is_finished());
    unlock(&client, &first.key).await;
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.key, "door/2");
    assert!(!third.is_finished());
    unlock(&client, &second.key).await;
    let third = third.await.unwrap().unwrap();
    assert_eq!(third.key, "door/3");
    assert_eq!(third.header.unwrap().revision, 7);
}

#[tokio::test]
async fn a_waiter_that_gives_up_takes_its_key_with_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for lease in 1..=3 {
        client.grant(lease, 100).await.unwrap();
    }
    let first = lock(&client, "door", 1).await.unwrap();
    let second = waiting(&client, "door", 2);
    until_keys(&client, "door/", &["door/1", "door/2"]).await;
    second.abort();
    until_keys(&client, "door/", &["door/1"]).await;
    let mut request = Request::new(LockRequest {
        name: "door".into(),
        lease: 3,
    });
    request.set_timeout(Duration::from_millis(300));
    let late = LockClient::new(client.channel()).lock(request).await;
    let code = late.unwrap_err().code();
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    until_keys(&client, "door/", &["door/1"]).await;
    unlock(&client, &first.key).await;
    lock(&client, "door", 2).await.unwrap();
}

#[tokio::test]
async fn a_lock_is_not_given_to_a_session_that_has_ended() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(1, 100).await.unwrap();
    client.grant(2, 100).await.unwrap();
    let missing = "etcdserver: requested lease not found";
    assert_error(lock(&client, "door", 7).await, Code::Unknown, missing);
    let first = lock(&client, "door", 1).await.unwrap();
    let second = waiting(&client, "door", 2);
    until_keys(&client, "door/", &["door/1", "door/2"]).await;
    client.revoke(2).await.unwrap();
    unlock(&client, &first.key).await;
    assert_error(
        second.await.unwrap(),
        Code::Unknown,
        "mutex: session is expired",
    );
}

#[tokio::test]
async fn an_election_goes_from_leader_to_leader() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    assert_error(
        leader(&client, "chair").await,
        Code::Unknown,
        "election: no leader",
    );
    client.grant(1, 100).await.unwrap();
    client.grant(2, 100).await.unwrap();
    let mut leaders = observe(&client, "chair");
    let won = campaign(&client, "chair", 1, "ann").await.unwrap();
    let ann = won.leader.unwrap();
    assert_eq!(
        (&ann.name[..], &ann.key[..], ann.rev, ann.lease),
        (&b"chair"[..], &b"chair/1"[..], 2, 1)
    );
    assert_eq!(won.header.unwrap().revision, 2);
    assert_eq!(observed(&mut leaders).await, ("ann".into(), 2, 2));
    let bob = campaigning(&client, "chair", 2, "bob");
    until_keys(&client, "chair/", &["chair/1", "chair/2"]).await;
    let now = leader(&client, "chair").await.unwrap();
    assert_eq!(now.kv.unwrap().value, "ann");
    assert_eq!(now.header.unwrap().revision, 3);
    let said = proclaim(&client, Some(ann.clone()), "ann again").await;
    assert_eq!(said.unwrap(), 4);
    assert_eq!(observed(&mut leaders).await, ("ann again".into(), 4, 4));
    // The same session campaigns with other words: it stays where it is.
    let again = campaign(&client, "chair", 1, "ann, third").await.unwrap();
    assert_eq!(again.leader.unwrap().rev, 2);
    assert_eq!(again.header.unwrap().revision, 4);
    assert_eq!(observed(&mut leaders).await, ("ann, third".into(), 5, 5));
    assert_eq!(resign(&client, Some(ann.clone())).await.unwrap(), 6);
    let bob = bob.await.unwrap().unwrap();
    assert_eq!(bob.header.unwrap().revision, 3);
    assert_eq!(observed(&mut leaders).await, ("bob".into(), 6, 3));
    // Whoever has resigned leads nothing: it says nothing, and resigning again changes nothing.
    assert_error(
        proclaim(&client, Some(ann.clone()), "no").await,
        Code::Unknown,
        "election: not leader",
    );
    assert_eq!(resign(&client, Some(ann)).await.unwrap(), 6);
}

#[tokio::test]
async fn what_names_no_leader_is_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let message = r#""leader" field must be provided"#;
    assert_error(proclaim(&client, None, "x").await, Code::Unknown, message);
    assert_error(resign(&client, None).await, Code::Unknown, message);
    let nobody = Some(LeaderKey::default());
    let message = "etcdserver: key is not provided";
    assert_error(proclaim(&client, nobody, "x").await, Code::Unknown, message);
    let message = "etcdserver: requested lease not found";
    let unknown = campaign(&client, "chair", 7, "x").await;
    assert_error(unknown, Code::Unknown, message);
}

#[tokio::test]
async fn a_candidate_that_gives_up_takes_its_key_with_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(1, 100).await.unwrap();
    client.grant(2, 100).await.unwrap();
    campaign(&client, "chair", 1, "ann").await.unwrap();
    let bob = campaigning(&client, "chair", 2, "bob");
    until_keys(&client, "chair/", &["chair/1", "chair/2"]).await;
    bob.abort();
    until_keys(&client, "chair/", &["chair/1"]).await;
}

#[tokio::test]
async fn a_waiter_at_a_follower_gets_the_lock_after_the_leader_was_killed() {
    let mut cluster = Cluster::three().await;
    let leads = cluster.leader().await;
    let at = |offset: usize| (leads + offset) % 3;
    let holder = cluster.members[at(1)].client().await;
    let waiter = cluster.members[at(2)].client().await;
    holder.grant(1, 600).await.unwrap();
    holder.grant(2, 600).await.unwrap();
    let held = lock(&holder, "door", 1).await.unwrap();
    let mut leaders = observe(&waiter, "chair");
    campaign(&holder, "chair", 1, "ann").await.unwrap();
    assert_eq!(observed(&mut leaders).await.0, "ann");
    let next = waiting(&waiter, "door", 2);
    until_keys(&holder, "door/", &["door/1", "door/2"]).await;
    cluster.members[leads].kill();
    wait::until("a new leader", WITHIN, || async {
        holder.put("after", "the kill").await.ok()
    })
    .await;
    assert!(!next.is_finished());
    unlock(&holder, &held.key).await;
    assert_eq!(next.await.unwrap().unwrap().key, "door/2");
    campaign(&holder, "chair", 1, "ann again").await.unwrap();
    assert_eq!(observed(&mut leaders).await.0, "ann again");
}
