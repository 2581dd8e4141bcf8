//! Bugs that etcd had, each as a test that would find it here, named after its issue.
//!
//! Of those that do not stand here: a reply before the data is on the disk (#14370) is looked for by the power cuts in
//! `server/src/storage/log/power_cut_tests.rs`; a lease revoked by a leader that was deposed (#15247) by
//! `server/src/apply/tests.rs`; events lost or told twice by slow, late and resuming watchers (#15220, #15271, #17529,
//! #18089) besides by `watch.rs`; a stale read after a paused leader resumes (#20418) besides by `cluster.rs`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use tests::check::watch;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::{interop, txn, wait};

/// How long a member that lags may take.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(30);

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

async fn revision(client: &Client) -> i64 {
    let answer = client.get("any").await.unwrap();
    answer.header.unwrap().revision
}

/// The same hash of everything up to a revision on every member.
async fn assert_members_agree(cluster: &Cluster, up_to: i64) {
    let mut hashes = Vec::new();
    for member in &cluster.members {
        let client = member.client().await;
        let request = pb::HashKvRequest { revision: up_to };
        // A member that has not applied that far says that it is a future revision.
        let hash = wait::until("the member to catch up", CAUGHT_UP_WITHIN, || {
            let client = client.clone();
            async move { client.hash_kv(request).await.ok() }
        })
        .await;
        hashes.push((hash.hash, hash.compact_revision));
    }
    assert!(hashes.iter().all(|it| *it == hashes[0]), "{hashes:?}");
}

/// The applied index was not saved with the data: after a crash entries were applied a second time.
#[tokio::test]
async fn etcd_13766_nothing_is_applied_twice_after_a_crash() {
    let mut cluster = Cluster::single().await;
    for round in 0..4 {
        let client = cluster.client().await;
        for _ in 0..10 {
            client.put("counted", "x").await.unwrap();
        }
        cluster.members[0].kill();
        cluster.members[0].start().await;
        let client = cluster.client().await;
        let counted = client.get("counted").await.unwrap();
        assert_eq!(counted.kvs[0].version, 10 * (round + 1));
        assert_eq!(
            counted.header.unwrap().revision,
            counted.kvs[0].mod_revision
        );
    }
}

/// After a restart a member knew less of users and roles than the others, and refused entries that they applied.
#[tokio::test]
async fn etcd_14571_members_agree_on_permissions_after_a_restart() {
    let mut cluster = Cluster::three().await;
    interop::require_login(&mut cluster).await;
    let root = cluster.client().await;
    let mut auth = AuthClient::new(root.channel());
    let user = pb::AuthUserAddRequest {
        name: "alice".into(),
        password: "pw".into(),
        ..Default::default()
    };
    auth.user_add(root.ask(user)).await.unwrap();
    let role = pb::AuthRoleAddRequest {
        name: "writer".into(),
    };
    auth.role_add(root.ask(role)).await.unwrap();
    let permission = pb::AuthRoleGrantPermissionRequest {
        name: "writer".into(),
        perm: Some(proto::authpb::Permission {
            perm_type: 2,
            key: "a".into(),
            range_end: "b".into(),
        }),
    };
    auth.role_grant_permission(root.ask(permission))
        .await
        .unwrap();
    let grant = pb::AuthUserGrantRoleRequest {
        user: "alice".into(),
        role: "writer".into(),
    };
    auth.user_grant_role(root.ask(grant)).await.unwrap();
    let restarted = (cluster.leader().await + 1) % 3;
    cluster.members[restarted].kill();
    cluster.members[restarted].start().await;
    let here = cluster.members[restarted].endpoint();
    let alice = Client::connect(&here).await;
    let alice = alice.log_in("alice", "pw").await.unwrap();
    for number in 0..5 {
        let request = put(&format!("a/{number}"), "x");
        alice.put_request(request).await.unwrap();
        alice.put_request(put("c", "x")).await.unwrap_err();
    }
    let newest = revision(&cluster.client().await).await;
    assert_members_agree(&cluster, newest).await;
    let mut revisions = Vec::new();
    for member in &cluster.members {
        let client = member.client().await;
        let request = client.ask(pb::AuthStatusRequest {});
        let status = AuthClient::new(client.channel()).auth_status(request).await;
        revisions.push(status.unwrap().into_inner().auth_revision);
    }
    assert!(
        revisions.iter().all(|it| *it == revisions[0]),
        "{revisions:?}"
    );
}

/// Slow and late watchers lost events, or were told some twice, around a compaction.
#[tokio::test]
async fn etcd_15220_15271_17529_18089_compactions_take_no_event_from_a_slow_watcher() {
    const WRITES: i64 = 300;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let everything = || pb::WatchCreateRequest {
        key: "w/".into(),
        range_end: "w0".into(),
        start_revision: 2,
        ..Default::default()
    };
    // It reads nothing until all is written.
    let mut slow = client.watch(everything()).await.unwrap();
    let mut quick = client.watch(everything()).await.unwrap();
    let mut told = Vec::new();
    for number in 0..WRITES {
        let key = format!("w/{}", number % 7);
        client.put(key, number.to_string()).await.unwrap();
        let message = quick.next().await.unwrap();
        assert!(!message.canceled, "{message:?}");
        told.push(message);
        if number % 50 == 49 {
            // What the quick one was told may go.
            client.compact(number).await.unwrap();
        }
    }
    let quick_events = watch::events_of(&told);
    assert_eq!(quick_events.len(), usize::try_from(WRITES).unwrap());
    watch::assert_guarantees(&told, 2);
    let mut messages = Vec::new();
    let mut cancelled = 0;
    while watch::events_of(&messages).len() < quick_events.len() && cancelled == 0 {
        let message = slow.next().await.unwrap();
        if message.canceled {
            cancelled = message.compact_revision;
        } else {
            messages.push(message);
        }
    }
    // Everything in order, or everything up to a hole that is told.
    let slow_events = watch::events_of(&messages);
    assert_eq!(slow_events[..], quick_events[..slow_events.len()]);
    if cancelled != 0 {
        let resumed = pb::WatchCreateRequest {
            start_revision: cancelled,
            ..everything()
        };
        let mut resumed = client.watch(resumed).await.unwrap();
        let left = quick_events
            .iter()
            .filter(|event| event.kv.as_ref().unwrap().mod_revision >= cancelled);
        let left: Vec<_> = left.cloned().collect();
        assert_eq!(resumed.events(left.len()).await, left);
    }
}

/// All keys were deleted and compacted away; after a crash the revision began anew below what clients had seen.
#[tokio::test]
async fn etcd_17780_the_revision_does_not_go_back_after_a_compaction_and_a_crash() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    for number in 0..5 {
        client.put(format!("k{number}"), "x").await.unwrap();
    }
    let deleted = client
        .delete_range(pb::DeleteRangeRequest {
            key: "k".into(),
            range_end: "l".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let newest = deleted.header.unwrap().revision;
    client.compact(newest).await.unwrap();
    for _ in 0..2 {
        cluster.members[0].kill();
        cluster.members[0].start().await;
        assert_eq!(revision(&cluster.client().await).await, newest);
    }
    let client = cluster.client().await;
    let next = client.put("k", "y").await.unwrap();
    assert_eq!(next.header.unwrap().revision, newest + 1);
}

/// A transaction that read a compacted revision was applied by members that had compacted, and not by others.
#[tokio::test]
async fn etcd_18667_a_transaction_that_reads_a_compacted_revision_happens_nowhere() {
    let cluster = Cluster::three().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3", "4"] {
        client.put("k", value).await.unwrap();
    }
    client.compact(4).await.unwrap();
    let before = revision(&client).await;
    for member in &cluster.members {
        let read = txn::range(pb::RangeRequest {
            key: "k".into(),
            revision: 2,
            ..Default::default()
        });
        let both = pb::TxnRequest {
            success: vec![txn::put_request(put("k", "never")), read],
            ..Default::default()
        };
        let refused = member.client().await.txn(both).await.unwrap_err();
        assert_eq!(
            refused.message(),
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
    assert_eq!(revision(&client).await, before);
    assert_eq!(client.value("k").await.unwrap().unwrap(), "4");
    assert_members_agree(&cluster, before).await;
}

/// A compaction at the revision of a delete forgot the delete, and so what watchers and hashes see of it.
#[tokio::test]
async fn etcd_19179_a_delete_at_the_compact_revision_is_kept() {
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    client.put("other", "1").await.unwrap();
    let deleted = client.delete("k").await.unwrap();
    let at = deleted.header.unwrap().revision;
    client.compact(at).await.unwrap();
    let from_there = || pb::WatchCreateRequest {
        key: "k".into(),
        start_revision: at,
        ..Default::default()
    };
    let mut stream = client.watch(from_there()).await.unwrap();
    let event = &stream.events(1).await[0];
    assert_eq!(event.r#type, 1, "{event:?}");
    assert_eq!(event.kv.as_ref().unwrap().mod_revision, at);
    // Whoever compacted before a restart and whoever did not agree.
    cluster.members[1].kill();
    cluster.members[1].start().await;
    assert_members_agree(&cluster, at).await;
    let restarted = cluster.members[1].client().await;
    let mut stream = restarted.watch(from_there()).await.unwrap();
    assert_eq!(&stream.events(1).await[0], event);
}

/// A watch that starts in the future was told old events, or progress to a revision before its start.
#[tokio::test]
async fn etcd_20221_a_watch_of_the_future_is_told_nothing_of_before() {
    let flag = "--watch-progress-notify-interval=100ms";
    let cluster = Cluster::plan().flag(flag).start().await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    let start = 6;
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            key: "k".into(),
            start_revision: start,
            progress_notify: true,
            ..Default::default()
        })
        .await
        .unwrap();
    stream.ask_progress().await;
    for value in ["2", "3", "4"] {
        client.put("k", value).await.unwrap();
        stream.ask_progress().await;
    }
    // Longer than several intervals.
    let early = stream.next_within(Duration::from_millis(700)).await;
    let early = early.map(Result::unwrap);
    assert!(early.is_none(), "{early:?}");
    client.put("k", "5").await.unwrap();
    let first = loop {
        let message = stream.next().await.unwrap();
        let told = message.header.as_ref().unwrap().revision;
        assert!(told >= start, "{message:?}");
        if !message.events.is_empty() {
            break message;
        }
    };
    assert_eq!(first.events[0].kv.as_ref().unwrap().mod_revision, start);
}

/// A leader that was paused and replaced answered a read from before.
#[tokio::test]
async fn etcd_20418_a_leader_that_was_replaced_while_paused_reads_what_is_new() {
    let cluster = Cluster::three().await;
    cluster.client().await.put("k", "old").await.unwrap();
    let old = cluster.leader().await;
    let at_old = cluster.members[old].client().await;
    cluster.members[old].pause();
    let other = cluster.members[(old + 1) % 3].client().await;
    wait::until("the others to go on", CAUGHT_UP_WITHIN, || {
        let other = other.clone();
        async move { other.put("k", "new").await.ok() }
    })
    .await;
    // Asked while it still believes that it leads.
    let asked = tokio::spawn(async move { at_old.value("k").await });
    cluster.members[old].resume();
    if let Ok(read) = asked.await.unwrap() {
        assert_eq!(read.unwrap(), "new");
    }
}

/// A read of keys alone loses the lease in etcd 3.7; here it is told.
#[tokio::test]
async fn etcd_22209_a_read_of_keys_alone_tells_the_lease() {
    let cluster = Cluster::plan().program(Program::Sealkv).start().await;
    let client = cluster.client().await;
    client.grant(7, 600).await.unwrap();
    let leased = pb::PutRequest {
        lease: 7,
        ..put("k", "v")
    };
    client.put_request(leased).await.unwrap();
    for sort_target in [0, 4] {
        let answer = client
            .range(pb::RangeRequest {
                key: "k".into(),
                keys_only: true,
                sort_target,
                ..Default::default()
            })
            .await
            .unwrap();
        assert_eq!((answer.kvs[0].lease, answer.kvs[0].value.len()), (7, 0));
    }
}
