//! Watching: events to many watchers, and reads while many watchers catch up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use parking_lot::Mutex;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::keys::{chosen, fits, key_bytes};
use super::load::wait_turn;
use super::report::{Measured, Report};
use super::{ANSWER_BYTES_MAX, BenchError, Target};

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// How many watch streams
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// How many watchers on each stream
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    watch_per_stream: u32,
    /// How many keys are watched
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    watched_key_total: u32,
    /// Puts per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    put_rate: u32,
    /// How many puts
    #[arg(long, default_value_t = 1_000)]
    put_total: u64,
    /// Bytes of each key
    #[arg(long, default_value_t = 32)]
    key_size: usize,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    key_space_size: u64,
    /// Take the keys in turn instead of at random
    #[arg(long)]
    sequential_keys: bool,
}

impl Watch {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        fits(self.key_size, self.key_space_size)?;
        let watched: Vec<Bytes> = (0..u64::from(self.watched_key_total))
            .map(|number| chosen(number, self.key_space_size, self.sequential_keys))
            .map(|number| key_bytes(number, self.key_size))
            .collect();
        let (streams, made, watchers) = self.make(to, &watched).await?;
        let told = self.tell(to, &watched, &watchers, streams).await?;
        Ok(format!(
            "Watch creation summary:\n{}Watch events received summary:\n{}",
            made.text(to.precise),
            told.text(to.precise)
        ))
    }

    /// Opens all streams at the same time, and their watchers one after the other. Also says how many watch a key.
    async fn make(
        &self,
        to: &Target<'_>,
        watched: &[Bytes],
    ) -> Result<(Vec<WatchStream>, Report, HashMap<Bytes, u64>), BenchError> {
        let start = Instant::now();
        let measured = Arc::new(Mutex::new(Measured::default()));
        let mut watchers = HashMap::new();
        let mut turn = watched.iter().cycle();
        let mut making = JoinSet::new();
        for channel in to.channels.iter().cycle().take(self.streams as usize) {
            let keys: Vec<Bytes> = turn
                .by_ref()
                .take(self.watch_per_stream as usize)
                .cloned()
                .collect();
            for key in &keys {
                *watchers.entry(key.clone()).or_default() += 1;
            }
            let (channel, measured) = (channel.clone(), Arc::clone(&measured));
            making.spawn(async move {
                let mut stream = WatchStream::new(channel);
                for key in keys {
                    let asked = Instant::now();
                    stream.create(of_key(key, 0)).await?;
                    stream.created().await?;
                    measured.lock().record(&Ok(()), asked.elapsed());
                }
                Ok::<_, BenchError>(stream)
            });
        }
        let mut streams = Vec::new();
        while let Some(made) = making.join_next().await {
            streams.push(made.map_err(|_| stopped())??);
        }
        let report = Report::new(std::mem::take(&mut *measured.lock()), start.elapsed());
        Ok((streams, report, watchers))
    }

    /// Puts the watched keys in turn and waits until every watcher was told.
    async fn tell(
        &self,
        to: &Target<'_>,
        watched: &[Bytes],
        watchers: &HashMap<Bytes, u64>,
        streams: Vec<WatchStream>,
    ) -> Result<Report, BenchError> {
        let put_keys = watched.iter().cycle().take(self.put_total as usize);
        let expected: u64 = put_keys
            .map(|key| watchers.get(key).copied().unwrap_or(0))
            .sum();
        let left = Arc::new(Left::new(expected));
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for mut stream in streams {
            let left = Arc::clone(&left);
            tasks.spawn(async move {
                let mut measured = Measured::default();
                while let Some(message) = left.or_none(stream.message()).await {
                    let (message, received) = (message?, Instant::now());
                    for _ in &message.events {
                        measured.record(&Ok(()), received.elapsed());
                    }
                    left.take(message.events.len());
                }
                Ok::<_, BenchError>(measured)
            });
        }
        let next = Arc::new(AtomicU64::new(0));
        let watched: Arc<[Bytes]> = watched.into();
        for mut client in to.each(KvClient::new) {
            let (next, watched) = (Arc::clone(&next), Arc::clone(&watched));
            let (total, rate) = (self.put_total, self.put_rate);
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return Ok(Measured::default());
                    }
                    wait_turn(start, number, rate).await;
                    let request = PutRequest {
                        key: watched[(number % watched.len() as u64) as usize].clone(),
                        value: Bytes::from_static(b"data"),
                        ..Default::default()
                    };
                    let put = client.put(request).await;
                    put.map_err(BenchError::refused("a put that is watched is refused"))?;
                }
            });
        }
        let mut all = Measured::default();
        while let Some(measured) = tasks.join_next().await {
            all.add(measured.map_err(|_| stopped())??);
        }
        Ok(Report::new(all, start.elapsed()))
    }
}

#[derive(Debug, Args)]
pub(super) struct WatchGet {
    /// How many watchers
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    watchers: u32,
    /// Over how many streams
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// How many events each watcher has to catch up with
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
}

impl WatchGet {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        let key = Bytes::from_static(b"watchkey");
        let first = self.past(to, &key).await?;
        let left = Arc::new(Left::new(u64::from(self.watchers) * u64::from(self.events)));
        let mut tasks = JoinSet::new();
        let channels = to.channels.iter().cycle().take(self.streams as usize);
        for (stream, channel) in (0..self.streams).zip(channels) {
            let own = (stream..self.watchers).step_by(self.streams as usize).len();
            let (left, key) = (Arc::clone(&left), key.clone());
            let mut stream = WatchStream::new(channel.clone());
            tasks.spawn(async move {
                // The requests go out while events already come in.
                let requests = stream.requests.clone();
                let create = tokio::spawn(async move {
                    for _ in 0..own {
                        // Who reads the answers sees that the stream has ended.
                        let _ = requests
                            .send(create_request(of_key(key.clone(), first)))
                            .await;
                    }
                });
                while let Some(message) = left.or_none(stream.message()).await {
                    left.take(message?.events.len());
                }
                create.abort();
                Ok::<_, BenchError>(())
            });
        }
        let start = Instant::now();
        let mut measured = Measured::default();
        let mut client = KvClient::new(to.channels[0].clone());
        let get = RangeRequest {
            key: Bytes::from_static(b"abc"),
            serializable: true,
            ..Default::default()
        };
        loop {
            let begun = Instant::now();
            let Some(answer) = left.or_none(client.range(get.clone())).await else {
                break;
            };
            measured.record(&answer.map(|_| ()), begun.elapsed());
            if let Some(ended) = tasks.try_join_next() {
                ended.map_err(|_| stopped())??;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| stopped())??;
        }
        let report = Report::new(measured, start.elapsed());
        Ok(format!(
            "Get during watch summary:\n{}",
            report.text(to.precise)
        ))
    }

    /// Makes the events and returns the revision of the first.
    async fn past(&self, to: &Target<'_>, key: &Bytes) -> Result<i64, BenchError> {
        let mut client = KvClient::new(to.channels[0].clone());
        let mut first = None;
        for number in 0..self.events {
            let put = client
                .put(PutRequest {
                    key: key.clone(),
                    value: number.to_string().into(),
                    ..Default::default()
                })
                .await
                .map_err(BenchError::refused("a put that is watched is refused"))?;
            let revision = put.into_inner().header.map_or(0, |header| header.revision);
            first.get_or_insert(revision);
        }
        Ok(first.unwrap_or_default())
    }
}

/// How many events are still to come; whoever waits for more is told when there are none.
struct Left {
    events: AtomicI64,
    none: Notify,
}

impl Left {
    fn new(events: u64) -> Self {
        Self {
            events: AtomicI64::new(i64::try_from(events).unwrap_or(i64::MAX)),
            none: Notify::new(),
        }
    }

    fn take(&self, events: usize) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        if self.events.fetch_sub(events, Ordering::Relaxed) <= events {
            self.none.notify_waiters();
        }
    }

    /// The answer, or nothing once no event is left.
    async fn or_none<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        // Listening before looking, so that the last event is not missed in between.
        let none = self.none.notified();
        if self.events.load(Ordering::Relaxed) <= 0 {
            return None;
        }
        tokio::select! {
            answer = answer => Some(answer),
            () = none => None,
        }
    }
}

/// One stream with its watchers; opened by the first of them, since a server may answer only then.
pub(super) struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Answers,
}

enum Answers {
    Closed(Channel, ReceiverStream<WatchRequest>),
    Open(Box<Streaming<WatchResponse>>),
    /// Between the two, and for good when it could not be opened.
    Gone,
}

impl WatchStream {
    pub(super) fn new(channel: Channel) -> Self {
        let (requests, receiver) = mpsc::channel(128);
        Self {
            requests,
            answers: Answers::Closed(channel, ReceiverStream::new(receiver)),
        }
    }

    pub(super) async fn create(&self, create: WatchCreateRequest) -> Result<(), BenchError> {
        let sent = self.requests.send(create_request(create)).await;
        sent.map_err(|_| ended("its stream is closed"))
    }

    /// Reads on to the answer of a create; returns the watcher's id.
    pub(super) async fn created(&mut self) -> Result<i64, BenchError> {
        loop {
            let message = self.message().await?;
            if message.created {
                return Ok(message.watch_id);
            }
        }
    }

    pub(super) async fn message(&mut self) -> Result<WatchResponse, BenchError> {
        if matches!(self.answers, Answers::Closed(..))
            && let Answers::Closed(channel, requests) =
                std::mem::replace(&mut self.answers, Answers::Gone)
        {
            let mut client = WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            let opened = client.watch(requests).await;
            let opened = opened.map_err(BenchError::refused("no watch stream is opened"))?;
            self.answers = Answers::Open(Box::new(opened.into_inner()));
        }
        let Answers::Open(answers) = &mut self.answers else {
            return Err(ended("its stream was not opened"));
        };
        match answers.message().await {
            Ok(Some(message)) if message.canceled => Err(BenchError::WatchEnded {
                reason: message.cancel_reason,
            }),
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ended("the server closed its stream")),
            Err(status) => Err(BenchError::refused("a watch stream broke off")(status)),
        }
    }
}

pub(super) fn of_key(key: Bytes, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key,
        start_revision,
        ..Default::default()
    }
}

fn create_request(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}

fn ended(reason: &str) -> BenchError {
    BenchError::WatchEnded {
        reason: reason.to_owned(),
    }
}

/// A task of a benchmark ends before its time only with the whole runtime.
pub(super) fn stopped() -> BenchError {
    ended("the benchmark is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_an_event_is_told_when_none_is_left() {
        let left = Arc::new(Left::new(3));
        let waiting = tokio::spawn({
            let left = Arc::clone(&left);
            async move { left.or_none(std::future::pending::<()>()).await }
        });
        left.take(1);
        assert_eq!(left.or_none(async { 7 }).await, Some(7));
        tokio::task::yield_now().await;
        left.take(2);
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(left.or_none(async { 7 }).await, None);
    }
}
