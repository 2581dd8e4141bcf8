//! What every request to a client port passes before it is routed: the host list, CORS, and the
//! preflight of browsers.
//!
//! Promise: a host that is not on the list is told nothing but that; the host of a request over
//! TLS does not matter, since no page can be made to present another's certificate. Who shows a
//! certificate with a name to the gateway while authentication is on is told that it counts for nothing.
//!
//! Source: etcd 3.7.1, `server/embed/serve.go`, `accessController`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_TYPE, HOST, LOCATION, ORIGIN,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::gateway::{BETA, PREFIX};
use super::{Node, refusal};
use crate::config::AllowList;
use crate::serve::{OverTls, TlsClient};

const NAME_IGNORED: &str = "CommonName of client sending a request against gateway will be \
                            ignored and not used as expected";

/// Who may ask, as far as a browser tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontDoor {
    /// `--cors`
    pub origins: AllowList,
    /// `--host-whitelist`
    pub hosts: AllowList,
}

impl FrontDoor {
    /// `with_gateway`: whether the JSON gateway is among what the router serves.
    pub(super) fn before<N: Node>(self, router: Router, node: N, with_gateway: bool) -> Router {
        let guard = Guard {
            door: self,
            node,
            with_gateway,
        };
        router.layer(from_fn_with_state(guard, pass))
    }

    /// The origin that a browser is told may read the answer.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.allows_all() {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(ORIGIN)?;
        let allowed = self.origins.allows(origin.to_str().ok()?);
        allowed.then(|| origin.clone())
    }
}

#[derive(Clone)]
struct Guard<N> {
    door: FrontDoor,
    node: N,
    with_gateway: bool,
}

impl<N: Node> Guard<N> {
    /// Whether somebody might think that a certificate's name is who the gateway asks as.
    fn is_misled(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let named = || {
            let client = request.extensions().get::<TlsClient>();
            let name = client.and_then(|client| client.common_name.as_deref());
            name.is_some_and(|name| !name.is_empty())
        };
        self.with_gateway
            && (path.starts_with(PREFIX) || path.starts_with(BETA))
            && named()
            && self.node.asks_for_names()
    }
}

async fn pass<N: Node>(
    State(guard): State<Guard<N>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if guard.is_misled(&request) {
        return refusal(StatusCode::BAD_REQUEST, NAME_IGNORED);
    }
    let door = guard.door;
    let host = host(&request);
    let over_tls = request.extensions().get::<OverTls>().is_some();
    if !over_tls && !door.hosts.allows(&host) {
        tracing::warn!(
            host,
            "rejecting HTTP request to prevent DNS rebinding attacks"
        );
        return refusal(StatusCode::MISDIRECTED_REQUEST, &misdirected(&host));
    }
    let origin = door.allowed_origin(request.headers());
    let mut response = if request.method() == Method::OPTIONS {
        Response::default()
    } else if let Some(target) = clean(&request) {
        redirect(request.method(), &target)
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

/// Without its port.
fn host(request: &Request) -> String {
    let named = request.uri().authority().map(Authority::as_str);
    let header = request.headers().get(HOST);
    let whole = named
        .or_else(|| header.and_then(|value| value.to_str().ok()))
        .unwrap_or_default();
    without_port(whole).to_owned()
}

/// `HOST:PORT` and `[HOST]:PORT` lose their port; anything else is taken as it stands.
fn without_port(whole: &str) -> &str {
    match whole.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') && host.ends_with(']') => &host[1..host.len() - 1],
        Some((host, _)) if !host.contains([':', '[', ']']) => host,
        _ => whole,
    }
}

fn misdirected(host: &str) -> String {
    format!(
        "
sealkv received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. sealkv --host-whitelist {host:?}

This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).
"
    )
}

/// Where a path with empty or dotted elements really points, as Go's server redirects it.
fn clean(request: &Request) -> Option<String> {
    let path = request.uri().path();
    let dotted = |part: &str| part.is_empty() || part == "." || part == "..";
    let inner = path.strip_prefix('/')?;
    let bare_gateway = path == "/v3";
    if !bare_gateway
        && !inner.trim_end_matches('/').split('/').any(dotted)
        && !inner.ends_with("//")
    {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in inner.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut target = format!("/{}", parts.join("/"));
    if (path.ends_with('/') || bare_gateway) && target != "/" {
        target.push('/');
    }
    if target == path {
        return None;
    }
    if let Some(query) = request.uri().query() {
        target.push('?');
        target.push_str(query);
    }
    Some(target)
}

/// Whoever reads it finds the way too, as Go's server shows it.
pub(super) fn redirect(method: &Method, target: &str) -> Response<Body> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(target) = HeaderValue::try_from(target) {
        response.headers_mut().insert(LOCATION, target);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
    }
    if *method == Method::GET {
        let target = html_escaped(target);
        let body = format!("<a href=\"{target}\">Temporary Redirect</a>.\n\n");
        *response.body_mut() = Body::from(body);
    }
    response
}

fn html_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Told;
    use axum::routing::any;
    use tower_service::Service as _;

    fn door(origins: &str, hosts: &str) -> FrontDoor {
        FrontDoor {
            origins: AllowList::parse(origins),
            hosts: AllowList::parse(hosts),
        }
    }

    async fn ask(door: FrontDoor, method: Method, path: &str, host: &str) -> Response<Body> {
        let page = Router::new()
            .route("/v3/kv/range", any(|| async { "page" }))
            .route("/", any(|| async { "root" }));
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(ORIGIN, "https://a:1")
            .body(Body::empty())
            .unwrap();
        let mut behind = door.before(page, Told::default(), true);
        behind.call(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_certificates_name_counts_for_nothing_at_the_gateway_and_is_told_so() {
        let ask = |asks_for_names, path: &'static str, name: &str| {
            let node = Told {
                asks_for_names,
                ..Told::default()
            };
            let client = TlsClient {
                common_name: Some(name.to_owned()),
            };
            let page = Router::new().fallback(any(|| async { "page" }));
            let mut behind = door("*", "*").before(page, node, true);
            let request = http::Request::builder().uri(path).extension(client);
            let request = request.body(Body::empty()).unwrap();
            async move { behind.call(request).await.unwrap().status() }
        };
        assert_eq!(ask(true, "/v3/kv/range", "alice").await, 400);
        assert_eq!(ask(true, "/v3beta/kv/range", "alice").await, 400);
        assert_eq!(ask(true, "/v3/kv/range", "").await, 200);
        assert_eq!(ask(true, "/health", "alice").await, 200);
        assert_eq!(ask(false, "/v3/kv/range", "alice").await, 200);
    }

    fn allowed(response: &Response<Body>) -> Option<&str> {
        let origin = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
        origin.map(|origin| origin.to_str().unwrap())
    }

    #[tokio::test]
    async fn only_listed_hosts_are_served() {
        let ask = |hosts: &'static str, host: &'static str| async move {
            let door = door("*", hosts);
            ask(door, Method::GET, "/v3/kv/range", host).await.status()
        };
        assert_eq!(ask("*", "evil.example").await, 200);
        assert_eq!(ask("", "evil.example").await, 200);
        assert_eq!(ask("localhost,[::1]", "evil.example").await, 421);
        assert_eq!(ask("localhost", "localhost:2379").await, 200);
        assert_eq!(ask("::1", "[::1]:2379").await, 200);
        assert_eq!(ask("localhost", "localhost.evil:2379").await, 421);
        assert_eq!(ask("localhost", "").await, 421);
    }

    #[tokio::test]
    async fn origins_are_told_that_they_may_and_preflights_go_no_further() {
        let any = ask(door("*", "*"), Method::OPTIONS, "/none", "h").await;
        assert_eq!((any.status().as_u16(), allowed(&any)), (200, Some("*")));
        let listed = door("https://a:1,https://b:2", "*");
        let told = ask(listed, Method::GET, "/v3/kv/range", "h").await;
        assert_eq!(allowed(&told), Some("https://a:1"));
        let other = ask(door("https://b:2", "*"), Method::GET, "/v3/kv/range", "h").await;
        assert_eq!((other.status().as_u16(), allowed(&other)), (200, None));
    }

    #[tokio::test]
    async fn crooked_paths_are_redirected_to_straight_ones() {
        for (path, target) in [
            ("//v3/kv/range", "/v3/kv/range"),
            ("/v3/kv/../kv/range?a=b", "/v3/kv/range?a=b"),
            ("/v3/./kv//", "/v3/kv/"),
            ("/v3", "/v3/"),
            ("/..", "/"),
        ] {
            let response = ask(door("*", "*"), Method::POST, path, "h").await;
            assert_eq!(response.status(), 307, "{path}");
            assert_eq!(response.headers()[LOCATION], target);
        }
        let shown = ask(door("*", "*"), Method::GET, "//v3/?a=b&c", "h").await;
        assert_eq!(shown.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let body = axum::body::to_bytes(shown.into_body(), 1_000)
            .await
            .unwrap();
        assert_eq!(
            body,
            "<a href=\"/v3/?a=b&amp;c\">Temporary Redirect</a>.\n\n"
        );
        let root = ask(door("*", "*"), Method::GET, "/", "h").await;
        assert_eq!(root.status(), 200);
    }
}
