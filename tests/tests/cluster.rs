//! Three members: leaders killed, followers far behind, links cut, directories lost.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use rand::Rng as _;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::http::Request;
use tests::load::{self, Load};
use tests::{txn, wait};
use tonic::Code;

/// A history with fewer acknowledged writes has shown nothing.
const WRITES_MIN: usize = 200;

#[tokio::test]
async fn every_member_takes_writes_and_reads_what_another_wrote() {
    let cluster = Cluster::three().await;
    let mut clients = Vec::new();
    for member in &cluster.members {
        clients.push(member.client().await);
    }
    for round in 0..10 {
        for (index, client) in clients.iter().enumerate() {
            let value = format!("{round}/{index}");
            let put = client.put("shared", value.clone()).await.unwrap();
            for reader in &clients {
                let read = reader.get("shared").await.unwrap();
                assert_eq!(
                    (read.kvs[0].value.as_ref(), read.kvs[0].mod_revision),
                    (value.as_bytes(), put.header.unwrap().revision)
                );
            }
        }
    }
    let header = |answer: pb::RangeResponse| answer.header.unwrap();
    let ids: Vec<_> = futures::future::join_all(clients.iter().map(|client| client.get("shared")))
        .await
        .into_iter()
        .map(|answer| header(answer.unwrap()))
        .collect();
    assert!(ids.iter().all(|id| id.cluster_id == ids[0].cluster_id));
    assert!(ids[0].member_id != ids[1].member_id && ids[1].member_id != ids[2].member_id);
}

#[tokio::test]
async fn every_member_names_the_keys_that_were_attached_just_before_elsewhere() {
    let cluster = Cluster::three().await;
    let mut clients = Vec::new();
    for member in &cluster.members {
        clients.push(member.client().await);
    }
    for lease in 1..=20 {
        clients[0].grant(lease, 60).await.unwrap();
        let put = proto::etcdserverpb::PutRequest {
            key: format!("k{lease}").into(),
            lease,
            ..Default::default()
        };
        clients[0].put_request(put).await.unwrap();
        for client in &clients {
            let left = client.time_to_live(lease, true).await.unwrap();
            assert_eq!(left.keys, [format!("k{lease}")], "lease {lease}: {left:?}");
        }
    }
}

#[tokio::test]
async fn all_members_list_the_same_cluster() {
    let cluster = Cluster::three().await;
    for member in &cluster.members {
        let client = member.client().await;
        let list = wait::until(
            "every member to be published",
            Duration::from_secs(10),
            async || {
                let list = client.member_list(true).await.unwrap();
                list.members
                    .iter()
                    .all(|member| !member.client_ur_ls.is_empty())
                    .then_some(list)
            },
        )
        .await;
        let mut names: Vec<_> = list
            .members
            .iter()
            .map(|member| (member.name.clone(), member.client_ur_ls.clone()))
            .collect();
        names.sort();
        let expected: Vec<_> = cluster
            .members
            .iter()
            .map(|member| (member.name.clone(), vec![member.endpoint()]))
            .collect();
        assert_eq!(names, expected);
        let status = client.status().await.unwrap();
        assert!(list.members.iter().any(|member| member.id == status.leader));
    }
}

/// The leader is killed over and over under load from clients of all members; afterwards the history must be
/// linearizable, hold every acknowledged write, and be the same on every member.
#[tokio::test]
async fn no_acknowledged_write_is_lost_while_leaders_are_killed() {
    let mut cluster = Cluster::three().await;
    let load = Load::start(&cluster.endpoints(), 6);
    for _ in 0..5 {
        let before = load.acknowledged();
        wait::until_true("writes to go on", Duration::from_secs(30), || {
            load.acknowledged() > before + 30
        })
        .await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        let at_kill = load.acknowledged();
        wait::until_true(
            "writes to resume without the killed leader",
            Duration::from_secs(30),
            || load.acknowledged() > at_kill + 30,
        )
        .await;
        cluster.members[leader].start().await;
    }
    load::assert_well(load, &cluster, WRITES_MIN, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_paused_leader_that_resumes_answers_no_stale_read() {
    let cluster = Cluster::three().await;
    let load = Load::start(&cluster.endpoints(), 6);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.members[leader].pause();
        let paused_at = load.acknowledged();
        wait::until_true("the others to go on", Duration::from_secs(30), || {
            load.acknowledged() > paused_at + 50
        })
        .await;
        cluster.members[leader].resume();
        wait::until_true("all to go on", Duration::from_secs(30), || {
            load.acknowledged() > paused_at + 150
        })
        .await;
    }
    load::assert_well(load, &cluster, WRITES_MIN, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn an_isolated_leader_is_replaced_and_comes_back() {
    let cluster = Cluster::plan().members(3).partitionable().start().await;
    let links = cluster.links.clone().unwrap();
    let load = Load::start(&cluster.endpoints(), 6);
    for round in 0..3 {
        let leader = cluster.leader().await;
        // Whole, then deaf, then mute.
        match round {
            0 => links.isolate(leader),
            1 => (0..3)
                .filter(|other| *other != leader)
                .for_each(|other| links.cut(other, leader)),
            _ => (0..3)
                .filter(|other| *other != leader)
                .for_each(|other| links.cut(leader, other)),
        }
        let (cut_at, cut_when) = (load.acknowledged(), Instant::now());
        wait::until_true("the majority to go on", Duration::from_secs(30), || {
            load.acknowledged() > cut_at + 50
        })
        .await;
        println!(
            "round {round}: the majority went on after {:?}",
            cut_when.elapsed()
        );
        links.mend();
        wait::until_true("all to go on", Duration::from_secs(30), || {
            load.acknowledged() > cut_at + 150
        })
        .await;
    }
    load::assert_well(load, &cluster, WRITES_MIN, Duration::from_secs(60)).await;
}

/// What was on its way to a leader that was lost is proposed to the next one, and done once.
#[tokio::test]
async fn a_write_that_is_under_way_outlives_its_leader() {
    const MORE: u64 = 40;
    let cluster = Cluster::plan().members(3).partitionable().start().await;
    let links = cluster.links.clone().unwrap();
    let leader = cluster.leader().await;
    let client = cluster.members[(leader + 1) % 3].client().await;
    let (over, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let writers = (0..8).map(|number| {
        let (client, over, written) = (client.clone(), over.clone(), written.clone());
        tokio::spawn(async move {
            let (key, mut done, mut failed) = (format!("writer/{number}"), 0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match client.put(key.clone(), "v").await {
                    Ok(_) => {
                        done += 1;
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(status) => failed.push(status),
                }
            }
            (key, done, failed)
        })
    });
    let writers: Vec<_> = writers.collect();
    let goes_on = async |from: u64| {
        wait::until_true("writes to go on", Duration::from_secs(60), || {
            written.load(Ordering::Relaxed) > from + MORE
        })
        .await;
    };
    goes_on(0).await;
    links.isolate(leader);
    goes_on(written.load(Ordering::Relaxed)).await;
    links.mend();
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        let (key, done, failed) = writer.await.unwrap();
        let lost = |status: &tonic::Status| status.message() == "etcdserver: leader changed";
        assert!(!failed.iter().any(lost), "{failed:?}");
        let version = client.get(key).await.unwrap().kvs[0].version;
        let at_most = done + i64::try_from(failed.len()).unwrap();
        assert!(
            (done..=at_most).contains(&version),
            "{version}, {done} done, {failed:?}"
        );
    }
}

#[tokio::test]
async fn a_follower_behind_the_purged_log_comes_back_by_snapshot() {
    let mut cluster = Cluster::plan()
        .members(3)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.members[away].kill();
    let client = cluster.members[(away + 1) % 3].client().await;
    let mut expected = BTreeMap::new();
    for number in 0..1_000 {
        let (key, value) = (format!("k{}", number % 50), format!("{number}"));
        client.put(key.clone(), value.clone()).await.unwrap();
        expected.insert(key, value);
    }
    client.compact(400).await.unwrap();
    cluster.members[away].start().await;
    let behind = cluster.members[away].client().await;
    let serializable = pb::RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        serializable: true,
        ..Default::default()
    };
    let read = behind.range(serializable).await.unwrap();
    let read: BTreeMap<_, _> = read
        .kvs
        .iter()
        .map(|kv| {
            (
                String::from_utf8_lossy(&kv.key).into_owned(),
                String::from_utf8_lossy(&kv.value).into_owned(),
            )
        })
        .collect();
    assert_eq!(read, expected);
    // History travels with the snapshot, and so does where it was compacted.
    let at = |revision| pb::RangeRequest {
        key: "k7".into(),
        revision,
        serializable: true,
        ..Default::default()
    };
    let (here, there) = (
        behind.range(at(500)).await.unwrap(),
        client.range(at(500)).await.unwrap(),
    );
    assert_eq!(here.kvs, there.kvs);
    assert_eq!(
        behind.range(at(399)).await.unwrap_err().message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    // And it takes part again.
    behind.put("after", "snapshot").await.unwrap();
    assert_eq!(
        client.value("after").await.unwrap(),
        Some("snapshot".into())
    );
    cluster.members[away].kill();
    cluster.members[away].start().await;
    assert_eq!(
        cluster.members[away]
            .client()
            .await
            .value("after")
            .await
            .unwrap(),
        Some("snapshot".into())
    );
}

#[tokio::test]
async fn a_follower_whose_directory_was_emptied_is_refused_and_says_why() {
    if Program::under_test() == Program::Etcd {
        // etcd refuses only with --initial-cluster-state=existing and another id; ours knows its directories.
        return;
    }
    let mut cluster = Cluster::three().await;
    let lost = (cluster.leader().await + 1) % 3;
    let client = cluster.members[(lost + 1) % 3].client().await;
    client.put("a", "1").await.unwrap();
    cluster.members[lost].kill();
    cluster.members[lost].empty_directory();
    cluster.members[lost].launch();
    let status = cluster.members[lost].wait_end().await;
    assert!(!status.success());
    let log = cluster.members[lost].log_of_this_start();
    assert!(
        log.contains("has already been bootstrapped") || log.contains("directory"),
        "it must say why:\n{log}"
    );
    client.put("a", "2").await.unwrap();
}

#[tokio::test]
async fn a_whole_cluster_that_lost_its_power_comes_back_with_everything() {
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    for round in 0..3 {
        client.put("round", round.to_string()).await.unwrap();
        for member in &mut cluster.members {
            member.kill();
        }
        for member in &mut cluster.members {
            member.launch();
        }
        for member in &mut cluster.members {
            member.ready().await;
        }
        let read = cluster.client().await.value("round").await.unwrap();
        assert_eq!(read, Some(round.to_string().into()));
    }
}

#[tokio::test]
async fn a_member_alone_serves_no_linearizable_read_and_takes_no_write() {
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    cluster.members[1].kill();
    cluster.members[2].kill();
    let limit = Duration::from_secs(30);
    let read = tokio::time::timeout(limit, client.get("a"))
        .await
        .expect("an answer within etcd's own time limits");
    let read = read.unwrap_err();
    assert_eq!(
        (read.code(), read.message()),
        (Code::Unavailable, "etcdserver: request timed out")
    );
    let write = tokio::time::timeout(limit, client.put("a", "2"))
        .await
        .expect("an answer within etcd's own time limits");
    // etcd says "context deadline exceeded" while it knows no leader; any ambiguous answer of its table will do.
    let write = write.unwrap_err();
    assert!(
        matches!(write.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{write:?}"
    );
    let stale = pb::RangeRequest {
        key: "a".into(),
        serializable: true,
        ..Default::default()
    };
    assert_eq!(client.range(stale).await.unwrap().kvs[0].value, "1");
}

#[tokio::test]
async fn a_dead_member_is_called_at_intervals_and_not_in_a_loop() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    cluster.members[(leader + 1) % 3].kill();
    let port = cluster.members[leader].client_port;
    let client = cluster.members[leader].client().await;
    client.put("a", "1").await.unwrap();
    let noticed = wait::until("failed calls", Duration::from_secs(30), || async move {
        Some(failed_calls(port).await).filter(|calls| *calls > 0)
    });
    let before = noticed.await;
    // Ten heartbeats a second, and the log's entries at the pace of openraft's backoff.
    let (window, calls_per_second_max) = (Duration::from_secs(3), 100);
    tokio::time::sleep(window).await;
    let calls = failed_calls(port).await - before;
    assert!(
        calls < calls_per_second_max * window.as_secs(),
        "{calls} calls in {window:?}"
    );
}

/// Calls to peers that failed, as the member counts them.
async fn failed_calls(port: u16) -> u64 {
    let page = Request::get("/metrics").send(port).await.text().await;
    page.lines()
        .filter(|line| line.starts_with("etcd_network_peer_sent_failures_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn leases_live_through_a_change_of_leader_and_expire_after_it() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let asked = (leader + 1) % 3;
    let client = cluster.members[asked].client().await;
    client.grant(7, 600).await.unwrap();
    client.grant(8, 3).await.unwrap();
    client
        .put_request(pb::PutRequest {
            key: "long".into(),
            lease: 7,
            ..Default::default()
        })
        .await
        .unwrap();
    client
        .put_request(pb::PutRequest {
            key: "short".into(),
            lease: 8,
            ..Default::default()
        })
        .await
        .unwrap();
    cluster.members[leader].kill();
    wait::until(
        "keep-alive to be answered by the new leader",
        Duration::from_secs(20),
        async || {
            client
                .keep_alive(7)
                .await
                .ok()
                .filter(|answer| answer.ttl == 600)
                .map(drop)
        },
    )
    .await;
    wait::until(
        "the short lease to expire",
        Duration::from_secs(30),
        async || {
            client
                .get("short")
                .await
                .ok()
                .filter(|answer| answer.count == 0)
                .map(drop)
        },
    )
    .await;
    assert_eq!(client.get("long").await.unwrap().count, 1);
}

#[tokio::test]
async fn watchers_of_every_member_are_told_the_same_while_leaders_change() {
    let mut cluster = Cluster::three().await;
    let done = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = cluster
        .endpoints()
        .into_iter()
        .map(|endpoint| tokio::spawn(follow(endpoint)))
        .collect();
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn(write_until(
        cluster.endpoints(),
        Arc::clone(&done),
        Arc::clone(&written),
    ));
    for _ in 0..3 {
        let before = written.load(Ordering::Relaxed);
        wait::until_true("writes to go on", Duration::from_secs(60), || {
            written.load(Ordering::Relaxed) > before + 20
        })
        .await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        cluster.leader().await;
        cluster.members[leader].start().await;
    }
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let last = cluster
        .client()
        .await
        .put("w/end", "end")
        .await
        .unwrap()
        .header
        .unwrap()
        .revision;
    let mut told = Vec::new();
    for watcher in watchers {
        let events = watcher.await.unwrap();
        assert_eq!(events.last().map(|event: &(i64, _)| event.0), Some(last));
        told.push(events);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[1], told[2]);
    assert!(told[0].len() > 50, "too little happened: {}", told[0].len());
}

async fn write_until(endpoints: Vec<String>, done: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let clients: Vec<Client> = endpoints
        .iter()
        .map(|endpoint| Client::lazy(endpoint))
        .collect();
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        let client = &clients[rand::rng().random_range(0..clients.len())];
        let pair = txn::always(vec![
            txn::put(format!("w/{}", number % 5), number.to_string()),
            txn::put("w/last", number.to_string()),
        ]);
        // Whether it was done is not known after an error; watchers must agree either way.
        match tokio::time::timeout(Duration::from_secs(5), client.txn(pair)).await {
            Ok(Ok(_)) => drop(written.fetch_add(1, Ordering::Relaxed)),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        number += 1;
    }
}

/// Watches from the first revision, again from where it was after every break, until it sees `w/end`.
async fn follow(endpoint: String) -> Vec<(i64, String)> {
    let client = Client::lazy(&endpoint);
    let mut told = Vec::new();
    let mut next = 2;
    loop {
        let create = pb::WatchCreateRequest {
            key: "w/".into(),
            range_end: "w0".into(),
            start_revision: next,
            ..Default::default()
        };
        let mut stream = client.watch_stream();
        stream.create(create).await;
        // Once writing is over, silence means that the last event has come or that the connection hangs.
        while let Some(Ok(message)) = stream.next_within(Duration::from_secs(5)).await {
            assert!(!message.canceled, "{message:?}");
            for event in message.events {
                let kv = event.kv.unwrap();
                next = kv.mod_revision + 1;
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                told.push((
                    kv.mod_revision,
                    format!("{key}={}", String::from_utf8_lossy(&kv.value)),
                ));
                if key == "w/end" {
                    return told;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_leader_without_its_quorum_tells_that_there_is_no_leader() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let client = cluster.members[leader].client().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for other in others {
        cluster.members[other].kill();
    }
    let within = Duration::from_secs(30);
    let told = || async {
        let status = client.status().await.unwrap();
        (status.leader == 0).then_some(status.errors)
    };
    let errors = wait::until("the leader to give up", within, told).await;
    assert_eq!(errors, ["etcdserver: no leader"]);
    let mut request = client.ask(pb::RangeRequest {
        key: "k".into(),
        serializable: true,
        ..Default::default()
    });
    let required = "true".parse().unwrap();
    request.metadata_mut().insert("hasleader", required);
    let refused = client.kv().range(request).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: no leader");
    cluster.members[others[0]].start().await;
    let told = || async { (client.status().await.ok()?.leader != 0).then_some(()) };
    wait::until("a leader", within, told).await;
    let written = || async { client.put("k", "v").await.ok() };
    wait::until("a write", within, written).await;
}
