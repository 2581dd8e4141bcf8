//! Who takes part: members added, removed, moved, promoted; leadership handed over.
//!
//! Promise: one change at a time, decided by the leader on the newest committed membership and
//! written as one entry, or refused with etcd's reason. A change is proposed at most once; what
//! leaves its outcome open gets one of etcd's ambiguous errors.
//!
//! An added voter enters raft's membership as a learner whose node says that it joins as a voter.
//! The leader makes it a voter once it has caught up, its data directory is known and it has
//! opened the root key. So adding one never needs it, and never costs the quorum anything. In
//! etcd an added voter counts towards the quorum at once, started or not; here it does for the
//! rules (strict reconfiguration, lists), and for raft once it can help.
//!
//! Not known here: who may ask.

mod rules;

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use proto::sealkv::peer as pb;

use super::consensus::Consensus;
use super::peers::{Expelled, Lane};
use super::propose::never_sent;
use super::types::{EntryPayload, MemberId, Membership, StoredMembership, committed_leader};
use crate::access::Permitted;
use crate::clock;
use crate::mvcc::read_view::ReadView;
use crate::replica::{ClusterAdmin, ClusterError, Member, MemberChange, MoveLeader};
use crate::replica::{Pending, ProposeError};
pub use rules::Rules;
use rules::{Connected, Roster, Standing, Step};

/// How long a member must have been connected to count as healthy (etcd `HealthInterval`).
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// Entries by which a joining voter may be behind when it becomes one.
const BEHIND_MAX: u64 = 1_000;
/// Between looks at what is left to do for members that join or leave.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between attempts to write a change, and looks at whether leadership has moved.
const RETRY: Duration = Duration::from_millis(10);

/// Why a change was not made here.
pub(super) enum Unchanged {
    /// Ask the leader.
    NotLeader,
    Refused(ClusterError),
}

impl From<ClusterError> for Unchanged {
    fn from(error: ClusterError) -> Self {
        Self::Refused(error)
    }
}

impl ClusterAdmin for Consensus {
    fn change_members(
        &self,
        change: Permitted<MemberChange>,
    ) -> Pending<'_, Result<Vec<Member>, ClusterError>> {
        Box::pin(async move {
            let change = change.into_request();
            let changed = self.change_at_leader(&change);
            let changed = tokio::time::timeout(self.request_timeout(), changed).await;
            let promotes = matches!(change, MemberChange::Promote { .. });
            changed.unwrap_or_else(|_| {
                Err(match promotes && self.leader_in_reach() == 0 {
                    true => ProposeError::NoLeader.into(),
                    false => ProposeError::Timeout.into(),
                })
            })
        })
    }

    fn move_leader(&self, request: Permitted<MoveLeader>) -> Pending<'_, Result<(), ClusterError>> {
        Box::pin(self.hand_over(request.into_request().to))
    }
}

impl Consensus {
    async fn change_at_leader(&self, change: &MemberChange) -> Result<Vec<Member>, ClusterError> {
        loop {
            let done = match self.leadership().leader {
                0 => Err(Unchanged::NotLeader),
                id if id == self.member_id() => self.change_members_here(change).await,
                id => self.ask_leader_to_change(id, change).await,
            };
            match done {
                Ok(index) => return self.members_after(index, change).await,
                Err(Unchanged::Refused(error)) => return Err(error),
                // etcd's members look at their own connections before they propose an addition.
                Err(Unchanged::NotLeader)
                    if self.rules().strict
                        && self.leader_in_reach() == 0
                        && matches!(change, MemberChange::Add { .. }) =>
                {
                    return Err(ClusterError::Unhealthy);
                }
                Err(Unchanged::NotLeader) => self.leader_may_have_changed().await?,
            }
        }
    }

    /// A member that has had itself removed may never see the entry that did it.
    async fn members_after(
        &self,
        index: u64,
        change: &MemberChange,
    ) -> Result<Vec<Member>, ClusterError> {
        use crate::replica::Replica as _;
        let own = self.member_id();
        if *change != (MemberChange::Remove { id: own }) {
            self.applied_at_least(index).await?;
        }
        let mut members = self.members();
        if let MemberChange::Remove { id } = change {
            members.retain(|member| member.id != *id);
        }
        Ok(members)
    }

    async fn ask_leader_to_change(
        &self,
        leader: u64,
        change: &MemberChange,
    ) -> Result<u64, Unchanged> {
        let peers = self.peers();
        let urls = self.peer_urls(leader).ok_or(Unchanged::NotLeader)?;
        let mut client = peers
            .client(&urls, Lane::Control)
            .map_err(|_| Unchanged::NotLeader)?;
        let request = peers.request(leader, to_wire(change));
        match client.change_members(request).await {
            Ok(answer) => from_answer(&answer.into_inner()),
            Err(status) => {
                peers.note(&status);
                if never_sent(&status) {
                    return Err(Unchanged::NotLeader);
                }
                Err(ClusterError::from(ProposeError::TimeoutDueToConnectionLost).into())
            }
        }
    }

    /// At the leader: decides, writes, and returns the index at which the change is applied.
    pub(super) async fn change_members_here(
        &self,
        change: &MemberChange,
    ) -> Result<u64, Unchanged> {
        let _one_at_a_time = self.changing_members().lock().await;
        loop {
            let term = self.leadership().term;
            if !self.leads_with_applied_term() {
                return Err(Unchanged::NotLeader);
            }
            if let Some(settled) = self.settled_membership() {
                let view = self.view();
                let step = self.rules().step(&self.roster(&settled, &view), change)?;
                if let Some(index) = self.write_step(term, &settled, step).await? {
                    tell(change);
                    return Ok(index);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The membership, once it is committed and what it did is applied.
    fn settled_membership(&self) -> Option<StoredMembership> {
        let (newest, committed) = self.memberships();
        let at = newest.log_id().as_ref()?.index;
        let settled = newest.log_id() == committed.log_id() && self.view().applied_index >= at;
        settled.then(|| StoredMembership::clone(&newest))
    }

    /// None if nothing was written and it may be tried again.
    async fn write_step(
        &self,
        term: u64,
        on: &StoredMembership,
        step: Step,
    ) -> Result<Option<u64>, Unchanged> {
        let conditions = [
            Precondition::LastMembershipLogId {
                last_membership_log_id: *on.log_id(),
            },
            Precondition::CommittedLeaderId {
                committed_leader_id: committed_leader(term),
            },
        ];
        let written = match step {
            Step::Append(membership) => {
                self.raft()
                    .append_membership(membership, EntryPayload::Blank, conditions)
                    .await
            }
            Step::SetNode(id, node) => {
                let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
                self.raft()
                    .change_membership_if(nodes, true, conditions)
                    .await
            }
        };
        match written {
            Ok(answer) => Ok(Some(answer.log_id.index)),
            Err(RaftError::APIError(error)) => match error {
                ClientWriteError::ForwardToLeader(_) => Err(Unchanged::NotLeader),
                ClientWriteError::LogEntryDiscarded(_) => {
                    Err(ClusterError::from(ProposeError::LeaderChanged).into())
                }
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                )
                | ClientWriteError::PreconditionFailed(_) => Ok(None),
                ClientWriteError::ChangeMembershipError(error) => {
                    tracing::error!(%error, "a change of the membership was not taken");
                    Err(ClusterError::Unhealthy.into())
                }
            },
            Err(RaftError::Fatal(_)) => Err(ClusterError::from(ProposeError::Stopped).into()),
        }
    }

    fn roster<'a>(&self, stored: &'a StoredMembership, view: &'a ReadView) -> Roster<'a> {
        let membership = stored.membership();
        let metrics = self.raft().data_metrics();
        let metrics = metrics.borrow_watched();
        let last_index = metrics.last_log.map_or(0, |id| id.index);
        let own_id = self.member_id();
        let matched = |id: u64| {
            let progress = metrics.replication.as_ref();
            let matched = progress.and_then(|all| all.get(&id).copied().flatten());
            matched.map_or(0, |id| id.index)
        };
        let proven: Vec<u64> = view.key_table.proven_members().collect();
        let standing = |id: u64| Standing {
            is_voter: counts_as_voter(membership, id),
            started: !name_of(membership, view, id).is_empty(),
            connected: self.connected(id),
            matched: if id == own_id {
                last_index
            } else {
                matched(id)
            },
            able: view.members.directory_id(id).is_some() && proven.contains(&id),
        };
        let ids = membership.nodes().map(|(id, _)| *id);
        Roster {
            membership,
            standings: ids.map(|id| (id, standing(id))).collect(),
            own_id,
            last_index,
            members: &view.members,
        }
    }

    fn connected(&self, id: u64) -> Connected {
        match self.connectivity().since(id) {
            None => Connected::No,
            Some(since) if clock::monotonic() < since + HEALTHY_AFTER => Connected::Lately,
            Some(_) => Connected::Yes,
        }
    }

    /// What is left to do for members that join or leave. Lives as long as the member.
    pub async fn watch_members(self) {
        loop {
            if self.view().members.is_removed(self.member_id()) {
                self.peers().expel(Expelled::Removed);
            }
            if self.leads_with_applied_term() {
                self.admit_joined().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes the next member that has joined as a voter one, if it is ready.
    async fn admit_joined(&self) {
        let _one_at_a_time = self.changing_members().lock().await;
        let term = self.leadership().term;
        let Some(settled) = self.settled_membership() else {
            return;
        };
        let Some((id, step)) = self.next_to_admit(&settled) else {
            return;
        };
        // Otherwise whoever leads then looks again.
        if let Ok(Some(_)) = self.write_step(term, &settled, step).await {
            tracing::info!(
                member = format_args!("{id:x}"),
                "a member that was added as a voter has caught up and votes"
            );
        }
    }

    fn next_to_admit(&self, settled: &StoredMembership) -> Option<(u64, Step)> {
        let membership = settled.membership();
        let joining: Vec<u64> = membership
            .learner_ids()
            .filter(|id| membership.get_node(id).is_some_and(|n| n.joins_as_voter))
            .collect();
        if joining.is_empty() {
            return None;
        }
        let view = self.view();
        let roster = self.roster(settled, &view);
        let ready = |id: &u64| {
            roster.standings.get(id).is_some_and(|standing| {
                let behind = roster.last_index.saturating_sub(standing.matched);
                standing.able && standing.connected > Connected::No && behind <= BEHIND_MAX
            })
        };
        let id = joining.into_iter().find(ready)?;
        roster.promoted(id).ok().map(|step| (id, step))
    }

    async fn hand_over(&self, to: u64) -> Result<(), ClusterError> {
        if !self.is_leader() {
            return Err(ClusterError::NotLeader);
        }
        let (_, committed) = self.memberships();
        if !committed.membership().voter_ids().any(|id| id == to) {
            return Err(ClusterError::BadTransferee);
        }
        tracing::info!(to = format_args!("{to:x}"), "leadership transfer starting");
        let moved = async {
            // openraft stops writing for a successor that it never checks: ask only one that
            // answers and has most of the log.
            while self.is_leader() && !self.can_take_over(to) {
                tokio::time::sleep(RETRY).await;
            }
            if to != self.member_id() && self.is_leader() {
                let asked = self.raft().trigger().transfer_leader(to).await;
                asked.map_err(|_| ProposeError::Stopped)?;
            }
            let mut leadership = self.watch_leadership();
            let gone = leadership.wait_until(|now| now.leader == to).await;
            gone.map(drop).map_err(|_| ProposeError::Stopped)
        };
        match tokio::time::timeout(self.request_timeout(), moved).await {
            Ok(moved) => moved.map_err(ClusterError::from),
            Err(_) => Err(ClusterError::TransferTimeout),
        }
    }

    fn can_take_over(&self, to: u64) -> bool {
        if to == self.member_id() {
            return true;
        }
        let metrics = self.raft().data_metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log.map_or(0, |id| id.index);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&to));
        let matched = matched.copied().flatten().map_or(0, |id| id.index);
        self.connected(to) > Connected::No && last.saturating_sub(matched) <= BEHIND_MAX
    }
}

/// A voter, or a member that was added as one.
pub(super) fn counts_as_voter(membership: &Membership, id: MemberId) -> bool {
    let joins = |id| membership.get_node(id).is_some_and(|n| n.joins_as_voter);
    membership.voter_ids().any(|voter| voter == id) || joins(&id)
}

/// Empty until the member has started; one of the first members has its name from the start.
pub(super) fn name_of(membership: &Membership, view: &ReadView, id: MemberId) -> String {
    match view.members.get(id) {
        Some(published) => published.name.clone(),
        None => membership
            .get_node(&id)
            .map_or_else(String::new, |node| node.name.clone()),
    }
}

fn tell(change: &MemberChange) {
    match change {
        MemberChange::Add {
            id,
            peer_urls,
            is_learner,
        } => tracing::info!(
            member = format_args!("{id:x}"),
            ?peer_urls,
            is_learner,
            "added member"
        ),
        MemberChange::Remove { id } => {
            tracing::info!(member = format_args!("{id:x}"), "removed member");
        }
        MemberChange::Update { id, peer_urls } => {
            tracing::info!(
                member = format_args!("{id:x}"),
                ?peer_urls,
                "updated member"
            );
        }
        MemberChange::Promote { id } => {
            tracing::info!(member = format_args!("{id:x}"), "promoted member");
        }
    }
}

fn to_wire(change: &MemberChange) -> pb::ChangeMembersRequest {
    use pb::change_members_request::{Add, Change, Update};
    let change = match change.clone() {
        MemberChange::Add {
            id,
            peer_urls,
            is_learner,
        } => Change::Add(Add {
            id,
            peer_urls,
            is_learner,
        }),
        MemberChange::Remove { id } => Change::RemoveId(id),
        MemberChange::Update { id, peer_urls } => Change::Update(Update { id, peer_urls }),
        MemberChange::Promote { id } => Change::PromoteId(id),
    };
    pb::ChangeMembersRequest {
        change: Some(change),
    }
}

/// None if the message does not say what to change.
pub(super) fn from_wire(request: pb::ChangeMembersRequest) -> Option<MemberChange> {
    use pb::change_members_request::Change;
    Some(match request.change? {
        Change::Add(add) => MemberChange::Add {
            id: add.id,
            peer_urls: add.peer_urls,
            is_learner: add.is_learner,
        },
        Change::RemoveId(id) => MemberChange::Remove { id },
        Change::Update(update) => MemberChange::Update {
            id: update.id,
            peer_urls: update.peer_urls,
        },
        Change::PromoteId(id) => MemberChange::Promote { id },
    })
}

pub(super) fn to_answer(done: Result<u64, Unchanged>) -> pb::ChangeMembersResponse {
    use pb::change_members_response::Refusal;
    let refusal = match &done {
        Ok(_) => Refusal::None,
        Err(Unchanged::NotLeader) => Refusal::NotLeader,
        Err(Unchanged::Refused(error)) => match error {
            ClusterError::MemberNotFound => Refusal::MemberNotFound,
            ClusterError::MemberExists => Refusal::MemberExists,
            ClusterError::PeerUrlExists => Refusal::PeerUrlExists,
            ClusterError::BadUrls => Refusal::BadUrls,
            ClusterError::NotLearner => Refusal::NotLearner,
            ClusterError::LearnerNotReady => Refusal::LearnerNotReady,
            ClusterError::TooManyLearners => Refusal::TooManyLearners,
            ClusterError::NotEnoughStarted => Refusal::NotEnoughStarted,
            ClusterError::Unhealthy => Refusal::Unhealthy,
            ClusterError::Propose(ProposeError::LeaderChanged) => Refusal::LeaderChanged,
            ClusterError::Propose(ProposeError::Stopped) => Refusal::Stopped,
            // The rest is about leadership or time.
            ClusterError::NotLeader
            | ClusterError::BadTransferee
            | ClusterError::TransferTimeout
            | ClusterError::Propose(_) => Refusal::Timeout,
        },
    };
    pb::ChangeMembersResponse {
        refusal: refusal.into(),
        log_index: done.unwrap_or(0),
    }
}

fn from_answer(answer: &pb::ChangeMembersResponse) -> Result<u64, Unchanged> {
    use pb::change_members_response::Refusal;
    let refused = match answer.refusal() {
        Refusal::None => return Ok(answer.log_index),
        Refusal::NotLeader => return Err(Unchanged::NotLeader),
        Refusal::MemberNotFound => ClusterError::MemberNotFound,
        Refusal::MemberExists => ClusterError::MemberExists,
        Refusal::PeerUrlExists => ClusterError::PeerUrlExists,
        Refusal::BadUrls => ClusterError::BadUrls,
        Refusal::NotLearner => ClusterError::NotLearner,
        Refusal::LearnerNotReady => ClusterError::LearnerNotReady,
        Refusal::TooManyLearners => ClusterError::TooManyLearners,
        Refusal::NotEnoughStarted => ClusterError::NotEnoughStarted,
        Refusal::Unhealthy => ClusterError::Unhealthy,
        Refusal::Stopped => ProposeError::Stopped.into(),
        Refusal::LeaderChanged => ProposeError::LeaderChanged.into(),
        Refusal::Timeout => ProposeError::Timeout.into(),
    };
    Err(refused.into())
}
