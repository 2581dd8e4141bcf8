//! Clients that keep no rules: they get an error or a closed connection, others are served meanwhile,
//! nothing panics and memory stays bounded.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::http::Request;
use tests::raw::{self, Raw, frame};
use tests::tls::{Ca, Says, Tls};
use tests::wait;

/// What a member may take while it is abused.
const BUDGET_MIB: u64 = 512;
const RANGE: &str = "/etcdserverpb.KV/Range";

/// A member, and a client of it that keeps the rules.
struct Victim {
    cluster: Cluster,
    client: Client,
}

impl Victim {
    async fn start() -> Self {
        let cluster = Cluster::plan().program(Program::Sealkv).start().await;
        let client = cluster.client().await;
        client.put("k", "v").await.unwrap();
        Self { cluster, client }
    }

    fn port(&self) -> u16 {
        self.cluster.members[0].client_port
    }

    fn peer_port(&self) -> u16 {
        let url = self.cluster.members[0].peer_url();
        url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The client that was there before is served, and so is a new one.
    async fn assert_well(&self, after: &str) {
        let served = tokio::time::timeout(Duration::from_secs(20), async {
            for client in [self.client.clone(), self.cluster.client().await] {
                let value = client.value("k").await.unwrap();
                assert_eq!(value.as_deref(), Some(&b"v"[..]), "after {after}");
            }
        });
        assert!(served.await.is_ok(), "nobody is served after {after}");
        let member = &self.cluster.members[0];
        assert!(
            !member.log().contains("panicked"),
            "after {after}: {}",
            member.log_tail()
        );
        let resident = resident_mib(member.pid());
        assert!(resident < BUDGET_MIB, "{resident} MiB after {after}");
    }
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// Sends what breaks HTTP/2's rules; the connection is closed, with a GOAWAY if it can be.
async fn assert_closed(port: u16, what: &str, bytes: &[u8]) {
    let mut raw = Raw::http2(port).await;
    // It may close before it has taken everything.
    let _ = raw.send(bytes).await;
    assert!(raw.until_closed().await.is_some(), "{what}: still open");
}

#[tokio::test]
async fn frames_that_break_the_rules_end_their_connection_and_no_other() {
    let victim = Victim::start().await;
    let head = raw::call_head(RANGE);
    let mut unbounded = frame(raw::DATA, 0, 1, &[0; 8]);
    unbounded[..3].copy_from_slice(&[0xff; 3]);
    let call = frame(raw::HEADERS, raw::END_HEADERS, 1, &head);
    let then = |more: Vec<u8>| [call.clone(), more].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of 16 MiB", then(unbounded)),
        ("data on stream 0", frame(raw::DATA, 0, 0, b"x")),
        (
            "data on a stream that is not there",
            frame(raw::DATA, 0, 5, b"x"),
        ),
        (
            "headers on stream 0",
            frame(raw::HEADERS, raw::END_HEADERS, 0, &head),
        ),
        (
            "headers on the server's streams",
            frame(raw::HEADERS, raw::END_HEADERS, 2, &head),
        ),
        (
            "settings of an odd length",
            frame(raw::SETTINGS, 0, 0, &[0; 5]),
        ),
        (
            "settings on a stream",
            then(frame(raw::SETTINGS, 0, 1, &[])),
        ),
        (
            "an acknowledgement with content",
            frame(raw::SETTINGS, raw::ACK, 0, &[0; 6]),
        ),
        (
            "a window beyond its bound",
            frame(raw::SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "a window that overflows",
            [0; 2]
                .map(|_| frame(raw::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))
                .concat(),
        ),
        (
            "a window update of nothing",
            frame(raw::WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "a ping of the wrong length",
            frame(raw::PING, 0, 0, &[0; 7]),
        ),
        (
            "a continuation of nothing",
            frame(raw::CONTINUATION, raw::END_HEADERS, 1, &head),
        ),
        (
            "a frame inside a header block",
            [
                frame(raw::HEADERS, 0, 1, &head),
                frame(raw::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            "a header block that cannot be read",
            frame(raw::HEADERS, raw::END_HEADERS, 1, &[0xff; 64]),
        ),
        (
            "an index beyond the table",
            frame(raw::HEADERS, raw::END_HEADERS, 1, &[0xfe]),
        ),
        (
            "a table of 4 GiB",
            frame(
                raw::HEADERS,
                raw::END_HEADERS,
                1,
                &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f],
            ),
        ),
        (
            "padding longer than its frame",
            frame(raw::HEADERS, raw::END_HEADERS | 8, 1, &[0xff, 0, 0]),
        ),
        ("a reset of stream 0", frame(raw::RST_STREAM, 0, 0, &[0; 4])),
        (
            "a push from the client",
            frame(5, raw::END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
    ];
    for (what, bytes) in cases {
        assert_closed(victim.port(), what, &bytes).await;
        victim.assert_well(what).await;
    }
}

#[tokio::test]
async fn floods_of_frames_are_cut_off_or_held_back() {
    let victim = Victim::start().await;
    let head = raw::call_head(RANGE);
    // Reset as soon as it is asked: CVE-2023-44487.
    let mut resets = Vec::new();
    for call in 0..2_000u32 {
        resets.extend(frame(raw::HEADERS, raw::END_HEADERS, 2 * call + 1, &head));
        resets.extend(frame(raw::RST_STREAM, 0, 2 * call + 1, &[0, 0, 0, 8]));
    }
    let mut raw = Raw::http2(victim.port()).await;
    let _ = raw.send(&resets).await;
    let frames = raw.frames_until(|frame| frame.kind == raw::GOAWAY).await;
    let goaway = frames.last().expect("it says why");
    assert_eq!(
        (goaway.kind, &goaway.payload[4..8]),
        (raw::GOAWAY, &[0, 0, 0, 11][..]),
        "{goaway:?}"
    );
    victim.assert_well("rapid reset").await;

    let small = |one: Vec<u8>| one.repeat(64 * 1024 / one.len());
    let floods: [(&str, Vec<u8>, bool); 5] = [
        ("settings", small(frame(raw::SETTINGS, 0, 0, &[])), false),
        ("pings", small(frame(raw::PING, 0, 0, &[0; 8])), false),
        (
            "answered pings",
            small(frame(raw::PING, 0, 0, &[0; 8])),
            true,
        ),
        (
            "priorities",
            small(frame(raw::PRIORITY, 0, 3, &[0, 0, 0, 5, 0])),
            true,
        ),
        ("empty data", small(frame(raw::DATA, 0, 1, &[])), true),
    ];
    for (what, bytes, reads) in floods {
        let mut raw = Raw::http2(victim.port()).await;
        let call = frame(raw::HEADERS, raw::END_HEADERS, 1, &head);
        raw.send(&call).await.unwrap();
        raw.flood(&bytes, 2_000, reads).await;
        victim.assert_well(what).await;
    }
}

#[tokio::test]
async fn header_blocks_without_end_are_cut_off() {
    let victim = Victim::start().await;
    // CVE-2024-27316.
    let mut raw = Raw::http2(victim.port()).await;
    raw.send(&frame(raw::HEADERS, 0, 1, &raw::call_head(RANGE)))
        .await
        .unwrap();
    let more = frame(raw::CONTINUATION, 0, 1, &raw::field(b"x", &[b'y'; 8_000]));
    let sent = raw.flood(&more, 100_000, true).await;
    assert!(sent < 10_000, "{sent} continuations of 8 KiB were taken");
    victim.assert_well("continuations").await;
    // Empty ones cost the sender nothing.
    let mut raw = Raw::http2(victim.port()).await;
    raw.send(&frame(raw::HEADERS, 0, 1, &raw::call_head(RANGE)))
        .await
        .unwrap();
    let sent = raw
        .flood(
            &frame(raw::CONTINUATION, 0, 1, &[]).repeat(1_000),
            2_000,
            true,
        )
        .await;
    assert!(
        sent < 2_000,
        "{sent} thousand empty continuations were taken"
    );
    victim.assert_well("empty continuations").await;
    // A large field in the table, and then nothing but references to it.
    let mut block = raw::call_head(RANGE);
    let mut stored = raw::field(b"x", &[b'y'; 4_000]);
    stored[0] = 0x40;
    block.extend(stored);
    block.extend([0xbe; 12_000]);
    let mut raw = Raw::http2(victim.port()).await;
    let bomb = frame(raw::HEADERS, raw::END_HEADERS, 1, &block);
    assert!(bomb.len() < 16_384 + 9);
    for call in 0..50u32 {
        let id = (2 * call + 1).to_be_bytes();
        let mut bomb = bomb.clone();
        bomb[5..9].copy_from_slice(&id);
        if raw.send(&bomb).await.is_err() {
            break;
        }
    }
    victim.assert_well("a header bomb").await;
}

#[tokio::test]
async fn calls_that_are_none_are_refused_on_their_stream() {
    let victim = Victim::start().await;
    let long = 200 * 1024 * 1024u32;
    let announced = [&[0][..], &long.to_be_bytes()].concat();
    let compressed = [&[1][..], &raw::message(b"\x0a\x01k")[1..]].concat();
    let data = |bytes: &[u8]| frame(raw::DATA, raw::END_STREAM, 1, bytes);
    let head = |more: &[u8]| {
        let block = [&raw::call_head(RANGE)[..], more].concat();
        frame(raw::HEADERS, raw::END_HEADERS, 1, &block)
    };
    let plain = data(&raw::message(b"\x0a\x01k"));
    let deep = (0..500).fold(Vec::new(), |inner: Vec<u8>, _| {
        // A transaction whose success is a transaction; lengths above 127 take two bytes.
        let nest = |tag: u8, inner: Vec<u8>| {
            let length = inner.len();
            let low = u8::try_from(length & 0x7f).unwrap() | 0x80;
            [&[tag, low, u8::try_from(length >> 7).unwrap()][..], &inner].concat()
        };
        nest(0x12, nest(0x22, inner))
    });
    let txn = frame(
        raw::HEADERS,
        raw::END_HEADERS,
        1,
        &raw::call_head("/etcdserverpb.KV/Txn"),
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "a message of 200 MiB",
            [head(&[]), data(&announced)].concat(),
        ),
        (
            "a message that is cut off",
            [head(&[]), data(&raw::message(b"\x0a\x01k")[..6])].concat(),
        ),
        (
            "a compressed message without a method",
            [head(&[]), data(&compressed)].concat(),
        ),
        (
            "no protobuf",
            [head(&[]), data(&raw::message(&[0xff; 32]))].concat(),
        ),
        (
            "transactions 500 deep",
            [txn, data(&raw::message(&deep))].concat(),
        ),
        ("no message", [head(&[]), data(&[])].concat()),
        (
            "two messages",
            [head(&[]), data(&raw::message(b"\x0a\x01k").repeat(2))].concat(),
        ),
        (
            "a token that is no text",
            [head(&raw::field(b"token", b"\xff\xfe")), plain.clone()].concat(),
        ),
        (
            "binary metadata that is none",
            [head(&raw::field(b"x-bin", b"\xff!")), plain.clone()].concat(),
        ),
        (
            "metadata that is no text",
            [head(&raw::field(b"hasleader", b"\xc3\x28")), plain.clone()].concat(),
        ),
        (
            "a deadline that is none",
            [
                head(&raw::field(b"grpc-timeout", b"99999999999H")),
                plain.clone(),
            ]
            .concat(),
        ),
        (
            "a path that is none",
            [
                frame(
                    raw::HEADERS,
                    raw::END_HEADERS,
                    1,
                    &raw::call_head("/\u{e9}/x"),
                ),
                plain.clone(),
            ]
            .concat(),
        ),
        (
            "a name with capitals",
            [head(&raw::field(b"Token", b"x")), plain.clone()].concat(),
        ),
        (
            "a header of HTTP/1",
            [head(&raw::field(b"connection", b"close")), plain.clone()].concat(),
        ),
        (
            "no method",
            [
                frame(
                    raw::HEADERS,
                    raw::END_HEADERS,
                    1,
                    &raw::field(b":path", b"/x"),
                ),
                plain,
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut raw = Raw::http2(victim.port()).await;
        raw.send(&bytes).await.unwrap();
        let ends = |frame: &raw::Frame| {
            let of_stream = frame.stream == 1 && frame.flags & raw::END_STREAM != 0;
            let headers_or_data = matches!(frame.kind, raw::HEADERS | raw::DATA);
            (of_stream && headers_or_data) || matches!(frame.kind, raw::RST_STREAM | raw::GOAWAY)
        };
        let frames = raw.frames_until(ends).await;
        assert!(frames.last().is_some_and(ends), "{what}: {frames:?}");
        victim.assert_well(what).await;
    }
}

#[tokio::test]
async fn the_peer_port_is_no_softer_than_the_clients() {
    let victim = Victim::start().await;
    let port = victim.peer_port();
    for path in [
        "Append",
        "Vote",
        "PreVote",
        "Greet",
        "InstallSnapshot",
        "Propose",
        "Nothing",
    ] {
        let head = raw::call_head(&format!("/sealkv.peer.v1.Peer/{path}"));
        let greeting = raw::field(b"sealkv-greeting-bin", b"//////8");
        for (greeted, head) in [
            (false, head.clone()),
            (true, [&head[..], &greeting].concat()),
        ] {
            let mut raw = Raw::http2(port).await;
            let call = frame(raw::HEADERS, raw::END_HEADERS, 1, &head);
            let data = frame(raw::DATA, raw::END_STREAM, 1, &raw::message(&[0xff; 64]));
            raw.send(&[call, data].concat()).await.unwrap();
            let answered =
                |frame: &raw::Frame| frame.stream == 1 && frame.flags & raw::END_STREAM != 0;
            let frames = raw
                .frames_until(|frame| answered(frame) || frame.kind == raw::GOAWAY)
                .await;
            assert!(
                frames.last().is_some_and(answered),
                "{path} {greeted}: {frames:?}"
            );
        }
        victim.assert_well(path).await;
    }
    for bytes in [
        &[0xff; 64][..],
        b"\x16\x03\x01\x02\0garbage",
        b"GET / HTTP/1.1\r\n\0\r\n\r\n",
    ] {
        let mut raw = Raw::connect(port).await;
        raw.send(bytes).await.unwrap();
        raw.send(&[0; 4096]).await.ok();
        assert!(raw.until_closed().await.is_some(), "{bytes:?}");
    }
    victim.assert_well("garbage").await;
}

#[tokio::test]
async fn garbage_and_clients_that_never_finish_cost_others_nothing() {
    let victim = Victim::start().await;
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..200 {
        let mut raw = Raw::connect(victim.port()).await;
        let garbage: Vec<u8> = (0..rng.random_range(1..2_000))
            .map(|_| rng.random())
            .collect();
        // Now and then behind a beginning that is right.
        if rng.random() {
            let _ = raw.send(raw::PREFACE).await;
        }
        let _ = raw.send(&garbage).await;
    }
    victim.assert_well("garbage").await;
    let mut slow = Vec::new();
    for (number, beginning) in [
        &b""[..],
        b"PRI * HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: ",
        b"\x16\x03\x01",
    ]
    .iter()
    .cycle()
    .take(400)
    .enumerate()
    {
        let mut raw = Raw::connect(victim.port()).await;
        raw.send(beginning).await.unwrap();
        if number % 50 == 0 {
            victim.assert_well("silence").await;
        }
        slow.push(raw);
    }
    // Bodies that never end: HTTP/1.1 announces one, gRPC sends half a message.
    for _ in 0..100 {
        let mut raw = Raw::connect(victim.port()).await;
        raw.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"key\":")
            .await
            .unwrap();
        slow.push(raw);
        let mut raw = Raw::http2(victim.port()).await;
        let call = frame(raw::HEADERS, raw::END_HEADERS, 1, &raw::call_head(RANGE));
        raw.send(&[call, frame(raw::DATA, 0, 1, &[0, 0, 1, 0, 0])].concat())
            .await
            .unwrap();
        slow.push(raw);
    }
    victim.assert_well("bodies without end").await;
}

#[tokio::test]
async fn json_that_nests_lies_or_never_ends_is_refused() {
    let victim = Victim::start().await;
    let deep = |open: &str, times: usize| open.repeat(times);
    let lying = "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}";
    let mut raw = Raw::connect(victim.port()).await;
    raw.send(lying.as_bytes()).await.unwrap();
    assert!(raw.until_closed().await.is_some(), "a chunk of 2^68 bytes");
    let bodies = [
        deep("[", 1_000_000),
        deep(r#"{"success":[{"request_txn":"#, 100_000),
        deep(r#"{"unknown":"#, 100_000),
        r#"{"key":"\ud800"}"#.to_owned(),
        r#"{"limit":1e999999}"#.to_owned(),
        "\u{0}".to_owned(),
    ];
    for body in bodies {
        let shown: String = body.chars().take(40).collect();
        let answer = Request::post("/v3/kv/range", body.clone())
            .send(victim.port())
            .await;
        assert!(
            (400..500).contains(&answer.status),
            "{shown}: {}",
            answer.status
        );
        victim.assert_well(&shown).await;
        // A stream of requests is cut apart before it is read.
        let watch = Request::post("/v3/watch", body);
        drop(
            watch
                .send_within(victim.port(), Duration::from_secs(5))
                .await,
        );
        victim.assert_well(&shown).await;
    }
}

#[tokio::test]
async fn tls_garbage_is_refused_while_handshakes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new(directory.path(), "ca");
    let server = ca.issue("server", &Says::of("server", &["localhost", "127.0.0.1"]));
    let cluster = Cluster::plan()
        .program(Program::Sealkv)
        .clients_over(&Tls::new(&ca, None))
        .flag(format!("--cert-file={}", server.certificate.display()))
        .flag(format!("--key-file={}", server.key.display()))
        .start()
        .await;
    let port = cluster.members[0].client_port;
    let record = |kind: u8, length: u16, content: &[u8]| {
        [&[kind, 3, 1][..], &length.to_be_bytes(), content].concat()
    };
    let cases: [(&str, Vec<u8>); 6] = [
        ("a handshake of zeros", record(22, 64, &[0; 64])),
        ("a record of 64 KiB", record(22, 0xffff, &[1; 0xffff])),
        ("an alert first", record(21, 2, &[2, 40])),
        ("data first", record(23, 32, &[7; 32])),
        (
            "a hello that lies about its length",
            record(22, 8, &[1, 0xff, 0xff, 0xff, 3, 3, 0, 0]),
        ),
        (
            "HTTP/2 without TLS",
            [raw::PREFACE, &frame(raw::SETTINGS, 0, 0, &[0; 5])].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut raw = Raw::connect(port).await;
        let _ = raw.send(&bytes).await;
        let _ = raw.send(&[0; 70_000]).await;
        assert!(raw.until_closed().await.is_some(), "{what}: still open");
        cluster.client().await.put("k", what).await.unwrap();
    }
    let mut unfinished = Vec::new();
    for _ in 0..600 {
        let mut raw = Raw::connect(port).await;
        raw.send(&record(22, 500, &[1, 0, 1, 0xf0])).await.unwrap();
        unfinished.push(raw);
    }
    let client = wait::until(
        "a handshake among those that never end",
        Duration::from_secs(30),
        async || cluster.members[0].try_client().await,
    );
    client.await.put("k", "v").await.unwrap();
    assert!(!cluster.members[0].log().contains("panicked"));
}
