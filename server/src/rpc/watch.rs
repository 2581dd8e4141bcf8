//! etcd's Watch service: one stream, many watchers.
//!
//! Promise: `created` is sent before any event of a watcher, nothing of it after `canceled`. A
//! client that does not read is not read from either: what waits for it is bounded by its outbox.
//! A watcher for which there is no memory left is refused in its `created`, and the stream goes on.
//! Where etcd checks a watcher's permission once, here it is checked again whenever the rules of
//! access have changed, before the next event leaves.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/watch.go`.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use rand::Rng;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Request, Status};

use super::gate::{AtLearner, requires_leader};
use super::range::off_thread;
use super::values::{ValueError, Values};
use super::watch_response::{self as respond, NO_WATCH, Told, ToldEvent};
use super::{Edge, MESSAGE_OVERHEAD_BYTES, header, oversized, status};
use crate::access::{Caller, Denied, Guarded, Identity, Need, RulesVersion};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::ReadView;
use crate::watch::{EventRef, Filters, Outbox, Parcel, Watcher};

/// Events that are opened without leaving the thread that serves the connection.
const INLINE_EVENTS: usize = 64;
/// What their values may have, sealed.
const INLINE_BYTES: usize = 1 << 20;
/// The least time between two periodic progress notifications.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Edge {
    /// A stream whose requests come from a client, or from this member on a client's behalf.
    pub(super) fn watching(&self, request: Request<Requests>) -> Result<Watching, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let required = requires_leader(request.metadata());
        let edge = self.clone();
        let lost = Box::pin(async move { edge.leader_lost(required).await });
        Ok(Watching::new(self.clone(), who, request.into_inner(), lost))
    }
}

pub(super) type Requests = Pin<Box<dyn Stream<Item = Result<pb::WatchRequest, Status>> + Send>>;

/// What a watcher is to be told of.
struct Watched(KeyRange);

impl Guarded for Watched {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::Read(&self.0)]
    }
}

/// A watcher as its stream sees it.
struct Open {
    watcher: Arc<Watcher>,
    /// Who may read it.
    caller: Caller,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Something was sent since the last tick, so it needs no notification.
    told: bool,
}

/// One stream.
pub(super) struct Watching {
    edge: Edge,
    who: Identity,
    rules: tokio::sync::watch::Receiver<RulesVersion>,
    /// By which every watcher was checked last.
    checked: RulesVersion,
    /// None once the client has ended its side; the watchers go on.
    requests: Option<Requests>,
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    outbox: Arc<Outbox>,
    open: BTreeMap<i64, Open>,
    id_next: i64,
    ticks: Interval,
    ready: VecDeque<Told>,
    ended: bool,
}

/// What happens next on a stream.
enum Turn {
    Request(Option<Result<pb::WatchRequest, Status>>),
    Parcel(Option<Parcel>),
    Tick,
    RulesChanged,
    LeaderLost,
}

impl Watching {
    fn new(
        edge: Edge,
        who: Identity,
        requests: Requests,
        lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Self {
        let outbox = edge.hub.outbox();
        let rules = edge.door.sessions().watch();
        let checked = RulesVersion::of(&edge.replica.view().auth);
        let period = progress_period(edge.limits.watch_progress_interval);
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watching {
            edge,
            who,
            rules,
            checked,
            requests: Some(requests),
            lost,
            outbox,
            open: BTreeMap::new(),
            id_next: 0,
            ticks,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// The next response, for who reads it in this process.
    pub(super) async fn next(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        Some(self.told().await?.map(Told::into_message))
    }

    /// The next response; none once the stream has ended with an error.
    pub(super) async fn told(&mut self) -> Option<Result<Told, Status>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some(Ok(response));
            }
            if self.ended {
                return None;
            }
            let ended = match self.turn().await {
                Turn::Request(Some(Ok(request))) => {
                    self.request(request);
                    continue;
                }
                Turn::Request(None) => {
                    self.requests = None;
                    continue;
                }
                Turn::Parcel(Some(parcel)) => {
                    self.parcel(parcel).await;
                    continue;
                }
                Turn::Tick => {
                    self.tick();
                    continue;
                }
                Turn::RulesChanged => {
                    self.check_again();
                    continue;
                }
                Turn::Request(Some(Err(status))) if status.code() == tonic::Code::Cancelled => {
                    Status::cancelled("etcdserver: watch canceled")
                }
                Turn::Request(Some(Err(status))) => {
                    oversized::in_etcds_words(&status).unwrap_or(status)
                }
                Turn::Parcel(None) => status::stopped(),
                Turn::LeaderLost => status::no_leader(),
            };
            self.ended = true;
            return Some(Err(ended));
        }
    }

    async fn turn(&mut self) -> Turn {
        use futures::StreamExt;
        let requests = async {
            match &mut self.requests {
                Some(requests) => requests.next().await,
                None => std::future::pending().await,
            }
        };
        let rules = async {
            if self.rules.changed().await.is_err() {
                // The sender lives as long as the member.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = rules => Turn::RulesChanged,
            request = requests => Turn::Request(request),
            parcel = self.outbox.next() => Turn::Parcel(parcel),
            _ = self.ticks.tick() => Turn::Tick,
            () = &mut self.lost => Turn::LeaderLost,
        }
    }

    fn header(&self, revision: i64) -> pb::ResponseHeader {
        header::placed(self.edge.replica.place(), revision)
    }

    /// A request that is none of the three is passed over, as in etcd.
    fn request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress(),
            None => {}
        }
    }

    fn create(&mut self, create: pb::WatchCreateRequest) {
        let view = self.edge.replica.view();
        let header = self.header(view.revision);
        let response = match self.open(&view, &create) {
            Ok(id) => respond::created(header, id),
            Err(reason) => respond::refused(header, reason),
        };
        self.ready.push_back(response.into());
    }

    /// The new watcher's id, or why there is none.
    fn open(&mut self, view: &ReadView, create: &pb::WatchCreateRequest) -> Result<i64, String> {
        let (range, caller) = self.check(create)?;
        let id = self.take_id(create.watch_id);
        let (filters, start) = (filters(create), create.start_revision);
        let watcher = self
            .edge
            .hub
            .watch(view, &self.outbox, id, range, filters, start)
            .map_err(|no_room| status::as_reason(&no_room.into()))?;
        let open = Open {
            watcher,
            caller,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            told: true,
        };
        self.open.insert(id, open);
        Ok(id)
    }

    /// What is to be watched, or why it cannot be.
    fn check(&self, create: &pb::WatchCreateRequest) -> Result<(KeyRange, Caller), String> {
        let key = match &create.key {
            key if key.is_empty() => Bytes::from_static(b"\0"),
            key => key.clone(),
        };
        let range = KeyRange::from_wire(key, create.range_end.clone());
        if create.start_revision < 0 {
            return Err(status::COMPACTED.to_owned());
        }
        let permitted = self.edge.permit(&self.who, Watched(range));
        let permitted = permitted.map_err(|denied| status::as_reason(&denied.into()))?;
        let caller = permitted.caller().cloned().unwrap_or_default();
        let range = permitted.into_request().0;
        if range.is_empty() {
            return Err(status::EMPTY_WATCHER_RANGE.to_owned());
        }
        if create.watch_id != 0 && self.open.contains_key(&create.watch_id) {
            return Err(status::DUPLICATE_WATCH_ID.to_owned());
        }
        Ok((range, caller))
    }

    /// Ends the watchers whose clients may no longer read what they watch.
    fn check_again(&mut self) {
        let view = self.edge.replica.view();
        let version = RulesVersion::of(&view.auth);
        if version == self.checked {
            return;
        }
        self.checked = version;
        let rules = view.rules();
        let denied = |open: &&Open| {
            let needs = [Need::Read(&open.watcher.range)];
            rules.check_again(&open.caller, &needs).is_err()
        };
        let watchers: Vec<Arc<Watcher>> = self
            .open
            .values()
            .filter(denied)
            .map(|open| Arc::clone(&open.watcher))
            .collect();
        for watcher in watchers {
            let reason = status::as_reason(&Denied::PermissionDenied.into());
            self.give_up(&watcher, reason);
        }
    }

    /// The client's own id, or with 0 the next that is free.
    fn take_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.open.contains_key(&self.id_next) {
            self.id_next += 1;
        }
        self.id_next += 1;
        self.id_next - 1
    }

    fn cancel(&mut self, id: i64) {
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        self.edge.hub.remove(&open.watcher);
        let header = self.header(self.edge.replica.view().revision);
        self.ready
            .push_back(respond::cancelled(header, id, String::new()).into());
    }

    /// One answer for the whole stream, if every watcher of it is in step.
    fn ask_progress(&self) {
        let watchers = self
            .open
            .values()
            .map(|open| Arc::clone(&open.watcher))
            .collect();
        self.edge.hub.progress(watchers, NO_WATCH, &self.outbox);
    }

    fn tick(&mut self) {
        for (id, open) in self
            .open
            .iter_mut()
            .filter(|(_, open)| open.progress_notify)
        {
            if !std::mem::replace(&mut open.told, false) {
                let watchers = vec![Arc::clone(&open.watcher)];
                self.edge.hub.progress(watchers, *id, &self.outbox);
            }
        }
    }

    async fn parcel(&mut self, parcel: Parcel) {
        self.check_again();
        match parcel {
            Parcel::Events {
                watcher,
                events,
                revision,
            } => {
                self.events(&watcher, events, revision).await;
            }
            Parcel::Compacted {
                watcher,
                compact_revision,
            } => {
                if self.close(&watcher) {
                    let header = self.header(0);
                    let answer = respond::compacted(header, watcher.id, compact_revision);
                    self.ready.push_back(answer.into());
                }
            }
            Parcel::Failed { watcher, error } => {
                let reason = status::as_reason(&self.edge.failed(error.into()));
                self.give_up(&watcher, reason);
            }
            Parcel::Progress { watch_id, revision } => {
                if watch_id == NO_WATCH || self.open.contains_key(&watch_id) {
                    let header = self.header(revision);
                    self.ready
                        .push_back(respond::progress(header, watch_id).into());
                }
            }
        }
    }

    async fn events(&mut self, watcher: &Arc<Watcher>, events: Vec<EventRef>, revision: i64) {
        let Some(open) = self.open.get(&watcher.id) else {
            return;
        };
        // Its id may have been given to another meanwhile.
        if !Arc::ptr_eq(&open.watcher, watcher) {
            return;
        }
        let (prev_kv, fragment) = (open.prev_kv, open.fragment);
        match open_events(&self.edge, events, prev_kv).await {
            Ok(events) => {
                let frame = respond::progress(self.header(revision), watcher.id);
                let whole = Told::new(frame, events);
                let bytes_max = self.edge.limits.request_bytes_max + MESSAGE_OVERHEAD_BYTES;
                if fragment {
                    self.ready.extend(respond::fragments(whole, bytes_max));
                } else {
                    self.ready.push_back(whole);
                }
                if let Some(open) = self.open.get_mut(&watcher.id) {
                    open.told = true;
                }
            }
            Err(reason) => self.give_up(watcher, reason),
        }
    }

    /// The watcher's next event cannot be given.
    fn give_up(&mut self, watcher: &Arc<Watcher>, reason: String) {
        if self.close(watcher) {
            let header = self.header(self.edge.replica.view().revision);
            self.ready
                .push_back(respond::cancelled(header, watcher.id, reason).into());
        }
    }

    /// Forgets a watcher; false if it was forgotten before.
    fn close(&mut self, watcher: &Arc<Watcher>) -> bool {
        let here = self.open.get(&watcher.id);
        let here = here.is_some_and(|open| Arc::ptr_eq(&open.watcher, watcher));
        if here {
            self.open.remove(&watcher.id);
            self.edge.hub.remove(watcher);
        }
        here
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.outbox.close();
        for open in self.open.values() {
            self.edge.hub.remove(&open.watcher);
        }
    }
}

/// The events made ready for the wire, or why the watch must end.
async fn open_events(
    edge: &Edge,
    events: Vec<EventRef>,
    prev_kv: bool,
) -> Result<Vec<ToldEvent>, String> {
    let inline = takes_a_moment(&events);
    let events = Arc::new(events);
    loop {
        let generation = edge.sealer.generation();
        let view = edge.replica.view();
        let (sealer, events) = (edge.sealer.clone(), Arc::clone(&events));
        let open = move || {
            respond::events(
                &Values {
                    view: &view,
                    sealer: &sealer,
                },
                &events,
                prev_kv,
            )
        };
        let opened: Result<_, ValueError> = if inline {
            open()
        } else {
            off_thread(open)
                .await
                .map_err(|status| status::as_reason(&status))?
        };
        match opened {
            Ok(events) => return Ok(events),
            Err(error) if error.is_key_absent() && edge.sealer.newer(generation).await => {}
            Err(error) => return Err(status::as_reason(&edge.failed(error))),
        }
    }
}

/// Whether so little of it is to be opened that a thread of its own would cost more.
fn takes_a_moment(events: &[EventRef]) -> bool {
    let to_open = events.iter().filter(|event| event.made().is_none());
    let (count, bytes) = to_open.fold((0, 0), |(count, bytes), event| {
        (count + 1, bytes + event.event().value.len())
    });
    count <= INLINE_EVENTS && bytes <= INLINE_BYTES
}

fn filters(create: &pb::WatchCreateRequest) -> Filters {
    let has = |wanted: FilterType| create.filters.contains(&wanted.into());
    Filters {
        no_put: has(FilterType::Noput),
        no_delete: has(FilterType::Nodelete),
    }
}

/// The interval with up to a tenth of chance on top, so that streams do not tick together.
fn progress_period(interval: Duration) -> Duration {
    let interval = interval.max(PROGRESS_INTERVAL_MIN);
    interval.mul_f64(1.0 + rand::rng().random::<f64>() / 10.0)
}
