//! The gateway's streams over a websocket: one JSON object a message, both ways.
//!
//! Promise: a socket ends with its call, and its call with the socket.
//!
//! Source: grpc-websocket-proxy, as etcd 3.7.1 sets it up. Unlike there, a cookie is no token: a
//! browser would send it along for every page that asks, whoever wrote the page.

use std::convert::Infallible;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, CONNECTION, ORIGIN, REFERER, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::call::{Answers, Call};
use super::routes::{self, Kind};
use super::{Gateway, answer, peer};
use axum::body::Body;

/// The subprotocol behind which a token follows.
const BEARER: &str = "Bearer";
/// Messages of the client that wait for the call.
const WAITING_MAX: usize = 16;
const CLOSE_GOING_AWAY: u16 = 1001;

/// Whether a request asks for a websocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut tokens = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// Answers the handshake; the call begins when it is done.
pub(super) async fn upgrade(
    gateway: Gateway,
    method: &'static routes::Method,
    mut head: Parts,
) -> Response<Body> {
    if head.method != Method::GET {
        let text = "Method Not Allowed";
        return crate::http::refusal(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    let peer = peer(&head.extensions);
    let call = Call::of(method, &forwarded(&head.headers), peer);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut head, &()).await;
    let mut upgrade = match upgrade {
        Ok(upgrade) => upgrade
            .max_message_size(gateway.json_bytes_max)
            .max_frame_size(gateway.json_bytes_max),
        Err(_) => return crate::http::refusal(StatusCode::BAD_REQUEST, "Bad Request"),
    };
    let protocol = upgrade
        .requested_protocols()
        .find(|protocol| is_bearer(protocol))
        .cloned();
    if let Some(protocol) = protocol {
        upgrade.set_selected_protocol(protocol);
    }
    let call = match call {
        Ok(call) => call,
        Err(status) => return answer::failure(&status),
    };
    upgrade.on_upgrade(move |socket| serve(gateway, call, socket))
}

fn is_bearer(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(BEARER.as_bytes())
}

/// The headers that count: where the page came from, and the token.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for name in [ORIGIN, REFERER] {
        if let Some(value) = headers.get(&name) {
            forwarded.insert(name, value.clone());
        }
    }
    if let Some(token) = token(headers) {
        forwarded.insert(AUTHORIZATION, token);
    }
    forwarded
}

/// From `Sec-WebSocket-Protocol: Bearer, TOKEN`: a page cannot set any other header.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let (scheme, token) = protocols.split_once(',')?;
    if !scheme.trim().eq_ignore_ascii_case(BEARER) {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("{BEARER} {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn serve(gateway: Gateway, call: Call, socket: WebSocket) {
    let (mut sink, source) = socket.split();
    let (into_call, requests) = mpsc::channel(WAITING_MAX);
    let end = gateway.shutdown.clone();
    tokio::select! {
        () = receive(source, into_call) => {}
        () = answer_all(&gateway, call, requests, &mut sink) => {}
        () = end.begun() => {}
    }
    // A client that has gone away needs no goodbye.
    if end.is_begun() {
        let away = CloseFrame {
            code: CLOSE_GOING_AWAY,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(away))).await;
    }
    // Says goodbye, or answers the client's.
    let _ = sink.close().await;
}

/// Until the client closes.
async fn receive(
    mut source: SplitStream<WebSocket>,
    into_call: mpsc::Sender<Result<Bytes, Infallible>>,
) {
    while let Some(Ok(message)) = source.next().await {
        let text = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if into_call.send(Ok(text)).await.is_err() {
            // The call takes no more; its answers may still come.
            std::future::pending::<()>().await;
        }
    }
}

/// Until the call ends or the client does not listen.
async fn answer_all(
    gateway: &Gateway,
    call: Call,
    mut requests: mpsc::Receiver<Result<Bytes, Infallible>>,
    sink: &mut SplitSink<WebSocket, Message>,
) {
    let mut answers: Answers = match call.method.kind {
        Kind::Bidirectional => {
            let chunks = ReceiverStream::new(requests);
            call.begin_stream(gateway, chunks).await
        }
        kind => {
            let Some(Ok(text)) = requests.recv().await else {
                return;
            };
            let begun = call.begin(gateway, text).await;
            if kind == Kind::Unary {
                let text = match begun {
                    Ok(answers) => answers.only().await,
                    Err(status) => Err(status),
                };
                let text = text.unwrap_or_else(|status| answer::failure_text(&status).into());
                let _ = send(sink, &text).await;
                return;
            }
            match begun {
                Ok(answers) => answers,
                Err(status) => {
                    let _ = send(sink, &answer::failure_line(&status)).await;
                    return;
                }
            }
        }
    };
    while let Some(line) = answers.next_line().await {
        if send(sink, &line).await.is_err() {
            return;
        }
    }
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, line: &[u8]) -> Result<(), axum::Error> {
    let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
    sink.send(Message::Text(text.into())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_token_follows_its_scheme() {
        let token = |value| token(&headers(SEC_WEBSOCKET_PROTOCOL, value));
        assert_eq!(token("Bearer, abc.1").unwrap(), "Bearer abc.1");
        assert_eq!(token("bearer,abc.1").unwrap(), "Bearer abc.1");
        assert!(token("graphql, abc").is_none());
        assert!(token("Bearer").is_none());
    }

    #[test]
    fn no_cookie_and_no_plain_header_passes() {
        let forwarded = forwarded(&HeaderMap::from_iter([
            (http::header::COOKIE, HeaderValue::from_static("token=t")),
            (AUTHORIZATION, HeaderValue::from_static("t")),
            (ORIGIN, HeaderValue::from_static("https://a")),
        ]));
        assert_eq!(forwarded.len(), 1);
        assert_eq!(forwarded[ORIGIN], "https://a");
    }
}
