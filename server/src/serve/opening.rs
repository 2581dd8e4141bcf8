//! The first bytes of a connection: they tell TLS, HTTP/2 and HTTP/1.1 apart.
//!
//! Promise: whatever was read is handed on with the stream, and not one byte more is read than
//! it takes to tell.
//! Not known here: deadlines.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The type of the record that begins a handshake: RFC 8446, 5.1.
const HANDSHAKE: u8 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tls,
    Http1,
    Http2,
}

/// A stream whose first bytes have been read already.
#[derive(Debug)]
pub(super) struct Opened<S> {
    bytes: [u8; PREFACE.len()],
    given: usize,
    read: usize,
    stream: S,
}

/// `None` when the client went away before it said anything.
pub(super) async fn read<S>(mut stream: S) -> io::Result<Option<(Protocol, Opened<S>)>>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = [0; PREFACE.len()];
    let mut read = 0;
    while read < bytes.len() && bytes[..read] == PREFACE[..read] {
        match stream.read(&mut bytes[read..]).await? {
            0 if read == 0 => return Ok(None),
            0 => break,
            more => read += more,
        }
    }
    let protocol = if bytes == *PREFACE {
        Protocol::Http2
    } else if bytes[0] == HANDSHAKE {
        Protocol::Tls
    } else {
        Protocol::Http1
    };
    Ok(Some((
        protocol,
        Opened {
            bytes,
            given: 0,
            read,
            stream,
        },
    )))
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.bytes[this.given..this.read];
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let taken = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..taken]);
        this.given += taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    async fn opened(pieces: &[&[u8]]) -> Option<(Protocol, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(64);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|p| p.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
            }
        });
        let (protocol, mut stream) = read(server).await.unwrap()?;
        writer.await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        Some((protocol, all))
    }

    #[tokio::test]
    async fn all_protocols_are_told_apart_and_lose_no_byte() {
        let (protocol, all) = opened(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nrest"])
            .await
            .unwrap();
        assert_eq!((protocol, all.len()), (Protocol::Http2, 28));
        let (protocol, all) = opened(&[b"GET / HTTP/1.1\r\n\r\n"]).await.unwrap();
        assert_eq!(
            (protocol, all.as_slice()),
            (Protocol::Http1, &b"GET / HTTP/1.1\r\n\r\n"[..])
        );
        let (protocol, all) = opened(&[b"PRI"]).await.unwrap();
        assert_eq!((protocol, all.as_slice()), (Protocol::Http1, &b"PRI"[..]));
        let (protocol, all) = opened(&[b"\x16\x03\x01"]).await.unwrap();
        assert_eq!((protocol, all.len()), (Protocol::Tls, 3));
        assert!(opened(&[]).await.is_none());
    }
}
