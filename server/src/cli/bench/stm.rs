//! Software transactions: read and write some keys, and again until nobody else wrote them meanwhile.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::{Compare, LeaseGrantRequest, RangeRequest, TxnRequest};
use proto::v3lockpb::lock_client::LockClient;
use proto::v3lockpb::{LockRequest, UnlockRequest};
use rand::Rng as _;
use tonic::Status;
use tonic::transport::Channel;

use super::keys::{key_bytes, random_bytes};
use super::txn::put;
use super::{BenchError, Target};

const KEY_SIZE: usize = 16;
/// Longer than any benchmark holds a lock.
const LOCK_TTL_SECONDS: i64 = 3_600;

#[derive(Debug, Args)]
pub(super) struct Stm {
    /// What a transaction may see of others
    #[arg(long, value_enum, default_value_t = Isolation::R)]
    isolation: Isolation,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    keys: u64,
    /// How many transactions
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// How many keys each of them reads
    #[arg(long, default_value_t = 1)]
    keys_per_txn: u64,
    /// How many of a hundred keys that it reads it writes too
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(..=100))]
    txn_wr_percent: u64,
    /// Whether one lock stands before all of them
    #[arg(long, value_enum, default_value_t = Locker::Stm)]
    stm_locker: Locker,
    /// Bytes of each value
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// Transactions per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Read committed
    C,
    /// Repeatable reads
    R,
    /// Serializable
    S,
    /// Serializable, and what it writes was not written meanwhile
    Ss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Locker {
    /// None
    Stm,
    /// The server's lock service
    LockRpc,
}

/// One client with the lease that its lock hangs on.
#[derive(Clone)]
struct Client {
    kv: KvClient<Channel>,
    lock: LockClient<Channel>,
    lease: i64,
}

impl Stm {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        if self.keys_per_txn > self.keys {
            return Err(BenchError::KeysPerTxn {
                keys_per_txn: self.keys_per_txn,
                keys: self.keys,
            });
        }
        let locked = self.stm_locker == Locker::LockRpc;
        let mut clients = Vec::new();
        for channel in to.each(|channel| channel) {
            let lease = if locked { lease(&channel).await? } else { 0 };
            clients.push(Client {
                kv: KvClient::new(channel.clone()),
                lock: LockClient::new(channel),
                lease,
            });
        }
        let (keys, keys_per_txn, val_size) = (self.keys, self.keys_per_txn, self.val_size);
        let (isolation, writes) = (self.isolation, keys_per_txn * self.txn_wr_percent / 100);
        let [report] = to
            .load(self.total, self.rate)
            .run(clients, move |mut client, _| async move {
                let mut chosen = std::collections::BTreeSet::new();
                while (chosen.len() as u64) < keys_per_txn {
                    chosen.insert(key_bytes(rand::rng().random_range(0..keys), KEY_SIZE));
                }
                let transaction = Transaction {
                    writes: chosen.iter().take(writes as usize).cloned().collect(),
                    reads: chosen.into_iter().collect(),
                    isolation,
                    val_size,
                };
                let done = if locked {
                    transaction.under_lock(&mut client).await
                } else {
                    transaction.until_done(&mut client.kv).await
                };
                (0, done)
            })
            .await;
        Ok(report.text(to.precise))
    }
}

async fn lease(channel: &Channel) -> Result<i64, BenchError> {
    let request = LeaseGrantRequest {
        ttl: LOCK_TTL_SECONDS,
        id: 0,
    };
    let granted = LeaseClient::new(channel.clone()).lease_grant(request).await;
    let granted = granted.map_err(BenchError::refused("no lease is granted"))?;
    Ok(granted.into_inner().id)
}

struct Transaction {
    reads: Vec<Bytes>,
    writes: Vec<Bytes>,
    isolation: Isolation,
    val_size: usize,
}

impl Transaction {
    async fn under_lock(&self, client: &mut Client) -> Result<(), Status> {
        let request = LockRequest {
            name: Bytes::from_static(b"stmlock"),
            lease: client.lease,
        };
        let key = client.lock.lock(request).await?.into_inner().key;
        let done = self.until_done(&mut client.kv).await;
        client.lock.unlock(UnlockRequest { key }).await?;
        done
    }

    async fn until_done(&self, client: &mut KvClient<Channel>) -> Result<(), Status> {
        loop {
            let seen = self.read(client).await?;
            if client.txn(self.commit(&seen)).await?.into_inner().succeeded {
                return Ok(());
            }
        }
    }

    /// The revision at which each key was last written.
    async fn read(&self, client: &mut KvClient<Channel>) -> Result<Seen, Status> {
        let mut seen = Seen::default();
        for key in &self.reads {
            let request = RangeRequest {
                key: key.clone(),
                // All as of the first read, where the transaction is one point in time.
                revision: match self.isolation {
                    Isolation::C | Isolation::R => 0,
                    Isolation::S | Isolation::Ss => seen.at,
                },
                ..Default::default()
            };
            let answer = client.range(request).await?.into_inner();
            if seen.at == 0 {
                seen.at = answer.header.map_or(0, |header| header.revision);
            }
            let written = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
            seen.revisions.insert(key.clone(), written);
        }
        Ok(seen)
    }

    fn commit(&self, seen: &Seen) -> TxnRequest {
        let unchanged = seen
            .revisions
            .iter()
            .map(|(key, revision)| compare(key.clone(), CompareResult::Equal, *revision));
        let unwritten = self
            .writes
            .iter()
            .map(|key| compare(key.clone(), CompareResult::Less, seen.at + 1));
        let compare = match self.isolation {
            Isolation::C => Vec::new(),
            Isolation::R | Isolation::S => unchanged.collect(),
            Isolation::Ss => unchanged.chain(unwritten).collect(),
        };
        TxnRequest {
            compare,
            success: self
                .writes
                .iter()
                .map(|key| put(key.clone(), random_bytes(self.val_size)))
                .collect(),
            failure: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Seen {
    /// The revision of the first answer.
    at: i64,
    revisions: BTreeMap<Bytes, i64>,
}

fn compare(key: Bytes, result: CompareResult, revision: i64) -> Compare {
    Compare {
        result: result.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}
