//! `/debug/pprof/`: where the processor's time goes, for `go tool pprof`.
//!
//! Promise: paths, bodies and codes are those of Go's `net/http/pprof`; what Go's runtime knows and
//! this one does not answers 501 and says so. Stacks are names of functions and threads; no page
//! holds a key, a value or a password.
//! Not known here: who may ask.
//!
//! Source: Go 1.26, `net/http/pprof/pprof.go`; etcd 3.7.1, `pkg/debugutil/pprof.go`.

mod cpu;
mod profile;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::routing::any;
use http::header::CONTENT_DISPOSITION;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::variables::command_line;
use super::{NOSNIFF, PLAIN, answer, refusal};
use cpu::CpuError;

/// By which Go's tool knows that a refusal is to be shown.
const GO_PPROF: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-go-pprof"),
    HeaderValue::from_static("1"),
);
const SECONDS_DEFAULT: u64 = 30;
/// Samples wait in a file and in memory until the end.
const SECONDS_MAX: u64 = 300;

/// Go's other profiles, and why there is none.
const UNSERVED: [(&str, &str); 7] = [
    ("allocs", "the allocator keeps no record of allocations"),
    (
        "heap",
        "the allocator keeps no record of allocations; see process_resident_memory_bytes in /metrics",
    ),
    ("block", "waiting is not recorded"),
    ("mutex", "contention is not recorded"),
    ("goroutine", "there are no goroutines"),
    (
        "threadcreate",
        "the origin of threads is not recorded; see process_threads in /metrics",
    ),
    (
        "trace",
        "there is no execution tracer; see --enable-distributed-tracing",
    ),
];

pub(super) fn routes() -> Router {
    let named = |Path(name): Path<String>| async move { unserved(&name) };
    Router::new()
        .route(
            "/debug/pprof",
            any(|method| async move { to_index(&method) }),
        )
        .route("/debug/pprof/", any(|| async { index() }))
        .route("/debug/pprof/cmdline", any(|| async { cmdline() }))
        .route("/debug/pprof/profile", any(cpu_profile))
        .route("/debug/pprof/symbol", any(|| async { symbol() }))
        .route("/debug/pprof/{*name}", any(named))
}

fn to_index(method: &Method) -> Response<Body> {
    super::front_door::redirect(method, "/debug/pprof/")
}

fn index() -> Response<Body> {
    let mut page = String::from(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<p>\n\
         <a href=\"profile\">profile</a>: where the processor's time goes. The seconds parameter \
         says for how long (30 by default); read it with go tool pprof.<br>\n\
         <a href=\"cmdline\">cmdline</a>: the command line of this process.<br>\n\
         <a href=\"symbol\">symbol</a>: none; profiles hold the names of functions.\n</p>\n\
         <p>\nGo's other profiles are not here:<br>\n",
    );
    for (name, why) in UNSERVED {
        page.push_str(&format!("{name}: {why}<br>\n"));
    }
    page.push_str("</p>\n</body>\n</html>\n");
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    safe(answer(StatusCode::OK, html, page))
}

fn cmdline() -> Response<Body> {
    safe(answer(StatusCode::OK, PLAIN, command_line().join("\0")))
}

/// Go's tool asks only whether the number is 0.
fn symbol() -> Response<Body> {
    safe(answer(StatusCode::OK, PLAIN, "num_symbols: 0\n"))
}

fn unserved(name: &str) -> Response<Body> {
    match UNSERVED.iter().find(|(known, _)| *known == name) {
        Some((_, why)) => complain(StatusCode::NOT_IMPLEMENTED, &format!("No {name}: {why}")),
        None => complain(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

async fn cpu_profile(request: Request) -> Response<Body> {
    let seconds = match seconds(request.uri().query().unwrap_or_default()) {
        seconds if seconds > SECONDS_MAX => {
            let text = format!("seconds must be at most {SECONDS_MAX}");
            return complain(StatusCode::BAD_REQUEST, &text);
        }
        seconds => Duration::from_secs(seconds),
    };
    match cpu::sample(seconds).await {
        Ok(profile) => {
            let bytes = HeaderValue::from_static("application/octet-stream");
            let mut response = safe(answer(StatusCode::OK, bytes, profile));
            let file = HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, file);
            response
        }
        Err(error @ (CpuError::InUse | CpuError::Profiler(_) | CpuError::Write(_))) => complain(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("Could not enable CPU profiling: {error}"),
        ),
    }
}

/// What cannot be read, or is not more than 0, is Go's default.
fn seconds(query: &str) -> u64 {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let given = pairs.find_map(|(name, value)| (name == "seconds").then_some(value));
    given
        .and_then(|text| text.parse().ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(SECONDS_DEFAULT)
}

fn complain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = refusal(status, text);
    let (name, value) = GO_PPROF;
    response.headers_mut().insert(name, value);
    response
}

fn safe(mut response: Response<Body>) -> Response<Body> {
    let (name, value) = NOSNIFF;
    response.headers_mut().insert(name, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_gos_default_unless_they_can_be_read() {
        assert_eq!(seconds("seconds=2"), 2);
        assert_eq!(seconds("debug=1&seconds=7"), 7);
        for none in [
            "",
            "seconds",
            "seconds=",
            "seconds=x",
            "seconds=-1",
            "seconds=0",
        ] {
            assert_eq!(seconds(none), SECONDS_DEFAULT, "{none}");
        }
    }
}
