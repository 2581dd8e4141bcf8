//! Members that come and go: added, joined, promoted, moved, replaced, removed; leadership handed over.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tests::check::linearizability::{self, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Program, READY, READY_WITHIN};
use tests::load::{self, Load};
use tests::wait;
use tonic::{Code, Status};

const SOON: Duration = Duration::from_secs(30);

async fn add(
    client: &Client,
    peer_url: &str,
    is_learner: bool,
) -> Result<pb::MemberAddResponse, Status> {
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![peer_url.to_owned()],
        is_learner,
    };
    let mut cluster = ClusterClient::new(client.channel());
    let answer = cluster.member_add(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn remove(client: &Client, id: u64) -> Result<pb::MemberRemoveResponse, Status> {
    let request = pb::MemberRemoveRequest { id };
    let mut cluster = ClusterClient::new(client.channel());
    let answer = cluster.member_remove(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn promote(client: &Client, id: u64) -> Result<pb::MemberPromoteResponse, Status> {
    let request = pb::MemberPromoteRequest { id };
    let mut cluster = ClusterClient::new(client.channel());
    let answer = cluster.member_promote(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn update(
    client: &Client,
    id: u64,
    peer_url: &str,
) -> Result<pb::MemberUpdateResponse, Status> {
    let request = pb::MemberUpdateRequest {
        id,
        peer_ur_ls: vec![peer_url.to_owned()],
    };
    let mut cluster = ClusterClient::new(client.channel());
    let answer = cluster.member_update(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn move_leader(client: &Client, target_id: u64) -> Result<pb::MoveLeaderResponse, Status> {
    let mut maintenance = MaintenanceClient::new(client.channel());
    let request = pb::MoveLeaderRequest { target_id };
    let moved = maintenance.move_leader(request).await;
    moved.map(tonic::Response::into_inner)
}

async fn members(client: &Client) -> Vec<pb::Member> {
    client.member_list(true).await.unwrap().members
}

async fn id_of(client: &Client) -> u64 {
    client.status().await.unwrap().header.unwrap().member_id
}

/// Adds a member and starts it; returns its index and its id.
async fn grow(cluster: &mut Cluster, by: &Client, is_learner: bool) -> (usize, u64) {
    let index = cluster.newcomer();
    let id = added(by, &cluster.members[index].peer_url(), is_learner).await;
    let member = &mut cluster.members[index];
    member.launch();
    if is_learner {
        // It serves no linearizable read yet.
        let serves = || member.log_of_this_start().contains(READY);
        wait::until_true("the learner to serve", READY_WITHIN, serves).await;
    } else {
        member.ready().await;
    }
    (index, id)
}

/// Until the members have been connected for long enough.
async fn added(by: &Client, peer_url: &str, is_learner: bool) -> u64 {
    let answer = wait::until("a member to be added", SOON, async || {
        match add(by, peer_url, is_learner).await {
            Ok(answer) => Some(answer),
            Err(status) if status.message() == "etcdserver: unhealthy cluster" => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
    answer.member.unwrap().id
}

async fn removed(by: &Client, id: u64) {
    wait::until("a member to be removed", SOON, async || {
        match remove(by, id).await {
            Ok(_) => Some(()),
            Err(status) if status.message() == "etcdserver: unhealthy cluster" => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
}

async fn promoted(by: &Client, id: u64) {
    let not_ready = "etcdserver: can only promote a learner member which is in sync with leader";
    wait::until("a learner to be promoted", SOON, async || {
        match promote(by, id).await {
            Ok(_) => Some(()),
            Err(status) if status.message() == not_ready => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
}

/// Puts until it is acknowledged: a write that meets a change of leaders may time out.
async fn put(client: &Client, key: &'static str, value: &'static str) {
    wait::until("a write to be acknowledged", SOON, async || {
        client.put(key, value).await.ok()
    })
    .await;
}

fn refused<T>(answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.err().expect("it is to be refused");
    assert_eq!((status.code(), status.message()), (code, message));
}

async fn check_history(load: Load, client: &Client) {
    let history = load.stop().await;
    assert!(
        history.acknowledged_writes() > 200,
        "too little happened to show anything: {}",
        history.acknowledged_writes()
    );
    let told = load::everything_that_happened(client).await;
    history.assert_acknowledged_writes_are_in(&told);
    let history = history.settled_by(&told);
    history.assert_revisions_follow_real_time();
    for (key, operations) in history.by_key() {
        match linearizability::check(&operations, Duration::from_secs(60)) {
            Verdict::Linearizable => {}
            verdict => panic!(
                "{key}: {verdict:?}; history kept in {}",
                history.keep().display()
            ),
        }
    }
}

#[tokio::test]
async fn a_cluster_grows_from_one_to_three_under_load_and_outlives_the_first() {
    let mut cluster = Cluster::single().await;
    let first = cluster.client().await;
    let load = Load::start(&cluster.endpoints(), 4);
    // A voter, added long before it starts: nothing waits for it here.
    let second = cluster.newcomer();
    let peer_url = cluster.members[second].peer_url();
    let answer = add(&first, &peer_url, false).await.unwrap();
    let member = answer.member.unwrap();
    assert_eq!(
        (
            member.peer_ur_ls.clone(),
            member.name.as_str(),
            member.is_learner
        ),
        (vec![peer_url], "", false)
    );
    assert_eq!(answer.header.unwrap().revision, 0);
    assert_eq!(answer.members.len(), 2);
    if Program::under_test() == Program::Sealkv {
        let at = load.acknowledged();
        wait::until_true("writes to go on", SOON, || load.acknowledged() > at + 20).await;
        refused(
            add(&first, "http://127.0.0.1:1", false).await,
            Code::FailedPrecondition,
            "etcdserver: re-configuration failed due to not enough started members",
        );
    }
    cluster.members[second].start().await;
    wait::until("the second to be listed by name", SOON, async || {
        let listed = members(&first).await;
        let named = listed.iter().find(|it| it.id == member.id)?;
        (named.name == cluster.members[second].name && !named.client_ur_ls.is_empty()).then_some(())
    })
    .await;
    // A learner, promoted when it has caught up.
    let (third, id) = grow(&mut cluster, &first, true).await;
    let learner = cluster.members[third].client().await;
    assert!(learner.status().await.unwrap().is_learner);
    refused(
        learner.put("a", "1").await,
        Code::FailedPrecondition,
        "etcdserver: rpc not supported for learner",
    );
    promoted(&first, id).await;
    wait::until("the learner to know", SOON, async || {
        (!learner.status().await.unwrap().is_learner).then_some(())
    })
    .await;
    refused(
        promote(&first, id).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    let at = load.acknowledged();
    wait::until_true("writes to go on", SOON, || load.acknowledged() > at + 50).await;
    check_history(load, &learner).await;
    // Both who came later make a quorum.
    cluster.members[0].kill();
    put(&learner, "after", "the first").await;
    let second = cluster.members[second].client().await;
    assert_eq!(
        second.value("after").await.unwrap(),
        Some("the first".into())
    );
    // A joined member needs nothing but its own flags to come back.
    cluster.members[third].kill();
    cluster.members[0].start().await;
    cluster.members[third].start().await;
    assert_eq!(members(&second).await.len(), 3);
}

#[tokio::test]
async fn a_member_that_joins_far_behind_comes_by_snapshot() {
    let mut cluster = Cluster::plan()
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    let first = cluster.client().await;
    for number in 0..500 {
        first
            .put(format!("k{}", number % 20), format!("{number}"))
            .await
            .unwrap();
    }
    let (second, _) = grow(&mut cluster, &first, false).await;
    let joined = cluster.members[second].client().await;
    let at = |revision| pb::RangeRequest {
        key: "k7".into(),
        revision,
        serializable: true,
        ..Default::default()
    };
    let (here, there) = (
        joined.range(at(300)).await.unwrap(),
        first.range(at(300)).await.unwrap(),
    );
    assert_eq!(here.kvs, there.kvs);
    joined.put("from", "the second").await.unwrap();
    assert_eq!(
        first.value("from").await.unwrap(),
        Some("the second".into())
    );
}

#[tokio::test]
async fn a_killed_member_is_replaced_and_the_old_one_is_turned_away() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let client = cluster.members[leader].client().await;
    client.put("a", "1").await.unwrap();
    let lost = (leader + 1) % 3;
    let lost_id = id_of(&cluster.members[lost].client().await).await;
    cluster.members[lost].kill();
    removed(&client, lost_id).await;
    refused(
        remove(&client, lost_id).await,
        Code::NotFound,
        "etcdserver: member not found",
    );
    assert_eq!(members(&client).await.len(), 2);
    cluster.leave(lost);
    let (new, new_id) = grow(&mut cluster, &client, false).await;
    assert_ne!(new_id, lost_id);
    let replacement = cluster.members[new].client().await;
    assert_eq!(replacement.value("a").await.unwrap(), Some("1".into()));
    // With its old directory it does not come back, and nobody is troubled by it.
    cluster.members[lost].launch();
    let status = cluster.members[lost].wait_end().await;
    let log = cluster.members[lost].log_of_this_start();
    assert!(
        log.contains("the member has been permanently removed from the cluster"),
        "{log}"
    );
    if Program::under_test() == Program::Sealkv {
        assert!(!status.success());
    }
    client.put("a", "2").await.unwrap();
    assert_eq!(replacement.value("a").await.unwrap(), Some("2".into()));
}

#[tokio::test]
async fn the_leader_and_a_follower_are_removed_and_one_goes_on() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let led_by = cluster.members[leader].client().await;
    led_by.put("a", "1").await.unwrap();
    let leader_id = id_of(&led_by).await;
    // At the leader itself.
    removed(&led_by, leader_id).await;
    ended_removed(&mut cluster, leader).await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.members[one].client().await;
    put(&client, "a", "2").await;
    let other_id = id_of(&cluster.members[other].client().await).await;
    removed(&client, other_id).await;
    ended_removed(&mut cluster, other).await;
    client.put("a", "3").await.unwrap();
    assert_eq!(members(&client).await.len(), 1);
    let own = id_of(&client).await;
    refused(
        remove(&client, own).await,
        if Program::under_test() == Program::Sealkv {
            Code::FailedPrecondition
        } else {
            Code::Unknown
        },
        "etcdserver: re-configuration failed due to not enough started members",
    );
    // What is left is a cluster that grows again.
    cluster.leave(leader);
    cluster.leave(other);
    let (new, _) = grow(&mut cluster, &client, false).await;
    let grown = cluster.members[new].client().await;
    assert_eq!(grown.value("a").await.unwrap(), Some("3".into()));
}

async fn ended_removed(cluster: &mut Cluster, index: usize) {
    let status = cluster.members[index].wait_end().await;
    let log = cluster.members[index].log_of_this_start();
    assert!(
        log.contains("the member has been permanently removed from the cluster"),
        "{log}"
    );
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn flags_that_do_not_describe_the_cluster_are_refused() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    let new = cluster.newcomer();
    let peer_url = cluster.members[new].peer_url();
    let good = cluster.members[new].flag("initial-cluster").unwrap();
    let refusal = |cluster: &mut Cluster, flags: &str| {
        cluster.members[new].set_flag("initial-cluster", flags);
        cluster.members[new].launch();
    };
    let not_listed = "member count is unequal";
    let cases = [
        // Not added yet.
        (good.clone(), not_listed),
        (
            good.replace(&cluster.members[0].peer_url(), "http://127.0.0.1:1"),
            "could not retrieve cluster information from the given URLs",
        ),
        (
            format!("m1={}", cluster.members[0].peer_url()),
            "couldn't find local name",
        ),
    ];
    for (flags, reason) in cases {
        refusal(&mut cluster, &flags);
        let status = cluster.members[new].wait_end().await;
        let log = cluster.members[new].log_of_this_start();
        assert!(!status.success() && log.contains(reason), "{reason}: {log}");
    }
    add(&client, &peer_url, false).await.unwrap();
    let cases = [
        (format!("{good},m9=http://127.0.0.1:1"), not_listed),
        (
            good.replace(&peer_url, "http://127.0.0.1:1"),
            "PeerURLs: no match found for existing member",
        ),
    ];
    for (flags, reason) in cases {
        refusal(&mut cluster, &flags);
        let status = cluster.members[new].wait_end().await;
        let log = cluster.members[new].log_of_this_start();
        assert!(!status.success() && log.contains(reason), "{reason}: {log}");
    }
    // None of this left a trace that keeps the right flags from working.
    cluster.members[new].set_flag("initial-cluster", &good);
    cluster.members[new].start().await;
    client.put("a", "1").await.unwrap();
}

#[tokio::test]
async fn a_joined_member_that_lost_its_directory_does_not_rejoin_under_its_id() {
    if Program::under_test() == Program::Etcd {
        // etcd takes it back with an empty log.
        return;
    }
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    let (second, id) = grow(&mut cluster, &client, false).await;
    cluster.members[second].kill();
    cluster.members[second].empty_directory();
    let key_file = cluster.members[second].home.join("data.key");
    std::fs::remove_file(key_file).unwrap();
    cluster.members[second].launch();
    assert!(!cluster.members[second].wait_end().await.success());
    let log = cluster.members[second].log_of_this_start();
    assert!(
        log.contains(&format!("member {id:x} has already been bootstrapped")),
        "{log}"
    );
}

#[tokio::test]
async fn strict_reconfiguration_has_etcds_refusals() {
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    // Connected for less than five seconds.
    refused(
        add(&client, "http://127.0.0.1:1", true).await,
        Code::Unavailable,
        "etcdserver: unhealthy cluster",
    );
    let learner = cluster.newcomer();
    let peer_url = cluster.members[learner].peer_url();
    let id = added(&client, &peer_url, true).await;
    refused(
        promote(&client, id).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader",
    );
    refused(
        add(&client, "http://127.0.0.1:1", true).await,
        Code::FailedPrecondition,
        "etcdserver: too many learner members in cluster",
    );
    refused(
        add(&client, &cluster.members[1].peer_url(), false).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    refused(
        add(&client, "http://127.0.0.1", false).await,
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
    );
    for answer in [
        promote(&client, 5).await.map(drop),
        remove(&client, 5).await.map(drop),
        update(&client, 5, "http://127.0.0.1:1").await.map(drop),
    ] {
        refused(answer, Code::NotFound, "etcdserver: member not found");
    }
    refused(
        update(&client, id, &cluster.members[1].peer_url()).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    remove(&client, id).await.unwrap();
    // A member that is down may be removed; the others may not while it is.
    let leader = cluster.leader().await;
    let down = (leader + 1) % 3;
    let alive = cluster.members[leader].client().await;
    let listed = members(&alive).await;
    let down_id = id_of(&cluster.members[down].client().await).await;
    let other = listed.iter().map(|it| it.id).find(|id| *id != down_id);
    cluster.members[down].kill();
    wait::until("the refusal", SOON, async || {
        let answer = add(&alive, "http://127.0.0.1:1", false).await;
        answer
            .err()
            .filter(|it| it.message() == "etcdserver: unhealthy cluster")
    })
    .await;
    refused(
        remove(&alive, other.unwrap()).await,
        Code::Unavailable,
        "etcdserver: unhealthy cluster",
    );
    remove(&alive, down_id).await.unwrap();
}

#[tokio::test]
async fn leadership_moves_to_a_voter_and_to_nobody_else() {
    let cluster = Cluster::three().await;
    let load = Load::start(&cluster.endpoints(), 4);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let to = (leader + 1) % 3;
        let (led_by, target) = (
            cluster.members[leader].client().await,
            cluster.members[to].client().await,
        );
        let (leader_id, target_id) = (id_of(&led_by).await, id_of(&target).await);
        refused(
            move_leader(&target, leader_id).await,
            Code::FailedPrecondition,
            "etcdserver: not leader",
        );
        refused(
            move_leader(&led_by, 5).await,
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee",
        );
        assert!(
            move_leader(&led_by, leader_id)
                .await
                .unwrap()
                .header
                .is_none()
        );
        move_leader(&led_by, target_id).await.unwrap();
        assert_eq!(led_by.status().await.unwrap().leader, target_id);
        let at = load.acknowledged();
        wait::until_true("writes to go on", SOON, || load.acknowledged() > at + 80).await;
    }
    check_history(load, &cluster.client().await).await;
}

#[tokio::test]
async fn a_member_moves_to_another_address() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let client = cluster.members[leader].client().await;
    let moving = (leader + 1) % 3;
    let id = id_of(&cluster.members[moving].client().await).await;
    let elsewhere = format!("http://127.0.0.1:{}", tests::cluster::free_port());
    let answer = update(&client, id, &elsewhere).await.unwrap();
    let listed = answer.members.iter().find(|it| it.id == id).unwrap();
    assert_eq!(listed.peer_ur_ls, std::slice::from_ref(&elsewhere));
    cluster.members[moving].terminate().await;
    cluster.members[moving].set_flag("listen-peer-urls", &elsewhere);
    client.put("a", "1").await.unwrap();
    cluster.members[moving].start().await;
    let moved = cluster.members[moving].client().await;
    assert_eq!(moved.value("a").await.unwrap(), Some("1".into()));
    // It is needed now.
    cluster.members[(leader + 2) % 3].kill();
    client.put("a", "2").await.unwrap();
    assert_eq!(moved.value("a").await.unwrap(), Some("2".into()));
}

#[tokio::test]
async fn one_member_of_a_lost_quorum_is_forced_into_a_cluster_of_its_own() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let (left, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[left]
        .client()
        .await
        .put("a", "1")
        .await
        .unwrap();
    for member in &mut cluster.members {
        member.kill();
    }
    let flags = cluster.members[left].arguments.clone();
    cluster.members[left].set_flag("force-new-cluster", "true");
    cluster.members[left].start().await;
    let client = cluster.members[left].client().await;
    assert_eq!(client.value("a").await.unwrap(), Some("1".into()));
    client.put("a", "2").await.unwrap();
    assert_eq!(members(&client).await.len(), 1);
    // Without the flag it is what it has become, and it grows again.
    cluster.members[left].terminate().await;
    cluster.members[left].arguments = flags;
    cluster.members[left].start().await;
    let client = cluster.members[left].client().await;
    cluster.leave(leader);
    cluster.leave(lost);
    let (new, _) = grow(&mut cluster, &client, false).await;
    let grown = cluster.members[new].client().await;
    assert_eq!(grown.value("a").await.unwrap(), Some("2".into()));
    if Program::under_test() == Program::Sealkv {
        cluster.members[lost].launch();
        assert!(!cluster.members[lost].wait_end().await.success());
    }
}
