//! Answers to ranges, outside and inside transactions.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::etcdserverpb::RangeResponse;
use proto::mvccpb::KeyValue;
use tonic::Status;

use super::room::Turn;
use super::values::{ValueError, Values, key_value};
use super::{Edge, header};
use crate::access::{Internal, Permitted};
use crate::command::{AlarmKind, ChangeAlarm};
use crate::metrics::metrics;
use crate::mvcc::read::{self, RangeFilter, RangeQuery, RangeRows, ReadError, SortTarget};
use crate::mvcc::read_view::ReadView;
use crate::replica::{ProposeError, ReadIndexError};

/// Rows that are read without leaving the thread that serves the connection.
const INLINE_ROWS: i64 = 16;
/// Views that are taken for one read before it is given up.
const VIEWS_MAX: usize = 16;

/// The response to rows; the header is the caller's business.
pub(super) fn respond(
    values: &Values<'_>,
    query: &RangeQuery,
    mut rows: RangeRows,
) -> Result<RangeResponse, ValueError> {
    let kvs = if rows.needs_value_sort {
        let mut opened = values.open(&rows.rows)?;
        read::sort_by_value(&mut rows, query, &mut opened);
        if query.keys_only {
            without_values(&rows)
        } else {
            with_values(&rows, opened)
        }
    } else if query.keys_only {
        without_values(&rows)
    } else {
        let opened = values.open(&rows.rows)?;
        with_values(&rows, opened)
    };
    let count = i64::try_from(rows.count).unwrap_or(i64::MAX);
    Ok(RangeResponse {
        header: None,
        kvs,
        more: rows.more,
        count,
    })
}

fn with_values(rows: &RangeRows, values: Vec<Bytes>) -> Vec<KeyValue> {
    rows.rows
        .iter()
        .zip(values)
        .map(|(row, value)| key_value(row, value))
        .collect()
}

fn without_values(rows: &RangeRows) -> Vec<KeyValue> {
    rows.rows
        .iter()
        .map(|row| key_value(row, Bytes::new()))
        .collect()
}

/// Whether a query touches so few rows that a thread of its own would cost more.
pub(super) fn is_small(query: &RangeQuery) -> bool {
    let in_key_order = query.sort_target == SortTarget::Key
        && query.sort_order != read::SortOrder::Descend
        && query.filter == RangeFilter::default();
    query.range.as_single().is_some()
        || query.count_only
        || (in_key_order && (1..=INLINE_ROWS).contains(&query.limit))
}

impl Edge {
    /// The newest state of this member that a read may see: all that was committed before it, or
    /// for a serializable one whatever is here.
    pub(super) async fn read_point(&self, serializable: bool) -> Result<(), Status> {
        if !serializable {
            self.replica.read_barrier().await?;
        }
        Ok(())
    }

    /// As `read_point`, for what etcd asks its log for: while nobody leads it ends as a write does.
    pub(super) async fn agreed_point(&self) -> Result<(), Status> {
        match self.replica.read_barrier().await {
            Err(ReadIndexError::Timeout) if self.replica.place().leader == 0 => {
                Err(ProposeError::NeverSent.into())
            }
            read => Ok(read?),
        }
    }

    pub(super) async fn range(
        &self,
        request: Permitted<RangeQuery>,
        turn: &Turn,
    ) -> Result<RangeResponse, Status> {
        metrics().ranges.inc();
        let begun = Instant::now();
        let answer = self.range_now(request, turn).await;
        let success = if answer.is_ok() { "true" } else { "false" };
        metrics()
            .range_seconds
            .with_label_values(&[success])
            .observe(begun.elapsed().as_secs_f64());
        answer
    }

    async fn range_now(
        &self,
        request: Permitted<RangeQuery>,
        turn: &Turn,
    ) -> Result<RangeResponse, Status> {
        let caller = request.caller().cloned();
        let query = request.into_request();
        let small = is_small(&query);
        let (mut response, revision) = self
            .read(small, turn, move |values| {
                let rows = read::range(values.view, &query)?;
                let revision = rows.revision;
                Ok((respond(values, &query, rows)?, revision))
            })
            .await?;
        self.still_permitted(caller.as_ref())?;
        response.header = header::full(&*self.replica, revision);
        Ok(response)
    }

    /// Reads from the newest view; from a newer one if a compaction overtakes it, and again with
    /// a newer keyring if there is one. What is not small gets a thread of its own, which keeps the
    /// turn until it is done.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        small: bool,
        turn: &Turn,
        read: impl Fn(&Values<'_>) -> Result<T, ValueError> + Send + Sync + 'static,
    ) -> Result<T, Status> {
        let read = Arc::new(read);
        for _ in 0..VIEWS_MAX {
            let generation = self.sealer.generation();
            let view = self.replica.view();
            let answer = if small {
                read(&Values {
                    view: &view,
                    sealer: &self.sealer,
                })
            } else {
                let (read, sealer) = (Arc::clone(&read), self.sealer.clone());
                let turn = turn.clone();
                off_thread(move || {
                    let _turn = turn;
                    read(&Values {
                        view: &view,
                        sealer: &sealer,
                    })
                })
                .await?
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(ValueError::Read(ReadError::ViewTooOld)) => {}
                Err(error) if error.is_key_absent() && self.sealer.newer(generation).await => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(ReadError::ViewTooOld.into())
    }

    /// Builds an answer from one view that it is bound to.
    pub(super) async fn open_in<T>(
        &self,
        view: &Arc<ReadView>,
        build: impl Fn(&Values<'_>) -> Result<T, ValueError>,
    ) -> Result<T, Status> {
        loop {
            let generation = self.sealer.generation();
            match build(&Values {
                view,
                sealer: &self.sealer,
            }) {
                Err(error) if error.is_key_absent() && self.sealer.newer(generation).await => {}
                answer => return answer.map_err(|error| self.failed(error)),
            }
        }
    }

    /// A record that is missing or damaged raises the CORRUPT alarm, whoever notices.
    pub(super) fn failed(&self, error: ValueError) -> Status {
        if let ValueError::Read(ReadError::Corrupt(revision)) = &error {
            tracing::error!(%revision, "a record is missing or damaged");
            self.raise(AlarmKind::Corrupt);
        }
        error.into()
    }

    /// Raises an alarm of this member, in the background; once raised it stays.
    pub(super) fn raise(&self, kind: AlarmKind) {
        let member = self.replica.place().member_id;
        if self
            .replica
            .view()
            .alarms
            .iter()
            .any(|raised| raised == (kind, member))
        {
            return;
        }
        let replica = Arc::clone(&self.replica);
        tokio::spawn(async move {
            let alarm = ChangeAlarm {
                activate: true,
                member,
                kind,
            };
            let alarm = Permitted::internal(Internal::SpaceQuota, alarm.into());
            if let Err(error) = replica.propose(alarm).await {
                tracing::warn!(%error, ?kind, "cannot raise an alarm");
            }
        });
    }
}

/// Runs what may touch the disk for long beside the threads that serve connections.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    // It fails only if the work panicked or the runtime is being shut down.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| super::status::stopped())
}
