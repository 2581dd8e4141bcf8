//! A component, and the server as it sees it.
//!
//! Promise: a plugin reads what a client would read at the leader, opened; what cannot be opened
//! is absent. What it logs is counted and not kept: it may say what it was given.
//! Not known here: its prefixes and limits, which the plugin host checks before it asks.

use std::sync::Arc;

use plugins::{
    Batch, Call, Effects, HostCalls, HostFuture, KeyValue, LogLevel, LogLine, Metric, Plugin,
    RangeRequest, RangeResponse, ReadError,
};
use tokio::runtime::Handle;

use super::delivery::Guest;
use super::gather::key_value;
use super::meters::Meters;
use crate::command::RecordRef;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery};
use crate::mvcc::read_view::ReadView;
use crate::replica::{LeaseError, Pending, Replica};
use crate::seal::Sealer;

pub(super) struct Component {
    pub(super) plugin: Plugin,
    pub(super) server: Arc<Server>,
}

impl Guest for Component {
    fn on_events(&self, batch: Batch) -> Pending<'_, Call<Effects>> {
        let server: Arc<dyn HostCalls> = self.server.clone();
        Box::pin(self.plugin.on_events(batch, server))
    }
}

/// What one plugin may ask.
pub(super) struct Server {
    pub(super) replica: Arc<dyn Replica>,
    pub(super) sealer: Sealer,
    pub(super) meters: Meters,
    /// Where the server's own waits run: guests' threads know no sockets.
    pub(super) runtime: Handle,
}

impl Server {
    async fn view(&self, revision: i64) -> Result<Arc<ReadView>, ReadError> {
        if revision <= 0 {
            let replica = Arc::clone(&self.replica);
            let barrier = self
                .runtime
                .spawn(async move { replica.read_barrier().await });
            let passed = barrier.await.map_err(|_| ReadError::Unavailable)?;
            passed.map_err(|_| ReadError::Unavailable)?;
        }
        Ok(self.replica.view())
    }

    fn rows(&self, view: &ReadView, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
        let range =
            KeyRange::from_wire(request.key.clone().into(), request.range_end.clone().into());
        let query = RangeQuery {
            limit: i64::from(request.rows_max),
            revision: request.revision,
            ..RangeQuery::all(range)
        };
        let found = read::range(view, &query).map_err(|error| match error {
            read::ReadError::Compacted => ReadError::Compacted {
                compact_revision: view.compact_revision_now(),
            },
            read::ReadError::FutureRevision => ReadError::FutureRevision,
            read::ReadError::ViewTooOld
            | read::ReadError::Corrupt(_)
            | read::ReadError::Storage(_) => ReadError::Unavailable,
        })?;
        let mut answer = RangeResponse {
            kvs: Vec::new(),
            more: found.more,
            count: found.count,
            revision: found.revision,
        };
        let mut bytes = 0;
        for row in &found.rows {
            let kv = self.record(view, row, request.keys_only)?;
            bytes += kv.bytes();
            if bytes > request.bytes_max && !answer.kvs.is_empty() {
                answer.more = true;
                break;
            }
            answer.kvs.push(kv);
        }
        Ok(answer)
    }

    fn record(
        &self,
        view: &ReadView,
        row: &RecordRef,
        keys_only: bool,
    ) -> Result<KeyValue, ReadError> {
        if keys_only {
            return Ok(key_value(row, None));
        }
        let sealed = view.store.value(row.at).ok().flatten();
        let sealed = sealed.ok_or(ReadError::Unavailable)?;
        match self.sealer.open(&row.key, &sealed) {
            Ok(value) => Ok(key_value(row, Some(value.into()))),
            Err(error) if error.is_key_absent() => Ok(key_value(row, None)),
            Err(_) => Err(ReadError::Unavailable),
        }
    }
}

impl HostCalls for Server {
    fn range(&self, request: RangeRequest) -> HostFuture<'_, Result<RangeResponse, ReadError>> {
        Box::pin(async move {
            let view = self.view(request.revision).await?;
            self.rows(&view, &request)
        })
    }

    fn time_to_live(&self, lease: i64) -> HostFuture<'_, Result<i64, ReadError>> {
        Box::pin(async move {
            let replica = Arc::clone(&self.replica);
            let asked = self
                .runtime
                .spawn(async move { replica.lease_remaining(lease).await });
            match asked.await {
                Ok(Ok(seconds)) => Ok(seconds),
                Ok(Err(LeaseError::NotFound)) => Ok(-1),
                Ok(Err(_)) | Err(_) => Err(ReadError::Unavailable),
            }
        })
    }

    fn log(&self, line: LogLine) {
        self.meters.log_line(match line.level {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
        });
    }

    /// A plugin's own series are not shown in this release.
    fn metric(&self, _: Metric) {}
}
