//! What the gateway refuses, and what it tells of it.

use tests::cluster::Cluster;
use tests::http::Request;

use super::asking::put;
use super::side_by_side::{Pair, QUIET};

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
        range(r#"{"key":"YQ="}"#),
        range(r#"{"key":["YQ=="]}"#),
        range("\n {\n\"x\":{\"ä\":[1]}, \"limit\":\"01\"}"),
        range(r#"{"key":"Zm9v","sort_order":true}"#),
        range(r#"{"range_end":"YQ==","rangeEnd":"YQ=="}"#),
        range("{\"key\":\"a\nb\"}"),
        range(r#"{"key":"a\q"}"#),
        range(r#"{"key" "a"}"#),
        range("{'key':1}"),
        range(r#"{"limit":01}"#),
        range(r#"{"limit":1.x}"#),
        range(r#""text""#),
        range("ÿ"),
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
        Request::post("/v3/kv/txn", r#"{"compare":{}}"#),
        Request::post("/v3/kv/txn", r#"{"compare":[null]}"#),
        Request::post("/v3/kv/txn", r#"{"success":[{"requestPut":"text"}]}"#),
        Request::post("/v3/cluster/member/add", r#"{"peerURLs":"text"}"#),
        Request::post("/v3/cluster/member/add", r#"{"peerURLs":[1]}"#),
        Request::get("/v3/kv/range"),
        Request::new("PUT", "/v3/kv/range"),
        Request::new("DELETE", "/v3/kv/range"),
        Request::post("/v3/none", "{}"),
        Request::post("/v3/kv/range/", "{}"),
        Request::post("/v3/kv/rangestream", "{}"),
        Request::get("/v3/"),
        Request::get("/v3"),
        Request::get("//v3/kv/range?a=b&c"),
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
