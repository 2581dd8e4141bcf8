//! `sealkv bench`: load on any endpoint that speaks etcd's API.
//!
//! Subcommands, flags and report are those of etcd's `tools/benchmark`, so that figures of both can be
//! read side by side. Everything runs on the caller's runtime; a single-threaded one leaves the other
//! cores to the server that is measured.
//! Not known here: how an endpoint is dialled, and any other module of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use parking_lot::Mutex;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use rand::{Rng, RngCore};
use tonic::Status;
use tonic::transport::Channel;

use super::Global;
use super::bench_report::{Measured, Report};
use super::connect::ConnectError;

/// No answer of a benchmark is larger.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// How many clients ask at the same time
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Over how many connections
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    conns: u32,
    /// Print every digit of a figure
    #[arg(long, global = true)]
    precise: bool,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Writes keys
    Put(Put),
    /// Reads a key or a range
    Range(Range),
}

#[derive(Debug, Args)]
struct Put {
    /// Bytes of each key
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// How many requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    key_space_size: u64,
    /// Take the keys in turn instead of at random
    #[arg(long)]
    sequential_keys: bool,
    /// Requests per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

#[derive(Debug, Args)]
struct Range {
    #[arg(required_unless_present = "prefix")]
    key: Option<String>,
    end_range: Option<String>,
    /// Linearizable or serializable
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    consistency: Consistency,
    /// How many requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Keys of an answer at most, 0 for all
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    limit: i64,
    /// Ask for the number of keys alone
    #[arg(long, conflicts_with = "keys_only")]
    count_only: bool,
    /// Ask for keys without values
    #[arg(long)]
    keys_only: bool,
    /// Take all keys that begin with KEY
    #[arg(long, conflicts_with = "end_range")]
    prefix: bool,
    /// Requests per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consistency {
    /// Linearizable
    L,
    /// Serializable
    S,
}

/// Why no load could be made. Refused requests are counted in the report instead.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "--key-size {key_size} is too small for --key-space-size {key_space_size}: {needed} bytes are needed"
    )]
    KeySize {
        key_size: usize,
        key_space_size: u64,
        needed: usize,
    },
}

/// Runs the load and returns the report as text.
pub(super) async fn run(bench: &Bench, global: &Global) -> Result<String, BenchError> {
    let channels = connect(global, bench.conns.min(bench.clients)).await?;
    let report = match &bench.work {
        Work::Put(put) => put.run(bench, &channels).await?,
        Work::Range(range) => range.run(bench, &channels).await,
    };
    Ok(report.text(bench.precise))
}

async fn connect(global: &Global, conns: u32) -> Result<Vec<Channel>, BenchError> {
    let ways = global.ways()?;
    let mut channels = Vec::new();
    for way in ways.iter().cycle().take(conns as usize) {
        channels.push(way.connect(global).await?);
    }
    Ok(channels)
}

impl Put {
    async fn run(&self, bench: &Bench, channels: &[Channel]) -> Result<Report, BenchError> {
        let needed = varint(self.key_space_size - 1).len();
        if needed > self.key_size {
            return Err(BenchError::KeySize {
                key_size: self.key_size,
                key_space_size: self.key_space_size,
                needed,
            });
        }
        let mut value = vec![0; self.val_size];
        rand::rng().fill_bytes(&mut value);
        let value = Bytes::from(value);
        let (space, sequential, key_size) =
            (self.key_space_size, self.sequential_keys, self.key_size);
        let load = Load {
            total: self.total,
            rate: self.rate,
            clients: bench.clients,
        };
        Ok(load
            .run(channels, move |mut client, number| {
                let key = if sequential {
                    number % space
                } else {
                    rand::rng().random_range(0..space)
                };
                let request = PutRequest {
                    key: key_bytes(key, key_size),
                    value: value.clone(),
                    ..Default::default()
                };
                async move { client.put(request).await.map(|_| ()) }
            })
            .await)
    }
}

impl Range {
    async fn run(&self, bench: &Bench, channels: &[Channel]) -> Report {
        let request = self.request();
        let load = Load {
            total: self.total,
            rate: self.rate,
            clients: bench.clients,
        };
        load.run(channels, move |mut client, _| {
            let request = request.clone();
            async move { client.range(request).await.map(|_| ()) }
        })
        .await
    }

    fn request(&self) -> RangeRequest {
        let key = self.key.clone().unwrap_or_default();
        let (key, range_end) = match (self.prefix, key.is_empty()) {
            (true, true) => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            (true, false) => (Bytes::from(key.clone()), prefix_end(key.as_bytes())),
            (false, _) => (
                Bytes::from(key),
                Bytes::from(self.end_range.clone().unwrap_or_default()),
            ),
        };
        RangeRequest {
            key,
            range_end,
            limit: self.limit,
            serializable: matches!(self.consistency, Consistency::S),
            count_only: self.count_only,
            keys_only: self.keys_only,
            ..Default::default()
        }
    }
}

/// How much is asked, how fast and by how many.
struct Load {
    total: u64,
    rate: u32,
    clients: u32,
}

impl Load {
    async fn run<Ask, Answer>(self, channels: &[Channel], ask: Ask) -> Report
    where
        Ask: Fn(KvClient<Channel>, u64) -> Answer + Clone + Send + 'static,
        Answer: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let next = Arc::new(AtomicU64::new(0));
        let measured = Arc::new(Mutex::new(Measured::default()));
        let start = Instant::now();
        let (total, rate) = (self.total, self.rate);
        let clients: Vec<_> = channels
            .iter()
            .cycle()
            .take(self.clients as usize)
            .map(|channel| {
                let client =
                    KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
                let (next, ask, measured) = (Arc::clone(&next), ask.clone(), Arc::clone(&measured));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        wait_turn(start, number, rate).await;
                        let asked = Instant::now();
                        let answer = ask(client.clone(), number).await;
                        measured.lock().record(&answer, asked.elapsed());
                    }
                })
            })
            .collect();
        for client in clients {
            // A client ends early only with the runtime, and then nobody reads the report.
            let _ = client.await;
        }
        let total = start.elapsed();
        Report::new(std::mem::take(&mut *measured.lock()), total)
    }
}

/// With a rate, request `number` is due `number / rate` seconds after the start.
async fn wait_turn(start: Instant, number: u64, rate: u32) {
    if rate > 0 {
        let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate));
        tokio::time::sleep_until(due.into()).await;
    }
}

/// The key of a number: its zigzag varint, as Go's `binary.PutVarint` writes it, padded with zeros.
fn key_bytes(number: u64, key_size: usize) -> Bytes {
    let mut key = varint(number);
    key.resize(key_size.max(key.len()), 0);
    key.into()
}

fn varint(number: u64) -> Vec<u8> {
    let mut rest = number << 1;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// The end of the range of all keys that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    match kept {
        None => Bytes::from_static(b"\0"),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_gos_signed_varints_padded_to_their_size() {
        assert_eq!(key_bytes(0, 4).as_ref(), [0, 0, 0, 0]);
        assert_eq!(key_bytes(1, 2).as_ref(), [2, 0]);
        assert_eq!(key_bytes(64, 2).as_ref(), [0x80, 1]);
        assert_eq!(
            key_bytes(99_999, 8).as_ref(),
            [0xbe, 0x9a, 0x0c, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"ab"), b"ac".as_slice());
        assert_eq!(prefix_end(b"a\xff"), b"b".as_slice());
        assert_eq!(prefix_end(b"\xff"), b"\0".as_slice());
    }

    #[tokio::test]
    async fn a_key_space_that_does_not_fit_its_keys_is_refused_before_any_load() {
        let put = Put {
            key_size: 1,
            val_size: 1,
            total: 1,
            key_space_size: 1_000,
            sequential_keys: true,
            rate: 0,
        };
        let bench = Bench {
            clients: 1,
            conns: 1,
            precise: false,
            work: Work::Put(put),
        };
        let Work::Put(put) = &bench.work else {
            unreachable!("made above")
        };
        let refused = put.run(&bench, &[]).await;
        assert!(matches!(
            refused,
            Err(BenchError::KeySize { needed: 2, .. })
        ));
    }
}
