//! `/health`, `/livez` and `/readyz`.
//!
//! Promise: bodies and codes are etcd's to the byte; checks of one page run in a fixed order.
//! Not known here: why a read failed.

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::{Method, Response, StatusCode, Uri};

use super::node::{AlarmKind, Node};
use super::{NOSNIFF, PLAIN, answer, method_not_allowed, refusal};
use crate::metrics::metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    /// Ours: a member that cannot open sealed values must not be sent clients.
    RootKey,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
    Check::RootKey,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
            Self::RootKey => "root_key",
        }
    }

    async fn run(self, node: &impl Node) -> Result<(), String> {
        let holds = |holds: bool, otherwise: &str| holds.then_some(()).ok_or(otherwise.to_owned());
        match self {
            Self::DataCorruption => {
                let alarms = node.condition().alarms;
                let corrupt = alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                holds(!corrupt, "alarm activated: CORRUPT")
            }
            Self::SerializableRead => node.read(false).await.map_err(|error| error.to_string()),
            Self::LinearizableRead => node.read(true).await.map_err(|error| error.to_string()),
            Self::NonLearner => holds(!node.condition().is_learner, "not supported for learner"),
            Self::RootKey => holds(node.condition().root_opened, "root key is not open"),
        }
    }
}

pub(super) fn routes<N: Node>(node: N) -> Router {
    let of = node.clone();
    let mut router = Router::new().route(
        "/health",
        any(move |method, uri| health(of.clone(), method, uri)),
    );
    for (page, checks) in [("livez", LIVEZ), ("readyz", READYZ)] {
        let of = node.clone();
        let all = move |method: Method, uri: Uri| {
            let excluded = query(&uri, "exclude");
            let wanted = move |check: &Check| !excluded.iter().any(|name| name == check.name());
            let checks = checks.iter().copied().filter(wanted).collect();
            run_checks(of.clone(), page, checks, method, uri)
        };
        router = router.route(&format!("/{page}"), any(all));
        for &check in checks {
            let of = node.clone();
            let one = move |method, uri| run_checks(of.clone(), page, vec![check], method, uri);
            router = router.route(&format!("/{page}/{}", check.name()), any(one));
        }
    }
    router
}

async fn health<N: Node>(node: N, method: Method, uri: Uri) -> Response<Body> {
    if method != Method::GET {
        tracing::warn!(status_code = 405, "/health error");
        return method_not_allowed();
    }
    match ill(&node, &uri).await {
        None => {
            metrics().health_successes.inc();
            answer(StatusCode::OK, PLAIN, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            metrics().health_failures.inc();
            let body = serde_json::json!({ "health": "false", "reason": reason }).to_string();
            tracing::warn!(output = body, status_code = 503, "/health error");
            refusal(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// The first reason found, in etcd's order.
async fn ill<N: Node>(node: &N, uri: &Uri) -> Option<String> {
    let excluded = query(uri, "exclude");
    // Go's Get: the first of several.
    let serializable = query(uri, "serializable")
        .first()
        .is_some_and(|v| v == "true");
    let condition = node.condition();
    let mut alarms = condition.alarms.iter().map(|alarm| alarm.kind.name());
    if let Some(alarm) = alarms.find(|name| !excluded.iter().any(|e| e == name)) {
        return Some(format!("ALARM {alarm}"));
    }
    if !serializable && !condition.has_leader {
        return Some("RAFT NO LEADER".to_owned());
    }
    if !condition.root_opened {
        return Some("ROOT KEY NOT OPEN".to_owned());
    }
    node.read(!serializable)
        .await
        .err()
        .map(|error| format!("RANGE ERROR:{error}"))
}

async fn run_checks<N: Node>(
    node: N,
    page: &'static str,
    checks: Vec<Check>,
    method: Method,
    uri: Uri,
) -> Response<Body> {
    if method != Method::GET {
        return method_not_allowed();
    }
    let mut report = String::new();
    let mut failed = false;
    for check in checks {
        let name = check.name();
        let result = check.run(&node).await;
        let status = if result.is_ok() { "success" } else { "error" };
        metrics()
            .health_check
            .with_label_values(&[page, name])
            .set(i64::from(result.is_ok()));
        metrics()
            .health_checks
            .with_label_values(&[page, name, status])
            .inc();
        match result {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                report.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    if failed {
        tracing::warn!(
            path = page,
            reason = report,
            status_code = 503,
            "Health check error"
        );
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &report);
    }
    let mut body = if has_query(&uri, "verbose") {
        report
    } else {
        String::new()
    };
    body.push_str("ok\n");
    let mut response = answer(StatusCode::OK, PLAIN, body);
    let (name, value) = NOSNIFF;
    response.headers_mut().insert(name, value);
    response
}

/// Every value of a query parameter, decoded.
fn query(uri: &Uri, wanted: &str) -> Vec<String> {
    pairs(uri)
        .filter(|(name, _)| name == wanted)
        .map(|(_, value)| value)
        .collect()
}

fn has_query(uri: &Uri, wanted: &str) -> bool {
    pairs(uri).any(|(name, _)| name == wanted)
}

fn pairs(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decoded(name)?, percent_decoded(value)?))
        })
}

/// `None` for what is no encoding; Go drops such pairs.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
