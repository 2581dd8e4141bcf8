//! What changes in the source after the copy, written to the target as it comes.
//!
//! Promise: in the source's order; a revision of the source is one transaction of the target
//! where it fits one. It ends only when everything up to the given moment is written.
//! Not known here: how the keys before that got there.

use std::time::Duration;

use pb::watch_request::RequestUnion;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Streaming};

use super::batch::{Batch, Write};
use super::side::{Side, is_token_stale_in, is_transient};
use super::state::{Phase, STATE_KEY};
use super::{MigrateError, Migration};

/// Between requests for progress while the end is awaited.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(500);

/// How following ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The target has everything up to this revision of the source.
    Through(i64),
    /// What was missed is compacted, or a lease was lost: copy again.
    Lagged,
}

struct Watch {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Migration {
    /// Until `stop`, then to the source's newest revision of that moment.
    pub(super) async fn follow(
        &mut self,
        from: i64,
        stop: &CancellationToken,
    ) -> Result<Followed, MigrateError> {
        let mut done = from;
        let mut broken_since: Option<std::time::Instant> = None;
        loop {
            let before = done;
            let outcome = match self.watch(done).await {
                Ok(watch) => self.take_events(watch, &mut done, stop).await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(followed) => return Ok(followed),
                Err(error) => error,
            };
            if done > before {
                broken_since = None;
            }
            let since = *broken_since.get_or_insert_with(std::time::Instant::now);
            if !error.is_transient() || since.elapsed() > self.source.patience() {
                return Err(error);
            }
            self.progress
                .note(&format!("the watch broke: {error}; trying again"));
            self.source.turn_away();
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn watch(&self, done: i64) -> Result<Watch, MigrateError> {
        let create = pb::WatchCreateRequest {
            key: self.scope.key.clone(),
            range_end: self.scope.range_end.clone(),
            start_revision: done + 1,
            progress_notify: true,
            fragment: true,
            ..Default::default()
        };
        let opened = self.source.ask("watch", |channel| {
            let (requests, inbox) = mpsc::channel(4);
            let create = pb::WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create.clone())),
            };
            let request = self.source.request(ReceiverStream::new(inbox));
            async move {
                let _ = requests.send(create).await;
                let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
                let answers = client.watch(request).await?.into_inner();
                Ok(Response::new(Watch { requests, answers }))
            }
        });
        opened.await
    }

    async fn take_events(
        &mut self,
        mut watch: Watch,
        done: &mut i64,
        stop: &CancellationToken,
    ) -> Result<Followed, MigrateError> {
        let mut events: Vec<Event> = Vec::new();
        let mut end: Option<i64> = None;
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            if let Some(end) = end
                && *done >= end
            {
                return Ok(Followed::Through(*done));
            }
            let answer = tokio::select! {
                answer = watch.answers.message() => answer,
                () = stop.cancelled(), if end.is_none() => {
                    end = Some(self.newest_revision(&self.source).await?);
                    continue;
                }
                _ = tick.tick() => {
                    if self.leases.take_lost() {
                        return Ok(Followed::Lagged);
                    }
                    if end.is_some() {
                        let request_union =
                            Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                        let _ = watch.requests.try_send(pb::WatchRequest { request_union });
                    }
                    continue;
                }
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    let ended = tonic::Status::unavailable("the watch stream ended");
                    return Err(self.source.failed("watch", ended));
                }
                Err(status) => return Err(self.source.failed("watch", status)),
            };
            if answer.canceled {
                if answer.compact_revision > 0 {
                    return Ok(Followed::Lagged);
                }
                let reason = answer.cancel_reason;
                let status = if is_token_stale_in(&reason) {
                    self.source.log_in_again();
                    tonic::Status::unavailable(reason)
                } else {
                    tonic::Status::unknown(format!("etcdserver: {reason}"))
                };
                return Err(self.source.failed("watch", status));
            }
            let is_progress = answer.events.is_empty() && !answer.created && !answer.fragment;
            events.extend(answer.events);
            if answer.fragment {
                continue;
            }
            self.apply(std::mem::take(&mut events), done).await?;
            let revision = answer.header.map_or(0, |header| header.revision);
            if is_progress && revision > *done {
                *done = revision;
            }
            self.progress.following(*done);
        }
    }

    async fn apply(&mut self, events: Vec<Event>, done: &mut i64) -> Result<(), MigrateError> {
        let mut batch = Batch::default();
        let mut complete = *done;
        let mut events = events.into_iter().peekable();
        while let Some(first) = events.peek().map(revision_of) {
            let mut writes = Vec::new();
            while let Some(event) = events.next_if(|event| revision_of(event) == first) {
                // Of a migration that once had the source for its target.
                if event.kv.as_ref().is_some_and(|kv| kv.key == STATE_KEY) {
                    continue;
                }
                self.progress.changed();
                writes.push(self.with_its_lease(write_of(event)).await?);
            }
            if !batch.has_room(&writes) {
                self.commit(&mut batch, complete).await?;
            }
            for write in writes {
                // A revision too large for one transaction counts once its last part is in.
                if !batch.has_room(std::slice::from_ref(&write)) {
                    self.commit(&mut batch, complete).await?;
                }
                batch.add(write);
            }
            complete = first;
        }
        if !batch.is_empty() {
            self.commit(&mut batch, complete).await?;
        }
        *done = complete;
        Ok(())
    }

    async fn commit(&mut self, batch: &mut Batch, revision: i64) -> Result<(), MigrateError> {
        let phase = Phase::Following { revision };
        self.kept.commit(&self.target, batch.take(), phase).await
    }

    pub(super) async fn newest_revision(&self, side: &Side) -> Result<i64, MigrateError> {
        let request = pb::RangeRequest {
            key: bytes::Bytes::from_static(b"\0"),
            count_only: true,
            ..Default::default()
        };
        let answer = side.range(request).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn write_of(event: Event) -> Write {
    let deleted = event.r#type() == EventType::Delete;
    let row = event.kv.unwrap_or_default();
    if deleted {
        Write::Delete { key: row.key }
    } else {
        Write::put(row)
    }
}

impl MigrateError {
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Call { status, .. } => is_transient(status),
            _ => false,
        }
    }
}
