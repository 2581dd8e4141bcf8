//! What a client is told that calls what is not there: gRPC's words in Go, where tonic has none.
//!
//! Source: grpc-go, `handleStream` in `server.go`.

use axum::body::Body;
use axum::response::Response;
use http::Uri;
use tonic::{Code, Status};

use super::unknown_method;

/// The service and the method of a call's path.
fn parts(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

/// Nothing is served under this service's name.
pub(super) async fn service(uri: Uri) -> Response {
    let status = match parts(uri.path()) {
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        None => Status::unimplemented(format!("malformed method name: {:?}", uri.path())),
    };
    status.into_http::<Body>()
}

/// The service is served and has no such method: what generated code answers is without words.
pub(super) fn reword(path: &str, response: &mut Response) {
    let headers = response.headers();
    let unimplemented = headers
        .get(Status::GRPC_STATUS)
        .is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unimplemented);
    if !unimplemented || headers.contains_key(Status::GRPC_MESSAGE) {
        return;
    }
    if let Some((service, method)) = parts(path) {
        // Fails only for a text that no header can hold; then there are none as before.
        let _ = unknown_method(method, service).add_header(response.headers_mut());
    }
}
