//! Connections: accepted in one place, served on one single-threaded runtime per core.
//!
//! Promise: a connection that fails, stalls or lies costs only itself; HTTP/1.1 and HTTP/2 share
//! a port, told apart by their first bytes, which have a deadline; at shutdown requests in flight
//! may finish until the drain ends, and nothing is served after that.
//! Not known here: what the services do. TLS.

mod answer;
mod deadline;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guards;
mod handshakes;
mod listener;
mod opening;
mod pings;
mod room;
mod workers;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower_service::Service as _;

use crate::config::Keepalive;
use crate::metrics::metrics;
use crate::shutdown::Shutdown;
pub use crate::tls::TlsClient;
use crate::tls::{HandshakeError, Reason, Secured, ServerTls, take_leave};

pub use answer::Answer;
use answer::{Asked, Ending};
pub use guards::SendGuards;
use handshakes::Handshakes;
pub use listener::{Accepted, ListenError, Listener, Security, listen};
use opening::{Opened, Protocol};
use pings::{Counted, OpenStreams};
pub use room::{clients_max, raise_file_limit};
pub use workers::Workers;

/// Streams that a client resets before they were looked at. A burst of cancelled calls is
/// normal; more than this in one read is an attack on the accept queue.
const RESET_STREAMS_PENDING_MAX: usize = 512;
const RESET_STREAMS_OURS_MAX: usize = 1024;
/// What a client may send ahead of those who read it, on one stream and on all of a connection.
/// h2 closes a connection with more small DATA frames unread than half its window stands for, at 256
/// bytes each: here 131,000 of them. Thousands of calls or keep-alives at once are no attack, and
/// a stream of real messages that nobody reads fills its own window first.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
const HEADER_LIST_BYTES_MAX: u32 = 1024 * 1024;
const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Between failed accepts, so that running out of file descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port answers: gRPC by its content type, everything else from the pages.
#[derive(Debug, Clone)]
pub struct Services {
    grpc: Option<Routes>,
    pages: Option<axum::Router>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub concurrent_streams_max: u32,
    /// Of one listener at once.
    pub connections_max: usize,
    pub keepalive: Keepalive,
    /// The least time between a client's pings; none if they are not counted.
    pub ping_interval_min: Option<Duration>,
    /// Until a new connection has shown which protocol it speaks.
    pub opening_timeout: Duration,
    /// For a TLS handshake, its first byte included.
    pub handshake_timeout: Duration,
    /// How many of them a listener has under way.
    pub handshakes_max: usize,
    /// For the head of an HTTP/1.1 request.
    pub header_timeout: Duration,
    /// A unary call that takes longer is logged.
    pub slow_request: Duration,
    /// What requests in flight get at shutdown.
    pub drain: Duration,
}

/// For the log: who was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Client,
    Peer,
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no request within {}s", .0.as_secs())]
    Silent(Duration),
    #[error("no TLS handshake within {}s", .0.as_secs())]
    SlowHandshake(Duration),
    #[error("made room for newer clients: {0} TLS handshakes were under way")]
    CrowdedOut(usize),
    /// Go's words.
    #[error("tls: first record does not look like a TLS handshake")]
    NotTls,
    #[error("a TLS handshake on a listener without TLS")]
    Tls,
    #[error("{0}")]
    Handshake(HandshakeError),
    #[error("HTTP/1.1 on a port that serves gRPC alone")]
    NotGrpc,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(Box<dyn std::error::Error + Send + Sync>),
}

impl Limits {
    pub fn new(concurrent_streams_max: u32, keepalive: Keepalive) -> Self {
        Self {
            concurrent_streams_max,
            connections_max: Semaphore::MAX_PERMITS,
            keepalive,
            ping_interval_min: None,
            opening_timeout: Duration::from_secs(30),
            // As etcd.
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 512,
            header_timeout: Duration::from_secs(60),
            slow_request: Duration::MAX,
            drain: Duration::from_millis(700),
        }
    }

    pub fn with_ping_interval_min(self, interval: Duration) -> Self {
        Self {
            ping_interval_min: Some(interval),
            ..self
        }
    }

    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self {
            connections_max,
            ..self
        }
    }

    pub fn with_slow_request(self, slow_request: Duration) -> Self {
        Self {
            slow_request,
            ..self
        }
    }
}

impl Services {
    pub fn new(grpc: Routes, pages: axum::Router) -> Self {
        Self::some(Some(grpc), Some(pages))
    }

    /// For a port that speaks HTTP/2 and nothing but gRPC.
    pub fn grpc_alone(grpc: Routes) -> Self {
        Self::some(Some(grpc), None)
    }

    pub fn pages_alone(pages: axum::Router) -> Self {
        Self::some(None, Some(pages))
    }

    fn some(grpc: Option<Routes>, pages: Option<axum::Router>) -> Self {
        // Both set themselves up once here instead of at every clone.
        Self {
            grpc: grpc.map(Routes::prepare),
            pages: pages.map(|pages| pages.with_state(())),
        }
    }

    async fn answer(
        self,
        mut request: http::Request<Incoming>,
        who: Who,
        slow: Duration,
        open: OpenStreams,
    ) -> Result<http::Response<Answer>, std::convert::Infallible> {
        if let Some(address) = who.address {
            request.extensions_mut().insert(address);
        }
        if who.over_tls {
            request.extensions_mut().insert(OverTls);
        }
        if let Some(client) = who.client {
            request.extensions_mut().insert(client);
        }
        let open = open.open();
        let mut answer = match (self.grpc, self.pages) {
            (Some(grpc), _) if is_grpc(&request) => call(grpc, slow, request).await,
            (_, Some(mut pages)) => pages.call(request).await?.map(Answer::page),
            (_, None) => not_grpc().map(Answer::page),
        };
        let guards = answer.extensions_mut().remove();
        Ok(answer.map(|answer| answer.sent_with(open, guards)))
    }

    fn has_pages(&self) -> bool {
        self.pages.is_some()
    }
}

/// A gRPC call, counted, given up at its deadline, and logged if it is slow. Who sends the answer
/// finds the `SendGuards` that go with it among its extensions.
pub async fn call<B>(
    mut grpc: Routes,
    slow: Duration,
    request: http::Request<B>,
) -> http::Response<Answer>
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let call = metrics().call(request.uri().path());
    let mut ending = Ending::of(call, request.headers(), slow);
    let deadline = match deadline::of(request.headers()) {
        Ok(timeout) => timeout.map(|timeout| Instant::now() + timeout),
        Err(status) => return Answer::refusal(status, ending),
    };
    let request = request.map(|body| Asked::new(body, call));
    let answered = grpc.call(request);
    let Ok(response) = match deadline {
        None => answered.await,
        Some(at) => match tokio::time::timeout_at(at, answered).await {
            Ok(answered) => answered,
            Err(_) => return Answer::refusal(deadline::exceeded(), ending),
        },
    };
    ending.see(response.headers());
    response.map(|body| Answer::grpc(body, ending, deadline))
}

/// On a port that serves gRPC alone.
fn not_grpc() -> http::Response<axum::body::Body> {
    let mut response = http::Response::new(axum::body::Body::empty());
    *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

fn is_grpc(request: &http::Request<Incoming>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    // Over HTTP/1.1 it is a page's affair, whatever it calls itself.
    request.version() == http::Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Accepts until shutdown begins, then drains; returns when no connection is left.
pub async fn run(
    endpoint: Endpoint,
    listener: Listener,
    services: Services,
    workers: &Workers,
    limits: Limits,
    shutdown: Shutdown,
) {
    let connections = TaskTracker::new();
    let handshakes = Handshakes::at_most(limits.handshakes_max);
    let cut = CancellationToken::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            accepted = accept => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, listener = %listener.url(), "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            endpoint,
            security: listener.security().clone(),
            handshakes: handshakes.clone(),
            services: services.clone(),
            limits,
            shutdown: shutdown.clone(),
            cut: cut.clone(),
        };
        workers.spawn(connections.track_future(async move {
            let _place = place;
            connection.serve(accepted).await;
        }));
    }
    // From here on new clients are refused by the operating system.
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        cut.cancel();
        connections.wait().await;
    }
}

/// Told to what answers a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct OverTls;

/// What every request of a connection is told of its client.
#[derive(Clone)]
struct Who {
    address: Option<TcpConnectInfo>,
    over_tls: bool,
    client: Option<TlsClient>,
}

impl Who {
    fn plain(address: Option<TcpConnectInfo>) -> Self {
        Self {
            address,
            over_tls: false,
            client: None,
        }
    }
}

struct Connection {
    endpoint: Endpoint,
    security: Security,
    handshakes: Handshakes,
    services: Services,
    limits: Limits,
    shutdown: Shutdown,
    cut: CancellationToken,
}

impl Connection {
    async fn serve(self, accepted: Accepted) {
        let remote = accepted.remote();
        let cut = self.cut.clone();
        let (endpoint, shutdown) = (self.endpoint, self.shutdown.clone());
        let served = tokio::select! {
            served = self.serve_accepted(accepted) => served,
            () = cut.cancelled() => return,
        };
        match served {
            Ok(()) => {}
            Err(error) if shutdown.is_begun() => {
                tracing::debug!(%error, remote_addr = %remote, "connection ended");
            }
            Err(
                ConnectionError::Io(error)
                | ConnectionError::Handshake(HandshakeError {
                    reason: Reason::Io(error),
                    ..
                }),
            ) => {
                tracing::debug!(%error, remote_addr = %remote, "connection ended");
            }
            Err(error) => reject(endpoint, &remote, &error),
        }
    }

    async fn serve_accepted(self, accepted: Accepted) -> Result<(), ConnectionError> {
        let remote = accepted.remote_ip();
        match accepted {
            Accepted::Tcp {
                stream,
                local,
                remote: address,
            } => {
                let stream = tokio::net::TcpStream::from_std(stream)?;
                stream.set_nodelay(true)?;
                let address = Some(connect_info(local, address));
                self.serve_stream(stream, remote, address).await
            }
            Accepted::Unix { stream } => {
                let stream = tokio::net::UnixStream::from_std(stream)?;
                self.serve_stream(stream, remote, None).await
            }
        }
    }

    async fn serve_stream<S>(
        self,
        stream: S,
        remote: Option<IpAddr>,
        address: Option<TcpConnectInfo>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (tls, plain) = match self.security.clone() {
            Security::Plain => (None, true),
            Security::Tls(tls) => (Some(tls), false),
            Security::Either(tls) => (Some(tls), true),
        };
        let Some(tls) = tls else {
            return match self.open(stream).await? {
                None => Ok(()),
                Some((Protocol::Tls, stream)) => {
                    take_leave(stream).await;
                    Err(ConnectionError::Tls)
                }
                Some((protocol, stream)) => {
                    self.serve_http(protocol, stream, Who::plain(address)).await
                }
            };
        };
        // Its own allocation, which is gone when the handshake is done.
        match Box::pin(self.handshake(&tls, stream, remote)).await? {
            Handshaken::Gone => Ok(()),
            Handshaken::Plain(protocol, stream) if plain => {
                self.serve_http(protocol, stream, Who::plain(address)).await
            }
            Handshaken::Plain(_, stream) => {
                take_leave(stream).await;
                Err(ConnectionError::NotTls)
            }
            Handshaken::Secured(secured) => {
                let Secured { stream, client } = *secured;
                // What ALPN agreed on is not always what follows, and old clients have no ALPN.
                match self.open(stream).await? {
                    None => Ok(()),
                    Some((protocol, stream)) => {
                        let who = Who {
                            address,
                            over_tls: true,
                            client,
                        };
                        self.serve_http(protocol, stream, who).await
                    }
                }
            }
        }
    }

    /// `None`: a probe of the port, or a client that changed its mind; or shutdown has begun.
    async fn open<S>(&self, stream: S) -> Result<Option<(Protocol, Opened<S>)>, ConnectionError>
    where
        S: AsyncRead + Unpin,
    {
        let limit = self.limits.opening_timeout;
        tokio::select! {
            opened = tokio::time::timeout(limit, opening::read(stream)) => {
                Ok(opened.map_err(|_| ConnectionError::Silent(limit))??)
            }
            () = self.shutdown.begun() => Ok(None),
        }
    }

    async fn handshake<S>(
        &self,
        tls: &ServerTls,
        stream: S,
        remote: Option<IpAddr>,
    ) -> Result<Handshaken<S>, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let turn = self.handshakes.begin();
        let limit = self.limits.handshake_timeout;
        let handshake = async {
            let Some((protocol, stream)) = opening::read(stream).await? else {
                return Ok(Handshaken::Gone);
            };
            if protocol != Protocol::Tls {
                return Ok(Handshaken::Plain(protocol, stream));
            }
            let secured = tls.accept(stream, remote).await;
            secured
                .map(|secured| Handshaken::Secured(Box::new(secured)))
                .map_err(ConnectionError::Handshake)
        };
        tokio::select! {
            done = tokio::time::timeout(limit, handshake) => {
                done.map_err(|_| ConnectionError::SlowHandshake(limit))?
            }
            () = turn.gives_way() => {
                Err(ConnectionError::CrowdedOut(self.limits.handshakes_max))
            }
            () = self.shutdown.begun() => Ok(Handshaken::Gone),
        }
    }

    /// Boxed, so that an idle connection takes no more than its own kind of stream needs.
    fn serve_http<S>(
        self,
        protocol: Protocol,
        stream: S,
        who: Who,
    ) -> Pin<Box<dyn Future<Output = Result<(), ConnectionError>> + Send>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Box::pin(self.serve_requests(protocol, stream, who))
    }

    async fn serve_requests<S>(
        self,
        protocol: Protocol,
        stream: S,
        who: Who,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if protocol == Protocol::Http1 && !self.services.has_pages() {
            return Err(ConnectionError::NotGrpc);
        }
        let builder = builder(protocol, &self.limits);
        let (services, slow) = (self.services, self.limits.slow_request);
        let open = OpenStreams::default();
        let pings = self.limits.ping_interval_min;
        let pings = pings.filter(|_| matches!(protocol, Protocol::Http2));
        let stream = Counted::new(stream, pings, open.clone());
        let answer = service_fn(move |request| {
            services
                .clone()
                .answer(request, who.clone(), slow, open.clone())
        });
        let mut serving =
            std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.shutdown.begun() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        ended.map_err(sort_error)
    }
}

/// What came of a listener's wish for TLS.
enum Handshaken<S> {
    Gone,
    Plain(Protocol, Opened<S>),
    Secured(Box<Secured<Opened<S>>>),
}

/// A client that goes away without goodbye is no news; a protocol error is.
fn sort_error(error: Box<dyn std::error::Error + Send + Sync>) -> ConnectionError {
    let of_hyper = error.downcast_ref::<hyper::Error>();
    let went_away = of_hyper.is_some_and(|e| {
        e.is_incomplete_message() || e.is_canceled() || e.is_closed() || e.is_timeout()
    });
    let io_below = std::error::Error::source(error.as_ref())
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(|io| io.kind());
    match (went_away, io_below) {
        (_, Some(kind)) => ConnectionError::Io(kind.into()),
        (true, None) => ConnectionError::Io(io::ErrorKind::ConnectionReset.into()),
        (false, None) => ConnectionError::Protocol(error),
    }
}

fn reject(endpoint: Endpoint, remote: &str, error: &ConnectionError) {
    let server_name = match error {
        ConnectionError::Handshake(error) => error.server_name.as_deref().unwrap_or_default(),
        _ => "",
    };
    match endpoint {
        Endpoint::Client => tracing::warn!(
            remote_addr = remote,
            server_name,
            %error,
            "rejected connection on client endpoint"
        ),
        Endpoint::Peer => tracing::warn!(
            remote_addr = remote,
            server_name,
            %error,
            "rejected connection on peer endpoint"
        ),
    }
}

fn connect_info(local: SocketAddr, remote: SocketAddr) -> TcpConnectInfo {
    TcpConnectInfo {
        local_addr: Some(local),
        remote_addr: Some(remote),
    }
}

fn builder(protocol: Protocol, limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    match protocol {
        // TLS has been opened by now; what is no HTTP/2 is told so in HTTP/1.1.
        Protocol::Tls | Protocol::Http1 => {
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
            builder.http1_only()
        }
        Protocol::Http2 => {
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.concurrent_streams_max)
                .max_pending_accept_reset_streams(RESET_STREAMS_PENDING_MAX)
                .max_local_error_reset_streams(RESET_STREAMS_OURS_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(HEADER_LIST_BYTES_MAX)
                .keep_alive_interval(limits.keepalive.interval)
                .keep_alive_timeout(limits.keepalive.timeout);
            builder.http2_only()
        }
    }
}

#[cfg(test)]
mod tests;
