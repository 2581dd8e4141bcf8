//! Leases at the leader: renewal and remaining time in its memory, expiry through the log.
//!
//! Promise: only a leader that has just confirmed its leadership renews or answers; an expiry
//! entry carries the term of the leader that saw it.
//!
//! Not known here: what a lease's end deletes (`apply`).

use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use proto::sealkv::peer as pb;

use super::consensus::Consensus;
use super::peers::Lane;
use super::types::Runtime;
use crate::access::{Internal, Permitted};
use crate::clock;
use crate::command::{LeaseCheckpoint, LeaseExpire};
use crate::lease::lessor::{LessorError, Renewal};
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
/// While this member leads and has not applied its term yet.
const PROMOTION_POLL: Duration = Duration::from_millis(2);
/// Leases in one expiry entry.
const EXPIRED_PER_ENTRY: usize = 500;
/// Leases in one checkpoint entry.
const CHECKPOINTS_PER_ENTRY: usize = 1_000;
/// While an expiry is being decided.
const UNDECIDED_RETRY: Duration = Duration::from_millis(20);

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
                    LeaseAtLeader::NotLeader | LeaseAtLeader::Undecided => {
                        tokio::time::sleep(UNDECIDED_RETRY).await;
                    }
                }
            }
        });
        match asked.await {
            Ok(answer) => Ok(answer),
            Err(_) if self.leadership().leader == 0 => Err(ProposeError::NoLeader),
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
        if !self.leads_now().await {
            return LeaseAtLeader::NotLeader;
        }
        let renewal = self.lessor().lock().renew(id, clock::monotonic());
        match renewal {
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
                // Whatever came of it, the next attempt finds out.
                let _ = self.propose(permitted).await;
                LeaseAtLeader::Undecided
            }
            Ok(Renewal::Expiring) => LeaseAtLeader::Undecided,
            Err(LessorError::NotFound) => LeaseAtLeader::NotFound,
            Err(LessorError::NotPrimary) => LeaseAtLeader::NotLeader,
        }
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
            // A new leader's clocks start as soon as it has applied its term, before it is asked
            // for leases.
            let leadership = self.leadership();
            let starting = leadership.leader == self.member_id() && leadership.term != primary_in;
            tokio::time::sleep(if starting {
                PROMOTION_POLL
            } else {
                EXPIRY_EVERY
            })
            .await;
            let leadership = self.leadership();
            if !self.leads_with_applied_term() {
                if primary_in != 0 && leadership.term != primary_in {
                    self.lessor().lock().demote();
                    primary_in = 0;
                }
                continue;
            }
            if primary_in != leadership.term {
                if self.promote_lessor(election_timeout).await.is_err() {
                    return;
                }
                primary_in = leadership.term;
            }
            self.end_expired(leadership.term).await;
        }
    }

    /// Returns once the leases' clocks run, if it is this member that has to keep them.
    pub async fn leases_are_kept(&self) {
        while self.is_leader() && !self.lessor().lock().is_primary() {
            tokio::time::sleep(PROMOTION_POLL).await;
        }
    }

    async fn end_expired(&self, term: u64) {
        let (expired, remaining_seconds) = {
            let mut lessor = self.lessor().lock();
            let now = clock::monotonic();
            let expired = lessor.expired(now, EXPIRED_PER_ENTRY);
            (expired, lessor.due_checkpoints(now, CHECKPOINTS_PER_ENTRY))
        };
        if !expired.is_empty() {
            metrics().leases_expired.inc_by(expired.len() as u64);
            let body = LeaseExpire { term, ids: expired };
            self.propose_in_background(Permitted::internal(Internal::LeaseExpiry, body.into()));
        }
        if !remaining_seconds.is_empty() {
            let body = LeaseCheckpoint { remaining_seconds };
            self.propose_in_background(Permitted::internal(Internal::LeaseCheckpoint, body.into()));
        }
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
