//! What is refused, held back or let wait when a member has too much of something.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::raw::{self, Raw, frame};
use tests::{txn, wait};
use tokio::task::JoinSet;
use tonic::{Code, Status};

const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";
/// How long a loaded machine may take for what takes seconds.
const SOON: Duration = Duration::from_secs(120);

fn is_etcd() -> bool {
    Program::under_test() == Program::Etcd
}

/// Keys that a slow transaction looks at.
async fn fill(client: &Client, keys: usize) {
    for first in (0..keys).step_by(128) {
        let puts = (first..first + 128).map(|key| txn::put(format!("many/{key:06}"), ""));
        client.txn(txn::always(puts.collect())).await.unwrap();
    }
}

/// A write that costs little to send and long to apply: each of its compares looks at every key.
fn slow() -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Mod.into(),
        key: "many/".into(),
        range_end: "many0".into(),
        target_union: Some(TargetUnion::ModRevision(0)),
    };
    pb::TxnRequest {
        compare: vec![compare; 128],
        ..txn::always(vec![txn::put("slow", "v")])
    }
}

fn is_too_many(status: &Status) -> bool {
    // etcd loses the code of this one on its way.
    let code = if is_etcd() {
        Code::Unknown
    } else {
        Code::ResourceExhausted
    };
    (status.code(), status.message()) == (code, TOO_MANY_REQUESTS)
}

/// Past 5,000 entries that are committed and not applied nothing more is taken; with the gate
/// PriorityRequest the end of a lease still is. What was taken is done all the same.
#[tokio::test]
async fn writes_are_refused_while_apply_is_too_far_behind() {
    const KEYS: usize = 6_400;
    const WRITES: usize = 8_000;
    let plan = Cluster::plan().flag("--feature-gates=PriorityRequest=true");
    let cluster = plan.start().await;
    let client = cluster.client().await;
    fill(&client, KEYS).await;
    client.grant(7, 600).await.unwrap();
    // However fast the machine is, apply is held up for longer than the other writes take to come.
    let started = Instant::now();
    client.txn(slow()).await.unwrap();
    let held_up = Duration::from_secs(20).div_duration_f64(started.elapsed());
    let mut writes = JoinSet::new();
    for _ in 0..held_up.ceil() as usize {
        let client = client.clone();
        writes.spawn(async move { client.txn(slow()).await.map(drop) });
    }
    for _ in 0..WRITES {
        let client = client.clone();
        writes.spawn(async move { client.put("quick", "v").await.map(drop) });
    }
    let mut refused = 0;
    while refused == 0 {
        let ended = writes.join_next().await;
        let ended = ended.expect("there is a refusal among them").unwrap();
        refused += usize::from(ended.err().as_ref().is_some_and(is_too_many));
    }
    let revoked = client.revoke(7).await;
    assert!(!revoked.as_ref().is_err_and(is_too_many), "{revoked:?}");
    // Reads that need not wait for apply are served.
    let request = pb::RangeRequest {
        key: "many/000000".into(),
        serializable: true,
        ..Default::default()
    };
    assert_eq!(client.range(request).await.unwrap().count, 1);
    writes.abort_all();
    let taken = || async { client.put("after", "v").await.ok() };
    wait::until("a write to be taken again", SOON, taken).await;
    assert_eq!(
        client.value("slow").await.unwrap().as_deref(),
        Some(&b"v"[..])
    );
}

/// A client that has many leases renews them all at once, on one stream and a message at a time.
#[tokio::test]
async fn thousands_of_small_messages_at_once_are_all_answered() {
    // Of seven bytes each, in the window that every stream begins with.
    const MESSAGES: usize = 9_000;
    let cluster = Cluster::single().await;
    let mut raw = Raw::http2(cluster.members[0].client_port).await;
    let head = raw::call_head("/etcdserverpb.Lease/LeaseKeepAlive");
    let renewal = pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
    let renewal = frame(raw::DATA, 0, 1, &raw::message(&renewal));
    let much = (1_u32 << 30).to_be_bytes();
    let burst = [
        frame(raw::HEADERS, raw::END_HEADERS, 1, &head),
        frame(raw::WINDOW_UPDATE, 0, 0, &much),
        frame(raw::WINDOW_UPDATE, 0, 1, &much),
        renewal.repeat(MESSAGES),
    ];
    raw.send(&burst.concat()).await.unwrap();
    let (answers, mut unread) = (Cell::new(0), RefCell::new(Vec::new()));
    let frames = raw.frames_until(|frame| {
        if frame.kind == raw::DATA {
            answers.set(answers.get() + messages(&mut unread.borrow_mut(), &frame.payload));
        }
        frame.kind == raw::GOAWAY || answers.get() == MESSAGES
    });
    let last = frames.await.pop();
    assert_eq!(answers.get(), MESSAGES, "{last:?}");
    assert!(unread.get_mut().is_empty());
}

/// How many gRPC messages end in the bytes that come; what begins there is kept for the next.
fn messages(unread: &mut Vec<u8>, bytes: &[u8]) -> usize {
    unread.extend(bytes);
    let mut ended = 0;
    while let Some((&[_, a, b, c, d], rest)) = unread.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if rest.len() < length {
            break;
        }
        unread.drain(..5 + length);
        ended += 1;
    }
    ended
}

/// Whether the other end says hello, as an HTTP/2 server does at once.
async fn is_greeted(raw: &mut Raw, within: Duration) -> bool {
    let greeting = raw.frames_until(|frame| frame.kind == raw::SETTINGS);
    let greeting = tokio::time::timeout(within, greeting).await;
    greeting.is_ok_and(|frames| !frames.is_empty())
}

#[tokio::test]
async fn a_full_listener_lets_newcomers_wait_and_serves_who_is_there() {
    const FILES: u32 = 600;
    // Of so few files etcd keeps 150 for itself, this server half.
    let places = if is_etcd() { 450 } else { 300 };
    let mut cluster = Cluster::plan().prepare().await;
    cluster.members[0].open_files = Some(FILES);
    cluster.members[0].start().await;
    let client = cluster.client().await;
    let port = cluster.members[0].client_port;
    let mut inside = Vec::new();
    let mut waiting = loop {
        let mut raw = Raw::http2(port).await;
        if !is_greeted(&mut raw, Duration::from_secs(5)).await {
            break raw;
        }
        inside.push(raw);
        assert!(inside.len() <= places, "{} are let in", inside.len());
    };
    // Its own client is one of them, and those that looked whether it serves may still be.
    assert!(
        inside.len() + 5 > places,
        "only {} are let in",
        inside.len()
    );
    for number in 0..10 {
        client.put("k", number.to_string()).await.unwrap();
    }
    inside.pop();
    assert!(is_greeted(&mut waiting, SOON).await);
    client.put("k", "after").await.unwrap();
}

/// A client cannot open watchers until the member has no memory left; one too many is refused in
/// its own answer, and others go on. etcd has no such bound.
#[tokio::test]
async fn a_watcher_past_the_budget_is_refused_and_the_stream_goes_on() {
    const KEY_BYTES: usize = 1 << 20;
    /// 512 MiB.
    const MOST: usize = 512;
    let cluster = Cluster::plan().program(Program::Sealkv).start().await;
    let client = cluster.client().await;
    let mut stream = client.watch_stream();
    let long = |number: usize| pb::WatchCreateRequest {
        key: Bytes::from(format!("{number}/{}", "k".repeat(KEY_BYTES))),
        ..Default::default()
    };
    let mut open = Vec::new();
    let refused = loop {
        stream.create(long(open.len())).await;
        let told = stream.next().await.unwrap();
        assert!(told.created, "{told:?}");
        if told.canceled {
            break told;
        }
        open.push(told.watch_id);
        assert!(open.len() < MOST, "there is no bound");
    };
    assert!(open.len() > MOST - 4, "only {} are open", open.len());
    let reason = format!("rpc error: code = ResourceExhausted desc = {TOO_MANY_REQUESTS}");
    assert_eq!((refused.watch_id, refused.cancel_reason), (-1, reason));
    // Those that are open are told; what ends makes room, here and for others.
    client.put(long(3).key, "v").await.unwrap();
    assert_eq!(stream.next().await.unwrap().watch_id, open[3]);
    stream.cancel(open[0]).await;
    assert!(stream.next().await.unwrap().canceled);
    let others = || async {
        let mut stream = client.watch_stream();
        stream.create(long(0)).await;
        let told = stream.next().await.unwrap();
        (!told.canceled).then_some(stream)
    };
    let _other = wait::until("room for another watcher", SOON, others).await;
}

/// A connection has as many streams at once as the flag says; the next call waits for its turn.
#[tokio::test]
async fn streams_past_the_flag_are_announced_and_wait() {
    let plan = Cluster::plan().flag("--max-concurrent-streams=3");
    let cluster = plan.start().await;
    let mut raw = Raw::http2(cluster.members[0].client_port).await;
    let frames = raw.frames_until(|frame| frame.kind == raw::SETTINGS && frame.flags == 0);
    let settings = frames.await.pop().unwrap().payload;
    let most = settings.chunks(6).find(|setting| setting[..2] == [0, 3]);
    assert_eq!(most.unwrap()[2..], [0, 0, 0, 3]);
    raw.send(&frame(raw::SETTINGS, raw::ACK, 0, &[]))
        .await
        .unwrap();
    let client = cluster.client().await;
    let watches = async |count: usize| {
        let mut streams = Vec::new();
        for _ in 0..count {
            let create = pb::WatchCreateRequest {
                key: "k".into(),
                ..Default::default()
            };
            streams.push(client.watch(create).await.unwrap());
        }
        streams
    };
    let mut streams = watches(3).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v").await }
    });
    // Others have streams of their own.
    cluster.client().await.put("k", "other").await.unwrap();
    assert_eq!(streams[0].events(1).await.len(), 1);
    assert!(!waiting.is_finished());
    streams.pop();
    waiting.await.unwrap().unwrap();
}

/// gRPC's rule, with etcd's bound: without a call under way a client may hardly ping at all.
#[tokio::test]
async fn a_client_that_pings_too_often_is_sent_away() {
    let cluster = Cluster::single().await;
    let mut raw = Raw::http2(cluster.members[0].client_port).await;
    raw.send(&frame(raw::SETTINGS, raw::ACK, 0, &[]))
        .await
        .unwrap();
    for number in 0..5_u64 {
        let _ = raw
            .send(&frame(raw::PING, 0, 0, &number.to_be_bytes()))
            .await;
    }
    let frames = raw.frames_until(|frame| frame.kind == raw::GOAWAY).await;
    let last = frames.last().unwrap();
    assert_eq!(last.kind, raw::GOAWAY, "{last:?}");
    assert_eq!(last.payload[4..8], 11_u32.to_be_bytes());
    assert_eq!(&last.payload[8..], b"too_many_pings");
    cluster.client().await.put("k", "v").await.unwrap();
}
