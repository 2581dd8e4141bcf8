//! Many of everything at once: what is bounded stays bounded, and nobody pays for another.
//!
//! Sizes are those of a test that runs everywhere; the shapes are those of the real thing.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::etcdserverpb as pb;
use tests::client::Client;
use tests::cluster::Cluster;
use tests::wait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(60);
/// What one member may take while thousands of large answers are asked of it.
const BUDGET_MIB: u64 = 1024;

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A client that asks for all that begins with `big`, `calls` times, lets the server send as much
/// as it likes and reads nothing.
async fn ask_and_never_read(port: u16, calls: u32) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let window = u32::MAX >> 1;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = vec![0, 4];
    settings.extend(window.to_be_bytes());
    bytes.extend(frame(4, 0, 0, &settings));
    bytes.extend(frame(8, 0, 0, &(window - 65_535).to_be_bytes()));
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/etcdserverpb.KV/Range"),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        head.push(0);
        head.push(u8::try_from(name.len()).unwrap());
        head.extend(name.bytes());
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.bytes());
    }
    let request = b"\0\0\0\0\x0a\x0a\x03big\x12\x03bih";
    for call in 0..calls {
        let id = 2 * call + 1;
        bytes.extend(frame(1, 4, id, &head));
        bytes.extend(frame(0, 1, id, request));
    }
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn answers_that_nobody_reads_stay_within_the_budget_and_cost_others_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for key in ["big1", "big2", "big3", "big4"] {
        client.put(key, vec![b'v'; 1 << 20]).await.unwrap();
    }
    client.put("small", "s").await.unwrap();
    let mut stuck = Vec::new();
    for _ in 0..100 {
        stuck.push(ask_and_never_read(cluster.members[0].client_port, 10).await);
    }
    let pid = cluster.members[0].pid();
    for _ in 0..20 {
        let value = client.value("small").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"s"[..]));
        let resident = resident_mib(pid);
        assert!(resident < BUDGET_MIB, "{resident} MiB");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Once they are gone there is room for who reads.
    drop(stuck);
    let whole = wait::until("room for who reads", Duration::from_secs(60), || async {
        client.prefix("big").await.ok()
    });
    assert_eq!(whole.await.kvs.len(), 4);
}

#[tokio::test]
async fn large_answers_wait_for_each_other_and_all_arrive() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for key in ["big1", "big2", "big3", "big4"] {
        client.put(key, vec![b'v'; 1 << 20]).await.unwrap();
    }
    let mut asked = JoinSet::new();
    for _ in 0..10 {
        let client = cluster.client().await;
        asked.spawn(async move {
            for _ in 0..2 {
                let whole = wait::until("its turn", Duration::from_secs(60), || async {
                    client.prefix("big").await.ok()
                });
                assert_eq!(whole.await.kvs.len(), 4);
            }
        });
    }
    while let Some(answered) = asked.join_next().await {
        answered.unwrap();
    }
}

#[tokio::test]
async fn thousands_of_watchers_each_see_every_event_and_one_that_does_not_read_stops_nobody() {
    const STREAMS: usize = 10;
    const WATCHERS: usize = 100;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let watch = |watch_id: usize| pb::WatchCreateRequest {
        key: "k".into(),
        watch_id: i64::try_from(watch_id).unwrap(),
        ..Default::default()
    };
    let stuck = client.watch_stream();
    stuck.create(watch(1)).await;
    let mut streams = JoinSet::new();
    let created = Arc::new(tokio::sync::Barrier::new(STREAMS + 1));
    for _ in 0..STREAMS {
        let (client, created) = (cluster.client().await, Arc::clone(&created));
        streams.spawn(async move {
            let mut stream = client.watch_stream();
            for watch_id in 1..=WATCHERS {
                stream.create(watch(watch_id)).await;
                assert!(stream.next().await.unwrap().created);
            }
            created.wait().await;
            let mut seen: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            while seen.len() < WATCHERS || seen.values().any(|seen| seen.len() < 10) {
                let response = stream.next().await.unwrap();
                let revisions = response.events.iter().map(|event| {
                    let kv = event.kv.as_ref().unwrap();
                    kv.mod_revision
                });
                seen.entry(response.watch_id).or_default().extend(revisions);
            }
            seen
        });
    }
    created.wait().await;
    let mut revisions = Vec::new();
    for _ in 0..10 {
        let put = client.put("k", vec![b'v'; 1024]).await.unwrap();
        revisions.push(put.header.unwrap().revision);
    }
    while let Some(seen) = streams.join_next().await {
        for (watch_id, seen) in seen.unwrap() {
            assert_eq!(seen, revisions, "watcher {watch_id}");
        }
    }
}

#[tokio::test]
async fn a_crowd_of_leases_ends_while_others_go_on_writing() {
    const LEASES: i64 = 1_500;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut granting = JoinSet::new();
    for part in 0..16 {
        let client = client.clone();
        granting.spawn(async move {
            for id in (1..=LEASES).filter(|id| id % 16 == part) {
                client.grant(id, 3).await.unwrap();
                let put = pb::PutRequest {
                    key: format!("leased/{id}").into(),
                    lease: id,
                    ..Default::default()
                };
                // The first may have ended before the last is granted.
                if let Err(status) = client.put_request(put).await {
                    let text = "etcdserver: requested lease not found";
                    assert_eq!(status.message(), text);
                }
            }
        });
    }
    let done = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_until(client.clone(), Arc::clone(&done)));
    while let Some(granted) = granting.join_next().await {
        granted.unwrap();
    }
    wait::until("the end of every lease", WITHIN, || async {
        let left = client.leases().await.unwrap().leases.len();
        (left == 0).then_some(())
    })
    .await;
    done.store(true, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 0);
    let left = client.prefix("leased/").await.unwrap();
    assert_eq!(left.count, 0);
}

/// How many puts were made, none of which failed.
async fn write_until(client: Client, done: Arc<AtomicBool>) -> usize {
    let mut puts = 0;
    while !done.load(Ordering::Relaxed) {
        client.put("meanwhile", "x").await.unwrap();
        puts += 1;
    }
    puts
}
