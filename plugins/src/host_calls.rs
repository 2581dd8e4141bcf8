//! What a plugin may ask of the server: reads, log lines, metrics.
//!
//! The server implements [`HostCalls`] as the plugin's own user. Every request that
//! arrives here lies inside the plugin's prefixes, within its limits; permissions, quotas
//! and audit are the server's part.
//! Not known here: who implements it.

use std::future::Future;
use std::pin::Pin;

use thiserror::Error;

use crate::hooks::KeyValue;

pub type HostFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The server as one plugin sees it.
///
/// The futures are polled on the plugin host's own threads and dropped when the call's
/// deadline passes; a panic in one costs that call.
pub trait HostCalls: Send + Sync {
    /// A linearizable read for revision 0, otherwise a read at that revision.
    fn range(&self, request: RangeRequest) -> HostFuture<'_, Result<RangeResponse, ReadError>>;

    /// Seconds left, or -1 for a lease that does not exist.
    fn time_to_live(&self, lease: i64) -> HostFuture<'_, Result<i64, ReadError>>;

    /// Must not block. Lines beyond the plugin's rate never get here.
    fn log(&self, line: LogLine);

    /// Must not block. At most [`crate::limits::METRIC_SERIES_MAX`] different series per
    /// plugin get here.
    fn metric(&self, metric: Metric);
}

/// A key range inside the plugin's watch or write prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    pub key: Vec<u8>,
    /// As in etcd: empty for `key` alone.
    pub range_end: Vec<u8>,
    /// Between 1 and [`crate::limits::RANGE_ROWS_MAX`].
    pub rows_max: u32,
    /// Stop (with `more`) before the answer's keys and values exceed this; the first row
    /// is always given.
    pub bytes_max: usize,
    /// 0 for the newest.
    pub revision: i64,
    /// Also set when the plugin's grant is keys only.
    pub keys_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    /// Keys in the range, given or not.
    pub count: u64,
    pub revision: i64,
}

/// Why a read was refused; the plugin sees the same words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    #[error("permission denied")]
    PermissionDenied,
    #[error("compacted at revision {compact_revision}")]
    Compacted { compact_revision: i64 },
    #[error("the revision is not there yet")]
    FutureRevision,
    #[error("request too large")]
    TooLarge,
    #[error("quota exceeded")]
    QuotaExceeded,
    #[error("unavailable")]
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// A line a plugin logged. Its text is the plugin's and may hold what the plugin was
/// given: keep it where values may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub context: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Prometheus's alphabet.
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: MetricValue,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricValue {
    CounterAdd(u64),
    GaugeSet(f64),
    HistogramObserve(f64),
}

/// No capability at all: what `describe` and `validate-settings` run with.
#[derive(Clone, Copy, Debug)]
pub struct NoHostCalls;

impl HostCalls for NoHostCalls {
    fn range(&self, _: RangeRequest) -> HostFuture<'_, Result<RangeResponse, ReadError>> {
        Box::pin(async { Err(ReadError::PermissionDenied) })
    }

    fn time_to_live(&self, _: i64) -> HostFuture<'_, Result<i64, ReadError>> {
        Box::pin(async { Err(ReadError::PermissionDenied) })
    }

    fn log(&self, _: LogLine) {}

    fn metric(&self, _: Metric) {}
}
