//! Clients that ping more often than they may are sent away, as grpc-go does it.
//!
//! Promise: reads frames' heads as they pass, in both directions, and changes nothing; a client
//! that has used up its strikes is told so with GOAWAY and reads the end of the connection.
//! Not known here: what the frames carry.
//!
//! hyper answers pings by itself and tells nobody, so they are counted in the bytes.
//! Source: grpc-go, `handlePing` in `internal/transport/http2_server.go`; RFC 9113, 4.1.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEAD_BYTES: usize = 9;
const PREFACE_BYTES: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;
/// Of GOAWAY: ENHANCE_YOUR_CALM.
const CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";
/// Pings in bad manners that are forgiven in a row.
const STRIKES_MAX: u32 = 2;
/// The least time between pings of a client that has nothing open.
const IDLE_INTERVAL_MIN: Duration = Duration::from_secs(2 * 60 * 60);

/// Streams that are open on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenStreams(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
pub(super) struct OpenStream(OpenStreams);

impl OpenStreams {
    pub(super) fn open(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose pings are counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    incoming: Frames,
    outgoing: Frames,
    manners: Manners,
    /// The highest number of a stream that the client has opened.
    stream_last: u32,
    sent_away: bool,
}

/// How often a client has pinged out of turn.
#[derive(Debug)]
struct Manners {
    /// None: pings are not counted.
    interval_min: Option<Duration>,
    open: OpenStreams,
    last: Option<Instant>,
    strikes: u32,
    /// Something was sent to the client since its last ping: it may well ping.
    answered: bool,
}

impl Manners {
    /// False when it is enough.
    fn ping(&mut self, now: Instant) -> bool {
        let Some(interval_min) = self.interval_min else {
            return true;
        };
        let last = self.last.replace(now);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return true;
        }
        let least = if self.open.any() {
            interval_min
        } else {
            IDLE_INTERVAL_MIN
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < least) {
            self.strikes += 1;
        }
        self.strikes <= STRIKES_MAX
    }
}

/// Where in a row of frames a direction stands.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    head_read: usize,
    /// Bytes until the next head.
    skip: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    fn after_preface() -> Self {
        Frames {
            skip: PREFACE_BYTES,
            ..Frames::default()
        }
    }

    fn see(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.head_read).min(bytes.len());
            self.head[self.head_read..self.head_read + taken].copy_from_slice(&bytes[..taken]);
            self.head_read += taken;
            bytes = &bytes[taken..];
            if self.head_read == HEAD_BYTES {
                self.head_read = 0;
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                found(Head {
                    kind,
                    flags,
                    stream,
                });
            }
        }
    }

    fn between_frames(&self) -> bool {
        self.head_read == 0 && self.skip == 0
    }
}

impl<S> Counted<S> {
    /// `interval_min`: the least time between pings of a client that has something open; none if
    /// pings are not counted.
    pub(super) fn new(stream: S, interval_min: Option<Duration>, open: OpenStreams) -> Self {
        Counted {
            stream,
            incoming: Frames::after_preface(),
            outgoing: Frames::default(),
            manners: Manners {
                interval_min,
                open,
                last: None,
                strikes: 0,
                answered: false,
            },
            stream_last: 0,
            sent_away: false,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let Counted {
            incoming,
            manners,
            stream_last,
            sent_away,
            ..
        } = self;
        incoming.see(bytes, |head| match head.kind {
            HEADERS => *stream_last = (*stream_last).max(head.stream),
            PING if head.flags & ACK == 0 => *sent_away |= !manners.ping(Instant::now()),
            _ => {}
        });
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let answered = &mut self.manners.answered;
        self.outgoing.see(bytes, |head| {
            *answered |= [DATA, HEADERS].contains(&head.kind)
        });
    }

    fn farewell(&self) -> Vec<u8> {
        let payload_bytes = 8 + TOO_MANY_PINGS.len();
        let mut frame = vec![0, 0, payload_bytes as u8, 7, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.stream_last.to_be_bytes());
        frame.extend_from_slice(&CALM.to_be_bytes());
        frame.extend_from_slice(TOO_MANY_PINGS);
        frame
    }
}

impl<S: AsyncWrite + Unpin> Counted<S> {
    /// Tells the client why, if nothing is in the way; it is sent away either way.
    fn say_farewell(&mut self, context: &mut Context<'_>) {
        if self.outgoing.between_frames() {
            let farewell = self.farewell();
            let mut stream = Pin::new(&mut self.stream);
            let _ = stream.as_mut().poll_write(context, &farewell);
            let _ = stream.poll_flush(context);
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "too many pings")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.sent_away {
            return Poll::Ready(Err(gone()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.read(&buffer.filled()[before..]);
        if this.sent_away {
            this.say_farewell(context);
            // An error reads nothing.
            buffer.set_filled(before);
            return Poll::Ready(Err(gone()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.sent_away {
            return Poll::Ready(Err(gone()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.sent_away {
            return Poll::Ready(Err(gone()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let taken = left.min(slice.len());
            self.wrote(&slice[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const PING_FRAME: [u8; 17] = [0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    fn manners(open: &OpenStreams) -> Manners {
        Manners {
            interval_min: Some(Duration::from_secs(5)),
            open: open.clone(),
            last: None,
            strikes: 0,
            answered: false,
        }
    }

    #[test]
    fn three_hasty_pings_are_too_many_unless_something_was_answered() {
        let open = OpenStreams::default();
        let _stream = open.open();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hasty = manners(&open);
        let pings: Vec<bool> = (0..4).map(|second| hasty.ping(at(second))).collect();
        assert_eq!(pings, [true, true, true, false]);
        let mut answered = manners(&open);
        for second in 0..100 {
            answered.answered = second % 3 == 0;
            assert!(answered.ping(at(second)));
        }
        let mut patient = manners(&open);
        assert!((0..100).all(|turn| patient.ping(at(5 * turn))));
    }

    #[test]
    fn a_client_with_nothing_open_may_hardly_ping() {
        let open = OpenStreams::default();
        let start = Instant::now();
        let mut idle = manners(&open);
        let pings: Vec<bool> = (0..4)
            .map(|turn| idle.ping(start + Duration::from_secs(60 * turn)))
            .collect();
        assert_eq!(pings, [true, true, true, false]);
    }

    #[test]
    fn heads_are_found_wherever_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend(PING_FRAME);
        bytes.extend([0, 0, 2, HEADERS, 4, 0x80, 0, 0, 3, 9, 9]);
        for cut in 1..bytes.len() {
            let (mut frames, mut found) = (Frames::after_preface(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.see(piece, |head| found.push((head.kind, head.stream)));
            }
            assert_eq!(found, [(4, 0), (PING, 0), (HEADERS, 3)], "cut {cut}");
            assert!(frames.between_frames());
        }
    }

    #[tokio::test]
    async fn who_pings_too_often_is_told_to_calm_down_and_hears_no_more() {
        let (mut client, server) = tokio::io::duplex(1024);
        let minimum = Some(Duration::from_secs(5));
        let mut server = Counted::new(server, minimum, OpenStreams::default());
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..4 {
            client.write_all(&PING_FRAME).await.unwrap();
        }
        let mut read = Vec::new();
        assert!(server.read_to_end(&mut read).await.is_err());
        assert!(server.write_all(b"x").await.is_err());
        drop(server);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(&heard[3..4], [7], "GOAWAY");
        assert_eq!(&heard[13..17], CALM.to_be_bytes());
        assert_eq!(&heard[17..], TOO_MANY_PINGS);
    }
}
