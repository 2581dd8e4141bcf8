//! Linearizable reads without a log entry: the leader confirms that it still leads, and this
//! member waits until it has applied what was committed by then.
//!
//! Promise: reads that arrive while a confirmation is under way share the next one.
//! Source: raft dissertation 6.4; etcd 3.7.1 `server/etcdserver/v3_server.go` (linearizableReadLoop).

use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::ReadPolicy;
use parking_lot::Mutex;
use proto::sealkv::peer as pb;
use tokio::sync::{Notify, oneshot};

use super::consensus::Consensus;
use super::peers::Lane;
use super::types::Runtime;
use crate::metrics::metrics;
use crate::replica::ProposeError;

/// One attempt to confirm leadership; then it is tried again.
const ATTEMPT: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct ReadIndex {
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    arrived: Notify,
}

impl Consensus {
    /// Returns when everything committed before this call is applied here.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        let (sender, confirmed) = oneshot::channel();
        self.read_index().waiting.lock().push(sender);
        self.read_index().arrived.notify_one();
        let outcome = match tokio::time::timeout(self.request_timeout(), confirmed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        };
        if outcome.is_err() {
            metrics().read_indexes_failed.inc();
        }
        outcome
    }

    /// The loop behind `read_barrier`; lives as long as the member.
    pub(super) async fn confirm_reads(self) {
        loop {
            self.read_index().arrived.notified().await;
            let batch = std::mem::take(&mut *self.read_index().waiting.lock());
            if batch.is_empty() {
                continue;
            }
            let Some(index) = self.confirm(&batch).await else {
                return;
            };
            if self.view().applied_index >= index {
                answer(batch);
            } else {
                let this = self.clone();
                Runtime::spawn(async move {
                    if this.applied_at_least(index).await.is_ok() {
                        answer(batch);
                    }
                });
            }
        }
    }

    /// A committed index that is not older than the batch's arrival; none when the server stops.
    async fn confirm(&self, batch: &[oneshot::Sender<()>]) -> Option<u64> {
        loop {
            let leader = self.leadership().leader;
            let attempt = async {
                match leader {
                    0 => None,
                    id if id == self.member_id() => self.confirmed_index().await,
                    id => self.ask_for_index(id).await,
                }
            };
            if let Ok(Some(index)) = tokio::time::timeout(ATTEMPT, attempt).await {
                return Some(index);
            }
            metrics().slow_read_indexes.inc();
            if batch.iter().all(oneshot::Sender::is_closed) {
                return Some(0);
            }
            let mut leadership = self.watch_leadership();
            let news = tokio::time::timeout(Duration::from_millis(20), leadership.changed());
            if let Ok(Err(_)) = news.await {
                return None;
            }
        }
    }

    /// At the leader: the index to read at, once a quorum has confirmed its leadership after
    /// this call. Shared by the leader's own reads and its followers'.
    pub(super) async fn confirmed_index(&self) -> Option<u64> {
        let linearizer = self
            .raft()
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .ok()?;
        Some(linearizer.read_log_id().index())
    }

    async fn ask_for_index(&self, leader: u64) -> Option<u64> {
        let peers = self.peers();
        let mut client = peers.client(&self.peer_urls(leader)?, Lane::Control).ok()?;
        let request = peers.request(leader, pb::ReadIndexRequest {});
        match client.read_index(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                answer.confirmed.then_some(answer.index)
            }
            Err(status) => {
                peers.note(&status);
                None
            }
        }
    }
}

fn answer(batch: Vec<oneshot::Sender<()>>) {
    for waiting in batch {
        // A reader that has gone away does not care.
        let _ = waiting.send(());
    }
}
