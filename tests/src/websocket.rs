//! The gateway's streams over a websocket, one JSON object a message.
//!
//! Promise: whatever is waited for has a deadline.
//! Not known here: which server answers.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// How long the next message may take.
const WITHIN: Duration = Duration::from_secs(20);

/// An open websocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The subprotocol that the server has chosen.
    pub protocol: Option<String>,
}

/// What came within a time that somebody would wait.
#[derive(Debug)]
pub enum Heard {
    Said(Value),
    /// The server has closed.
    Closed,
    Nothing,
}

impl Socket {
    /// Opens one at a port of this machine; `protocol` is offered as a subprotocol.
    pub async fn open(port: u16, path: &str, protocol: Option<&str>) -> Self {
        let url = format!("ws://127.0.0.1:{port}{path}");
        let mut request = url.into_client_request().expect("a good url");
        if let Some(protocol) = protocol {
            let protocol = protocol.parse().expect("a good header");
            request
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", protocol);
        }
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("the port is listened on");
        let (stream, response) = tokio_tungstenite::client_async(request, stream)
            .await
            .expect("the handshake is answered");
        let protocol = response.headers().get("Sec-WebSocket-Protocol");
        let protocol = protocol.and_then(|protocol| protocol.to_str().ok());
        Self {
            stream,
            protocol: protocol.map(str::to_owned),
        }
    }

    pub async fn say(&mut self, message: &Value) {
        let message = Message::text(message.to_string());
        self.stream.send(message).await.expect("the server listens");
    }

    /// The next message; none when the server has closed. Fails the test if none comes.
    pub async fn hear(&mut self) -> Option<Value> {
        match self.hear_within(WITHIN).await {
            Heard::Said(message) => Some(message),
            Heard::Closed => None,
            Heard::Nothing => panic!("no message within {WITHIN:?}"),
        }
    }

    /// The next message if one comes within `limit`.
    pub async fn hear_within(&mut self, limit: Duration) -> Heard {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(&text);
                        return Heard::Said(message.expect("one JSON object"));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_)) | None => return Heard::Closed,
                    Some(Err(error)) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(limit, next)
            .await
            .unwrap_or(Heard::Nothing)
    }

    /// Closes it and waits until the server has said nothing more than goodbye.
    pub async fn close(mut self) {
        self.stream.close(None).await.expect("a close can be sent");
        while let Some(message) = self.stream.next().await {
            assert!(matches!(message, Ok(Message::Close(_))), "{message:?}");
        }
    }
}
