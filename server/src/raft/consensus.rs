//! The handle through which the rest of the server uses raft.
//!
//! Not known outside this module: openraft.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use openraft::Raft;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::{Watch as _, WatchReceiver as _, WatchSender as _};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::connectivity::Connectivity;
use super::membership::Rules;
use super::peers::Peers;
use super::propose::NotProposed;
use super::read_index::ReadIndex;
use super::state_machine::{StateHandle, StateMachine};
use super::types::{MemberNode, Runtime, StoredMembership, TypeConfig, Watch, WatchReceiver};
use super::waiters::Waiters;
use crate::command::{self, Body, Command, Envelope};
use crate::lease::lessor::Lessor;
use crate::mvcc::read_view::ReadView;
use crate::mvcc::txn::resolve_compares;
use crate::replica::ProposeError;
use crate::seal::Sealer;
use crate::storage::log::RaftLog;

pub(super) type RaftHandle = Raft<TypeConfig, StateMachine>;

/// How far apply may fall behind before writes are refused (etcd `maxGapBetweenApplyAndCommitIndex`).
const BACKLOG_ENTRIES_MAX: u64 = 5_000;
/// The same for ends of leases, with the feature gate PriorityRequest (etcd `maxPriorityGap`).
const PRIORITY_BACKLOG_ENTRIES_MAX: u64 = 10_000;

/// Who leads, as this member knows it. Leader 0: nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: u64,
    pub term: u64,
}

#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

pub(super) struct Parts {
    pub(super) raft: RaftHandle,
    pub(super) log: RaftLog,
    pub(super) peers: Peers,
    pub(super) waiters: Arc<Waiters>,
    pub(super) view: Arc<ArcSwap<ReadView>>,
    pub(super) applied: WatchReceiver<u64>,
    pub(super) lessor: Arc<Mutex<Lessor>>,
    pub(super) state: StateHandle,
    pub(super) sealer: Sealer,
    pub(super) request_timeout: Duration,
    pub(super) rules: Rules,
    pub(super) priority_requests: bool,
}

struct Inner {
    parts: Parts,
    connectivity: Connectivity,
    /// Held while the leader decides about a change of the membership and makes it.
    changing_members: AsyncMutex<()>,
    leadership: WatchReceiver<Leadership>,
    read_index: ReadIndex,
    /// Proposals of this leader hold it shared from before they are evaluated until they are
    /// applied; one with VALUE compares that failed its guard once holds it alone.
    latch: RwLock<()>,
    lessor_promoted: Notify,
}

/// An encoded command, ready for the log, and what it holds back meanwhile.
pub(super) struct Prepared<'a> {
    pub(super) encoded: Bytes,
    pub(super) held: Held<'a>,
}

#[expect(dead_code, reason = "held for their drop")]
pub(super) enum Held<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Consensus {
    pub(super) fn new(parts: Parts) -> Self {
        let leadership = follow_leadership(&parts.raft, parts.peers.clone());
        let read_index = ReadIndex::default();
        let inner = Arc::new(Inner {
            parts,
            connectivity: Connectivity::default(),
            changing_members: AsyncMutex::new(()),
            leadership,
            read_index,
            latch: RwLock::new(()),
            lessor_promoted: Notify::new(),
        });
        let consensus = Self { inner };
        Runtime::spawn(consensus.clone().confirm_reads());
        consensus
    }

    pub(super) fn raft(&self) -> &RaftHandle {
        &self.inner.parts.raft
    }

    pub fn peers(&self) -> &Peers {
        &self.inner.parts.peers
    }

    pub(super) fn waiters(&self) -> &Arc<Waiters> {
        &self.inner.parts.waiters
    }

    pub(super) fn connectivity(&self) -> &Connectivity {
        &self.inner.connectivity
    }

    pub(super) fn changing_members(&self) -> &AsyncMutex<()> {
        &self.inner.changing_members
    }

    pub(super) fn rules(&self) -> Rules {
        self.inner.parts.rules
    }

    pub(super) fn read_index(&self) -> &ReadIndex {
        &self.inner.read_index
    }

    pub fn lessor(&self) -> &Arc<Mutex<Lessor>> {
        &self.inner.parts.lessor
    }

    pub fn sealer(&self) -> &Sealer {
        &self.inner.parts.sealer
    }

    pub fn member_id(&self) -> u64 {
        self.peers().identity().member_id
    }

    /// 5 s and two election timeouts, as etcd.
    pub fn request_timeout(&self) -> Duration {
        self.inner.parts.request_timeout
    }

    /// The newest published view.
    pub fn view(&self) -> Arc<ReadView> {
        self.inner.parts.view.load_full()
    }

    pub fn leadership(&self) -> Leadership {
        *self.inner.leadership.borrow_watched()
    }

    /// Tells of changes from now on.
    pub fn watch_leadership(&self) -> WatchReceiver<Leadership> {
        let mut leadership = self.inner.leadership.clone();
        // A clone has seen what its original has, which is nothing since the start.
        drop(leadership.borrow_and_update());
        leadership
    }

    pub fn is_leader(&self) -> bool {
        self.leadership().leader == self.member_id()
    }

    /// True once this member leads and has applied an entry of its own term: from then on its
    /// applied state is not older than anything committed before.
    pub fn leads_with_applied_term(&self) -> bool {
        let leadership = self.leadership();
        leadership.leader == self.member_id() && self.view().applied_term == leadership.term
    }

    pub fn committed_index(&self) -> u64 {
        let metrics = self.raft().data_metrics();
        let committed = metrics.borrow_watched().cluster_committed;
        committed.map_or(0, |id| id.index)
    }

    /// Waits until this member has applied the entry at this index.
    pub async fn applied_at_least(&self, index: u64) -> Result<(), ProposeError> {
        let mut applied = self.inner.parts.applied.clone();
        applied
            .wait_until(|at| *at >= index)
            .await
            .map(drop)
            .map_err(|_| ProposeError::Stopped)
    }

    /// Tells of batches that are applied from now on.
    pub(super) fn watch_applied_index(&self) -> WatchReceiver<u64> {
        let mut applied = self.inner.parts.applied.clone();
        drop(applied.borrow_and_update());
        applied
    }

    /// The applied index as it moves: after a batch of entries is in the published view.
    pub fn watch_applied(&self) -> tokio::sync::watch::Receiver<u64> {
        let mut applied = self.inner.parts.applied.clone();
        let (sender, receiver) = tokio::sync::watch::channel(*applied.borrow_watched());
        Runtime::spawn(async move {
            while applied.changed().await.is_ok() && !sender.is_closed() {
                sender.send_replace(*applied.borrow_watched());
            }
        });
        receiver
    }

    pub(crate) fn peer_urls(&self, member: u64) -> Option<Vec<String>> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.membership().get_node(&member)?;
        Some(node.peer_urls.clone())
    }

    /// Every member of the newest known configuration, learners included.
    pub fn member_nodes(&self) -> BTreeMap<u64, (MemberNode, bool)> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, node)| (*id, (node.clone(), !voters.contains(id))))
            .collect()
    }

    /// The newest known configuration, committed or not, and the newest committed one.
    pub(super) fn memberships(&self) -> (Arc<StoredMembership>, Arc<StoredMembership>) {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        (
            metrics.membership_config.clone(),
            metrics.committed_membership_config.clone(),
        )
    }

    /// As clients are told: a member that joins as a voter is none.
    pub(super) fn is_learner(&self) -> bool {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.committed_membership_config.membership();
        let own = self.member_id();
        membership
            .get_node(&own)
            .is_some_and(|node| !node.joins_as_voter)
            && membership.learner_ids().any(|id| id == own)
    }

    /// What the data directory takes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.inner.parts.state.disk_bytes()
    }

    /// Gives the space of what was deleted and compacted back to the file system.
    pub(super) async fn defragment(&self) -> std::io::Result<()> {
        self.inner.parts.state.defragment().await
    }

    /// Returns once compacted history up to this revision has been freed here.
    pub(super) async fn freed_through(&self, revision: i64) {
        self.inner.parts.state.freed_through(revision).await;
    }

    /// Whether this member takes part in elections.
    pub fn campaign(&self, able: bool) {
        self.raft().runtime_config().elect(able);
    }

    pub(super) async fn promote_lessor(&self, extend: Duration) -> std::io::Result<()> {
        self.inner.parts.state.promote(extend).await?;
        self.inner.lessor_promoted.notify_waiters();
        Ok(())
    }

    /// Told when this member has started to keep the leases' time.
    pub(super) fn lessor_promoted(&self) -> &Notify {
        &self.inner.lessor_promoted
    }

    /// Whether apply is so far behind that nothing more should be written.
    pub(super) fn is_backlogged(&self, ends_leases: bool) -> bool {
        let unapplied = self
            .committed_index()
            .saturating_sub(self.view().applied_index);
        unapplied > backlog_entries_max(self.inner.parts.priority_requests && ends_leases)
    }

    /// Makes a command ready for this leader's log: VALUE compares become outcomes with guards,
    /// the leader's clock is set.
    pub(super) async fn prepare(
        &self,
        term: u64,
        encoded: Bytes,
    ) -> Result<Prepared<'_>, NotProposed> {
        let refused = |error| NotProposed::Refused(error);
        let envelope = Envelope::read(&encoded).map_err(|_| refused(ProposeError::Corrupt))?;
        let held = if envelope.is_latched() {
            Held::Alone(self.inner.latch.write().await)
        } else {
            Held::Shared(self.inner.latch.read().await)
        };
        let mut encoded = if envelope.has_sealed_operands() {
            self.evaluate(term, &encoded)?
        } else {
            bytes::BytesMut::from(&encoded[..])
        };
        command::set_clock(&mut encoded, crate::clock::wall_ms())
            .map_err(|_| refused(ProposeError::Corrupt))?;
        Ok(Prepared {
            encoded: encoded.freeze(),
            held,
        })
    }

    fn evaluate(&self, term: u64, encoded: &Bytes) -> Result<bytes::BytesMut, NotProposed> {
        let view = self.view();
        if view.applied_term != term {
            // What was committed before this term may not be applied yet: the outcome would
            // stand on an old state.
            return Err(NotProposed::NotLeader);
        }
        let refused = |error| NotProposed::Refused(error);
        let mut command = Command::decode(encoded).map_err(|_| refused(ProposeError::Corrupt))?;
        let sealer = self.sealer();
        if let Body::Txn(txn) = &mut command.body {
            let open = |key: &[u8], sealed: &[u8]| sealer.open(key, sealed).map(Vec::from);
            resolve_compares(&view, &open, txn).map_err(|_| refused(ProposeError::CannotOpen))?;
        }
        Ok(bytes::BytesMut::from(&command.encode()[..]))
    }

    /// Hands leadership over, if this member has it and somebody else could take it.
    pub async fn resign(&self) {
        let metrics = self.raft().metrics();
        let successor = {
            let metrics = metrics.borrow_watched();
            let matched = metrics.replication.as_ref();
            self.member_nodes()
                .into_iter()
                .filter(|(id, (_, learner))| *id != self.member_id() && !learner)
                .max_by_key(|(id, _)| matched.and_then(|m| m.get(id).cloned().flatten()))
                .map(|(id, _)| id)
        };
        let Some(successor) = successor.filter(|_| self.is_leader()) else {
            return;
        };
        if self
            .raft()
            .trigger()
            .transfer_leader(successor)
            .await
            .is_ok()
        {
            let mut leadership = self.watch_leadership();
            let gone = leadership.wait_until(|now| now.leader != self.member_id());
            let _ = tokio::time::timeout(Duration::from_millis(700), gone).await;
        }
    }

    /// Stops raft: nothing is proposed or applied after this.
    pub async fn stop(&self) {
        self.waiters().stop(&ProposeError::Stopped);
        let _ = self.raft().shutdown().await;
        if let Err(error) = self.inner.parts.log.close().await {
            tracing::warn!(%error, "the raft log was not closed");
        }
    }

    /// Why raft has stopped by itself, if it has.
    #[cfg(test)]
    pub(super) fn failure(&self) -> Option<String> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let state = metrics.running_state.as_ref();
        state.err().map(ToString::to_string)
    }

    /// Ends when raft has stopped by itself: a failed log or a poisoned state.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft().metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft has stopped".into();
            }
        }
    }
}

fn backlog_entries_max(has_priority: bool) -> u64 {
    if has_priority {
        PRIORITY_BACKLOG_ENTRIES_MAX
    } else {
        BACKLOG_ENTRIES_MAX
    }
}

/// openraft publishes much more often than the leader changes. Members' addresses come the same
/// way.
fn follow_leadership(raft: &RaftHandle, peers: Peers) -> WatchReceiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = Watch::channel(Leadership::default());
    Runtime::spawn(async move {
        let mut last_leader = 0;
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                let nodes = metrics.membership_config.membership().nodes();
                peers.learn_addresses(nodes.map(|(id, n)| (*id, n.peer_urls.clone())).collect());
                let term = metrics.vote.leader_id().term;
                // A leader counts once a quorum has granted its vote.
                let leader = metrics
                    .current_leader
                    .filter(|_| metrics.vote.is_committed());
                Leadership {
                    leader: leader.unwrap_or(0),
                    term,
                }
            };
            if now.leader != 0 && now.leader != last_leader {
                last_leader = now.leader;
                crate::metrics::metrics().leader_changes_seen.inc();
            }
            sender.send_if_modified(|known| {
                let news = *known != now;
                *known = now;
                news
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
