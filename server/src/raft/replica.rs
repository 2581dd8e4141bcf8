//! `replica::Replica`, as raft keeps it.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;

use super::consensus::Consensus;
use super::membership;
use crate::access::Permitted;
use crate::command::Body;
use crate::mvcc::read_view::ReadView;
use crate::replica::{
    Applied, DefragmentError, LeaseError, Member, Pending, Place, ProposeError, ReadIndexError,
    Replica, Status,
};

impl Replica for Consensus {
    fn propose(&self, body: Permitted<Body>) -> Pending<'_, Result<Applied, ProposeError>> {
        Box::pin(Consensus::propose(self, body))
    }

    fn propose_latched(&self, body: Permitted<Body>) -> Pending<'_, Result<Applied, ProposeError>> {
        Box::pin(Consensus::propose_latched(self, body))
    }

    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>> {
        Box::pin(async {
            Consensus::read_barrier(self)
                .await
                .map_err(|error| match error {
                    ProposeError::Stopped => ReadIndexError::Stopped,
                    ProposeError::LeaderChanged => ReadIndexError::LeaderChanged,
                    _ => ReadIndexError::Timeout,
                })
        })
    }

    fn has_applied(&self, index: u64) -> Pending<'_, ()> {
        Box::pin(async move {
            if self.applied_at_least(index).await.is_err() {
                // The member stops, and with it whoever waits.
                std::future::pending().await
            }
        })
    }

    fn has_leader(&self, known: bool) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut leadership = self.watch_leadership();
            let mut given_up = self.connectivity().watch_given_up();
            while (self.place().leader != 0) != known {
                let stopped = tokio::select! {
                    changed = leadership.changed() => changed.is_err(),
                    changed = given_up.changed() => changed.is_err(),
                };
                if stopped {
                    std::future::pending().await
                }
            }
        })
    }

    fn view(&self) -> Arc<ReadView> {
        Consensus::view(self)
    }

    fn place(&self) -> Place {
        Place {
            cluster_id: self.peers().identity().cluster_id,
            member_id: self.member_id(),
            leader: self.leader_in_reach(),
            term: self.leadership().term,
            is_learner: self.is_learner(),
        }
    }

    fn status(&self) -> Status {
        let place = self.place();
        Status {
            cluster_id: place.cluster_id,
            member_id: place.member_id,
            leader: place.leader,
            term: place.term,
            committed_index: self.committed_index(),
            applied_index: Consensus::view(self).applied_index,
            is_learner: place.is_learner,
            disk_bytes: self.disk_bytes(),
        }
    }

    fn members(&self) -> Vec<Member> {
        let view = Consensus::view(self);
        let (_, committed) = self.memberships();
        let membership = committed.membership();
        membership
            .nodes()
            .map(|(&id, node)| Member {
                id,
                name: membership::name_of(membership, &view, id),
                client_urls: view
                    .members
                    .get(id)
                    .map(|published| published.client_urls.clone())
                    .unwrap_or_default(),
                peer_urls: node.peer_urls.clone(),
                is_learner: !membership::counts_as_voter(membership, id),
            })
            .collect()
    }

    fn keep_alive(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>> {
        Box::pin(async move {
            let renewed = Consensus::keep_alive(self, id).await.map_err(lease_error)?;
            renewed.ok_or(LeaseError::NotFound)
        })
    }

    fn lease_remaining(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>> {
        Box::pin(async move {
            let left = Consensus::lease_remaining(self, id)
                .await
                .map_err(lease_error)?;
            left.map(|(ttl, _)| ttl).ok_or(LeaseError::NotFound)
        })
    }

    fn leases(&self) -> Vec<i64> {
        let lessor = self.lessor().lock();
        if lessor.is_primary() {
            return lessor.by_deadline().collect();
        }
        drop(lessor);
        Consensus::view(self)
            .leases
            .read()
            .iter()
            .map(|(id, _)| id)
            .collect()
    }

    fn physically_compacted(&self, revision: i64) -> Pending<'_, ()> {
        Box::pin(async move {
            self.freed_through(revision).await;
        })
    }

    fn defragment(&self) -> Pending<'_, Result<(), DefragmentError>> {
        Box::pin(async { Ok(Consensus::defragment(self).await?) })
    }
}

fn lease_error(error: ProposeError) -> LeaseError {
    match error {
        ProposeError::NoLeader => LeaseError::NoLeader,
        ProposeError::LeaderChanged => LeaseError::LeaderChanged,
        ProposeError::Stopped => LeaseError::Stopped,
        _ => LeaseError::Timeout,
    }
}
