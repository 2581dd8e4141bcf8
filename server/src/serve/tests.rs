//! Real connections to a served port.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::MemberUrl;

struct Served {
    address: Option<SocketAddr>,
    shutdown: Shutdown,
    ended: JoinHandle<()>,
    /// Told when a request for `/never` has arrived.
    stuck: Arc<Notify>,
}

impl Served {
    async fn stop(self) {
        self.shutdown.begin();
        self.ended.await.unwrap();
    }

    fn url(&self) -> String {
        format!("http://{}", self.address.unwrap())
    }

    async fn client(&self) -> HealthClient<Channel> {
        let endpoint = Channel::from_shared(self.url()).unwrap();
        HealthClient::new(endpoint.connect().await.unwrap())
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.unwrap()).await.unwrap()
    }
}

fn limits() -> Limits {
    let keepalive = Keepalive {
        interval: None,
        timeout: Duration::from_secs(20),
    };
    Limits::new(u32::MAX, keepalive)
}

async fn serve(url: &str, limits: Limits) -> Served {
    let listener = listen(&MemberUrl::parse(url).unwrap(), false).unwrap();
    let address = listener.local_address();
    let shutdown = Shutdown::new();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let stuck = Arc::new(Notify::new());
    let arrived = stuck.clone();
    let never = move || {
        arrived.notify_one();
        std::future::pending::<&'static str>()
    };
    let pages = axum::Router::new()
        .route("/page", get(|| async { "a page\n" }))
        .route("/never", get(never));
    let services = Services::new(Routes::new(health), pages);
    let until = shutdown.clone();
    let ended = tokio::spawn(async move {
        let workers = Workers::start(2).unwrap();
        run(
            Endpoint::Client,
            listener,
            services,
            &workers,
            limits,
            until,
        )
        .await;
        tokio::task::spawn_blocking(move || drop(workers))
            .await
            .unwrap();
    });
    Served {
        address,
        shutdown,
        ended,
        stuck,
    }
}

async fn all_of(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

const GET_PAGE: &[u8] = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn grpc_and_pages_share_a_port() {
    let served = serve("http://127.0.0.1:0", limits()).await;
    let mut client = served.client().await;
    client
        .check(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap();
    let unknown = HealthCheckRequest {
        service: "nothing".into(),
    };
    assert_eq!(
        client.check(unknown).await.unwrap_err().code(),
        tonic::Code::NotFound
    );

    let mut page = served.connect().await;
    page.write_all(GET_PAGE).await.unwrap();
    let answer = all_of(page).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("a page\n"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_too_and_takes_its_file_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let url = format!("unix://{}", path.display());
    let served = serve(&url, limits()).await;
    let mut page = UnixStream::connect(&path).await.unwrap();
    page.write_all(GET_PAGE).await.unwrap();
    assert!(all_of(page).await.ends_with("a page\n"));
    served.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let url = MemberUrl::parse(&format!("unix://{}", path.display())).unwrap();
    assert!(listen(&url, false).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    assert!(Path::new(&path).exists());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let served = serve("http://127.0.0.1:0", limits()).await;
    let url = MemberUrl::parse(&served.url()).unwrap();
    let error = listen(&url, false).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {url}: Address already in use")));
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let opening_timeout = Duration::from_millis(50);
    let served = serve(
        "http://127.0.0.1:0",
        Limits {
            opening_timeout,
            ..limits()
        },
    )
    .await;
    let mut silent = served.connect().await;
    // Half a preface is no more than silence.
    silent.write_all(b"PRI * HTTP").await.unwrap();
    assert_eq!(all_of(silent).await, "");
    served.stop().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_let_go() {
    let header_timeout = Duration::from_millis(50);
    let served = serve(
        "http://127.0.0.1:0",
        Limits {
            header_timeout,
            ..limits()
        },
    )
    .await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /page HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let answer = all_of(slow).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn nonsense_costs_only_its_own_connection() {
    let served = serve("http://127.0.0.1:0", limits()).await;
    let mut nonsense = served.connect().await;
    nonsense
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        .await
        .unwrap();
    let _ = nonsense.read_to_end(&mut Vec::new()).await;
    let mut page = served.connect().await;
    page.write_all(GET_PAGE).await.unwrap();
    assert!(all_of(page).await.ends_with("a page\n"));
    served.stop().await;
}

#[tokio::test]
async fn shutdown_ends_idle_connections_at_once_and_stuck_requests_after_the_drain() {
    let drain = Duration::from_millis(50);
    let served = serve("http://127.0.0.1:0", Limits { drain, ..limits() }).await;
    let idle = served.client().await;
    let mut stuck = served.connect().await;
    stuck
        .write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    served.stuck.notified().await;
    let address = served.address.unwrap();
    served.stop().await;
    assert_eq!(all_of(stuck).await, "");
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_burst_of_connections_is_served_by_all_workers() {
    let served = serve("http://127.0.0.1:0", limits()).await;
    let calls = (0..50).map(|_| async {
        let mut client = served.client().await;
        client
            .check(HealthCheckRequest {
                service: String::new(),
            })
            .await
            .unwrap();
    });
    futures::future::join_all(calls).await;
    served.stop().await;
}
