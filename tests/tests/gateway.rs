//! etcd's services as JSON over HTTP: against a real etcd 3.7.1 answer by answer, and as the clients use
//! them that speak nothing else.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tests::binary;
use tests::cluster::{Cluster, Program, free_port};
use tests::http::{Answer, Request};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// After this long without a line a stream has said what it has to say.
const QUIET: Duration = Duration::from_millis(700);

/// A large request takes long to be read where nothing is optimised.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What differs from server to server by its nature.
const OWN: &[&str] = &[
    "cluster_id",
    "member_id",
    "raft_term",
    "hash",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "TTL",
    "clientURLs",
    "peerURLs",
    "ID",
    "lease",
    "token",
];

/// An answer with what differs by nature taken out. `None`: nothing came.
type Normal = Option<(u16, Option<String>, Vec<Value>)>;

fn without_own(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_text = value.is_string() || value.is_number() || value.is_array();
                if OWN.contains(&name.as_str()) && is_text {
                    *value = "*".into();
                }
                // Where both say that a value does not fit, ours does not repeat it.
                if name == "message"
                    && let Some(text) = value.as_str()
                    && (text.contains("proto:")
                        || text.starts_with("invalid character")
                        || text.starts_with("invalid binary header"))
                {
                    *value = "the request does not parse".into();
                }
                without_own(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_own),
        _ => {}
    }
}

async fn normal(request: &Request, port: u16) -> Normal {
    let mut answer = request.send_within(port, ANSWER_WITHIN).await?;
    let content_type = answer.header("content-type").map(str::to_owned);
    let status = answer.status;
    let text = answer.lines_until_quiet(QUIET).await;
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut value = serde_json::from_str(line).unwrap_or_else(|_| line.into());
        without_own(&mut value);
        value
    });
    Some((status, content_type, lines.collect()))
}

/// A real etcd and the server under test, side by side.
struct Pair {
    _clusters: [Cluster; 2],
    ports: (u16, u16),
}

impl Pair {
    async fn start(test: &str, flags: &[&str]) -> Option<Self> {
        binary::etcd_or_skip(test)?;
        let plan =
            |plan: tests::cluster::Plan| flags.iter().fold(plan, |plan, flag| plan.flag(*flag));
        let etcd = plan(Cluster::plan().program(Program::Etcd)).start();
        let ours = plan(Cluster::plan()).start();
        let (etcd, ours) = tokio::join!(etcd, ours);
        let ports = (etcd.members[0].client_port, ours.members[0].client_port);
        Some(Self {
            _clusters: [etcd, ours],
            ports,
        })
    }

    /// Asks both, one request after the other, and shows every difference at once.
    async fn agree(&self, requests: Vec<Request>) {
        let mut differences = String::new();
        for request in requests {
            let (etcd, ours) = tokio::join!(
                normal(&request, self.ports.0),
                normal(&request, self.ports.1)
            );
            if etcd != ours {
                let shown = request.shown();
                differences.push_str(&format!("{shown}\n  etcd {etcd:?}\n  ours {ours:?}\n"));
            }
        }
        assert!(differences.is_empty(), "answers differ:\n{differences}");
    }
}

fn posts(of: &[(&str, &str)]) -> Vec<Request> {
    of.iter()
        .map(|(path, body)| Request::post(path, *body))
        .collect()
}

#[tokio::test]
async fn every_route_answers_as_etcds() {
    let Some(pair) = Pair::start("every_route_answers_as_etcds", &[]).await else {
        return;
    };
    pair.agree(posts(&[
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA=="}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2","serializable":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","count_only":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","keys_only":true,"sort_order":"DESCEND","sortTarget":2}"#),
        ("/v3/kv/range", r#"{"key":"bm9uZQ=="}"#),
        ("/v3beta/kv/range", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/txn", r#"{"compare":[{"result":"EQUAL","target":"VALUE","key":"Zm9v","value":"YmF6"}],
            "success":[{"request_range":{"key":"Zm9v"}},{"requestPut":{"key":"Zm9v","value":"eA==","prev_kv":true}},
                       {"request_delete_range":{"key":"bm9uZQ=="}}],
            "failure":[{"request_put":{"key":"Zm9v","value":"bG9zdA=="}}]}"#),
        ("/v3/kv/txn", r#"{"compare":[{"result":3,"target":0,"key":"Zm9v","version":3}],"failure":[{"requestTxn":{}}]}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/compaction", r#"{"revision":"2","physical":true}"#),
        ("/v3/kv/compaction", r#"{"revision":"2"}"#),
        ("/v3/kv/compaction", r#"{"revision":"200"}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":1}"#),
        ("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#),
        ("/v3/lease/grant", r#"{"TTL":"100","ID":"7"}"#),
        ("/v3/lease/grant", r#"{"TTL":"90000000000"}"#),
        ("/v3/kv/put", r#"{"key":"bGVhc2Vk","value":"eA==","lease":"7"}"#),
        ("/v3/kv/put", r#"{"key":"bGVhc2Vk","value":"eA==","lease":"8"}"#),
        ("/v3/lease/timetolive", r#"{"ID":7,"keys":true}"#),
        ("/v3/kv/lease/timetolive", r#"{"ID":9}"#),
        ("/v3/lease/leases", "{}"),
        ("/v3/kv/lease/leases", "{}"),
        ("/v3/lease/keepalive", r#"{"ID":7}"#),
        ("/v3/lease/keepalive", r#"{"ID":7}{"ID":"8"} {"ID":7}"#),
        ("/v3/lease/keepalive", ""),
        ("/v3/lease/revoke", r#"{"ID":7}"#),
        ("/v3/kv/lease/revoke", r#"{"ID":7}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zm9v","start_revision":1}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zm9v","start_revision":3,"prev_kv":true,"filters":["NOPUT"]}}"#),
        ("/v3/watch", r#"{"createRequest":{"key":"YQ=="}}{"create_request":{"key":"Yg==","range_end":"YQ=="}}
            {"cancel_request":{"watch_id":0}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}} garbage"#),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}"#),
        ("/v3/maintenance/alarm", "{}"),
        ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATE","memberID":"5","alarm":1}"#),
        ("/v3/maintenance/hashkv", "{}"),
        ("/v3/maintenance/hash", "{}"),
        ("/v3/maintenance/status", "{}"),
        ("/v3/maintenance/defragment", "{}"),
        ("/v3/maintenance/downgrade", "{}"),
        ("/v3/maintenance/downgrade", r#"{"action":"CANCEL"}"#),
        ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"3.9.0"}"#),
        ("/v3/cluster/member/list", "{}"),
        ("/v3/cluster/member/list", r#"{"linearizable":true}"#),
        ("/v3/cluster/member/add", r#"{"peerURLs":["nowhere"]}"#),
        ("/v3/cluster/member/remove", r#"{"ID":"5"}"#),
        ("/v3/cluster/member/update", r#"{"ID":5,"peerURLs":["http://127.0.0.1:1"]}"#),
        ("/v3/cluster/member/promote", r#"{"ID":"5"}"#),
        ("/v3/maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
        ("/v3/lock/unlock", r#"{"key":"bm9uZQ=="}"#),
        ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
        ("/v3/election/resign", "{}"),
        ("/v3/election/proclaim", "{}"),
    ]))
    .await;
}

#[tokio::test]
async fn refusals_are_etcds() {
    let Some(pair) = Pair::start("refusals_are_etcds", &[]).await else {
        return;
    };
    let range = |body: &str| Request::post("/v3/kv/range", body);
    let foo = || range(r#"{"key":"Zm9v"}"#);
    let put = |bytes: usize| {
        let value = "A".repeat(bytes / 3 * 4);
        Request::post(
            "/v3/kv/put",
            format!(r#"{{"key":"Zm9v","value":"{value}"}}"#),
        )
    };
    pair.agree(vec![
        range(""),
        range(" \n"),
        range("{}"),
        range("[]"),
        range("null"),
        range("nope"),
        range("5 "),
        range(r#"{"key":"Zm9v""#),
        range(r#"{"key":"Zm9v",}"#),
        range(r#"{"key":"Zm9v"} trailing"#),
        range(r#"{"key":"!!"}"#),
        range(r#"{"key":5}"#),
        range(r#"{"key":"Zm9v","limit":"x"}"#),
        range(r#"{"key":"Zm9v","limit":1.5}"#),
        range(r#"{"key":"Zm9v","limit":99999999999999999999}"#),
        range(r#"{"key":"Zm9v","serializable":"true"}"#),
        range(r#"{"key":"Zm9v","key":"Zm9v"}"#),
        range(r#"{"key":"Zm9v","unknown":{"a":[1]},"sort_order":"NONSENSE","limit":null}"#),
        range(r#"{"key":"Zm9v","sort_order":77}"#),
        range(r#"{"key":"Zm9v","limit":1e0,"revision":"0"}"#),
        range(r#"{"key":"_-8"}"#),
        Request::post(
            "/v3/kv/txn",
            r#"{"compare":[{"version":"1","value":"YQ=="}]}"#,
        ),
        Request::post("/v3/kv/txn", r#"{"success":[{}]}"#),
        Request::get("/v3/kv/range"),
        Request::new("PUT", "/v3/kv/range"),
        Request::new("DELETE", "/v3/kv/range"),
        Request::post("/v3/none", "{}"),
        Request::post("/v3/kv/range/", "{}"),
        Request::post("/v3/kv/rangestream", "{}"),
        Request::get("/v3/"),
        Request::post("/v3alpha/kv/range", "{}"),
        Request::get("/none"),
        Request::get("/"),
        Request::new("POST", "/version"),
        Request::new("POST", "/health"),
        Request::new("POST", "/debug/vars"),
        Request::get("/debug/requests"),
        Request::get("/debug/pprof/"),
        Request::post("//v3/kv/range", "{}"),
        Request::post("/v3/kv/../kv/range", "{}"),
        foo()
            .header("Content-Type", "text/plain")
            .header("Accept", "text/html"),
        foo().header("Content-Type", "application/grpc"),
        foo()
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("X-HTTP-Method-Override", "GET"),
        foo().header("Authorization", "Bearer nobody.1"),
        foo().header("Grpc-Timeout", "1n"),
        foo().header("Grpc-Timeout", "zz"),
        foo().header("Grpc-Metadata-hasleader", "true"),
        foo().header("Grpc-Metadata-x-bin", "!!"),
        Request::post("/v3/lease/keepalive", "nope"),
        put(1_800_000),
        put(3_000_000),
    ])
    .await;
}

#[tokio::test]
async fn hosts_and_origins_are_held_against_the_lists() {
    let flags = [
        "--host-whitelist=etcd.example,127.0.0.1",
        "--cors=https://a.example:1",
    ];
    let test = "hosts_and_origins_are_held_against_the_lists";
    let Some(pair) = Pair::start(test, &flags).await else {
        return;
    };
    let get = || Request::get("/version");
    for (request, status, origin) in [
        (get().header("Host", "etcd.example"), 200, None),
        (get().header("Host", "etcd.example:2379"), 200, None),
        (get().header("Host", "evil.example"), 421, None),
        (
            get()
                .header("Host", "evil.example:2379")
                .header("Origin", "https://a.example:1"),
            421,
            None,
        ),
        (
            get().header("Origin", "https://a.example:1"),
            200,
            Some("https://a.example:1"),
        ),
        (get().header("Origin", "https://b.example:1"), 200, None),
        (
            Request::new("OPTIONS", "/v3/kv/range").header("Origin", "https://a.example:1"),
            200,
            Some("https://a.example:1"),
        ),
        (Request::new("OPTIONS", "/none"), 200, None),
    ] {
        for port in [pair.ports.0, pair.ports.1] {
            let answer = request.send(port).await;
            assert_eq!(answer.status, status, "{}", request.shown());
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, origin, "{}", request.shown());
            for (name, value) in [
                (
                    "access-control-allow-methods",
                    "POST, GET, OPTIONS, PUT, DELETE",
                ),
                (
                    "access-control-allow-headers",
                    "accept, content-type, authorization",
                ),
            ] {
                assert_eq!(answer.header(name), origin.map(|_| value));
            }
        }
    }
    let refused = get()
        .header("Host", "evil.example")
        .send(pair.ports.1)
        .await;
    let text = refused.text().await;
    assert!(
        text.contains(r#"--host-whitelist "evil.example""#),
        "{text}"
    );
}

#[tokio::test]
async fn http_moves_to_its_own_listeners() {
    let (http, metrics) = (free_port(), free_port());
    let flags = [
        format!("--listen-client-http-urls=http://127.0.0.1:{http}"),
        format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
        "--metrics=extensive".to_owned(),
    ];
    let plan = flags
        .iter()
        .fold(Cluster::plan(), |plan, flag| plan.flag(flag));
    let cluster = plan.start().await;
    // gRPC answers on the client port: the cluster would not have started. HTTP does not.
    let client_port = cluster.members[0].client_port;
    let mut refused = TcpStream::connect(("127.0.0.1", client_port))
        .await
        .expect("the port is listened on");
    let request = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut refused, request)
        .await
        .expect("a fresh connection takes a few bytes");
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut refused, &mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("the connection is closed");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");

    let put = Request::post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
    assert_eq!(put.send(http).await.status, 200);
    assert_eq!(Request::get("/health").send(http).await.status, 200);
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(Request::get(path).send(metrics).await.status, 200, "{path}");
    }
    for path in ["/version", "/v3/kv/range", "/debug/vars"] {
        let answer = Request::post(path, "{}").send(metrics).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    let page = Request::get("/metrics").send(metrics).await.text().await;
    let counted = r#"grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#;
    if Program::under_test() == Program::Sealkv {
        assert!(page.contains(counted), "{page}");
    }
}

#[tokio::test]
async fn without_the_gateway_there_is_no_json() {
    let cluster = Cluster::plan()
        .flag("--enable-grpc-gateway=false")
        .start()
        .await;
    let port = cluster.members[0].client_port;
    let answer = Request::post("/v3/kv/range", "{}").send(port).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.text().await, "404 page not found\n");
    assert_eq!(Request::get("/health").send(port).await.status, 200);
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let at = |index: usize| u32::from(*three.get(index).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

async fn call(port: u16, path: &str, body: Value) -> Value {
    let answer = Request::post(path, body.to_string()).send(port).await;
    let status = answer.status;
    let text = answer.text().await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
}

async fn put(port: u16, key: &str, value: &str) -> Value {
    let body = json!({"key": base64(key), "value": base64(value)});
    call(port, "/v3/kv/put", body).await
}

/// The events of the next line that has some.
async fn events(stream: &mut Answer) -> Vec<Value> {
    loop {
        let line = stream.line().await.expect("the watch goes on");
        if let Some(events) = line["result"]["events"].as_array() {
            return events.clone();
        }
    }
}

/// As APISIX keeps its routes: everything below a prefix is read, then watched from there.
#[tokio::test]
async fn a_prefix_is_read_and_then_watched() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    put(port, "/apisix/routes/1", "one").await;
    put(port, "/apisix/routes/2", "two").await;
    put(port, "/other", "x").await;
    let (key, range_end) = (base64("/apisix/"), base64("/apisix0"));
    let listed = call(
        port,
        "/v3/kv/range",
        json!({"key": key, "range_end": range_end}),
    )
    .await;
    assert_eq!(listed["count"], "2");
    assert_eq!(listed["kvs"][1]["value"], base64("two").as_str());
    let revision: i64 = listed["header"]["revision"]
        .as_str()
        .and_then(|revision| revision.parse().ok())
        .expect("a 64-bit number is a text");
    let create = json!({"create_request": {
        "key": key, "range_end": range_end, "start_revision": revision + 1, "prev_kv": true,
    }});
    let mut watch = Request::post("/v3/watch", create.to_string())
        .send(port)
        .await;
    assert_eq!(watch.header("content-type"), Some("application/json"));
    let created = watch.line().await.expect("the watch is created");
    assert_eq!(created["result"]["created"], true);
    put(port, "/apisix/routes/1", "three").await;
    let told = events(&mut watch).await;
    assert_eq!(told[0]["kv"]["value"], base64("three").as_str());
    assert_eq!(told[0]["prev_kv"]["value"], base64("one").as_str());
    assert!(told[0].get("type").is_none(), "a put is the zero value");
    call(
        port,
        "/v3/kv/deleterange",
        json!({"key": base64("/apisix/routes/2")}),
    )
    .await;
    let told = events(&mut watch).await;
    assert_eq!(told[0]["type"], "DELETE");
    assert!(told[0]["kv"].get("value").is_none());
}

/// As Patroni keeps its leader: a key that exists only as long as its lease is kept alive.
#[tokio::test]
async fn a_leader_key_lives_as_long_as_its_lease_is_renewed() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let leader = base64("/service/batman/leader");
    let granted = call(port, "/v3/lease/grant", json!({"TTL": 30})).await;
    let lease = granted["ID"].as_str().expect("a lease has an id");
    assert_eq!(granted["TTL"], "30");
    let acquire = |name: &str, lease: &str| {
        json!({
            "compare": [{"target": "CREATE", "key": leader, "create_revision": "0"}],
            "success": [{"request_put": {"key": leader, "value": base64(name), "lease": lease}}],
            "failure": [{"request_range": {"key": leader}}],
        })
    };
    let won = call(port, "/v3/kv/txn", acquire("a", lease)).await;
    assert_eq!(won["succeeded"], true);
    let lost = call(port, "/v3/kv/txn", acquire("b", lease)).await;
    assert!(lost.get("succeeded").is_none(), "{lost}");
    let holder = &lost["responses"][0]["response_range"]["kvs"][0];
    assert_eq!(holder["value"], base64("a").as_str());
    assert_eq!(holder["lease"], lease);
    let watch = json!({"create_request": {"key": leader}}).to_string();
    let mut watch = Request::post("/v3/watch", watch).send(port).await;
    watch.line().await.expect("the watch is created");
    let kept = Request::post("/v3/lease/keepalive", json!({"ID": lease}).to_string());
    let mut kept = kept.send(port).await;
    let line = kept.line().await.expect("the lease is renewed");
    assert_eq!(line["result"]["TTL"], "30");
    assert_eq!(
        kept.line().await,
        None,
        "the stream ends with the request's"
    );
    let update = json!({
        "compare": [{"target": "VALUE", "key": leader, "value": base64("a")}],
        "success": [{"request_put": {"key": leader, "value": base64("a2"), "ignore_lease": true}}],
    });
    assert_eq!(call(port, "/v3/kv/txn", update).await["succeeded"], true);
    assert_eq!(events(&mut watch).await[0]["kv"]["lease"], lease);
    call(port, "/v3/kv/lease/revoke", json!({"ID": lease})).await;
    assert_eq!(events(&mut watch).await[0]["type"], "DELETE");
}

/// Pieces of a backup, and at the end what they hash to.
#[tokio::test]
async fn a_snapshot_comes_in_lines() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    put(port, "a", "1").await;
    let mut snapshot = Request::post("/v3/maintenance/snapshot", "{}")
        .send(port)
        .await;
    assert_eq!(snapshot.status, 200);
    let mut last = None;
    while let Some(line) = snapshot.line().await {
        assert!(line.get("error").is_none(), "{line}");
        last = Some(line);
    }
    let last = last.expect("at least one piece");
    assert!(last["result"].get("remaining_bytes").is_none(), "{last}");
    let blob = last["result"]["blob"].as_str().expect("bytes are base64");
    assert_eq!(blob.len(), 44, "the hash");
}

type Socket = WebSocketStream<TcpStream>;

async fn open(port: u16, path: &str, protocol: Option<&str>) -> (Socket, Option<String>) {
    let url = format!("ws://127.0.0.1:{port}{path}");
    let mut request = url.into_client_request().expect("a good url");
    if let Some(protocol) = protocol {
        let protocol = protocol.parse().expect("a good header");
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
    }
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the port is listened on");
    let (socket, response) = tokio_tungstenite::client_async(request, stream)
        .await
        .expect("the handshake is answered");
    let protocol = response.headers().get("Sec-WebSocket-Protocol");
    let protocol = protocol.and_then(|protocol| protocol.to_str().ok());
    (socket, protocol.map(str::to_owned))
}

async fn say(socket: &mut Socket, message: Value) {
    let message = Message::text(message.to_string());
    socket.send(message).await.expect("the server listens");
}

/// The next message; none when the server has closed.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), socket.next());
        match next.await.expect("a message in time") {
            Some(Ok(Message::Text(text))) => {
                return Some(serde_json::from_str(&text).expect("one JSON object"));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) | None => return None,
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_websocket_carries_one_object_a_message() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let (mut socket, protocol) = open(port, "/v3/watch", Some("Bearer, token.1")).await;
    assert_eq!(protocol.as_deref(), Some("Bearer"));
    say(&mut socket, json!({"create_request": {"key": base64("a")}})).await;
    let created = hear(&mut socket).await.expect("an answer");
    assert_eq!(created["result"]["created"], true);
    put(port, "a", "1").await;
    let told = hear(&mut socket).await.expect("the event");
    assert_eq!(
        told["result"]["events"][0]["kv"]["value"],
        base64("1").as_str()
    );
    say(
        &mut socket,
        json!({"create_request": {"key": base64("b"), "watch_id": "9"}}),
    )
    .await;
    let created = hear(&mut socket).await.expect("an answer");
    assert_eq!(created["result"]["watch_id"], "9");
    say(&mut socket, json!({"cancel_request": {"watch_id": "9"}})).await;
    let canceled = hear(&mut socket).await.expect("an answer");
    assert_eq!(canceled["result"]["canceled"], true);
    socket.close(None).await.expect("the server closes too");

    let (mut socket, protocol) = open(port, "/v3/lease/keepalive", None).await;
    assert_eq!(protocol, None);
    call(port, "/v3/lease/grant", json!({"TTL": 60, "ID": 5})).await;
    for id in ["5", "6", "5"] {
        say(&mut socket, json!({"ID": id})).await;
        let kept = hear(&mut socket).await.expect("an answer");
        assert_eq!(kept["result"]["ID"], id);
        assert_eq!(kept["result"].get("TTL").is_some(), id == "5");
    }
}

#[tokio::test]
async fn a_websocket_says_goodbye_and_serves_unary_calls_too() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let (mut socket, _) = open(port, "/v3/watch", None).await;
    socket.close(None).await.expect("a close can be sent");
    while let Some(message) = socket.next().await {
        assert!(matches!(message, Ok(Message::Close(_))), "{message:?}");
    }
    if Program::under_test() == Program::Etcd {
        // It waits for the end of the socket before it reads the request.
        return;
    }
    let (mut socket, _) = open(port, "/v3/kv/range", None).await;
    say(&mut socket, json!({})).await;
    let refused = hear(&mut socket).await.expect("an answer");
    assert_eq!(refused["message"], "etcdserver: key is not provided");
    assert_eq!(hear(&mut socket).await, None);
    let refused = Request::post("/v3/watch", "")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    assert_eq!(refused.send(port).await.status, 405);
}

#[tokio::test]
async fn open_sockets_do_not_hold_up_the_end() {
    let mut cluster = Cluster::single().await;
    let member = &mut cluster.members[0];
    let (mut socket, _) = open(member.client_port, "/v3/watch", None).await;
    say(&mut socket, json!({"create_request": {"key": base64("a")}})).await;
    hear(&mut socket).await.expect("the watch is created");
    let create = json!({"create_request": {"key": base64("a")}}).to_string();
    let mut watch = Request::post("/v3/watch", create)
        .send(member.client_port)
        .await;
    watch.line().await.expect("the watch is created");
    member.terminate().await;
    while hear(&mut socket).await.is_some() {}
}

#[tokio::test]
async fn a_body_without_end_is_refused_and_nothing_of_it_is_logged() {
    let cluster = Cluster::plan().flag("--log-level=debug").start().await;
    let port = cluster.members[0].client_port;
    let endless = vec![b' '; 6_000_000];
    let answer = Request::post("/v3/kv/range", endless).send(port).await;
    assert_eq!(answer.status, 429);
    for (path, body) in [
        (
            "/v3/kv/put",
            r#"{"key":"YQ==","value":"not base64: hunter2"}"#,
        ),
        ("/v3/kv/put", r#"{"key":"YQ==","value":{"hunter2":1}}"#),
        (
            "/v3/auth/authenticate",
            r#"{"name":"root","password":["hunter2"]}"#,
        ),
        ("/v3/watch", r#"{"create_request":{"key":"hunter2!"}}"#),
        ("/v3/watch", "hunter2"),
    ] {
        let request = Request::post(path, body).header("Authorization", "Bearer hunter2");
        let Some(answer) = request.send_within(port, 2 * QUIET).await else {
            continue;
        };
        let text = answer.text().await;
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }
    assert!(!cluster.members[0].log().contains("hunter2"));
    put(port, "a", "still served").await;
}

#[tokio::test]
async fn a_large_answer_is_whole() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let value = "v".repeat(300_000);
    for key in ["l1", "l2", "l3"] {
        put(port, key, &value).await;
    }
    let all = json!({"key": base64("l"), "range_end": base64("m")});
    let listed = call(port, "/v3/kv/range", all).await;
    let kvs = listed["kvs"].as_array().expect("three keys");
    assert_eq!(kvs.len(), 3);
    assert!(kvs.iter().all(|kv| kv["value"] == base64(&value).as_str()));
}

/// A client that speaks nothing else, at work against three members.
#[tokio::test]
async fn etcd3gw_works_against_three_members() {
    let python = binary::interop().join("venv/bin/python");
    let has_client = |python: &std::path::Path| {
        let import = std::process::Command::new(python)
            .args(["-c", "import etcd3gw"])
            .output();
        import.is_ok_and(|output| output.status.success())
    };
    if !has_client(&python) {
        let required = std::env::var_os("SEALKV_REQUIRE_INTEROP").is_some();
        assert!(!required, "etcd3gw is missing: run tests/interop/setup.sh");
        eprintln!("skipped: etcd3gw is missing (tests/interop/setup.sh installs it)");
        return;
    }
    let cluster = Cluster::three().await;
    let mut command = std::process::Command::new(python);
    command
        .arg(binary::workspace().join("tests/interop/python/etcd3gw_scenario.py"))
        .arg("127.0.0.1");
    for member in &cluster.members {
        command.arg(member.client_port.to_string());
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the scenario ends")
        .expect("python can be started");
    let told = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&told)
    );
}
