//! Streams over websockets.

use serde_json::json;
use tests::cluster::{Cluster, Program};
use tests::http::Request;
use tests::websocket::Socket;

use super::asking::{base64, call, put};

#[tokio::test]
async fn a_websocket_carries_one_object_a_message() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let mut socket = Socket::open(port, "/v3/watch", Some("Bearer, token.1")).await;
    assert_eq!(socket.protocol.as_deref(), Some("Bearer"));
    socket
        .say(&json!({"create_request": {"key": base64("a")}}))
        .await;
    let created = socket.hear().await.expect("an answer");
    assert_eq!(created["result"]["created"], true);
    put(port, "a", "1").await;
    let told = socket.hear().await.expect("the event");
    assert_eq!(
        told["result"]["events"][0]["kv"]["value"],
        base64("1").as_str()
    );
    socket
        .say(&json!({"create_request": {"key": base64("b"), "watch_id": "9"}}))
        .await;
    let created = socket.hear().await.expect("an answer");
    assert_eq!(created["result"]["watch_id"], "9");
    socket
        .say(&json!({"cancel_request": {"watch_id": "9"}}))
        .await;
    let canceled = socket.hear().await.expect("an answer");
    assert_eq!(canceled["result"]["canceled"], true);
    socket.close().await;

    let mut socket = Socket::open(port, "/v3/lease/keepalive", None).await;
    assert_eq!(socket.protocol, None);
    call(port, "/v3/lease/grant", json!({"TTL": 60, "ID": 5})).await;
    for id in ["5", "6", "5"] {
        socket.say(&json!({"ID": id})).await;
        let kept = socket.hear().await.expect("an answer");
        assert_eq!(kept["result"]["ID"], id);
        assert_eq!(kept["result"].get("TTL").is_some(), id == "5");
    }
}

#[tokio::test]
async fn a_websocket_says_goodbye_and_serves_unary_calls_too() {
    let cluster = Cluster::single().await;
    let port = cluster.members[0].client_port;
    let socket = Socket::open(port, "/v3/watch", None).await;
    socket.close().await;
    if Program::under_test() == Program::Etcd {
        // It waits for the end of the socket before it reads the request.
        return;
    }
    let mut socket = Socket::open(port, "/v3/kv/range", None).await;
    socket.say(&json!({})).await;
    let refused = socket.hear().await.expect("an answer");
    assert_eq!(refused["message"], "etcdserver: key is not provided");
    assert_eq!(socket.hear().await, None);
    let refused = Request::post("/v3/watch", "")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    assert_eq!(refused.send(port).await.status, 405);
}

#[tokio::test]
async fn open_sockets_do_not_hold_up_the_end() {
    let mut cluster = Cluster::single().await;
    let member = &mut cluster.members[0];
    let mut socket = Socket::open(member.client_port, "/v3/watch", None).await;
    socket
        .say(&json!({"create_request": {"key": base64("a")}}))
        .await;
    socket.hear().await.expect("the watch is created");
    let create = json!({"create_request": {"key": base64("a")}}).to_string();
    let mut watch = Request::post("/v3/watch", create)
        .send(member.client_port)
        .await;
    watch.line().await.expect("the watch is created");
    member.terminate().await;
    while socket.hear().await.is_some() {}
}
