//! A member that is left of three: every call that needs the others ends in time, with etcd's code
//! and text, and whoever asked for a leader is told that there is none.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::fmt::Debug;
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::v3lockpb::LockRequest;
use proto::v3lockpb::lock_client::LockClient;
use tests::client::Client;
use tests::cluster::Cluster;
use tests::http::Request;
use tests::{txn, wait};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

const WITHIN: Duration = Duration::from_secs(60);
const NEVER_SENT: (Code, &str) = (Code::DeadlineExceeded, "context deadline exceeded");
const TIMED_OUT: (Code, &str) = (Code::Unavailable, "etcdserver: request timed out");
const NO_LEADER: (Code, &str) = (Code::Unavailable, "etcdserver: no leader");
const UNHEALTHY: (Code, &str) = (Code::Unavailable, "etcdserver: unhealthy cluster");
const NOT_LEADER: (Code, &str) = (Code::FailedPrecondition, "etcdserver: not leader");

#[track_caller]
fn refused<T: Debug>(what: &str, answer: Result<T, Status>, (code, text): (Code, &str)) {
    let status = answer.expect_err(what);
    assert_eq!((status.code(), status.message()), (code, text), "{what}");
}

/// A follower and a client of it; nobody else runs, and the follower knows.
async fn left_alone() -> (Cluster, usize, Client) {
    let mut cluster = Cluster::three().await;
    let left = (cluster.leader().await + 1) % 3;
    let client = cluster.members[left].client().await;
    client.grant(7, 600).await.unwrap();
    for other in [(left + 1) % 3, (left + 2) % 3] {
        cluster.members[other].kill();
    }
    (cluster, left, client)
}

async fn told_of_no_leader(client: &Client) -> Vec<String> {
    wait::until("the follower to give its leader up", WITHIN, || async {
        let status = client.status().await.unwrap();
        (status.leader == 0).then_some(status.errors)
    })
    .await
}

#[tokio::test]
async fn a_follower_without_its_leader_tells_that_there_is_none() {
    let (mut cluster, left, client) = left_alone().await;
    let mut watch = client.ask(tokio_stream::pending::<pb::WatchRequest>());
    let required = "true".parse().unwrap();
    watch.metadata_mut().insert("hasleader", required);
    let mut watches = pb::watch_client::WatchClient::new(client.channel());
    let ended = tokio::spawn(async move {
        // The stream is refused at once if the leader is given up before it is opened.
        watches.watch(watch).await?.into_inner().message().await
    });
    let errors = told_of_no_leader(&client).await;
    assert_eq!(errors, ["etcdserver: no leader"]);
    refused("a watch", ended.await.unwrap(), NO_LEADER);
    let port = cluster.members[left].client_port;
    let answer = Request::get("/health").send(port).await;
    assert_eq!(answer.status, 503);
    let ill = r#"{"health":"false","reason":"RAFT NO LEADER"}"#;
    assert_eq!(answer.text().await.trim_end(), ill);
    let other = (left + 1) % 3;
    cluster.members[other].start().await;
    let told = || async { (client.status().await.ok()?.leader != 0).then_some(()) };
    wait::until("a leader", WITHIN, told).await;
    client.put("k", "v").await.unwrap();
}

#[tokio::test]
async fn what_needs_a_quorum_ends_with_etcds_code_and_text() {
    let (_cluster, _, client) = left_alone().await;
    told_of_no_leader(&client).await;
    let lease = || LeaseClient::new(client.channel());
    let members = || ClusterClient::new(client.channel());
    let auth = || AuthClient::new(client.channel());
    let maintenance = || MaintenanceClient::new(client.channel());
    let other = pb::MemberAddRequest {
        peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()],
        is_learner: false,
    };
    let learner = pb::MemberAddRequest {
        is_learner: true,
        ..other.clone()
    };
    let proposals = async {
        let mut locks = LockClient::new(client.channel());
        let lock = LockRequest {
            name: "lock".into(),
            lease: 7,
        };
        let (mut users, mut lists, mut states) = (auth(), auth(), auth());
        let enable = pb::AuthUserListRequest {};
        tokio::join!(
            async { refused("put", client.put("a", "1").await, NEVER_SENT) },
            async { refused("delete", client.delete("a").await, NEVER_SENT) },
            async {
                let write = txn::always(vec![txn::put("a", "1")]);
                refused("txn", client.txn(write).await, NEVER_SENT);
            },
            async { refused("compact", client.compact(2).await, NEVER_SENT) },
            async { refused("grant", client.grant(0, 60).await, NEVER_SENT) },
            async { refused("revoke", client.revoke(7).await, NEVER_SENT) },
            async {
                let get = pb::AlarmRequest::default();
                refused("alarm", client.alarm(get).await, NEVER_SENT);
            },
            async { refused("lock", locks.lock(lock).await, NEVER_SENT) },
            async { refused("users", users.user_list(enable).await, NEVER_SENT) },
            async {
                let list = pb::AuthRoleListRequest {};
                refused("roles", lists.role_list(list).await, NEVER_SENT);
            },
            async {
                let ask = pb::AuthStatusRequest {};
                refused("auth status", states.auth_status(ask).await, NEVER_SENT);
            },
        );
    };
    let others = async {
        let (mut adding, mut learning, mut promoting) = (members(), members(), members());
        let (mut leases, mut moving, mut entering) = (lease(), maintenance(), auth());
        let keep_alive = pb::LeaseKeepAliveRequest { id: 7 };
        tokio::join!(
            async { refused("range", client.get("a").await, TIMED_OUT) },
            async { refused("members", client.member_list(true).await, TIMED_OUT) },
            async {
                let name = pb::AuthenticateRequest::default();
                refused("enter", entering.authenticate(name).await, TIMED_OUT);
            },
            async {
                let left = client.time_to_live(7, false).await;
                refused("time to live", left, NO_LEADER);
            },
            async {
                let asked = tokio_stream::once(keep_alive).chain(tokio_stream::pending());
                let answers = leases.lease_keep_alive(asked).await;
                let answer = match answers {
                    Ok(answers) => answers.into_inner().message().await,
                    Err(status) => Err(status),
                };
                refused("keep alive", answer, NO_LEADER);
            },
            async { refused("add", adding.member_add(other).await, UNHEALTHY) },
            async { refused("learner", learning.member_add(learner).await, UNHEALTHY) },
            async {
                let promote = pb::MemberPromoteRequest { id: 5 };
                refused(
                    "promote",
                    promoting.member_promote(promote).await,
                    NO_LEADER,
                );
            },
            async {
                let to = pb::MoveLeaderRequest { target_id: 5 };
                refused("move", moving.move_leader(to).await, NOT_LEADER);
            },
        );
    };
    tokio::time::timeout(WITHIN, futures::future::join(proposals, others))
        .await
        .unwrap();
    let stale = pb::RangeRequest {
        key: "a".into(),
        serializable: true,
        ..Default::default()
    };
    client.range(stale).await.unwrap();
    client.member_list(false).await.unwrap();
    client.leases().await.unwrap();
    client
        .hash_kv(pb::HashKvRequest { revision: 0 })
        .await
        .unwrap();
}
