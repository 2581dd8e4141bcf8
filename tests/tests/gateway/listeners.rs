//! Where HTTP is served, and to whom.

use std::time::Duration;

use tests::cluster::{Cluster, Program, free_port};
use tests::http::Request;
use tokio::net::TcpStream;

use super::side_by_side::Pair;

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
