//! Leases: granted in the target under their own ids, and kept alive there while the source's are.
//!
//! Promise: a lease that still lives in the source does not end in the target while this runs; one
//! that has ended in the source is left to end in the target as well.
//! Not known here: keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::lease_client::LeaseClient;

use super::MigrateError;
use super::side::Side;

/// Between looks at which leases are due.
const ROUND: Duration = Duration::from_millis(500);
/// Renewals under way on one stream.
const RENEWALS_MAX: usize = 1_000;

#[derive(Clone)]
pub(super) struct Leases {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<Side>,
    target: Arc<Side>,
    granted: Mutex<BTreeMap<i64, Granted>>,
    /// One ended in the target that lives in the source, and its keys went with it.
    lost: Mutex<bool>,
}

struct Granted {
    ttl: Duration,
    renewed: Instant,
}

impl Leases {
    pub(super) fn new(source: Arc<Side>, target: Arc<Side>) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                target,
                granted: Mutex::default(),
                lost: Mutex::new(false),
            }),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.shared.granted.lock().len()
    }

    /// Every lease that the source has now. Says whether the target lacked one.
    pub(super) async fn copy_all(&self) -> Result<bool, MigrateError> {
        let there: BTreeSet<i64> = self.shared.target.leases().await?.into_iter().collect();
        let mut lacked = false;
        for id in self.shared.source.leases().await? {
            lacked |= !there.contains(&id) && self.ensure(id).await?;
            if there.contains(&id) {
                self.ensure(id).await?;
            }
        }
        Ok(lacked)
    }

    /// The target has this lease now, unless the source has it no more.
    pub(super) async fn ensure(&self, id: i64) -> Result<bool, MigrateError> {
        if self.shared.granted.lock().contains_key(&id) {
            return Ok(true);
        }
        let Some(ttl) = self.shared.source.granted_ttl(id).await? else {
            return Ok(false);
        };
        let target = &self.shared.target;
        let granted = target.ask("grant a lease", |channel| {
            let request = target.request(pb::LeaseGrantRequest { id, ttl });
            async move { LeaseClient::new(channel).lease_grant(request).await }
        });
        let ttl = match granted.await {
            Ok(granted) => granted.ttl,
            // By an earlier run, or by an attempt whose answer was lost.
            Err(error) if error.says("etcdserver: lease already exists") => ttl,
            Err(error) => return Err(error),
        };
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(1));
        let renewed = Instant::now().checked_sub(ttl).unwrap_or_else(Instant::now);
        let granted = Granted { ttl, renewed };
        self.shared.granted.lock().insert(id, granted);
        Ok(true)
    }

    /// Who is not sure of the target's leases any more asks for each again.
    pub(super) fn forget(&self) {
        self.shared.granted.lock().clear();
    }

    /// Whether a lease was lost since the last call: what it held must be copied again.
    pub(super) fn take_lost(&self) -> bool {
        std::mem::take(&mut *self.shared.lost.lock())
    }

    /// Renews for as long as the task lives. A break is waited out: it is tried again.
    pub(super) async fn keep(self) {
        loop {
            tokio::time::sleep(ROUND).await;
            // A failure has its own turn where it is in somebody's way.
            let _ = self.round(false).await;
        }
    }

    /// Every lease has its whole TTL again.
    pub(super) async fn renew_all(&self) -> Result<(), MigrateError> {
        self.round(true).await
    }

    async fn round(&self, all: bool) -> Result<(), MigrateError> {
        let due: Vec<i64> = {
            let granted = self.shared.granted.lock();
            let due = granted
                .iter()
                .filter(|(_, lease)| all || lease.renewed.elapsed() >= lease.ttl / 3);
            due.map(|(id, _)| *id).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let alive: BTreeSet<i64> = self.shared.source.leases().await?.into_iter().collect();
        let (renewed, ended): (Vec<i64>, Vec<i64>) =
            due.into_iter().partition(|id| alive.contains(id));
        {
            let mut granted = self.shared.granted.lock();
            for id in ended {
                granted.remove(&id);
            }
        }
        for ids in renewed.chunks(RENEWALS_MAX) {
            self.renew(ids).await?;
        }
        Ok(())
    }

    async fn renew(&self, ids: &[i64]) -> Result<(), MigrateError> {
        let target = &self.shared.target;
        let answers = target.ask("renew leases", |channel| {
            let requests: Vec<_> = ids
                .iter()
                .map(|&id| pb::LeaseKeepAliveRequest { id })
                .collect();
            let expected = requests.len();
            // Without an end of its own, so that no server takes the end for a goodbye.
            let stream = futures::StreamExt::chain(
                futures::stream::iter(requests),
                futures::stream::pending(),
            );
            let request = target.request(stream);
            async move {
                let mut stream = LeaseClient::new(channel)
                    .lease_keep_alive(request)
                    .await?
                    .into_inner();
                let mut answers = Vec::with_capacity(expected);
                while answers.len() < expected {
                    match stream.message().await? {
                        Some(answer) => answers.push(answer),
                        None => return Err(tonic::Status::unavailable("the stream ended")),
                    }
                }
                Ok(tonic::Response::new(answers))
            }
        });
        let answers = answers.await?;
        let mut granted = self.shared.granted.lock();
        for answer in answers {
            if answer.ttl <= 0 {
                granted.remove(&answer.id);
                *self.shared.lost.lock() = true;
            } else if let Some(lease) = granted.get_mut(&answer.id) {
                lease.renewed = Instant::now();
            }
        }
        Ok(())
    }
}
