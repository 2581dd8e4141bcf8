//! A way to a connection's bytes for the fuzz targets.

use std::time::Duration;

use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncReadExt as _;

use super::deadline;
use super::opening::{self, Protocol};
use super::pings::{Counted, OpenStreams};

/// Reads the bytes as a connection's: whatever they are, what is read behind the opening is what
/// was sent, unless the client is sent away.
pub fn connection(bytes: &[u8]) {
    let read = async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let Ok(Some((protocol, stream))) = opening::read(stream).await else {
            assert!(bytes.is_empty());
            return;
        };
        let pings = matches!(protocol, Protocol::Http2).then_some(Duration::from_secs(5));
        let mut stream = Counted::new(stream, pings, OpenStreams::default());
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            assert_eq!(all, bytes);
        } else {
            assert_eq!(protocol, Protocol::Http2, "only pings are counted");
        }
    };
    read.now_or_never().expect("all of it is here");
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value);
        let _ = deadline::of(&headers);
    }
}
