//! One server's side of a script: asks, listens to the watches, and hands back normalised answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::Event;
use tonic::Status;

use super::Player;
use super::auth::{AuthCall, Tokens, Who};
use super::normalise::{self, Answer};
use super::script::Step;
use crate::check::watch;
use crate::client::{Client, WatchStream};

/// How long a watch may take to be told everything up to a revision that is committed.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// A progress request is answered only when the watch is in step, so it is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// An id that no script chooses.
const LAST_WATCH: i64 = 1_000_000;

pub struct Session {
    client: Client,
    /// The newest revision any answer had.
    revision: i64,
    watches: BTreeMap<u32, Watch>,
    tokens: Tokens,
    asks_as: Who,
}

struct Watch {
    stream: WatchStream,
    start: i64,
    /// Every message since it was opened.
    messages: Vec<pb::WatchResponse>,
    /// How many of its events were compared already.
    compared: usize,
    ended: Option<String>,
}

impl Session {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            revision: 1,
            watches: BTreeMap::new(),
            tokens: Tokens::default(),
            asks_as: Who::Nobody,
        }
    }

    pub async fn play(&mut self, step: &Step) -> Answer {
        match step {
            Step::Put(request) => {
                let answer = self.client.put_request(request.clone()).await;
                self.answered(answer, |response| &mut response.header)
            }
            Step::Range(request) => {
                let answer = self
                    .client
                    .range(request.clone())
                    .await
                    .map(|response| normalise::range(request, response));
                self.answered(answer, |response| &mut response.header)
            }
            Step::Delete(request) => {
                let answer = self.client.delete_range(request.clone()).await;
                self.answered(answer, |response| &mut response.header)
            }
            Step::Txn(request) => {
                let answer = self
                    .client
                    .txn(request.clone())
                    .await
                    .map(|response| normalise::txn(request, response));
                self.answered(answer, |response| &mut response.header)
            }
            Step::Compact(request) => {
                // What a watch is told of the past depends on whether it is told before or after this.
                let before = self.sync().await;
                let answer = self
                    .client
                    .kv()
                    .compact(self.client.ask(*request))
                    .await
                    .map(tonic::Response::into_inner);
                let answer = self.answered(answer, |response| &mut response.header);
                Answer::of(&(before, answer))
            }
            Step::Grant(request) => {
                let answer = self
                    .client
                    .lease()
                    .lease_grant(self.client.ask(*request))
                    .await
                    .map(tonic::Response::into_inner);
                self.answered(answer, |response| &mut response.header)
            }
            Step::Revoke(request) => {
                let answer = self.client.revoke(request.id).await;
                self.answered(answer, |response| &mut response.header)
            }
            Step::TimeToLive(request) => {
                normalise::time_to_live(self.client.time_to_live(request.id, request.keys).await)
            }
            Step::KeepAlive(request) => {
                let answer = self.client.keep_alive(request.id).await;
                self.answered(answer, |response| &mut response.header)
            }
            Step::Leases => Answer::of_result(self.client.leases().await.map(normalise::leases)),
            Step::RangeStream(request) => {
                let pieces = self.client.range_stream(request.clone()).await;
                Answer::of_result(pieces.map(|pieces| normalise::stream(request, pieces)))
            }
            Step::Alarm(request) => {
                let answer = self.client.alarm(*request).await;
                Answer::of_result(answer.map(normalise::alarms))
            }
            Step::Status => Answer::of_result(self.client.status().await.map(normalise::status)),
            Step::HashKv(request) => {
                let answer = self.client.hash_kv(*request).await;
                Answer::of_result(answer.map(|response| normalise::hash_kv(*request, response)))
            }
            Step::Members(request) => {
                let answer = self.client.member_list(request.linearizable).await;
                Answer::of_result(answer.map(normalise::members))
            }
            Step::Defragment => {
                let request = self.client.ask(pb::DefragmentRequest {});
                let answer = self.maintenance().defragment(request).await;
                Answer::of_result(answer.map(tonic::Response::into_inner))
            }
            Step::Hash => {
                let request = self.client.ask(pb::HashRequest {});
                let answer = self.maintenance().hash(request).await;
                Answer::of_result(answer.map(|response| normalise::hash(response.into_inner())))
            }
            Step::Snapshot => Answer::of_result(self.snapshot().await),
            Step::Auth(call) => self.auth(call).await,
            Step::LogIn { slot, request } => self.tokens.log_in(&self.client, *slot, request).await,
            Step::Become(who) => {
                self.asks_as = who.clone();
                self.client = self.client.with_token(self.tokens.of(who));
                Answer::default()
            }
            Step::Talk(requests) => self.talk(requests).await,
            Step::Watch { slot, create } => self.watch(*slot, create).await,
            Step::Unwatch { slot } => match self.watches.remove(slot) {
                Some(mut watch) => Answer::of(&watch.told_up_to(self.revision).await),
                None => Answer::default(),
            },
            Step::Sync => Answer::of(&self.sync().await),
        }
    }

    fn answered<T: std::fmt::Debug>(
        &mut self,
        answer: Result<T, Status>,
        header: fn(&mut T) -> &mut Option<pb::ResponseHeader>,
    ) -> Answer {
        Answer::of_result(answer.map(|mut response| {
            let header = header(&mut response);
            self.revision = header
                .as_ref()
                .map_or(0, |header| header.revision)
                .max(self.revision);
            normalise::header(header);
            response
        }))
    }

    async fn watch(&mut self, slot: u32, create: &pb::WatchCreateRequest) -> Answer {
        let stream = self.client.watch_stream();
        stream.create(create.clone()).await;
        let mut watch = Watch {
            stream,
            start: create.start_revision,
            messages: Vec::new(),
            compared: 0,
            ended: None,
        };
        let created = watch.stream.next().await.map(|mut message| {
            if message.canceled {
                watch.ended = Some("at once".into());
            }
            normalise::header(&mut message.header);
            message
        });
        let answer = Answer::of_result(created);
        self.watches.insert(slot, watch);
        answer
    }

    fn maintenance(&self) -> MaintenanceClient<tonic::transport::Channel> {
        MaintenanceClient::new(self.client.channel())
    }

    /// Whether it ends with a checksum, and nothing of what is in it.
    async fn snapshot(&self) -> Result<bool, Status> {
        let request = self.client.ask(pb::SnapshotRequest {});
        let mut pieces = self.maintenance().snapshot(request).await?.into_inner();
        let mut length = 0;
        while let Some(piece) = pieces.message().await? {
            length += piece.blob.len();
        }
        Ok(length % 512 == 32)
    }

    /// A change may end watches here that etcd lets go on, so all of them end before it.
    async fn auth(&mut self, call: &AuthCall) -> Answer {
        let told = match call.changes() {
            true => self.sync().await,
            false => Vec::new(),
        };
        if call.changes() {
            self.watches.clear();
        }
        let answer = call.ask(&self.client).await;
        if let Some(name) = call.ends_tokens_of() {
            self.tokens.forget_signed(name);
            self.client = self.client.with_token(self.tokens.of(&self.asks_as));
        }
        Answer::of(&(told, answer))
    }

    /// What a server says of creating and cancelling, up to the watch that is created last.
    async fn talk(&self, requests: &[pb::WatchRequest]) -> Answer {
        let mut stream = self.client.watch_stream();
        for request in requests {
            stream.send(request.clone()).await;
        }
        stream
            .create(pb::WatchCreateRequest {
                key: "the end".into(),
                watch_id: LAST_WATCH,
                ..Default::default()
            })
            .await;
        let creates = |request: &&pb::WatchRequest| {
            matches!(request.request_union, Some(RequestUnion::CreateRequest(_)))
        };
        // Each is told to be created, even one that is refused.
        let mut uncreated = requests.iter().filter(creates).count() + 1;
        let mut told = Vec::new();
        while uncreated > 0 {
            match stream.next().await {
                Ok(mut message) if message.created || message.canceled => {
                    uncreated -= usize::from(message.created);
                    normalise::header(&mut message.header);
                    told.push(message);
                }
                // Nobody writes meanwhile; what a watch is told is compared elsewhere.
                Ok(_) => {}
                Err(status) => return Answer::of(&(told, status.code(), status.message())),
            }
        }
        Answer::of(&told)
    }

    async fn sync(&mut self) -> Vec<(u32, Told)> {
        let mut all = Vec::new();
        for (slot, watch) in &mut self.watches {
            all.push((*slot, watch.told_up_to(self.revision).await));
        }
        all
    }
}

impl Player for Session {
    fn revision(&self) -> i64 {
        self.revision
    }

    async fn play(&mut self, step: &Step) -> Answer {
        Self::play(self, step).await
    }
}

/// What a watch was told since it was last compared.
#[derive(Debug)]
pub(super) struct Told {
    /// Read through `Debug` alone, as the other server's.
    #[expect(dead_code, reason = "compared as text")]
    events: Vec<Event>,
    #[expect(dead_code, reason = "compared as text")]
    ended: Option<String>,
    #[expect(dead_code, reason = "compared as text")]
    broken: Option<watch::Broken>,
}

impl Watch {
    async fn told_up_to(&mut self, revision: i64) -> Told {
        if self.ended.is_none() && self.start <= revision {
            self.listen(revision).await;
        }
        let events = watch::events_of(&self.messages);
        let new = events[self.compared..].to_vec();
        self.compared = events.len();
        Told {
            events: new,
            ended: self.ended.clone(),
            broken: self.broken(),
        }
    }

    /// Order, uniqueness, atomicity and bookmarks; reliability is shown by the comparison, since filters hide puts.
    fn broken(&self) -> Option<watch::Broken> {
        let checks = [
            watch::ordered(&self.messages),
            watch::unique(&self.messages),
            watch::atomic(&self.messages),
            watch::resumable(&self.messages, self.start),
            watch::bookmarkable(&self.messages),
        ];
        checks.into_iter().find_map(Result::err)
    }

    async fn listen(&mut self, revision: i64) {
        let deadline = Instant::now() + TOLD_WITHIN;
        self.stream.ask_progress().await;
        loop {
            match self.stream.next_within(ASK_AGAIN).await {
                Some(Ok(message)) if message.canceled => {
                    self.ended = Some(format!(
                        "compact_revision {}: {}",
                        message.compact_revision, message.cancel_reason
                    ));
                    return;
                }
                Some(Ok(message)) => {
                    let bookmark = message
                        .events
                        .is_empty()
                        .then(|| message.header.as_ref().map_or(0, |header| header.revision));
                    self.messages.push(message);
                    if bookmark.is_some_and(|bookmark| bookmark >= revision) {
                        return;
                    }
                    if bookmark.is_some() {
                        self.stream.ask_progress().await;
                    }
                }
                Some(Err(status)) => {
                    self.ended = Some(status.to_string());
                    return;
                }
                None if Instant::now() >= deadline => {
                    self.ended = Some(format!(
                        "no progress to revision {revision} within {TOLD_WITHIN:?}"
                    ));
                    return;
                }
                None => self.stream.ask_progress().await,
            }
        }
    }
}
