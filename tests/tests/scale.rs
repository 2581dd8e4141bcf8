//! Many of everything at once: what is bounded stays bounded, and nobody pays for another.
//!
//! Sizes are those of a test that runs everywhere; the shapes are those of the real thing.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::client::{WatchStream, prefix_end};
use tests::cluster::Cluster;
use tests::http::Request;
use tests::{raw, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(120);
/// What one member may take while thousands of large answers are asked of it.
const BUDGET_MIB: u64 = 1024;
/// What ten thousand clients may take that are connected and ask nothing.
const IDLE_BUDGET_MIB: u64 = 640;

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// A client that asks for all that begins with `big`, `calls` times, lets the server send as much
/// as it likes and reads nothing.
async fn ask_and_never_read(port: u16, calls: u32) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let window = u32::MAX >> 1;
    let mut bytes = raw::PREFACE.to_vec();
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    bytes.extend(raw::frame(raw::SETTINGS, 0, 0, &settings));
    let more = (window - 65_535).to_be_bytes();
    bytes.extend(raw::frame(raw::WINDOW_UPDATE, 0, 0, &more));
    let head = raw::call_head("/etcdserverpb.KV/Range");
    let request = raw::message(b"\x0a\x03big\x12\x03bih");
    for call in 0..calls {
        let id = 2 * call + 1;
        bytes.extend(raw::frame(raw::HEADERS, raw::END_HEADERS, id, &head));
        bytes.extend(raw::frame(raw::DATA, raw::END_STREAM, id, &request));
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
async fn ten_thousand_watchers_each_see_their_events_and_one_that_does_not_read_costs_only_itself()
{
    const STREAMS: usize = 100;
    const WATCHERS: usize = 100;
    const KEYS: usize = 1_000;
    const ROUNDS: usize = 3;
    const WRITERS: usize = 20;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let pid = cluster.members[0].pid();
    client.put("first", "").await.unwrap();
    // More than a hundred times what may wait for it, if each of its watchers had a copy.
    let stuck = cluster.client().await.watch_stream();
    for watch_id in 1..=WATCHERS {
        stuck.create(everything_under("k", watch_id)).await;
    }
    let without = resident_mib(pid);
    let created = Arc::new(tokio::sync::Barrier::new(STREAMS + 1));
    let mut streams = JoinSet::new();
    let mut shared = Vec::new();
    for _ in 0..10 {
        shared.push(cluster.client().await);
    }
    for number in 0..STREAMS {
        let (client, created) = (shared[number % shared.len()].clone(), Arc::clone(&created));
        streams.spawn(async move {
            let mut stream = client.watch_stream();
            let keys = (0..WATCHERS).map(|watcher| (number * WATCHERS + watcher) % KEYS);
            let keys: Vec<usize> = keys.collect();
            for (watch_id, key) in keys.iter().enumerate() {
                stream.create(on_key(*key, watch_id + 1)).await;
                assert!(stream.next().await.unwrap().created);
            }
            created.wait().await;
            (collect(&mut stream, WATCHERS * ROUNDS).await, keys)
        });
    }
    created.wait().await;
    let with = resident_mib(pid);
    eprintln!("{} MiB for {} watchers", with - without, STREAMS * WATCHERS);
    let opened = opened(&cluster).await;
    let mut writing = JoinSet::new();
    for part in 0..WRITERS {
        let client = shared[part % shared.len()].clone();
        writing.spawn(async move {
            let mut revisions: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
            for round in 0..ROUNDS {
                for key in (part..KEYS).step_by(WRITERS) {
                    let value = vec![b'a' + u8::try_from(round).unwrap(); 1024];
                    let put = client.put(format!("k{key}"), value).await.unwrap();
                    let revision = put.header.unwrap().revision;
                    revisions.entry(key).or_default().push(revision);
                }
            }
            revisions
        });
    }
    let revisions: BTreeMap<usize, Vec<i64>> =
        writing.join_all().await.into_iter().flatten().collect();
    while let Some(seen) = streams.join_next().await {
        let (seen, keys) = seen.unwrap();
        for (watch_id, key) in (1..).zip(keys) {
            assert_eq!(
                seen[&watch_id], revisions[&key],
                "watcher {watch_id} of {key}"
            );
        }
    }
    let after = resident_mib(pid);
    eprintln!("{} MiB more once all are told", after.saturating_sub(with));
    assert!(after < with + 256, "from {with} to {after} MiB");
    // Ten watchers share a key, and the one that does not read watches all of them.
    let times = self::opened(&cluster).await - opened;
    assert!(times <= 2 * KEYS * ROUNDS, "{times} values were opened");
    drop(stuck);
}

fn on_key(key: usize, watch_id: usize) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: format!("k{key}").into(),
        watch_id: i64::try_from(watch_id).unwrap(),
        ..Default::default()
    }
}

fn everything_under(prefix: &str, watch_id: usize) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: prefix_end(prefix.as_bytes()),
        watch_id: i64::try_from(watch_id).unwrap(),
        ..Default::default()
    }
}

/// The revisions that each watcher of the stream is told of.
async fn collect(stream: &mut WatchStream, events: usize) -> BTreeMap<i64, Vec<i64>> {
    let mut seen: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut left = events;
    while left > 0 {
        let response = stream.next_within(WITHIN).await.expect("all are told");
        let response = response.unwrap();
        left -= response.events.len();
        let revisions = response.events.iter().map(|event| {
            let kv = event.kv.as_ref().unwrap();
            kv.mod_revision
        });
        seen.entry(response.watch_id).or_default().extend(revisions);
    }
    seen
}

/// How many values this member has opened.
async fn opened(cluster: &Cluster) -> usize {
    let port = cluster.members[0].client_port;
    let page = Request::get("/metrics").send(port).await.text().await;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("sealkv_values_opened_total "));
    line.unwrap().parse().unwrap()
}

/// Says hello as an HTTP/2 client, and waits until the server has.
async fn connect_and_stay_idle(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let hello = [raw::PREFACE, &raw::frame(raw::SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&hello).await.unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await.unwrap();
    stream
}

#[tokio::test]
async fn ten_thousand_idle_clients_stay_within_the_budget_and_cost_others_nothing() {
    const CLIENTS: u64 = 10_000;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(files),
            maximum: Some(files),
        },
    );
    let clients = CLIENTS.min(files.saturating_sub(1_000));
    if clients < CLIENTS {
        eprintln!("no more than {clients} clients: {files} files may be open here");
    }
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let (port, pid) = (cluster.members[0].client_port, cluster.members[0].pid());
    client.put("small", "s").await.unwrap();
    let without = resident_mib(pid);
    let mut connecting = JoinSet::new();
    for part in 0..100 {
        let count = (0..clients).filter(|number| number % 100 == part).count();
        connecting.spawn(async move {
            let mut idle = Vec::new();
            for _ in 0..count {
                idle.push(connect_and_stay_idle(port).await);
            }
            idle
        });
    }
    let idle: Vec<TcpStream> = connecting.join_all().await.into_iter().flatten().collect();
    assert_eq!(idle.len() as u64, clients);
    let with = resident_mib(pid);
    let more = with.saturating_sub(without);
    eprintln!("{more} MiB for {clients} idle clients");
    assert!(
        with < without + IDLE_BUDGET_MIB,
        "from {without} to {with} MiB"
    );
    let value = client.value("small").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"s"[..]));
    drop(idle);
    let again = wait::until("the descriptors to be free again", WITHIN, || async {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count();
        (open < 1_000).then_some(open)
    });
    again.await;
    client.put("small", "t").await.unwrap();
}
