//! `sealkv bench`: load on any endpoint that speaks etcd's API.
//!
//! Subcommands, flags and report are those of etcd's `tools/benchmark`, so that figures of both can be
//! read side by side. Everything runs on the caller's runtime; a single-threaded one leaves the other
//! cores to the server that is measured.
//! Not known here: how an endpoint is dialled, and any other module of the server.

mod keys;
mod lease;
mod load;
mod range;
mod report;
mod stm;
mod txn;
mod watch;
mod watch_latency;

use clap::{Args, Subcommand, ValueEnum};
use tonic::Status;
use tonic::transport::Channel;

use super::Global;
use super::connect::ConnectError;
use load::Load;

/// No answer of a benchmark is larger.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(flatten)]
    clients: Clients,
    /// Print every digit of a figure
    #[arg(long, global = true)]
    precise: bool,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Clone, Copy, Args)]
struct Clients {
    /// How many clients ask at the same time
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Over how many connections
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    conns: u32,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Writes keys
    Put(keys::Put),
    /// Reads a key or a range
    Range(range::Range),
    /// Writes several keys at once
    TxnPut(txn::TxnPut),
    /// Reads a range or writes a key in a transaction, in a given ratio
    TxnMixed(txn::TxnMixed),
    /// Writes what many watch
    Watch(watch::Watch),
    /// From a write to the events it causes
    WatchLatency(watch_latency::WatchLatency),
    /// Reads while many watchers catch up
    WatchGet(watch::WatchGet),
    /// Renews leases
    LeaseKeepalive(lease::LeaseKeepalive),
    /// Reads and writes several keys as one, again until nobody interferes
    Stm(stm::Stm),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consistency {
    /// Linearizable
    L,
    /// Serializable
    S,
}

/// Why no load could be made. Refused requests are counted in the report instead, but for those without which
/// nothing could be measured.
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
    #[error("--txn-ops {txn_ops} is more than --key-space-size {key_space_size}")]
    TxnOps { txn_ops: u64, key_space_size: u64 },
    #[error("--keys-per-txn {keys_per_txn} is more than --keys {keys}")]
    KeysPerTxn { keys_per_txn: u64, keys: u64 },
    #[error("{what}: {} ({:?})", .status.message(), .status.code())]
    Refused {
        what: &'static str,
        status: Box<Status>,
    },
    #[error("a watch ended: {reason}")]
    WatchEnded { reason: String },
}

impl BenchError {
    fn refused(what: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Refused {
            what,
            status: Box::new(status),
        }
    }
}

/// Runs the load and returns the report as text.
pub(super) async fn run(bench: &Bench, global: &Global) -> Result<String, BenchError> {
    let clients = bench.clients;
    let channels = connect(global, clients.conns.min(clients.clients)).await?;
    let to = Target {
        channels: &channels,
        clients: clients.clients,
        precise: bench.precise,
    };
    match &bench.work {
        Work::Put(put) => put.run(&to).await,
        Work::Range(range) => Ok(range.run(&to).await),
        Work::TxnPut(txn) => txn.run(&to).await,
        Work::TxnMixed(txn) => txn.run(&to).await,
        Work::Watch(watch) => watch.run(&to).await,
        Work::WatchLatency(watch) => watch.run(&to).await,
        Work::WatchGet(watch) => watch.run(&to).await,
        Work::LeaseKeepalive(lease) => lease.run(&to).await,
        Work::Stm(stm) => stm.run(&to).await,
    }
}

/// Whom the load falls on, and how its figures are printed.
struct Target<'a> {
    /// At least one.
    channels: &'a [Channel],
    clients: u32,
    precise: bool,
}

impl Target<'_> {
    /// One for each client, in turn over the connections.
    fn each<C>(&self, make: impl Fn(Channel) -> C) -> Vec<C> {
        let channels = self.channels.iter().cycle().take(self.clients as usize);
        channels.map(|channel| make(channel.clone())).collect()
    }

    fn load(&self, total: u64, rate: u32) -> Load {
        Load { total, rate }
    }
}

async fn connect(global: &Global, conns: u32) -> Result<Vec<Channel>, BenchError> {
    let ways = global.ways()?;
    let mut channels = Vec::new();
    for way in ways.iter().cycle().take(conns as usize) {
        channels.push(way.connect(global).await?);
    }
    Ok(channels)
}
