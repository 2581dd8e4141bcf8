//! Transactions: several puts at once, and reads mixed with writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use rand::Rng as _;

use super::keys::{fits, key_bytes, random_bytes};
use super::{ANSWER_BYTES_MAX, BenchError, Consistency, Target};

#[derive(Debug, Args)]
pub(super) struct TxnPut {
    /// Bytes of each key
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// How many puts in a transaction
    #[arg(long, default_value_t = 1)]
    txn_ops: u64,
    /// How many transactions
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    key_space_size: u64,
    /// Transactions per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

impl TxnPut {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        let (txn_ops, key_space_size, key_size) =
            (self.txn_ops, self.key_space_size, self.key_size);
        fits(key_size, key_space_size)?;
        if txn_ops > key_space_size {
            return Err(BenchError::TxnOps {
                txn_ops,
                key_space_size,
            });
        }
        let value = random_bytes(self.val_size);
        let load = to.load(self.total, self.rate);
        let [report] = load
            .run(to.each(KvClient::new), move |mut client, number| {
                let first = number.wrapping_mul(txn_ops);
                let puts = (0..txn_ops).map(|op| {
                    let key = key_bytes(first.wrapping_add(op) % key_space_size, key_size);
                    put(key, value.clone())
                });
                let request = then(puts.collect());
                async move { (0, client.txn(request).await.map(|_| ())) }
            })
            .await;
        Ok(report.text(to.precise))
    }
}

#[derive(Debug, Args)]
pub(super) struct TxnMixed {
    /// Bytes of each key
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// Transactions per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// How many transactions
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Where the range that is read ends, which begins with the first key; all keys by default
    #[arg(long, default_value = "")]
    end_key: String,
    /// How many keys a read returns at most
    #[arg(long, default_value_t = 1_000)]
    limit: i64,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    key_space_size: u64,
    /// Linearizable or serializable reads
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    consistency: Consistency,
    /// How many reads for each write
    #[arg(long, default_value_t = 1.0)]
    rw_ratio: f64,
}

const READ: usize = 0;
const WRITE: usize = 1;

impl TxnMixed {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        fits(self.key_size, self.key_space_size)?;
        let value = random_bytes(self.val_size);
        let read = range(RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: match self.end_key.as_str() {
                "" => Bytes::from_static(b"\0"),
                end => Bytes::from(end.to_owned()),
            },
            limit: self.limit,
            serializable: matches!(self.consistency, Consistency::S),
            ..Default::default()
        });
        let reads = (self.rw_ratio / (1.0 + self.rw_ratio)).clamp(0.0, 1.0);
        let (space, key_size) = (self.key_space_size, self.key_size);
        let made: Arc<[AtomicU64; 2]> = Arc::default();
        let counted = Arc::clone(&made);
        let clients =
            to.each(|channel| KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX));
        let [read_report, write_report] = to
            .load(self.total, self.rate)
            .run(clients, move |mut client, number| {
                let kind = if rand::rng().random_bool(reads) {
                    READ
                } else {
                    WRITE
                };
                counted[kind].fetch_add(1, Ordering::Relaxed);
                let operation = if kind == READ {
                    read.clone()
                } else {
                    put(key_bytes(number % space, key_size), value.clone())
                };
                async move {
                    let answer = client.txn(then(vec![operation])).await;
                    (kind, answer.map(|_| ()))
                }
            })
            .await;
        let [reads, writes] = [READ, WRITE].map(|kind| made[kind].load(Ordering::Relaxed));
        Ok(format!(
            "Total Read Ops: {reads}\nDetails:{}\nTotal Write Ops: {writes}\nDetails:{}",
            read_report.text(to.precise),
            write_report.text(to.precise)
        ))
    }
}

pub(super) fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp {
        request: Some(Request::RequestPut(PutRequest {
            key,
            value,
            ..Default::default()
        })),
    }
}

pub(super) fn range(request: RangeRequest) -> RequestOp {
    RequestOp {
        request: Some(Request::RequestRange(request)),
    }
}

pub(super) fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..Default::default()
    }
}
