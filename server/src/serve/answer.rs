//! The body of an answer, which counts how its call ended and says when it took long.
//!
//! Promise: every call that was counted as started is counted once as handled, with the code its
//! client was sent; one that the client gave up is `Canceled`. Its span ends then too.
//! Not known here: messages. So no value can get into the log from here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use super::SendGuards;
use super::deadline;
use super::pings::OpenStream;
use crate::config::show_duration;
use crate::metrics::{Call, Frames, metrics};
use crate::traces::CallSpan;

/// What a client says of itself; Go's sends its API's version.
const API_VERSION: &str = "client-api-version";

/// The body of a call's request: its messages are counted as they are read.
#[derive(Debug)]
pub(super) struct Asked<B> {
    body: B,
    call: Option<&'static Call>,
    frames: Frames,
}

impl<B> Asked<B> {
    pub(super) fn new(body: B, call: Option<&'static Call>) -> Self {
        Self {
            body,
            call,
            frames: Frames::default(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Asked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(data), Some(call)) = (frame.data_ref(), this.call)
        {
            metrics().calls().received(call, this.frames.see(data));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Of a call, or of a page.
#[derive(Debug)]
pub struct Answer {
    content: Content,
    _open: Option<OpenStream>,
    guards: Option<SendGuards>,
}

#[derive(Debug)]
enum Content {
    Grpc(Box<GrpcAnswer>),
    Page(axum::body::Body),
}

#[derive(Debug)]
struct GrpcAnswer {
    body: tonic::body::Body,
    ending: Ending,
    /// When the client has waited long enough.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    pub(super) fn grpc(body: tonic::body::Body, ending: Ending, deadline: Option<Instant>) -> Self {
        let answer = GrpcAnswer {
            body,
            ending,
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
        };
        Content::Grpc(Box::new(answer)).into()
    }

    pub(super) fn page(body: axum::body::Body) -> Self {
        Content::Page(body).into()
    }

    /// Nothing but a status.
    pub(super) fn refusal(status: Status, mut ending: Ending) -> http::Response<Self> {
        let response = status.into_http::<tonic::body::Body>();
        ending.see(response.headers());
        response.map(|body| Self::grpc(body, ending, None))
    }

    /// Its stream counts as open until it is sent, and its data takes the guards along.
    pub(super) fn sent_with(self, open: OpenStream, guards: Option<SendGuards>) -> Self {
        let _open = Some(open);
        Self {
            _open,
            guards,
            ..self
        }
    }
}

impl From<Content> for Answer {
    fn from(content: Content) -> Self {
        Self {
            content,
            _open: None,
            guards: None,
        }
    }
}

impl GrpcAnswer {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.ending.see_frame(frame),
            Poll::Ready(Some(Err(status))) => self.ending.end(status.code()),
            Poll::Ready(None) => self.ending.end(Code::Unknown),
            Poll::Pending => return self.poll_deadline(context),
        }
        polled
    }

    fn poll_deadline(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(context));
        self.deadline = None;
        self.body = tonic::body::Body::default();
        let mut trailers = HeaderMap::new();
        // The text is one that a header can hold.
        let _ = deadline::exceeded().add_header(&mut trailers);
        self.ending.see(&trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// Waits for the code of a call.
#[derive(Debug)]
pub(super) struct Ending {
    call: Option<&'static Call>,
    span: Option<CallSpan>,
    begun: Instant,
    slow: Duration,
    bytes: u64,
    frames: Frames,
}

impl Ending {
    /// A unary call that takes longer than `slow` is logged.
    pub(super) fn of(call: Option<&'static Call>, headers: &HeaderMap, slow: Duration) -> Self {
        if let Some(call) = call {
            let version = headers
                .get(API_VERSION)
                .and_then(|value| value.to_str().ok());
            metrics().calls().started(call, version);
        }
        Self {
            call,
            span: call.and_then(|call| CallSpan::begin(call.path(), headers)),
            begun: Instant::now(),
            slow,
            bytes: 0,
            frames: Frames::default(),
        }
    }

    /// A call that is refused before it starts has its code among the headers.
    pub(super) fn see(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            self.end(Code::from_bytes(code.as_bytes()));
        }
    }

    fn see_frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len() as u64;
            if let Some(call) = self.call {
                metrics().calls().sent(call, self.frames.see(data));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.see(trailers);
        }
    }

    fn end(&mut self, code: Code) {
        let Some(call) = self.call.take() else { return };
        let took = self.begun.elapsed();
        if let Some(span) = self.span.take() {
            span.end(code);
        }
        metrics().calls().handled(call, code, took);
        if call.is_unary() && took > self.slow {
            tracing::warn!(
                method = call.path(),
                code = ?code,
                time_spent = show_duration(took),
                expected_duration = show_duration(self.slow),
                response_size = self.bytes,
                "request took too long"
            );
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Page(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Content::Grpc(answer) => answer.poll_frame(context).map_err(Into::into),
        };
        match &this.guards {
            Some(guards) => polled.map_ok(|frame| frame.map_data(|data| guards.attach(data))),
            None => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Grpc(answer) => answer.body.is_end_stream(),
            Content::Page(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Grpc(answer) => answer.body.size_hint(),
            Content::Page(body) => body.size_hint(),
        }
    }
}
