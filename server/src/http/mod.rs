//! HTTP beside gRPC on the client port: the JSON gateway, and the pages for health, version and
//! metrics; profiles if they are asked for.
//!
//! Promise: paths, methods, bodies and codes are etcd's; a healthy answer was earned by a read
//! that went the way of every client's; no page but the gateway's reads a request body.
//! Not known here: raft, storage and keys; a [`Node`] answers for them.

mod front_door;
mod gateway;
mod health;
mod node;
mod pprof;
mod variables;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::any;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics;

pub use front_door::FrontDoor;
pub use gateway::Gateway;
#[cfg(feature = "fuzzing")]
pub use gateway::fuzzing;
pub use node::{AlarmKind, Cluster, Condition, ListedMember, MemberAlarm, Node};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: (HeaderName, HeaderValue) =
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// Everything on a client port but gRPC; without a gateway, `/v3/` is not there, and without
/// `profiles` no `/debug/pprof/`.
pub fn client_pages<N: Node>(
    node: N,
    gateway: Option<Gateway>,
    profiles: bool,
    door: FrontDoor,
) -> Router {
    let (variables_of, version_of) = (node.clone(), node.clone());
    let (door_of, with_gateway) = (node.clone(), gateway.is_some());
    let variables = move |method| variables::page(variables_of.clone(), method);
    let version = move |request| {
        let version = version_of.condition().cluster_version;
        version_page(request, version)
    };
    let mut router = observed(node)
        .route("/version", any(version))
        .route("/debug/vars", any(variables));
    if let Some(gateway) = gateway {
        router = router.merge(gateway.router());
    }
    if profiles {
        router = router.merge(pprof::routes());
    }
    door.before(router.fallback(not_found), door_of, with_gateway)
}

/// What a port of `--listen-metrics-urls` tells.
pub fn metrics_pages<N: Node>(node: N) -> Router {
    observed(node).fallback(not_found)
}

fn observed<N: Node>(node: N) -> Router {
    let metrics_of = node.clone();
    health::routes(node).route("/metrics", any(move || metrics_page(metrics_of.clone())))
}

/// What a peer port tells everybody: the version, and who the members are.
pub fn peer_pages<C: Cluster>(cluster: C) -> Router {
    Router::new()
        .route(
            "/version",
            any(|request| version_page(request, ETCD_CLUSTER_VERSION.to_owned())),
        )
        .route(
            "/members",
            any(move |request| members(cluster.clone(), request)),
        )
        .fallback(not_found)
}

async fn members<C: Cluster>(cluster: C, request: Request) -> Response<Body> {
    if request.method() != Method::GET {
        return method_not_allowed();
    }
    let (cluster_id, members) = (cluster.id(), cluster.members());
    let body = serde_json::to_string(&members).unwrap_or_default() + "\n";
    let json = HeaderValue::from_static("application/json");
    let mut response = answer(StatusCode::OK, json, body);
    if let Ok(id) = HeaderValue::from_str(&format!("{cluster_id:x}")) {
        let name = HeaderName::from_static("x-etcd-cluster-id");
        response.headers_mut().insert(name, id);
    }
    response
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
