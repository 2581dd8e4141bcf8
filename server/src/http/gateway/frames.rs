//! gRPC's framing, for calls that never leave the process.
//!
//! Promise: an answer ends with exactly one status; a message is handed on whole.
//! Not known here: what the messages are.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tonic::{Code, Status};

const HEAD_BYTES: usize = 5;

/// A message with its head. `None` for one that no length can be written for.
pub(super) fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The messages of an answer, and its status.
pub(super) struct Messages<B> {
    body: B,
    held: BytesMut,
    status: Option<Status>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn of(answer: Response<B>) -> Self {
        let (head, body) = answer.into_parts();
        Self {
            body,
            held: BytesMut::new(),
            status: Status::from_header_map(&head.headers),
        }
    }

    /// The next message; none once the call has ended well.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(message) = self.cut() {
                return Some(Ok(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held.extend_from_slice(&data),
                    Err(frame) => self.see(frame.trailers_ref()),
                },
                Some(Err(_)) => return Some(Err(Status::unavailable("transport is closing"))),
                None => return self.end().map(Err),
            }
        }
    }

    fn see(&mut self, trailers: Option<&HeaderMap>) {
        self.status = self
            .status
            .take()
            .or_else(|| Status::from_header_map(trailers?));
    }

    fn end(&mut self) -> Option<Status> {
        match self.status.take() {
            Some(status) if status.code() == Code::Ok => None,
            Some(status) => Some(status),
            None => Some(Status::internal(
                "server closed the stream without sending trailers",
            )),
        }
    }

    fn cut(&mut self) -> Option<Bytes> {
        let length = self.held.get(1..HEAD_BYTES)?.get_u32();
        let end = HEAD_BYTES.checked_add(usize::try_from(length).ok()?)?;
        if self.held.len() < end {
            return None;
        }
        let mut frame = self.held.split_to(end);
        frame.advance(HEAD_BYTES);
        Some(frame.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::convert::Infallible;

    async fn read(chunks: Vec<Bytes>, trailers: Option<Status>) -> Vec<Result<Bytes, Code>> {
        let mut frames: Vec<_> = chunks.into_iter().map(Frame::data).collect();
        if let Some(status) = trailers {
            let mut map = HeaderMap::new();
            status.add_header(&mut map).unwrap();
            frames.push(Frame::trailers(map));
        }
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        let body = StreamBody::new(stream::iter(frames));
        let mut messages = Messages::of(Response::new(body));
        let mut all = Vec::new();
        while let Some(next) = messages.next().await {
            let failed = next.is_err();
            all.push(next.map_err(|status| status.code()));
            if failed {
                break;
            }
        }
        all
    }

    #[tokio::test]
    async fn messages_are_whole_however_they_arrive() {
        let mut bytes = BytesMut::from(&framed(b"one").unwrap()[..]);
        bytes.extend_from_slice(&framed(b"").unwrap());
        bytes.extend_from_slice(&framed(b"three").unwrap());
        let whole = bytes.freeze();
        let expected = ["one", "", "three"].map(|text| Ok(Bytes::from(text)));
        for at in 0..whole.len() {
            let chunks = vec![whole.slice(..at), whole.slice(at..)];
            assert_eq!(read(chunks, Some(Status::ok(""))).await, expected);
        }
    }

    #[tokio::test]
    async fn a_status_follows_the_messages_and_none_is_an_error() {
        let one = framed(b"one").unwrap();
        let gone = Status::not_found("gone");
        assert_eq!(
            read(vec![one.clone()], Some(gone)).await,
            [Ok(Bytes::from("one")), Err(Code::NotFound)]
        );
        assert_eq!(
            read(vec![one], None).await,
            [Ok(Bytes::from("one")), Err(Code::Internal)]
        );
    }
}
