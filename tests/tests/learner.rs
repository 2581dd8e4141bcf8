//! What a learner serves: its status, its snapshot and reads of its own copy, and nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use http::uri::PathAndQuery;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use tests::client::{Client, MESSAGE_WITHIN};
use tests::cluster::{Cluster, READY, READY_WITHIN};
use tests::wait;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";

/// Every service of etcd and its calls, but for those that a learner serves.
const REFUSED: [(&str, &str); 9] = [
    (
        "etcdserverpb.KV",
        "Range RangeStream Put DeleteRange Txn Compact",
    ),
    ("etcdserverpb.Watch", "Watch"),
    (
        "etcdserverpb.Lease",
        "LeaseGrant LeaseRevoke LeaseKeepAlive LeaseTimeToLive LeaseLeases",
    ),
    (
        "etcdserverpb.Cluster",
        "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote",
    ),
    (
        "etcdserverpb.Maintenance",
        "Alarm Defragment Hash HashKV MoveLeader Downgrade",
    ),
    (
        "etcdserverpb.Auth",
        "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete \
         UserChangePassword UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete \
         RoleGrantPermission RoleRevokePermission",
    ),
    ("v3lockpb.Lock", "Lock Unlock"),
    (
        "v3electionpb.Election",
        "Campaign Proclaim Leader Observe Resign",
    ),
    ("grpc.health.v1.Health", "Check List Watch"),
];

/// One empty message; what comes first.
async fn call(client: &Client, path: &str) -> Result<(), Status> {
    let mut grpc = Grpc::new(client.channel());
    grpc.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let request = Request::new(tokio_stream::once(()));
    let answers = grpc.streaming(request, path, ProstCodec::<(), ()>::default());
    let first = async { answers.await?.into_inner().message().await.map(drop) };
    let first = tokio::time::timeout(MESSAGE_WITHIN, first).await;
    first.expect("an answer in time")
}

#[tokio::test]
async fn a_learner_serves_its_status_its_snapshot_and_reads_of_its_own_copy() {
    let mut cluster = Cluster::single().await;
    let voter = cluster.client().await;
    voter.put("k", "v").await.unwrap();
    let index = cluster.newcomer();
    let peer_url = cluster.members[index].peer_url();
    wait::until("the learner to be added", READY_WITHIN, async || {
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url.clone()],
            is_learner: true,
        };
        let mut cluster = ClusterClient::new(voter.channel());
        cluster.member_add(request).await.ok()
    })
    .await;
    let member = &mut cluster.members[index];
    member.launch();
    let serves = || member.log_of_this_start().contains(READY);
    wait::until_true("the learner to serve", READY_WITHIN, serves).await;
    let learner = cluster.members[index].client().await;
    for (service, methods) in REFUSED {
        for method in methods.split_whitespace() {
            let path = format!("/{service}/{method}");
            let told = call(&learner, &path).await;
            let told = told.map_err(|it| (it.code(), it.message().to_owned()));
            let refused = (Code::FailedPrecondition, NOT_FOR_LEARNERS.to_owned());
            assert_eq!(told, Err(refused), "{path}");
        }
    }
    let serializable = || pb::RangeRequest {
        key: "k".into(),
        serializable: true,
        ..Default::default()
    };
    wait::until(
        "the learner's own copy",
        Duration::from_secs(20),
        async || {
            let read = learner.range(serializable()).await.unwrap();
            (read.count == 1).then_some(())
        },
    )
    .await;
    assert!(learner.status().await.unwrap().is_learner);
    call(&learner, "/etcdserverpb.Maintenance/Status")
        .await
        .unwrap();
    call(&learner, "/etcdserverpb.Maintenance/Snapshot")
        .await
        .unwrap();
}
