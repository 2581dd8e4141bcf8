//! etcd's HTTP/JSON gateway: every service under `/v3/`.
//!
//! Promise: a request is turned into the gRPC call that it stands for and goes that call's way,
//! so that nothing can be reached here that is refused there; its body is bounded; streams are
//! answered line by line, as they come.
//! Not known here: what any method does. Messages are read and written by their descriptions.
//!
//! Source: etcd 3.7.1, `server/embed/serve.go`; grpc-gateway 2.29.

mod answer;
mod call;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod json;
mod metadata;
mod routes;
mod values;
mod websocket;

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::any;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Extensions, HeaderValue, Method, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use crate::shutdown::Shutdown;
use call::{Answers, Call};
use routes::Kind;

pub(super) const PREFIX: &str = "/v3/";
/// Older clients' prefix.
pub(super) const BETA: &str = "/v3beta/";

/// The gateway of a member. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Gateway {
    routes: Routes,
    /// A unary call that takes longer is logged.
    slow_request: Duration,
    /// Of one request as text.
    json_bytes_max: usize,
    /// Of one request as a message.
    message_bytes_max: usize,
    shutdown: Shutdown,
}

impl Gateway {
    /// `message_bytes_max` bounds a gRPC message; its JSON may be twice as long, since base64
    /// takes four bytes for three, and names and numbers their room.
    pub fn new(
        routes: Routes,
        message_bytes_max: usize,
        slow_request: Duration,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            routes: routes.prepare(),
            slow_request,
            json_bytes_max: message_bytes_max.saturating_mul(2),
            message_bytes_max,
            shutdown,
        }
    }

    pub(super) fn router(self) -> Router {
        let mut router = Router::new();
        for prefix in [PREFIX, BETA] {
            let bare = self.clone();
            let below = self.clone();
            router = router
                .route(prefix, any(move |request| bare.clone().serve(request)))
                .route(
                    &format!("{prefix}{{*rest}}"),
                    any(move |request| below.clone().serve(request)),
                );
        }
        router
    }

    async fn serve(self, request: Request) -> Response<Body> {
        let path = request.uri().path();
        let found = match path.strip_prefix(BETA) {
            Some(rest) => routes::find(&format!("{PREFIX}{rest}")),
            None => routes::find(path),
        };
        let Some(method) = found else {
            return answer::failure(&Status::not_found("Not Found"));
        };
        if websocket::is_asked_for(request.headers()) {
            return websocket::upgrade(self, method, request.into_parts().0).await;
        }
        if request.method() != Method::POST || is_overridden(&request) {
            return answer::failure(&Status::unimplemented("Method Not Allowed"));
        }
        let (head, body) = request.into_parts();
        let call = match Call::of(method, &head.headers, peer(&head.extensions)) {
            Ok(call) => call,
            Err(status) => return answer::failure(&status),
        };
        match method.kind {
            Kind::Unary => match self.unary(call, body).await {
                Ok(text) => answer::message(text),
                Err(status) => answer::failure(&status),
            },
            Kind::ServerStream => match self.begin(call, body).await {
                Ok(answers) => stream_of(answers).await,
                Err(status) => answer::failure(&status),
            },
            Kind::Bidirectional => {
                stream_of(call.begin_stream(&self, body.into_data_stream()).await).await
            }
        }
    }

    async fn unary(&self, call: Call, body: Body) -> Result<Bytes, Status> {
        self.begin(call, body).await?.only().await
    }

    async fn begin(&self, call: Call, body: Body) -> Result<Answers, Status> {
        let text = self.whole(body).await?;
        call.begin(self, text).await
    }

    /// The body, if it is not too long.
    async fn whole(&self, body: Body) -> Result<Bytes, Status> {
        match Limited::new(body, self.json_bytes_max).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                let most = self.message_bytes_max;
                let text = format!("grpc: received message larger than max ({most})");
                Err(Status::resource_exhausted(text))
            }
            Err(_) => Err(Status::invalid_argument("unexpected EOF")),
        }
    }
}

/// Nothing is answered before the first line is known: until then an error has its own code.
async fn stream_of(mut answers: Answers) -> Response<Body> {
    match answers.next().await {
        None => answer::empty_stream(),
        Some(Err(status)) => answer::stream_failure(&status),
        Some(Ok(text)) => {
            let first = answers.line(&text);
            let lines = futures::stream::iter([first]).chain(answers.into_lines());
            answer::stream(Body::from_stream(lines.map(Ok::<_, Infallible>)))
        }
    }
}

/// A form may ask for another method than the one it was sent with, and every route has but one.
fn is_overridden(request: &Request) -> bool {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let form: &[u8] = b"application/x-www-form-urlencoded";
    let method = header("x-http-method-override").unwrap_or_default();
    header("content-type") == Some(form)
        && !method.is_empty()
        && !method.eq_ignore_ascii_case(b"POST")
}

/// Who sent the request. What a client certificate says is left behind: the gateway calls in
/// nobody's name but the token's.
fn peer(extensions: &Extensions) -> Option<TcpConnectInfo> {
    extensions.get::<TcpConnectInfo>().cloned()
}
