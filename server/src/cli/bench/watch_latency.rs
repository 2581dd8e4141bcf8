//! How long after a put its watchers are told.

use std::collections::HashMap;
use std::time::Instant;

use clap::Args;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, WatchCreateRequest};
use tokio::task::JoinSet;

use super::keys::random_bytes;
use super::load::wait_turn;
use super::report::{Measured, Report};
use super::watch::{WatchStream, stopped};
use super::{BenchError, Target};

#[derive(Debug, Args)]
pub(super) struct WatchLatency {
    /// How many watch streams
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// How many watchers on each stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    watchers_per_stream: u32,
    /// Ask for the previous record with each event
    #[arg(long)]
    prevkv: bool,
    /// How many puts
    #[arg(long, default_value_t = 1_000)]
    put_total: usize,
    /// Puts per second, 0 for as many as can be
    #[arg(long, default_value_t = 100)]
    put_rate: u32,
    /// Bytes of the key
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    key_size: u16,
    /// Bytes of each value
    #[arg(long, default_value_t = 32)]
    val_size: usize,
}

/// When each event came, by watcher.
type Times = HashMap<i64, Vec<Instant>>;

impl WatchLatency {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        let request = PutRequest {
            key: random_bytes(self.key_size.into()),
            value: random_bytes(self.val_size),
            ..Default::default()
        };
        let mut listening = self.listen(to, &request).await?;
        let mut client = KvClient::new(to.channels[0].clone());
        let mut puts = Measured::default();
        let mut put_at = Vec::with_capacity(self.put_total);
        let start = Instant::now();
        for number in 0..self.put_total {
            wait_turn(start, number as u64, self.put_rate).await;
            let asked = Instant::now();
            let put = client.put(request.clone()).await;
            put.map_err(BenchError::refused("a put that is watched is refused"))?;
            puts.record(&Ok(()), asked.elapsed());
            put_at.push(Instant::now());
        }
        let put_report = Report::new(puts, start.elapsed());
        let mut told = Measured::default();
        while let Some(times) = listening.join_next().await {
            for times in times.map_err(|_| stopped())??.values() {
                for (put, event) in put_at.iter().zip(times) {
                    // An event may come before the put's own answer.
                    told.record(&Ok(()), event.saturating_duration_since(*put));
                }
            }
        }
        Ok(format!(
            "\nPut summary:\n{}\nWatch events summary:\n{}",
            put_report.text(to.precise),
            Report::new(told, start.elapsed()).text(to.precise)
        ))
    }

    /// Opens every watcher, and lets each stream listen until its watchers were told of all puts.
    async fn listen(
        &self,
        to: &Target<'_>,
        put: &PutRequest,
    ) -> Result<JoinSet<Result<Times, BenchError>>, BenchError> {
        let mut listening = JoinSet::new();
        for channel in to.channels.iter().cycle().take(self.streams as usize) {
            let mut stream = WatchStream::new(channel.clone());
            let mut times = Times::new();
            for _ in 0..self.watchers_per_stream {
                let create = WatchCreateRequest {
                    key: put.key.clone(),
                    prev_kv: self.prevkv,
                    ..Default::default()
                };
                stream.create(create).await?;
                times.insert(stream.created().await?, Vec::new());
            }
            let total = self.put_total;
            listening.spawn(async move {
                while times.values().any(|own| own.len() < total) {
                    let message = stream.message().await?;
                    let received = Instant::now();
                    let own = times.entry(message.watch_id).or_default();
                    own.extend(message.events.iter().map(|_| received));
                }
                Ok(times)
            });
        }
        Ok(listening)
    }
}
