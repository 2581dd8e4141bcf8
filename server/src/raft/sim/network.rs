//! The network between simulated members: calls of the peer protocol, frame by frame.
//!
//! Promise: frames of one direction of a call arrive in order, late by a seeded time. A cut holds
//! them back, as a lost packet does, and breaks the call if it lasts; a broken call tells both
//! ends nothing of what had arrived. A member that does not run refuses connections.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use proto::sealkv::peer::peer_server::PeerServer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tower_service::Service;

use super::life::Life;
use crate::raft::PeerService;

/// Frames on their way in one direction of a call.
const FRAMES_UNDER_WAY: usize = 8;
/// How long an end of a call puts up with a cut.
const PATIENCE_MS: Range<u64> = 0..3_500;

/// How the network behaves apart from cuts.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    pub(super) delay_us: Range<u64>,
    /// Of a thousand frames.
    pub(super) late_frames: u32,
    pub(super) late_us: Range<u64>,
    /// Of a thousand frames, those with which their call breaks.
    pub(super) breaking_frames: u32,
}

#[derive(Clone)]
pub(super) struct Network {
    inner: Arc<Mutex<Inner>>,
    healed: Arc<Notify>,
}

struct Inner {
    rng: StdRng,
    weather: Weather,
    listening: BTreeMap<usize, Listener>,
    cuts: BTreeSet<(usize, usize)>,
}

#[derive(Clone)]
struct Listener {
    life: Arc<Life>,
    service: PeerServer<PeerService>,
}

/// Where a member with this number is found.
pub(super) fn url(member: usize) -> String {
    format!("http://member-{member}:2380")
}

impl Network {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            weather,
            listening: BTreeMap::new(),
            cuts: BTreeSet::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            healed: Arc::new(Notify::new()),
        }
    }

    pub(super) fn port(&self, member: usize) -> Port {
        Port {
            network: self.clone(),
            member,
        }
    }

    pub(super) fn listen(&self, member: usize, life: Arc<Life>, service: PeerServer<PeerService>) {
        let listener = Listener { life, service };
        self.inner.lock().listening.insert(member, listener);
    }

    pub(super) fn close(&self, member: usize) {
        self.inner.lock().listening.remove(&member);
    }

    /// From now on nothing gets from one to the other.
    pub(super) fn cut(&self, from: usize, to: usize) {
        self.inner.lock().cuts.insert((from, to));
    }

    pub(super) fn heal(&self) {
        self.inner.lock().cuts.clear();
        self.healed.notify_waiters();
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    fn arrival(&self) -> Instant {
        let mut inner = self.inner.lock();
        let Inner { rng, weather, .. } = &mut *inner;
        let mut delay_us = rng.random_range(weather.delay_us.clone());
        if rng.random_range(0..1_000) < weather.late_frames {
            delay_us += rng.random_range(weather.late_us.clone());
        }
        Instant::now() + Duration::from_micros(delay_us)
    }

    /// Waits until what arrives at this time has arrived.
    async fn cross(&self, from: usize, to: usize, at: Instant) -> Result<(), Status> {
        tokio::time::sleep_until(at).await;
        let (patience_ms, breaks) = {
            let mut inner = self.inner.lock();
            let breaking = inner.weather.breaking_frames;
            let patience = inner.rng.random_range(PATIENCE_MS);
            (patience, inner.rng.random_range(0..1_000) < breaking)
        };
        let open = async {
            loop {
                let healed = self.healed.notified();
                if !self.inner.lock().cuts.contains(&(from, to)) {
                    return;
                }
                healed.await;
            }
        };
        let crossed = tokio::time::timeout(Duration::from_millis(patience_ms), open).await;
        if crossed.is_err() || breaks {
            return Err(broken());
        }
        Ok(())
    }

    /// The other end of a body, filled by a task in the life of the sending end.
    fn pipe(
        &self,
        (from, to): (usize, usize),
        mut body: Body,
        sender: &Arc<Life>,
        call: &mut Call,
    ) -> mpsc::Receiver<Parcel> {
        let (outlet, inlet) = mpsc::channel(FRAMES_UNDER_WAY);
        let network = self.clone();
        let pump = sender.spawn(async move {
            let mut last = Instant::now();
            loop {
                let frame = body.frame().await;
                let is_end = frame.is_none();
                last = last.max(network.arrival());
                let parcel = Parcel { at: last, frame };
                if outlet.send(parcel).await.is_err() || is_end {
                    return;
                }
            }
        });
        tracing::trace!(from, to, "a body is on its way");
        call.0.push(pump.abort_handle());
        inlet
    }

    fn body(&self, path: (usize, usize), inlet: mpsc::Receiver<Parcel>, call: Call) -> Body {
        let state = Some((self.clone(), inlet, call));
        let frames = stream::unfold(state, move |state| async move {
            let (network, mut inlet, call) = state?;
            let frame = match inlet.recv().await {
                // The sending end is gone before its end.
                None => Err(broken()),
                Some(parcel) => match network.cross(path.0, path.1, parcel.at).await {
                    Err(status) => Err(status),
                    Ok(()) => parcel.frame?,
                },
            };
            let rest = frame.is_ok().then_some((network, inlet, call));
            Some((frame, rest))
        });
        Body::new(StreamBody::new(frames))
    }
}

/// A frame under way; none is the end.
struct Parcel {
    at: Instant,
    frame: Option<Result<Frame<Bytes>, Status>>,
}

/// What runs for a call at both ends. It stops when the caller lets go of the call.
#[derive(Default)]
struct Call(Vec<AbortHandle>);

impl Drop for Call {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

fn refused() -> Status {
    let mut status = Status::unavailable("the connection was refused");
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    status.set_source(Arc::new(source));
    status
}

/// A member's end of the network.
#[derive(Clone)]
pub(crate) struct Port {
    network: Network,
    member: usize,
}

impl Port {
    pub(crate) fn line_to(&self, address: &str) -> Line {
        let to = (0..)
            .take(super::HOSTS)
            .find(|member| url(*member) == address)
            .expect("only members are called");
        Line {
            network: self.network.clone(),
            path: (self.member, to),
        }
    }
}

/// The way from one member to another.
#[derive(Clone)]
pub(crate) struct Line {
    network: Network,
    path: (usize, usize),
}

impl Line {
    pub(crate) async fn carry(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, StdError> {
        let Self { network, path } = self;
        let back = (path.1, path.0);
        let caller = Life::current().expect("only members call members");
        network.cross(path.0, path.1, network.arrival()).await?;
        let listener = network.inner.lock().listening.get(&path.1).cloned();
        let Listener { life, mut service } = listener.ok_or_else(refused)?;
        let mut call = Call::default();
        let (head, body) = request.into_parts();
        let inlet = network.pipe(path, body, &caller, &mut call);
        let body = network.body(path, inlet, Call::default());
        let handler = life.spawn(async move {
            let request = http::Request::from_parts(head, body);
            service.call(request).await
        });
        call.0.push(handler.abort_handle());
        let Ok(Ok(answer)) = handler.await else {
            return Err(broken().into());
        };
        network.cross(back.0, back.1, network.arrival()).await?;
        let (head, body) = answer.into_parts();
        let inlet = network.pipe(back, body, &life, &mut call);
        let body = network.body(back, inlet, call);
        Ok(http::Response::from_parts(head, body))
    }
}
