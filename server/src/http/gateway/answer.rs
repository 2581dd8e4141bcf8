//! How calls end in HTTP: bodies, codes, headers.
//!
//! Promise: etcd's code for each gRPC code; an error's body is its code and text alone.
//!
//! Source: grpc-gateway 2.29, `runtime/errors.go` and `runtime/handler.go`.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use tonic::{Code, Status};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The gateway passes on what it was answered with, and this is all that there is.
const GRPC_CONTENT: (HeaderName, HeaderValue) = (
    HeaderName::from_static("grpc-metadata-content-type"),
    HeaderValue::from_static("application/grpc"),
);
/// Between the answers of a stream.
const DELIMITER: &[u8] = b"\n";

/// As `google.rpc.Status`, zero values left out.
#[derive(Serialize)]
struct Failure<'a> {
    #[serde(skip_serializing_if = "is_ok")]
    code: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

fn is_ok(code: &i32) -> bool {
    *code == 0
}

/// One answer.
pub(super) fn message(text: Bytes) -> Response<Body> {
    with_json(StatusCode::OK, true, text)
}

/// The end of a call that failed before it gave an answer.
pub(super) fn failure(status: &Status) -> Response<Body> {
    let mut response = with_json(http_code(status.code()), false, failure_text(status));
    if status.code() == Code::Unauthenticated
        && let Ok(text) = HeaderValue::try_from(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, text);
    }
    response
}

/// A stream whose first line is known.
pub(super) fn stream(lines: Body) -> Response<Body> {
    with_json(StatusCode::OK, true, lines)
}

/// A stream that ended before it gave an answer.
pub(super) fn empty_stream() -> Response<Body> {
    Response::new(Body::empty())
}

/// A stream that failed before it gave an answer.
pub(super) fn stream_failure(status: &Status) -> Response<Body> {
    with_json(http_code(status.code()), true, failure_line(status))
}

/// A line of a stream.
pub(super) fn line(text: &[u8]) -> Bytes {
    [b"{\"result\":", text, b"}", DELIMITER].concat().into()
}

/// The last line of a stream that failed.
pub(super) fn failure_line(status: &Status) -> Bytes {
    let body = failure_text(status);
    [b"{\"error\":", &body[..], b"}", DELIMITER].concat().into()
}

/// The body of a failure.
pub(super) fn failure_text(status: &Status) -> Vec<u8> {
    let failure = Failure {
        code: status.code().into(),
        message: status.message(),
    };
    serde_json::to_vec(&failure).expect("a number and a text are JSON")
}

fn with_json(code: StatusCode, called: bool, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if called {
        let (name, value) = GRPC_CONTENT;
        headers.insert(name, value);
    }
    response
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request", of nginx.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_its_code_and_text() {
        let status = Status::invalid_argument("etcdserver: key is not provided");
        assert_eq!(failure(&status).status(), 400);
        assert_eq!(
            failure_line(&status),
            "{\"error\":{\"code\":3,\"message\":\"etcdserver: key is not provided\"}}\n"
        );
        assert_eq!(failure(&Status::cancelled("")).status(), 499);
    }

    #[test]
    fn who_is_not_known_is_told_so_in_the_header_too() {
        let response = failure(&Status::unauthenticated("etcdserver: invalid auth token"));
        assert_eq!(response.status(), 401);
        let header = &response.headers()[WWW_AUTHENTICATE];
        assert_eq!(header, "etcdserver: invalid auth token");
    }
}
