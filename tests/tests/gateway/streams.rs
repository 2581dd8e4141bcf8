//! Answers that come in lines, and large ones.

use serde_json::json;
use tests::cluster::Cluster;
use tests::http::Request;

use super::asking::{base64, call, events, put};

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
