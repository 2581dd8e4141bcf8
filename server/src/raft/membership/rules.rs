//! What a change of the membership may be, and what it makes of the membership.
//!
//! Promise: etcd's rules in etcd's order; a voter that joins counts as one here from the moment
//! it is added, as in etcd, though raft counts it only once its log has caught up.
//! Source: etcd 3.7.1 `server/etcdserver/api/membership/cluster.go`, `server/etcdserver/server.go`
//! (mayAddMember, mayRemoveMember, mayPromoteMember).
//! Not known here: who asks, how a change is written.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft::types::{MemberNode, Membership};
use crate::replica::{ClusterError, MemberChange};
use crate::tables::members::Members;

/// How much of the leader's log a learner must have before it may be promoted.
const READY_FRACTION: f64 = 0.9;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `--strict-reconfig-check`
    pub strict: bool,
    /// `--max-learners`
    pub learners_max: usize,
}

/// One member, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) is_voter: bool,
    pub(super) started: bool,
    /// It answers, and has done so for long enough.
    pub(super) connected: Connected,
    /// The last entry it has.
    pub(super) matched: u64,
    /// Its directory is known and it has opened the root key: it can take over.
    pub(super) able: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Connected {
    No,
    /// Not for long enough yet.
    Lately,
    Yes,
}

/// The membership to change, and what is known of its members.
pub(super) struct Roster<'a> {
    pub(super) membership: &'a Membership,
    pub(super) standings: BTreeMap<u64, Standing>,
    pub(super) own_id: u64,
    /// The leader's last entry.
    pub(super) last_index: u64,
    pub(super) members: &'a Members,
}

/// How a change is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One entry with this membership.
    Append(Membership),
    /// Another node for one member.
    SetNode(u64, MemberNode),
}

impl Rules {
    pub(super) fn step(&self, roster: &Roster<'_>, change: &MemberChange) -> Result<Step, Refused> {
        match change {
            MemberChange::Add {
                id,
                peer_urls,
                is_learner,
            } => {
                self.check_add(roster, *is_learner)?;
                self.check_new(roster, *id, peer_urls, *is_learner)?;
                Ok(roster.with_added(*id, peer_urls, *is_learner))
            }
            MemberChange::Remove { id } => {
                self.check_remove(roster, *id)?;
                roster.without(*id)
            }
            MemberChange::Update { id, peer_urls } => roster.updated(*id, peer_urls),
            MemberChange::Promote { id } => {
                self.check_promote(roster, *id)?;
                roster.promoted(*id)
            }
        }
    }

    fn check_add(&self, roster: &Roster<'_>, is_learner: bool) -> Result<(), Refused> {
        if !self.strict {
            return Ok(());
        }
        let (voters, started) = (roster.voters(), roster.started_without(None));
        // The way back from a restored single member.
        let grows_from_one = started == 1 && voters == 1;
        if !is_learner && !grows_from_one && started < quorum(voters + 1) {
            return Err(ClusterError::NotEnoughStarted);
        }
        if voters > 1 && roster.connected() < quorum(voters + 1) {
            return Err(ClusterError::Unhealthy);
        }
        Ok(())
    }

    fn check_new(
        &self,
        roster: &Roster<'_>,
        id: u64,
        peer_urls: &[String],
        is_learner: bool,
    ) -> Result<(), Refused> {
        if roster.members.is_removed(id) {
            return Err(ClusterError::MemberNotFound);
        }
        if roster.standings.contains_key(&id) {
            return Err(ClusterError::MemberExists);
        }
        roster.check_urls_free(id, peer_urls)?;
        let learners = roster.standings.len() - roster.voters();
        if is_learner && learners + 1 > self.learners_max {
            return Err(ClusterError::TooManyLearners);
        }
        Ok(())
    }

    fn check_remove(&self, roster: &Roster<'_>, id: u64) -> Result<(), Refused> {
        let standing = roster.standings.get(&id);
        let is_learner = standing.is_some_and(|standing| !standing.is_voter);
        let left = roster.voters() - usize::from(standing.is_some() && !is_learner);
        if left == 0 {
            // Without the check, etcd's members would stop at a cluster without voters.
            return Err(ClusterError::NotEnoughStarted);
        }
        if roster.alone_has_the_root_key(id) {
            tracing::warn!(
                member = format_args!("{id:x}"),
                "not removed: no other member has opened the root key yet"
            );
            return Err(ClusterError::Unhealthy);
        }
        if is_learner {
            return Ok(());
        }
        if !self.strict {
            return Ok(());
        }
        if roster.started_without(Some(id)) < quorum(left) {
            return Err(ClusterError::NotEnoughStarted);
        }
        let connected = standing.map_or(Connected::No, |standing| standing.connected);
        if id != roster.own_id && connected == Connected::No {
            // It is down: removing it takes nothing from the quorum that works.
            return Ok(());
        }
        if roster.connected() - 1 < 1 + (roster.voters() - 1) / 2 {
            return Err(ClusterError::Unhealthy);
        }
        Ok(())
    }

    fn check_promote(&self, roster: &Roster<'_>, id: u64) -> Result<(), Refused> {
        let standing = roster.known(id)?;
        if (standing.matched as f64) < READY_FRACTION * roster.last_index as f64 {
            return Err(ClusterError::LearnerNotReady);
        }
        let started = roster.started_without(None) + 1;
        if self.strict && started < quorum(roster.voters() + 1) {
            return Err(ClusterError::NotEnoughStarted);
        }
        if standing.is_voter {
            return Err(ClusterError::NotLearner);
        }
        // A vote from a member whose directory nobody knows could be given twice.
        if !standing.able {
            return Err(ClusterError::LearnerNotReady);
        }
        Ok(())
    }
}

pub(super) type Refused = ClusterError;

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

impl Roster<'_> {
    /// What was sealed goes with this member: no other has opened the root key yet. The leader has
    /// it before the key table says so.
    fn alone_has_the_root_key(&self, id: u64) -> bool {
        let has_it = id == self.own_id || self.standings.get(&id).is_some_and(|it| it.able);
        has_it && self.count(|other, standing| other != id && standing.able) == 0
    }

    fn voters(&self) -> usize {
        self.count(|_, standing| standing.is_voter)
    }

    fn started_without(&self, left_out: Option<u64>) -> usize {
        self.count(|id, standing| standing.is_voter && standing.started && Some(id) != left_out)
    }

    /// Voters that have been connected for long enough; this one is.
    fn connected(&self) -> usize {
        self.count(|id, standing| {
            standing.is_voter && (id == self.own_id || standing.connected == Connected::Yes)
        })
    }

    fn count(&self, which: impl Fn(u64, &Standing) -> bool) -> usize {
        let standings = self.standings.iter();
        standings.filter(|(id, it)| which(**id, it)).count()
    }

    fn known(&self, id: u64) -> Result<&Standing, Refused> {
        self.standings.get(&id).ok_or(ClusterError::MemberNotFound)
    }

    fn check_urls_free(&self, id: u64, peer_urls: &[String]) -> Result<(), Refused> {
        let taken = self
            .membership
            .nodes()
            .filter(|(other, _)| **other != id)
            .any(|(_, node)| node.peer_urls.iter().any(|url| peer_urls.contains(url)));
        if taken {
            Err(ClusterError::PeerUrlExists)
        } else {
            Ok(())
        }
    }

    fn nodes(&self) -> BTreeMap<u64, MemberNode> {
        let nodes = self.membership.nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }

    fn voter_ids(&self) -> BTreeSet<u64> {
        self.membership.voter_ids().collect()
    }

    fn with_added(&self, id: u64, peer_urls: &[String], is_learner: bool) -> Step {
        let node = MemberNode {
            name: String::new(),
            peer_urls: peer_urls.to_vec(),
            joins_as_voter: !is_learner,
        };
        let mut nodes = self.nodes();
        nodes.insert(id, node);
        appended(self.voter_ids(), nodes)
    }

    fn without(&self, id: u64) -> Result<Step, Refused> {
        self.known(id)?;
        let (mut voters, mut nodes) = (self.voter_ids(), self.nodes());
        voters.remove(&id);
        nodes.remove(&id);
        if voters.is_empty() {
            // The only one that raft counts; another one is still joining.
            return Err(ClusterError::NotEnoughStarted);
        }
        Ok(appended(voters, nodes))
    }

    fn updated(&self, id: u64, peer_urls: &[String]) -> Result<Step, Refused> {
        let node = self.membership.get_node(&id);
        let node = node.ok_or(ClusterError::MemberNotFound)?;
        self.check_urls_free(id, peer_urls)?;
        Ok(Step::SetNode(
            id,
            MemberNode {
                peer_urls: peer_urls.to_vec(),
                ..node.clone()
            },
        ))
    }

    pub(super) fn promoted(&self, id: u64) -> Result<Step, Refused> {
        self.known(id)?;
        let mut voters = self.voter_ids();
        voters.insert(id);
        Ok(appended(voters, self.nodes()))
    }
}

fn appended(voters: BTreeSet<u64>, nodes: BTreeMap<u64, MemberNode>) -> Step {
    let membership = Membership::new(vec![voters], nodes);
    Step::Append(membership.expect("there is a voter, and each one keeps its node"))
}

#[cfg(test)]
mod tests;
