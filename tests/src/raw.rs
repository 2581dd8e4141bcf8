//! Connections that keep no rules: HTTP/2 frames by hand, and whatever else a test wants to send.
//!
//! Not known here: what the server ought to do about it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the other end may take to answer or to close; a loaded machine is slow.
const WITHIN: Duration = Duration::from_secs(30);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field of a header block, without compression. Nothing about it is checked.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        number(&mut field, text.len());
        field.extend(text);
    }
    field
}

/// RFC 7541, 5.1, with a prefix of seven bits.
fn number(into: &mut Vec<u8>, mut number: usize) {
    let small = |number: usize| u8::try_from(number & 0x7f).expect("seven bits");
    if number < 0x7f {
        return into.push(small(number));
    }
    into.push(0x7f);
    number -= 0x7f;
    while number >= 0x80 {
        into.push(small(number) | 0x80);
        number >>= 7;
    }
    into.push(small(number));
}

/// The header block of a gRPC call.
pub fn call_head(path: &str) -> Vec<u8> {
    let fields: [(&[u8], &[u8]); 6] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    let fields = fields.iter().map(|(name, value)| field(name, value));
    fields.collect::<Vec<_>>().concat()
}

/// A gRPC message as it stands in DATA frames.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("messages are small");
    [&[0][..], &length.to_be_bytes(), bytes].concat()
}

/// A connection of which both ends may think what they like.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port));
        let stream = stream.await.expect("the port is listened on");
        Self { stream }
    }

    /// With the beginning of HTTP/2 and settings that are in order.
    pub async fn http2(port: u16) -> Self {
        let mut raw = Self::connect(port).await;
        let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        raw.send(&opening).await.expect("a new connection is open");
        raw
    }

    /// An error if the other end has closed, or has not taken it in time.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(WITHIN, self.stream.write_all(bytes))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends again and again until the other end closes or takes no more within a moment; how
    /// often it went. What the other end says is read, if it is to be.
    pub async fn flood(self, bytes: &[u8], times: usize, reads: bool) -> usize {
        let (mut from, mut to) = self.stream.into_split();
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while reads && matches!(from.read(&mut buffer).await, Ok(1..)) {}
            from
        });
        let mut sent = 0;
        while sent < times {
            let write = tokio::time::timeout(Duration::from_secs(2), to.write_all(bytes));
            match write.await {
                Ok(Ok(())) => sent += 1,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        reader.abort();
        sent
    }

    /// Everything that comes until the other end closes; `None` if it does not.
    pub async fn until_closed(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        match tokio::time::timeout(WITHIN, self.stream.read_to_end(&mut all)).await {
            // A reset is an end too.
            Ok(_) => Some(all),
            Err(_) => None,
        }
    }

    /// The frames that come, up to the one that the caller looks for or the end of it all.
    pub async fn frames_until(&mut self, found: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        let reading = async {
            while let Some(frame) = self.frame().await {
                let last = found(&frame);
                frames.push(frame);
                if last {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(WITHIN, reading).await;
        ended.expect("it answers or closes in time");
        frames
    }

    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}
