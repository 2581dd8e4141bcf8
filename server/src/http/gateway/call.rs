//! One call that came as JSON: its request made, its answers written.
//!
//! Promise: a call goes the way of every gRPC call, through the same door and the same bounds.
//! Not known here: HTTP and websockets.

use std::net::SocketAddr;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, stream};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request};
use tokio::time::Instant;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use super::frames::{Messages, framed};
use super::routes::Method;
use super::values::Values;
use super::{Gateway, answer, json, metadata};
use crate::serve::{self, Answer, SendGuards};

/// From here on writing a message as JSON leaves the thread that serves the connection.
const INLINE_BYTES: usize = 256 * 1024;

/// What a call takes from the request that asks for it.
pub(super) struct Call {
    pub(super) method: &'static Method,
    metadata: HeaderMap,
    peer: Option<TcpConnectInfo>,
    deadline: Option<Instant>,
}

impl Call {
    pub(super) fn of(
        method: &'static Method,
        headers: &HeaderMap,
        peer: Option<TcpConnectInfo>,
    ) -> Result<Self, Status> {
        let remote: Option<SocketAddr> = peer.as_ref().and_then(TcpConnectInfo::remote_addr);
        let timeout = metadata::timeout(headers)?;
        Ok(Self {
            method,
            metadata: metadata::of(headers, remote)?,
            peer,
            // A deadline past what the clock can hold is none.
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        })
    }

    /// One request, whose whole text is here.
    pub(super) async fn begin(self, gateway: &Gateway, text: Bytes) -> Result<Answers, Status> {
        let message = read(self.method, text).await?;
        Ok(self.send(gateway, Body::from(message)).await)
    }

    /// A stream of requests, one after the other in a body. The first that is none ends it, as if
    /// the client had ended it there.
    pub(super) async fn begin_stream<S, E>(self, gateway: &Gateway, chunks: S) -> Answers
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    {
        let method = self.method;
        let values = Values::new(chunks, gateway.json_bytes_max);
        let requests = stream::unfold(values, move |mut values| async move {
            let text = match values.next().await? {
                Ok(text) => text,
                Err(error) => {
                    tracing::debug!(%error, path = method.path, "failed to decode request");
                    return None;
                }
            };
            match read(method, text).await {
                Ok(message) => Some((Ok::<_, std::convert::Infallible>(message), values)),
                Err(status) => {
                    let error = status.message();
                    tracing::debug!(error, path = method.path, "failed to decode request");
                    None
                }
            }
        });
        self.send(gateway, Body::from_stream(requests)).await
    }

    async fn send(self, gateway: &Gateway, body: Body) -> Answers {
        let mut request = Request::new(body);
        *request.method_mut() = HttpMethod::POST;
        *request.uri_mut() = http::Uri::from_static(self.method.path);
        *request.headers_mut() = self.metadata;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let routes: Routes = gateway.routes.clone();
        let calling = serve::call(routes, gateway.slow_request, request);
        let mut guards = None;
        let messages = match within(self.deadline, calling).await {
            Some(mut response) => {
                guards = response.extensions_mut().remove();
                Ok(Messages::of(response))
            }
            None => Err(deadline_exceeded()),
        };
        Answers {
            method: self.method,
            deadline: self.deadline,
            messages: messages.map(Some),
            guards: guards.unwrap_or_default(),
        }
    }
}

/// What a call is answered with.
pub(super) struct Answers {
    method: &'static Method,
    deadline: Option<Instant>,
    /// None once it has ended; an error has still to be told.
    messages: Result<Option<Messages<Answer>>, Status>,
    guards: SendGuards,
}

impl Answers {
    /// The next answer as JSON; none after the last and after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<u8>, Status>> {
        let messages = match &mut self.messages {
            Ok(messages) => messages.as_mut()?,
            Err(status) => {
                let status = status.clone();
                self.messages = Ok(None);
                return Some(Err(status));
            }
        };
        let next = match within(self.deadline, messages.next()).await {
            Some(next) => next,
            None => Some(Err(deadline_exceeded())),
        };
        let written = match next {
            Some(Ok(message)) => Some(write(self.method, message).await),
            Some(Err(status)) => Some(Err(status)),
            None => None,
        };
        if !matches!(written, Some(Ok(_))) {
            self.messages = Ok(None);
        }
        written
    }

    /// The one answer of a unary call.
    pub(super) async fn only(mut self) -> Result<Bytes, Status> {
        let answer = self.next().await;
        let answer = answer.unwrap_or_else(|| Err(Status::internal("no answer")))?;
        match self.next().await {
            Some(Err(status)) => Err(status),
            _ => Ok(self.guards.attach(answer.into())),
        }
    }

    /// Every answer on a line of its own, an error on the last.
    pub(super) fn into_lines(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut answers| async {
            let line = answers.next_line().await?;
            Some((line, answers))
        })
    }

    pub(super) async fn next_line(&mut self) -> Option<Bytes> {
        Some(match self.next().await? {
            Ok(text) => self.line(&text),
            Err(status) => answer::failure_line(&status),
        })
    }

    /// An answer on a line of its own.
    pub(super) fn line(&self, text: &[u8]) -> Bytes {
        self.guards.attach(answer::line(text))
    }
}

async fn read(method: &'static Method, text: Bytes) -> Result<Bytes, Status> {
    let bytes = text.len();
    let decode = move || {
        let message = json::decode(&method.request, &text)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        framed(&message).ok_or_else(|| Status::resource_exhausted("message is too large"))
    };
    aside(bytes, decode).await?
}

async fn write(method: &'static Method, message: Bytes) -> Result<Vec<u8>, Status> {
    let bytes = message.len();
    let encode = move || {
        json::encode(&method.response, message).map_err(|error| Status::internal(error.to_string()))
    };
    aside(bytes, encode).await?
}

/// Here for what is small, on a thread for long work otherwise.
async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if bytes <= INLINE_BYTES {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::unavailable("etcdserver: server stopped"))
}

/// `None` when the deadline came first.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        // Not even begun if it is too late already.
        Some(deadline) if Instant::now() >= deadline => None,
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}
