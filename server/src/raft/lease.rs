//! Leases at the leader: renewal and remaining time in its memory, expiry through the log.
//!
//! Promise: only a leader that has just confirmed its leadership renews or answers; an expiry
//! entry carries the term of the leader that saw it.
//!
//! Not known here: what a lease's end deletes (`apply`).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver as _;
use proto::sealkv::peer as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

use super::consensus::{Consensus, Leadership};
use super::peers::Lane;
use super::types::Runtime;
use crate::access::{Internal, Permitted};
use crate::clock;
use crate::command::{LeaseCheckpoint, LeaseExpire};
use crate::lease::lessor::{LessorError, Renewal};
use crate::lease::table::Lease;
use crate::metrics::metrics;
use crate::replica::ProposeError;

/// What the leader knows of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseAtLeader {
    Found {
        ttl_seconds: i64,
        granted_seconds: i64,
    },
    NotFound,
    NotLeader,
    /// Its expiry is being decided: ask again.
    Undecided,
}

/// How often the leader looks for expired leases (etcd: 500 ms).
const EXPIRY_EVERY: Duration = Duration::from_millis(100);
/// Leases that are ended between two looks (etcd: 500 in 500 ms).
const EXPIRED_PER_LOOK: usize = 500;
/// Leases and keys of theirs in one expiry entry: what others wait for that come behind it. A
/// lease with more keys is alone, since they end as one revision.
const EXPIRED_PER_ENTRY: usize = 64;
/// Expiry entries that are not applied yet (etcd: 16, of one lease each).
const ENTRIES_IN_FLIGHT: usize = 4;
/// Leases in one checkpoint entry.
const CHECKPOINTS_PER_ENTRY: usize = 1_000;
/// Before another member is asked again.
const UNDECIDED_RETRY: Duration = Duration::from_millis(20);
/// How long the leader waits for the outcome of an expiry before it says that there is none yet.
const EXPIRY_WITHIN: Duration = Duration::from_secs(1);

/// How far a renewal has come.
enum Renewing {
    Done(LeaseAtLeader),
    LookAgain,
    /// Decided by an entry that is not applied yet.
    Expiring,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    KeepAlive,
    Remaining,
}

impl Consensus {
    /// Renews a lease at the leader; none when there is no such lease.
    pub async fn keep_alive(&self, id: i64) -> Result<Option<i64>, ProposeError> {
        Ok(self
            .ask_leader(id, Question::KeepAlive)
            .await?
            .map(|(ttl, _)| ttl))
    }

    /// The remaining and the granted time of a lease, in seconds; none when there is no such
    /// lease.
    pub async fn lease_remaining(&self, id: i64) -> Result<Option<(i64, i64)>, ProposeError> {
        self.ask_leader(id, Question::Remaining).await
    }

    async fn ask_leader(
        &self,
        id: i64,
        question: Question,
    ) -> Result<Option<(i64, i64)>, ProposeError> {
        let asked = tokio::time::timeout(self.request_timeout(), async {
            loop {
                let leader = self.leadership().leader;
                let answer = match (leader, question) {
                    (0, _) => LeaseAtLeader::NotLeader,
                    (l, Question::KeepAlive) if l == self.member_id() => {
                        self.keep_alive_here(id).await
                    }
                    (l, Question::Remaining) if l == self.member_id() => {
                        self.lease_remaining_here(id).await
                    }
                    (l, _) => self.ask_peer(l, id, question).await,
                };
                match answer {
                    LeaseAtLeader::Found {
                        ttl_seconds,
                        granted_seconds,
                    } => {
                        return Some((ttl_seconds, granted_seconds));
                    }
                    LeaseAtLeader::NotFound => return None,
                    LeaseAtLeader::Undecided => {}
                    LeaseAtLeader::NotLeader => {
                        let mut news = self.watch_leadership();
                        // Another member may lead and not know it yet, which is no news here.
                        let _ = tokio::time::timeout(UNDECIDED_RETRY, news.changed()).await;
                    }
                }
            }
        });
        match asked.await {
            Ok(answer) => Ok(answer),
            Err(_) if self.leader_in_reach() == 0 => Err(ProposeError::NoLeader),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    async fn ask_peer(&self, leader: u64, id: i64, question: Question) -> LeaseAtLeader {
        use pb::lease_response::Result as Outcome;
        let peers = self.peers();
        let Some(urls) = self.peer_urls(leader) else {
            return LeaseAtLeader::NotLeader;
        };
        let Ok(mut client) = peers.client(&urls, Lane::Control) else {
            return LeaseAtLeader::NotLeader;
        };
        let request = peers.request(leader, pb::LeaseRequest { id });
        let answer = match question {
            Question::KeepAlive => client.keep_alive(request).await,
            Question::Remaining => client.lease_remaining(request).await,
        };
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                match answer.result() {
                    Outcome::Found => LeaseAtLeader::Found {
                        ttl_seconds: answer.ttl_seconds,
                        granted_seconds: answer.granted_ttl_seconds,
                    },
                    Outcome::NotFound => LeaseAtLeader::NotFound,
                    Outcome::NotLeader => LeaseAtLeader::NotLeader,
                    Outcome::Undecided => LeaseAtLeader::Undecided,
                }
            }
            Err(status) => {
                peers.note(&status);
                LeaseAtLeader::NotLeader
            }
        }
    }

    /// A leader that was paused must not renew what its successor may have ended: it confirms its
    /// leadership first, shared with the reads that wait for the same.
    async fn leads_now(&self) -> bool {
        self.is_leader() && self.read_barrier().await.is_ok() && self.leads_with_applied_term()
    }

    pub(super) async fn keep_alive_here(&self, id: i64) -> LeaseAtLeader {
        let decided = tokio::time::timeout(EXPIRY_WITHIN, async {
            loop {
                let mut news = self.news();
                match self.renew_here(id).await {
                    Renewing::Done(answer) => return answer,
                    Renewing::LookAgain => {}
                    // Many may wait, so a look costs little.
                    Renewing::Expiring => {
                        while self.is_expiring(id) {
                            if news.next().await.is_err() {
                                return LeaseAtLeader::NotLeader;
                            }
                        }
                    }
                }
            }
        });
        decided.await.unwrap_or(LeaseAtLeader::Undecided)
    }

    fn is_expiring(&self, id: i64) -> bool {
        self.lessor().lock().is_expiring(id, clock::monotonic())
    }

    async fn renew_here(&self, id: i64) -> Renewing {
        if !self.leads_now().await {
            return Renewing::Done(LeaseAtLeader::NotLeader);
        }
        let renewal = self.lessor().lock().renew(id, clock::monotonic());
        Renewing::Done(match renewal {
            Ok(Renewal::Renewed { ttl_seconds }) => {
                metrics().leases_renewed.inc();
                LeaseAtLeader::Found {
                    ttl_seconds,
                    granted_seconds: ttl_seconds,
                }
            }
            Ok(Renewal::TakeBackCheckpointFirst) => {
                let forget = LeaseCheckpoint {
                    remaining_seconds: vec![(id, 0)],
                };
                let permitted = Permitted::internal(Internal::LeaseCheckpoint, forget.into());
                return match self.propose(permitted).await {
                    Ok(_) => Renewing::LookAgain,
                    // Whatever came of it, who asks again finds out.
                    Err(_) => Renewing::Done(LeaseAtLeader::NotLeader),
                };
            }
            Ok(Renewal::Expiring) => return Renewing::Expiring,
            Err(LessorError::NotFound) => LeaseAtLeader::NotFound,
            Err(LessorError::NotPrimary) => LeaseAtLeader::NotLeader,
        })
    }

    pub(super) async fn lease_remaining_here(&self, id: i64) -> LeaseAtLeader {
        if !self.leads_now().await {
            return LeaseAtLeader::NotLeader;
        }
        let remaining = self.lessor().lock().remaining(id, clock::monotonic());
        match remaining {
            Ok(ttl_seconds) => {
                let granted = self
                    .view()
                    .leases
                    .read()
                    .get(id)
                    .map(|lease| lease.ttl_seconds);
                let granted_seconds = granted.unwrap_or(ttl_seconds);
                LeaseAtLeader::Found {
                    ttl_seconds,
                    granted_seconds,
                }
            }
            Err(LessorError::NotFound) => LeaseAtLeader::NotFound,
            Err(LessorError::NotPrimary) => LeaseAtLeader::NotLeader,
        }
    }

    /// Starts the leases' clocks when this member leads, stops them when it does not, and
    /// proposes the end of those whose time is over. Lives as long as the member.
    pub async fn watch_leases(self, election_timeout: Duration) {
        let mut primary_in = 0;
        loop {
            let mut news = self.news();
            let term = self.leadership().term;
            if self.leads_with_applied_term() {
                if primary_in != term {
                    if self.promote_lessor(election_timeout).await.is_err() {
                        return;
                    }
                    primary_in = term;
                }
                if self.keep_time(term).await.is_err() {
                    return;
                }
                continue;
            }
            // One that finds its way back in the same term has missed nothing.
            if primary_in != 0 && primary_in != term {
                self.lessor().lock().demote();
                primary_in = 0;
            }
            if news.next().await.is_err() {
                return;
            }
        }
    }

    /// Ends what expires, as long as this member leads in this term. Fails once raft has stopped.
    async fn keep_time(&self, term: u64) -> Result<(), ProposeError> {
        // One batch after the other: what is on its way never grows.
        let ending = Arc::new(Semaphore::new(1));
        let mut looks = tokio::time::interval(EXPIRY_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leadership = self.watch_leadership();
        while self.leadership()
            == (Leadership {
                leader: self.member_id(),
                term,
            })
        {
            tokio::select! {
                _ = looks.tick() => {
                    self.checkpoint_due();
                    if let Ok(turn) = Arc::clone(&ending).try_acquire_owned() {
                        self.end_expired(term, turn);
                    }
                }
                changed = leadership.changed() => if changed.is_err() {
                    return Err(ProposeError::Stopped);
                },
            }
        }
        Ok(())
    }

    /// Returns once the leases' clocks run, if it is this member that has to keep them.
    pub async fn leases_are_kept(&self) {
        let mut leadership = self.watch_leadership();
        loop {
            let mut promoted = std::pin::pin!(self.lessor_promoted().notified());
            // Registered before the look, so that no promotion in between is missed.
            promoted.as_mut().enable();
            if !self.is_leader() || self.lessor().lock().is_primary() {
                return;
            }
            tokio::select! {
                () = promoted => {}
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    fn checkpoint_due(&self) {
        let now = clock::monotonic();
        let due = self
            .lessor()
            .lock()
            .due_checkpoints(now, CHECKPOINTS_PER_ENTRY);
        if !due.is_empty() {
            let body = LeaseCheckpoint {
                remaining_seconds: due,
            };
            self.propose_in_background(Permitted::internal(Internal::LeaseCheckpoint, body.into()));
        }
    }

    /// Ends what has expired by now, a few slices at a time, so that clients' requests come in
    /// between. The turn ends with the last slice.
    fn end_expired(&self, term: u64, turn: OwnedSemaphorePermit) {
        let now = clock::monotonic();
        let expired = self.lessor().lock().expired(now, EXPIRED_PER_LOOK);
        if expired.is_empty() {
            return;
        }
        metrics().leases_expired.inc_by(expired.len() as u64);
        let this = self.clone();
        Runtime::spawn(async move {
            let _turn = turn;
            let slices = futures::stream::iter(this.slices(expired));
            slices
                .for_each_concurrent(ENTRIES_IN_FLIGHT, |ids| this.expire(term, ids))
                .await;
        });
    }

    async fn expire(&self, term: u64, ids: Vec<i64>) {
        let body = LeaseExpire { term, ids };
        let permitted = Permitted::internal(Internal::LeaseExpiry, body.into());
        if let Err(error) = self.propose_at_leader(permitted).await {
            // They are named again in a while if this member still leads.
            tracing::debug!(%error, "an expiry was not applied");
        }
    }

    /// The same leases in the same order, in entries that are quickly applied.
    fn slices(&self, ids: Vec<i64>) -> Vec<Vec<i64>> {
        let view = self.view();
        let leases = view.leases.read();
        let keys = |id: i64| leases.get(id).map_or(0, Lease::key_count);
        slices(ids, keys)
    }

    /// For the leader's own entries whose outcome shows in the applied state: a lost one is
    /// proposed again by what finds it still undone.
    fn propose_in_background(&self, permitted: Permitted<crate::command::Body>) {
        let this = self.clone();
        Runtime::spawn(async move {
            if let Err(error) = this.propose_at_leader(permitted).await {
                tracing::debug!(%error, "an entry of the leader's own was not applied");
            }
        });
    }
}

fn slices(ids: Vec<i64>, keys: impl Fn(i64) -> usize) -> Vec<Vec<i64>> {
    let mut slices: Vec<Vec<i64>> = Vec::new();
    let mut left = 0;
    for id in ids {
        let cost = 1 + keys(id);
        match slices.last_mut() {
            Some(slice) if cost <= left => {
                slice.push(id);
                left -= cost;
            }
            _ => {
                slices.push(vec![id]);
                left = EXPIRED_PER_ENTRY.saturating_sub(cost);
            }
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_entry_is_bounded_by_leases_and_their_keys_and_keeps_the_order() {
        let ids: Vec<i64> = (0..200).collect();
        let bare = slices(ids.clone(), |_| 0);
        assert_eq!(bare.concat(), ids);
        assert!(bare.iter().all(|slice| slice.len() <= EXPIRED_PER_ENTRY));
        let keyed = slices(vec![1, 2, 3, 4], |id| if id == 2 { 100_000 } else { 31 });
        assert_eq!(keyed, [vec![1], vec![2], vec![3, 4]]);
    }
}
