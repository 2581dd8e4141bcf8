//! The pages beside gRPC on the client port: health, version, metrics.
//!
//! Promise: paths, methods, bodies and codes are etcd's; a healthy answer was earned by a read
//! that went the way of every client's; no request body is ever read.
//! Not known here: raft, storage and keys; a [`Node`] answers for them.

mod health;
mod node;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::any;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics;

pub use node::{AlarmKind, Condition, MemberAlarm, Node};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: (HeaderName, HeaderValue) =
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// All pages of a member.
pub fn pages<N: Node>(node: N) -> Router {
    let (metrics_of, version_of) = (node.clone(), node.clone());
    let version = move |request| {
        let version = version_of.condition().cluster_version;
        version_page(request, version)
    };
    health::routes(node)
        .route("/version", any(version))
        .route("/metrics", any(move || metrics_page(metrics_of.clone())))
        .fallback(not_found)
}

/// Only what a peer port tells everybody.
pub fn peer_pages() -> Router {
    Router::new()
        .route(
            "/version",
            any(|request| version_page(request, ETCD_CLUSTER_VERSION.to_owned())),
        )
        .fallback(not_found)
}

async fn version_page(request: Request, cluster_version: String) -> Response<Body> {
    if request.method() != Method::GET {
        return method_not_allowed();
    }
    let body = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster_version}","storage":"{cluster_version}"}}"#
    );
    answer(
        StatusCode::OK,
        HeaderValue::from_static("application/json"),
        body,
    )
}

async fn metrics_page<N: Node>(node: N) -> Response<Body> {
    node.condition().measure();
    let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
    answer(StatusCode::OK, content_type, metrics::metrics().page())
}

async fn not_found() -> Response<Body> {
    refusal(StatusCode::NOT_FOUND, "404 page not found")
}

fn method_not_allowed() -> Response<Body> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// As Go's `http.Error` writes it.
fn refusal(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = answer(status, PLAIN, format!("{text}\n"));
    let (name, value) = NOSNIFF;
    response.headers_mut().insert(name, value);
    response
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests;
