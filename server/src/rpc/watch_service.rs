//! The Watch service's place among the others, and the body of its answers.
//!
//! Promise: requests are read, and answers look, as those of every generated service. What differs
//! is that an event's bytes go from the memory that all watchers share to the connection, without
//! a message being built and encoded for each of them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::HeaderMap;
use hyper::body::Frame;
use proto::etcdserverpb as pb;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::Edge;
use super::watch::Watching;
use super::watch_response::Told;
use crate::metrics::{Held, metrics};

/// A flag and a length before each message.
const HEAD_BYTES: usize = 5;
/// So much is gathered before it is handed on while more is ready.
const GATHERED_BYTES: usize = 32 << 10;

/// Cloning shares the edge.
#[derive(Clone)]
pub(super) struct WatchService {
    edge: Edge,
    request_bytes_max: usize,
}

impl WatchService {
    pub(super) fn new(edge: Edge, request_bytes_max: usize) -> Self {
        WatchService {
            edge,
            request_bytes_max,
        }
    }

    async fn watch(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut opened = None;
        let opening = Opening {
            edge: self.edge,
            opened: &mut opened,
        };
        let codec = ProstCodec::<pb::WatchResponse, pb::WatchRequest>::default();
        let mut grpc =
            Grpc::new(codec).apply_max_message_size_config(Some(self.request_bytes_max), None);
        let answer = grpc.streaming(opening, request).await;
        match opened {
            Some(watching) => answer.map(|_| Body::new(Answers::of(watching))),
            None => answer,
        }
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl Service<http::Request<Body>> for WatchService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match request.uri().path() {
                "/etcdserverpb.Watch/Watch" => Ok(this.watch(request).await),
                // Worded where it is for all services.
                _ => Ok(Status::new(Code::Unimplemented, "").into_http()),
            }
        })
    }
}

/// Opens the stream; its answers are written by [`Answers`].
struct Opening<'a> {
    edge: Edge,
    opened: &'a mut Option<Watching>,
}

impl StreamingService<pb::WatchRequest> for Opening<'_> {
    type Response = pb::WatchResponse;
    type ResponseStream = futures::stream::Empty<Result<pb::WatchResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let watching = self
            .edge
            .watching(request.map(|requests| Box::pin(requests) as _));
        ready(watching.map(|watching| {
            *self.opened = Some(watching);
            Response::new(futures::stream::empty())
        }))
    }
}

type AllTold = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

/// What a client is told, as the body of its answer.
struct Answers<S> {
    told: S,
    buffer: BytesMut,
    out: VecDeque<Bytes>,
    /// The last frame, once nothing more comes.
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl Answers<()> {
    fn of(watching: Watching) -> Answers<AllTold> {
        let counted = Held::new(&metrics().watch_streams);
        let told = futures::stream::unfold((watching, counted), |(mut watching, counted)| async {
            let told = watching.told().await?;
            Some((told, (watching, counted)))
        });
        Answers::new(Box::pin(told))
    }
}

impl<S: Stream<Item = Result<Told, Status>> + Unpin> Answers<S> {
    fn new(told: S) -> Self {
        Answers {
            told,
            buffer: BytesMut::new(),
            out: VecDeque::new(),
            trailers: None,
            ended: false,
        }
    }

    /// Writes what is ready, up to a bound that one response may pass.
    fn gather(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.out.is_empty() && self.buffer.len() < GATHERED_BYTES {
            match Pin::new(&mut self.told).poll_next(context) {
                Poll::Ready(Some(Ok(told))) => self.write(&told),
                Poll::Ready(Some(Err(status))) => self.end(&status),
                Poll::Ready(None) => self.end(&Status::ok("")),
                Poll::Pending if self.buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }

    fn write(&mut self, told: &Told) {
        let Ok(bytes) = u32::try_from(told.encoded_len()) else {
            return self.end(&too_large());
        };
        self.buffer.reserve(HEAD_BYTES);
        self.buffer.put_u8(0);
        self.buffer.put_u32(bytes);
        told.write(&mut self.buffer, &mut self.out);
    }

    fn end(&mut self, status: &Status) {
        let mut trailers = HeaderMap::new();
        // It fails for a text that no header can hold; then the code alone is told.
        if status.add_header(&mut trailers).is_err() {
            trailers.clear();
            let code = Status::new(status.code(), "");
            let _ = code.add_header(&mut trailers);
        }
        self.trailers = Some(trailers);
        self.ended = true;
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        if let Some(bytes) = self.out.pop_front() {
            return Some(Frame::data(bytes));
        }
        if !self.buffer.is_empty() {
            return Some(Frame::data(self.buffer.split().freeze()));
        }
        self.trailers.take().map(Frame::trailers)
    }
}

/// gRPC has four bytes for a message's length.
fn too_large() -> Status {
    Status::resource_exhausted("grpc: message too large")
}

impl<S> hyper::body::Body for Answers<S>
where
    S: Stream<Item = Result<Told, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.gather(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.next().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use http_body_util::BodyExt as _;
    use prost::Message as _;

    use super::*;

    fn progress(watch_id: i64) -> Result<Told, Status> {
        Ok(pb::WatchResponse {
            watch_id,
            ..pb::WatchResponse::default()
        }
        .into())
    }

    #[tokio::test]
    async fn what_is_ready_goes_out_together_and_the_status_last() {
        let told = [progress(1), progress(2), Err(Status::unavailable("gone"))];
        let mut body = Answers::new(futures::stream::iter(told));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let mut expected = Vec::new();
        for watch_id in [1, 2] {
            let message = progress(watch_id).unwrap().into_message().encode_to_vec();
            expected.extend([0, 0, 0, 0, u8::try_from(message.len()).unwrap()]);
            expected.extend(message);
        }
        assert_eq!(first, expected);
        let last = body.frame().await.unwrap().unwrap();
        let status = Status::from_header_map(last.trailers_ref().unwrap()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "gone")
        );
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn what_is_ready_does_not_wait_for_what_is_not() {
        let told = futures::stream::iter([progress(1)]).chain(futures::stream::pending());
        let mut body = Answers::new(Box::pin(told));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(body.frame().now_or_never().is_none());
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_the_bound_and_one_response() {
        let told = futures::stream::repeat_with(|| progress(i64::MAX));
        let mut body = Answers::new(told);
        for _ in 0..3 {
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!((GATHERED_BYTES..2 * GATHERED_BYTES).contains(&data.len()));
        }
    }
}
