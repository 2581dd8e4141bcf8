//! Prefix keys: added and rotated while everyone writes and leaders are killed.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::sealkv::v1 as keys;
use tests::client::{Client, prefix_end};
use tests::cluster::Cluster;
use tests::{txn, wait};

const PREFIXES: [&str; 3] = ["team/", "team/blue/", "other/"];
const KEYS: [&str; 6] = [
    "team/1",
    "team/2",
    "team/blue/1",
    "team/blue/2",
    "other/1",
    "none/1",
];

async fn list(client: &Client) -> keys::KeysListResponse {
    client
        .keys()
        .list(keys::KeysListRequest {})
        .await
        .unwrap()
        .into_inner()
}

async fn add(client: &Client, prefix: &str) -> Result<keys::PrefixKey, tonic::Status> {
    let answer = client
        .keys()
        .add(keys::KeysAddRequest {
            prefix: prefix.to_owned().into(),
        })
        .await?;
    Ok(answer.into_inner().key.expect("an added key is answered"))
}

async fn rotate(client: &Client, prefix: &str) -> Result<keys::PrefixKey, tonic::Status> {
    let answer = client
        .keys()
        .rotate(keys::KeysRotateRequest {
            prefix: prefix.to_owned().into(),
        })
        .await?;
    Ok(answer.into_inner().key.expect("a rotated key is answered"))
}

fn current(key: &keys::PrefixKey) -> u32 {
    let current: Vec<u32> = key
        .versions
        .iter()
        .filter(|version| version.current)
        .map(|version| version.version)
        .collect();
    assert_eq!(current.len(), 1, "one version is current: {key:?}");
    current[0]
}

#[tokio::test]
async fn a_fresh_store_has_the_empty_prefixs_key_and_one_proven_slot() {
    let cluster = Cluster::single().await;
    let list = list(&cluster.client().await).await;
    assert_eq!(
        (
            list.keys.len(),
            list.keys[0].prefix.len(),
            list.keyring_id.len()
        ),
        (1, 0, 16)
    );
    assert_eq!(
        current(&list.keys[0]),
        list.keys[0]
            .versions
            .iter()
            .map(|version| version.version)
            .max()
            .unwrap()
    );
    assert_eq!(list.slots.len(), 1);
    assert!(list.slots[0].proven && list.slots[0].provider == "file");
}

#[tokio::test]
async fn three_members_each_prove_a_slot_of_their_own() {
    let cluster = Cluster::three().await;
    let client = cluster.client().await;
    let slots = wait::until("three proven slots", Duration::from_secs(20), async || {
        let slots = list(&client).await.slots;
        (slots.len() == 3 && slots.iter().all(|slot| slot.proven)).then_some(slots)
    })
    .await;
    let mut members: Vec<u64> = slots.iter().map(|slot| slot.member_id).collect();
    members.sort_unstable();
    members.dedup();
    assert_eq!(members.len(), 3);
}

#[tokio::test]
async fn adding_and_rotating_change_the_list_and_no_record() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("team/old", "before").await.unwrap();
    let revision = client
        .get("team/old")
        .await
        .unwrap()
        .header
        .unwrap()
        .revision;
    let added = add(&client, "team/").await.unwrap();
    assert_eq!(added.prefix, "team/");
    assert!(add(&client, "team/").await.is_err());
    assert!(
        add(&client, "").await.is_err(),
        "the empty prefix has a key already"
    );
    let first = current(&added);
    client.put("team/new", "after").await.unwrap();
    let rotated = rotate(&client, "team/").await.unwrap();
    assert_eq!((rotated.id, current(&rotated)), (added.id, first + 1));
    assert!(rotate(&client, "nobody's/").await.is_err());
    assert!(rotate(&client, "").await.is_ok());
    client.put("team/newer", "later").await.unwrap();
    assert_eq!(
        client
            .get("team/newer")
            .await
            .unwrap()
            .header
            .unwrap()
            .revision,
        revision + 2,
        "keys take no revision"
    );
    for _ in 0..2 {
        let client = cluster.client().await;
        for (key, value) in [
            ("team/old", "before"),
            ("team/new", "after"),
            ("team/newer", "later"),
        ] {
            assert_eq!(client.value(key).await.unwrap(), Some(value.into()));
        }
        assert_eq!(list(&client).await.keys.len(), 2);
        cluster.members[0].kill();
        cluster.members[0].start().await;
    }
}

/// Keys are added and rotated from every member while every member writes and leaders are killed. Afterwards
/// every record of the whole history opens, on every member, and what was acknowledged is there.
#[tokio::test]
async fn keys_change_under_load_while_leaders_are_killed_and_every_value_opens() {
    let mut cluster = Cluster::three().await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = cluster
        .endpoints()
        .into_iter()
        .enumerate()
        .map(|(number, endpoint)| {
            tokio::spawn(write(
                endpoint,
                number,
                Arc::clone(&stop),
                Arc::clone(&written),
            ))
        })
        .collect();
    let changes = tokio::spawn(change_keys(cluster.endpoints(), Arc::clone(&stop)));
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        let at_kill = written.load(Ordering::Relaxed);
        wait::until_true("writes to resume", Duration::from_secs(40), || {
            written.load(Ordering::Relaxed) > at_kill + 30
        })
        .await;
        cluster.members[leader].start().await;
        let back = written.load(Ordering::Relaxed);
        wait::until_true("writes to go on", Duration::from_secs(40), || {
            written.load(Ordering::Relaxed) > back + 30
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let rotated = changes.await.unwrap();
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(
        rotated >= 6,
        "too few changes of keys to show anything: {rotated}"
    );
    everything_opens(&cluster, &acknowledged).await;
    for member in &mut cluster.members {
        member.kill();
    }
    for member in &mut cluster.members {
        member.launch();
    }
    for member in &mut cluster.members {
        member.ready().await;
    }
    everything_opens(&cluster, &acknowledged).await;
}

/// Writes through one member; returns the acknowledged values by revision.
async fn write(
    endpoint: String,
    writer: usize,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> BTreeMap<i64, (String, String)> {
    let client = Client::lazy(&endpoint);
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = KEYS[(number + writer) % KEYS.len()];
        let value = format!("{writer}/{number}");
        let answer = match number % 3 {
            // A compare by value, which is sealed on its way and resolved by the leader.
            0 => {
                let never = txn::compare(
                    key,
                    pb::compare::CompareResult::Equal,
                    pb::compare::TargetUnion::Value("never".into()),
                );
                let request = pb::TxnRequest {
                    compare: vec![never],
                    failure: vec![txn::put(key, value.clone())],
                    ..Default::default()
                };
                tokio::time::timeout(Duration::from_secs(10), client.txn(request))
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|answer| answer.header)
            }
            _ => tokio::time::timeout(Duration::from_secs(10), client.put(key, value.clone()))
                .await
                .ok()
                .and_then(Result::ok)
                .and_then(|answer| answer.header),
        };
        match answer {
            Some(header) => {
                acknowledged.insert(header.revision, (key.to_owned(), value));
                written.fetch_add(1, Ordering::Relaxed);
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    acknowledged
}

/// Adds every prefix, then rotates them in turn, each time through another member; returns how often it worked.
async fn change_keys(endpoints: Vec<String>, stop: Arc<AtomicBool>) -> usize {
    let clients: Vec<Client> = endpoints
        .iter()
        .map(|endpoint| Client::lazy(endpoint))
        .collect();
    let mut missing: Vec<&str> = PREFIXES.to_vec();
    let mut done = 0;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) && missing.is_empty() {
            break;
        }
        let client = &clients[number % clients.len()];
        // A refusal may mean that an unanswered earlier attempt had worked, or that there is no leader just now.
        let change = async {
            match missing.last() {
                Some(prefix) => add(client, prefix).await.is_ok() || has_key(client, prefix).await,
                None => rotate(client, PREFIXES[number % PREFIXES.len()])
                    .await
                    .is_ok(),
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), change)
            .await
            .unwrap_or(false)
        {
            missing.pop();
            done += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    done
}

async fn has_key(client: &Client, prefix: &str) -> bool {
    let answer = client.keys().list(keys::KeysListRequest {}).await;
    answer.is_ok_and(|answer| {
        answer
            .into_inner()
            .keys
            .iter()
            .any(|key| key.prefix == prefix.as_bytes())
    })
}

async fn everything_opens(cluster: &Cluster, acknowledged: &BTreeMap<i64, (String, String)>) {
    let everything = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let mut newest = Vec::new();
    for member in &cluster.members {
        newest.push(
            member
                .client()
                .await
                .range(everything.clone())
                .await
                .expect("every value opens on every member")
                .kvs,
        );
    }
    assert!(newest.windows(2).all(|pair| pair[0] == pair[1]));
    let client = cluster.client().await;
    let last = newest[0]
        .iter()
        .map(|kv| kv.mod_revision)
        .max()
        .unwrap_or(0);
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 2,
        prev_kv: true,
        ..Default::default()
    };
    let mut stream = client.watch(create).await.unwrap();
    let mut told = BTreeMap::new();
    while told
        .last_key_value()
        .is_none_or(|(revision, _)| *revision < last)
    {
        for event in stream
            .next()
            .await
            .expect("every value of history opens")
            .events
        {
            let kv = event.kv.unwrap();
            told.insert(
                kv.mod_revision,
                (
                    String::from_utf8_lossy(&kv.key).into_owned(),
                    String::from_utf8_lossy(&kv.value).into_owned(),
                ),
            );
        }
    }
    for (revision, written) in acknowledged {
        assert_eq!(
            told.get(revision),
            Some(written),
            "acknowledged at {revision}"
        );
    }
    // Prefixes nest; the longest decides, and each has its own key by now.
    let list = list(&client).await;
    for prefix in PREFIXES {
        assert!(
            list.keys.iter().any(|key| key.prefix == prefix),
            "{prefix} has no key"
        );
    }
    assert_eq!(
        client
            .range(pb::RangeRequest {
                key: "team/".into(),
                range_end: prefix_end(b"team/"),
                ..Default::default()
            })
            .await
            .unwrap()
            .count,
        4
    );
}
